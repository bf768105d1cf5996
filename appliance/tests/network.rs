//! The host's networks on a real kernel, each test in a network namespace of its own that ends with its thread.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use dhcproto::v4::{DhcpOption, Message, MessageType};
use dhcproto::{Decodable, Decoder, Encodable};
use godwit::api::channel::wait_readable;
use godwit::lease::reconnect;
use godwit::network::connections::has_stalled;
use godwit::network::fabric::Fabric;
use godwit::network::netlink::Netlink;
use godwit::network::packet::PacketSocket;
use godwit::network::tap::{HEADER_BYTES, Tap};
use godwit::network::{address, link};
use model::host_config::{Cidr, HostConfig, Layers};
use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, InfoVlan, LinkAttribute, LinkInfo, LinkMessage};
use protocol::uplink_probe::{Token, frame};
use vmm::virtio::net::announcement::rarp;

const ETHER_TYPE_RARP: u16 = 0x8035;
const ETHER_TYPE_IPV4: u16 = 0x0800;
/// Generous: only a failure waits this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs `test` in an empty network namespace.
fn isolated(test: impl FnOnce(&mut Netlink) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        // SAFETY: unshare(2) with CLONE_NEWNET touches nothing but this thread's network namespace.
        let outcome = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if outcome != 0 {
            let error = std::io::Error::last_os_error();
            println!("skipped: no network namespace can be made here: {error}");
            return;
        }
        link::loopback_up().unwrap();
        test(&mut Netlink::open().unwrap());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A cable: two links joined to each other, both up.
fn cable(netlink: &mut Netlink, here: &str, there: &str) -> (u32, u32) {
    let mut peer = LinkMessage::default();
    peer.attributes.push(LinkAttribute::IfName(there.to_owned()));
    let more = vec![LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))];
    link::create(netlink, here, InfoKind::Veth, more).unwrap();
    let mut index = |name| {
        let found = link::by_name(netlink, name).unwrap().unwrap().index;
        link::set_up(netlink, found, true).unwrap();
        found
    };
    (index(here), index(there))
}

fn config(text: &str) -> HostConfig {
    let mut layers = Layers::new("defaults", "hostname = \"host-a\"").unwrap();
    layers.file("test", text).unwrap();
    layers.read().unwrap()
}

fn next_frame(socket: &PacketSocket, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut buffer = vec![0; 4096];
    loop {
        assert!(
            wait_readable(socket.as_fd(), deadline.saturating_duration_since(Instant::now())).unwrap(),
            "no frame came"
        );
        match socket.receive(&mut buffer).unwrap() {
            Some(frame) if wanted(frame) => return frame.to_vec(),
            _ => {}
        }
    }
}

/// Sends what a monitor announces a NIC by.
fn announce(tap: &Tap, mac: [u8; 6]) -> rustix::io::Result<usize> {
    rustix::io::write(&tap.file, &[&[0; HEADER_BYTES][..], &rarp(mac)].concat())
}

#[test]
fn a_vm_that_arrives_is_announced_through_its_port_group_and_is_silent_before() {
    isolated(|netlink| {
        let (_, outside) = cable(netlink, "gwup0", "gwout0");
        let mut fabric =
            Fabric::new(config("[vswitch.gwvs0]\nuplink = \"gwup0\"\n[port_group.\"lab 1\"]\nvswitch = \"gwvs0\"\n"));
        assert_eq!(fabric.apply(), []);
        assert_eq!(fabric.apply(), [], "a second time changes nothing and complains of nothing");
        let wire = PacketSocket::open(outside, ETHER_TYPE_RARP).unwrap();
        let mac = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        let tap = fabric.plug(&"lab 1".parse().unwrap(), "gwtap0").unwrap();
        assert!(announce(&tap, mac).is_err(), "a tap that is down lets nothing out");
        link::set_up(netlink, tap.index, true).unwrap();
        announce(&tap, mac).unwrap();
        let frame = next_frame(&wire, |_| true);
        assert_eq!((&frame[..6], &frame[6..12]), (&[0xff; 6][..], &mac[..]));
        assert_eq!(&frame[20..28], &[0, 3, 0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        drop(tap);
        assert_eq!(link::by_name(netlink, "gwtap0").unwrap(), None, "nothing of it stays");
    });
}

/// A link that sees only what carries this VLAN's tag on the link below it.
fn vlan(netlink: &mut Netlink, name: &str, below: u32, id: u16) -> u32 {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message.attributes.push(LinkAttribute::Link(below));
    let data = LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(id)]));
    message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Vlan), data]));
    netlink.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE).unwrap();
    let index = link::by_name(netlink, name).unwrap().unwrap().index;
    link::set_up(netlink, index, true).unwrap();
    index
}

/// The source addresses of the announcements that reached a VM's tap until the one from `last`.
fn announcements(tap: &Tap, last: [u8; 6]) -> Vec<u8> {
    let deadline = Instant::now() + PATIENCE;
    let mut sources = Vec::new();
    loop {
        assert!(
            wait_readable(tap.file.as_fd(), deadline.saturating_duration_since(Instant::now())).unwrap(),
            "{sources:?}"
        );
        let mut packet = [0; 2048];
        let length = rustix::io::read(&tap.file, &mut packet).unwrap();
        let frame = &packet[HEADER_BYTES..length];
        if frame[12..14] == ETHER_TYPE_RARP.to_be_bytes() {
            sources.push(frame[11]);
            if frame[6..12] == last {
                return sources;
            }
        }
    }
}

#[test]
fn port_groups_are_kept_apart_on_the_bridge_and_tagged_on_the_wire() {
    isolated(|netlink| {
        let (_, outside) = cable(netlink, "gwup0", "gwout0");
        let mut fabric = Fabric::new(config(
            "[vswitch.gwvs0]\nuplink = \"gwup0\"\n[port_group.red]\nvswitch = \"gwvs0\"\nvlan = 10\n\
             [port_group.blue]\nvswitch = \"gwvs0\"\nvlan = 20\n[port_group.plain]\nvswitch = \"gwvs0\"\n",
        ));
        let problems = fabric.apply().to_vec();
        if problems.iter().any(|problem| problem.cause.contains("cannot keep VLANs apart")) {
            assert!(fabric.plug(&"red".parse().unwrap(), "gwtap0").is_err(), "better no network than the wrong one");
            println!("skipped: this kernel has no VLAN filtering on bridges");
            return;
        }
        assert_eq!(problems, []);
        let red_wire = PacketSocket::open(vlan(netlink, "gwred", outside, 10), ETHER_TYPE_RARP).unwrap();
        let blue_wire = PacketSocket::open(vlan(netlink, "gwblue", outside, 20), ETHER_TYPE_RARP).unwrap();
        let taps: Vec<Tap> =
            [("red", "gwtap0"), ("red", "gwtap1"), ("blue", "gwtap2"), ("plain", "gwtap3"), ("plain", "gwtap4")]
                .iter()
                .map(|(group, name)| fabric.plug(&group.parse().unwrap(), name).unwrap())
                .collect();
        for tap in &taps {
            link::set_up(netlink, tap.index, true).unwrap();
        }
        let mac = |last| [0x52, 0x54, 0, 0, 0, last];
        // Whoever hears its own group's second announcement would have heard the others' before it.
        for (tap, from) in [(0, 1), (2, 3), (3, 4), (1, 2), (4, 5)] {
            let tap: &Tap = &taps[tap];
            announce(tap, mac(from)).unwrap();
        }
        assert_eq!(announcements(&taps[0], mac(2)), [2], "red hears red");
        assert_eq!(announcements(&taps[1], mac(1)), [1]);
        assert_eq!(announcements(&taps[3], mac(5)), [5], "untagged hears untagged");
        assert_eq!(next_frame(&red_wire, |_| true)[11], 1);
        assert_eq!(next_frame(&red_wire, |_| true)[11], 2);
        assert_eq!(next_frame(&blue_wire, |_| true)[11], 3);
        announce(&taps[2], mac(6)).unwrap();
        assert_eq!(next_frame(&blue_wire, |_| true)[11], 6, "and nothing else came between");
    });
}

#[test]
fn a_probe_frame_is_heard_on_an_uplink_with_its_vlan_alone_and_goes_out_with_it() {
    isolated(|netlink| {
        let (_, outside) = cable(netlink, "gwup0", "gwout0");
        let groups = "[port_group.red]\nvswitch = \"gwvs0\"\nvlan = 10\n[port_group.plain]\nvswitch = \"gwvs0\"\n";
        let mut fabric = Fabric::new(config(&format!(
            "[vswitch.gwvs0]\nuplink = \"gwup0\"\n{groups}[vswitch.gwvs1]\n[port_group.inner]\nvswitch = \"gwvs1\"\n"
        )));
        fabric.apply();
        let port = |label: &str| fabric.uplink_port(&label.parse().unwrap());
        let [red, plain] = ["red", "plain"].map(|label| port(label).unwrap().unwrap());
        assert_eq!((red.index, red.vlan, plain.index, plain.vlan), (plain.index, Some(10), red.index, None));
        assert!(port("inner").unwrap().is_none() && port("nowhere").unwrap().is_none());
        let open = |index, vlan| PacketSocket::open_on_port(index, frame::ETHER_TYPE, vlan).unwrap();
        let (on_red, on_plain) = (open(red.index, red.vlan), open(plain.index, plain.vlan));
        let (red_wire, wire) = (open(outside, Some(10)), open(outside, None));
        let token = |n| Token([n; Token::BYTES]);
        let says = |n| move |received: &[u8]| frame::read(received) == Some(token(n));
        // What goes out is not heard by who sends it.
        on_red.send(&frame::write(red.mac, red.vlan, token(1))).unwrap();
        on_plain.send(&frame::write(plain.mac, plain.vlan, token(2))).unwrap();
        assert!(says(1)(&next_frame(&red_wire, |_| true)) && says(2)(&next_frame(&wire, |_| true)));
        for (tag, n) in [(Some(20), 3), (Some(10), 4), (None, 5), (Some(10), 6), (None, 7)] {
            wire.send(&frame::write([2, 0, 0, 0, 0, 9], tag, token(n))).unwrap();
        }
        for (socket, heard) in [(&on_red, [4, 6]), (&on_plain, [5, 7])] {
            heard.into_iter().for_each(|n| assert!(says(n)(&next_frame(socket, |_| true)), "{n}"));
        }
        link::set_up(netlink, outside, false).unwrap();
        assert_eq!(port("red").err().as_deref(), Some("its uplink gwup0 has no link"));
    });
}

#[test]
fn the_kernel_has_no_address_on_the_migration_nic() {
    isolated(|netlink| {
        let (index, _) = cable(netlink, "gwmig0", "gwout0");
        address::add(netlink, index, "10.9.0.1/24".parse().unwrap()).unwrap();
        let text = "[migration_nic]\nnic = \"gwmig0\"\naddress = \"10.9.0.1/24\"\nmtu = 9000\n";
        let mut fabric = Fabric::new(config(text));
        assert_eq!(fabric.apply(), []);
        let left: Vec<_> = address::list(netlink).unwrap().into_iter().filter(|one| one.index == index).collect();
        assert_eq!(left, [], "neither IPv4 nor IPv6");
        let (nic, _) = fabric.migration_nic().unwrap().unwrap();
        assert_eq!((nic.link.mtu, nic.link.up), (9000, true));
        let row = fabric.nics().unwrap().into_iter().find(|row| row.name == "gwmig0").unwrap();
        assert_eq!(row.used_by.as_deref(), Some("migration"));
    });
}

#[test]
fn what_is_wrong_costs_only_what_depends_on_it() {
    isolated(|netlink| {
        let (index, _) = cable(netlink, "gwman0", "gwout0");
        let mut fabric = Fabric::new(config(
            "[management]\nnic = \"gwman0\"\naddress = \"10.9.0.2/24\"\ngateway = \"10.9.0.254\"\n\
             [migration_nic]\nnic = \"gwgone0\"\naddress = \"10.8.0.1/24\"\n\
             [storage_nic.nas]\nnic = \"gwman0\"\naddress = \"10.7.0.1/24\"\n[vswitch.gwvs0]\nuplink = \"gwgone1\"\n",
        ));
        let causes: Vec<String> = fabric.apply().iter().map(|reason| reason.cause.clone()).collect();
        assert_eq!(
            causes,
            [
                "migration: this host has no NIC gwgone0",
                "vswitch gwvs0: this host has no NIC gwgone1",
                "storage: NIC gwman0 is already used: management"
            ]
        );
        assert_eq!(fabric.addresses().unwrap(), ["10.9.0.2/24"]);
        let own = address::list(netlink).unwrap();
        assert!(own.iter().any(|one| one.index == index && one.cidr.to_string() == "10.9.0.2/24"));
        let refusal = fabric.plug(&"nowhere".parse().unwrap(), "gwtap0").unwrap_err();
        assert_eq!(refusal.reasons[0].cause, "this host has no port group with the label nowhere");
    });
}

#[test]
fn management_lives_on_the_bridge_when_its_nic_is_an_uplink() {
    isolated(|netlink| {
        let (_, outside) = cable(netlink, "gwup0", "gwout0");
        address::add(netlink, outside, "10.9.0.1/24".parse().unwrap()).unwrap();
        let mut fabric = Fabric::new(config(
            "[management]\nnic = \"gwup0\"\naddress = \"10.9.0.2/24\"\n[vswitch.gwvs0]\nuplink = \"gwup0\"\n",
        ));
        assert_eq!(fabric.apply(), []);
        assert_eq!(fabric.addresses().unwrap(), ["10.9.0.2/24"]);
        let bridge = link::by_name(netlink, "gwvs0").unwrap().unwrap();
        let uplink = link::by_name(netlink, "gwup0").unwrap().unwrap();
        assert_eq!((uplink.master, uplink.mac), (Some(bridge.index), bridge.mac));
    });
}

/// Answers every DHCP message on the wire with this address.
fn dhcp_server(wire: &PacketSocket, frames: usize) {
    for _ in 0..frames {
        let frame = next_frame(wire, |frame| frame.get(36..38) == Some(&67_u16.to_be_bytes()[..]));
        let request = Message::decode(&mut Decoder::new(&frame[42..])).unwrap();
        let none = Ipv4Addr::UNSPECIFIED;
        let address = Ipv4Addr::new(10, 9, 0, 77);
        let mut answer = Message::new_with_id(request.xid(), none, address, none, none, &request.chaddr()[..6]);
        answer.set_opcode(dhcproto::v4::Opcode::BootReply);
        let kind = match request.opts().msg_type().unwrap() {
            MessageType::Discover => MessageType::Offer,
            _ => MessageType::Ack,
        };
        for option in [
            DhcpOption::MessageType(kind),
            DhcpOption::ServerIdentifier(Ipv4Addr::new(10, 9, 0, 1)),
            DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)),
            DhcpOption::Router(vec![Ipv4Addr::new(10, 9, 0, 1)]),
            DhcpOption::AddressLeaseTime(3600),
        ] {
            answer.opts_mut().insert(option);
        }
        let body = answer.to_vec().unwrap();
        let mut reply = frame[..42].to_vec();
        reply[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 9]);
        reply[16..18].copy_from_slice(&u16::try_from(28 + body.len()).unwrap().to_be_bytes());
        reply[26..30].copy_from_slice(&[10, 9, 0, 1]);
        reply[34..38].copy_from_slice(&[0, 67, 0, 68]);
        reply[38..40].copy_from_slice(&u16::try_from(8 + body.len()).unwrap().to_be_bytes());
        reply.extend(body);
        wire.send(&reply).unwrap();
    }
}

#[test]
fn management_gets_its_address_and_route_by_dhcp() {
    isolated(|netlink| {
        let (_, outside) = cable(netlink, "gwman0", "gwout0");
        let wire = PacketSocket::open(outside, ETHER_TYPE_IPV4).unwrap();
        let mut fabric = Fabric::new(config("[management]\nnic = \"gwman0\"\naddress = \"dhcp\"\n"));
        assert_eq!(fabric.apply(), []);
        dhcp_server(&wire, 2);
        let deadline = Instant::now() + PATIENCE;
        while fabric.addresses().unwrap() != ["10.9.0.77/24"] {
            assert!(Instant::now() < deadline, "no address: {:?}", fabric.dhcp());
            std::thread::sleep(Duration::from_millis(20));
        }
        let granted = loop {
            if let Some(granted) = fabric.dhcp().into_iter().find_map(|status| status.granted) {
                break granted;
            }
            assert!(Instant::now() < deadline, "{:?}", fabric.dhcp());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!((granted.gateway, granted.prefix), (Some(Ipv4Addr::new(10, 9, 0, 1)), 24));
    });
}

/// A server in a network namespace of its own, behind a cable: its netlink, the link's index there, its listener.
struct Server {
    netlink: Netlink,
    link: u32,
    listener: TcpListener,
}

const SERVER: Cidr = Cidr { address: IpAddr::V4(Ipv4Addr::new(10, 7, 7, 1)), prefix: 24 };
const CLIENT: Cidr = Cidr { address: IpAddr::V4(Ipv4Addr::new(10, 7, 7, 2)), prefix: 24 };

/// Lays a cable from here to a server.
fn server(netlink: &mut Netlink) -> Server {
    let (_, there) = cable(netlink, "to-server", "to-client");
    let here = link::by_name(netlink, "to-server").unwrap().unwrap().index;
    address::add(netlink, here, CLIENT).unwrap();
    let (arrived, tid) = mpsc::channel();
    let (moved, go_on) = mpsc::channel::<()>();
    let server = std::thread::spawn(move || {
        // SAFETY: unshare(2) with CLONE_NEWNET touches nothing but this thread's network namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        arrived.send(rustix::thread::gettid()).unwrap();
        go_on.recv().unwrap();
        let mut netlink = Netlink::open().unwrap();
        let link = link::by_name(&mut netlink, "to-client").unwrap().unwrap().index;
        link::set_up(&mut netlink, link, true).unwrap();
        address::add(&mut netlink, link, SERVER).unwrap();
        let listener = TcpListener::bind(SocketAddr::from((SERVER.address, 0))).unwrap();
        Server { netlink, link, listener }
    });
    let mut place = LinkMessage::default();
    place.header.index = there;
    let tid = tid.recv().unwrap().as_raw_nonzero().get();
    place.attributes.push(LinkAttribute::NetNsPid(tid.cast_unsigned()));
    netlink.request(RouteNetlinkMessage::SetLink(place), 0).unwrap();
    moved.send(()).unwrap();
    server.join().unwrap()
}

/// The server's address is taken away and given back, as a cable that is pulled and plugged in again: what is sent is lost.
#[test]
fn a_stalled_connection_ends_when_its_server_can_be_reached_again_and_not_before() {
    isolated(|netlink| {
        let mut server = server(netlink);
        let at = server.listener.local_addr().unwrap();
        let [mut stalled, mut idle] = [(); 2].map(|()| TcpStream::connect(at).unwrap());

        address::remove(&mut server.netlink, server.link, SERVER).unwrap();
        stalled.write_all(b"asked").unwrap();
        // From then on it says nothing for seconds, whatever becomes of the cable.
        let deadline = Instant::now() + PATIENCE;
        while !has_stalled(at, Duration::from_secs(3)).unwrap() {
            assert!(Instant::now() < deadline, "it never stalled");
            assert_eq!(reconnect::mend(at).unwrap(), 0, "ended while there is nothing to connect to");
            std::thread::sleep(Duration::from_millis(50));
        }
        address::add(&mut server.netlink, server.link, SERVER).unwrap();
        // Once: on a crowded machine the connection that is tried may take its time.
        let mut ended = 0;
        while has_stalled(at, Duration::ZERO).unwrap() {
            assert!(Instant::now() < deadline, "it stays stalled");
            ended += reconnect::mend(at).unwrap();
        }
        assert_eq!(ended, 1);

        let error = stalled.read(&mut [0; 8]).expect_err("it is ended");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        assert!(!has_stalled(at, Duration::ZERO).unwrap());
        assert_eq!(reconnect::mend(at).unwrap(), 0, "a connection that is not stalled was ended");
        idle.write_all(b"asked").expect("it goes on");
    });
}
