//! The NIC belongs to us: the kernel is silent on it, and what the kernel used to answer is answered by the stack.

mod world;

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netstack::nic::{FrameBatch, Port};
use netstack::{Event, NicError};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, sendto, socket};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscRepr};
use world::{Host, Wire, connect, run, transfer};

/// An echo request from the kernel of `namespace`; whether the answer came.
fn ping(namespace: &str, to: IpAddr) -> bool {
    Wire::within(namespace, || {
        let (family, protocol, kind, reply) = match to {
            IpAddr::V4(_) => (AddressFamily::INET, ipproto::ICMP, 8, 0),
            IpAddr::V6(_) => (AddressFamily::INET6, ipproto::ICMPV6, 128, 129),
        };
        let icmp = socket(family, SocketType::RAW, Some(protocol)).unwrap();
        rustix::net::sockopt::set_socket_timeout(
            &icmp,
            rustix::net::sockopt::Timeout::Recv,
            Some(Duration::from_millis(100)),
        )
        .unwrap();
        // Type, code, checksum, identifier, sequence, "ping". IPv6's checksum is the kernel's work.
        let mut request = vec![kind, 0, 0, 0, 0x47, 0x57, 0, 1, b'p', b'i', b'n', b'g'];
        let sum = checksum(&request);
        request[2..4].copy_from_slice(&sum);
        for _ in 0..8 {
            if sendto(&icmp, &request, SendFlags::empty(), &SocketAddr::new(to, 0)).is_err() {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
            if answered(&icmp, reply) {
                return true;
            }
        }
        false
    })
}

/// Whether something holds in the end: a busy machine takes its time.
fn in_the_end(mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !holds() {
        if start.elapsed() > world::BOUND {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
    true
}

/// The checksum of a few bytes of IP or ICMP in which its own field is 0.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

fn answered(icmp: &OwnedFd, reply: u8) -> bool {
    let mut buffer = [0u8; 256];
    while let Ok((length, _)) = rustix::net::recv(icmp, &mut buffer, RecvFlags::empty()) {
        let packet = &buffer[..length];
        let body = if packet[0] >> 4 == 4 && reply == 0 { &packet[20..] } else { packet };
        if body[0] == reply && body[4..6] == [0x47, 0x57] && body.ends_with(b"ping") {
            return true;
        }
    }
    false
}

/// Gives the kernel of b the address of host 2, as an ordinary peer of ours.
fn kernel_peer(wire: &Wire) {
    run(&format!("ip -n {} link set mig0 up", wire.b));
    run(&format!("ip -n {} addr add 10.74.0.2/24 dev mig0", wire.b));
    run(&format!("ip -n {} addr add fd00:7474::2/64 dev mig0 nodad", wire.b));
}

#[test]
fn the_kernel_is_silent_on_the_migration_nic() {
    if world::cannot_run() {
        return;
    }
    let wire = Wire::new(1500, 1500);
    kernel_peer(&wire);
    // An address that the kernel of a has elsewhere: Linux answers for it on every interface.
    run(&format!("ip -n {} link set lo up", wire.a));
    run(&format!("ip -n {} addr add 10.99.0.9/32 dev lo", wire.a));
    run(&format!("ip -n {} link set mig0 up", wire.a));
    run(&format!("ip -n {} addr add 10.74.0.1/24 dev mig0", wire.a));
    run(&format!("ip -n {} route add 10.99.0.9/32 dev mig0", wire.b));
    let elsewhere = "10.99.0.9".parse().unwrap();
    assert!(
        in_the_end(|| ping(&wire.b, elsewhere)),
        "the kernel does not answer even without us: this test proves nothing"
    );
    assert!(in_the_end(|| ping(&wire.b, world::address(1, false))));
    run(&format!("ip -n {} addr flush dev mig0", wire.a));
    run(&format!("ip -n {} neigh flush dev mig0", wire.b));

    let mut nic = Wire::nic(&wire.a, None).unwrap();
    assert!(!ping(&wire.b, elsewhere), "the kernel answered for its own address on the migration NIC");
    assert!(!ping(&wire.b, world::address(1, false)), "the kernel answered for the migration address");
    // Without ARP in the way, too.
    for address in ["10.99.0.9", "10.74.0.1"] {
        run(&format!("ip -n {} neigh replace {address} lladdr 02:00:00:00:00:0a dev mig0 nud permanent", wire.b));
        assert!(!ping(&wire.b, address.parse().unwrap()), "the kernel answered a ping to {address}");
    }
    let mut batch = FrameBatch::new(16);
    let mut seen = 0;
    while nic.receive(&mut batch).unwrap() > 0 {
        while batch.take().is_some() {
            seen += 1;
        }
    }
    assert!(seen > 4, "the frames did not reach the NIC at all");
}

#[test]
fn an_interface_with_a_kernel_address_is_refused_and_named() {
    if world::cannot_run() {
        return;
    }
    let wire = Wire::new(1500, 1500);
    run(&format!("ip -n {} link set mig0 up", wire.a));
    run(&format!("ip -n {} addr add 10.74.0.1/24 dev mig0", wire.a));
    let error = Wire::nic(&wire.a, None).unwrap_err();
    assert!(matches!(&error, NicError::HasKernelAddress { .. }), "{error}");
    assert_eq!(error.to_string(), "interface mig0 has the kernel address 10.74.0.1; the migration NIC must have none");
}

#[test]
fn a_nic_is_found_by_its_mac_and_a_missing_one_is_told_with_what_there_is() {
    if world::cannot_run() {
        return;
    }
    let wire = Wire::new(9000, 9000);
    let config =
        |selector: &str| netstack::NicConfig { selector: selector.parse().unwrap(), mtu: Some(4000), vlan: None };
    let found = config("02:00:00:00:00:0a");
    let mut nic = Wire::within(&wire.a, move || netstack::Nic::open(&found)).unwrap();
    assert_eq!((nic.name(), nic.mtu(), nic.mac()), ("mig0", 4000, [2, 0, 0, 0, 0, 10]));
    // The other end is still down.
    assert!(!nic.link().up);
    let _other = Wire::nic(&wire.b, None).unwrap();
    assert!(in_the_end(|| nic.link().up), "the link did not come up");
    assert_eq!((nic.link().speed_mbit, nic.link().full_duplex), (Some(10_000), Some(true)));
    let missing = config("02:00:00:00:00:0c");
    let error = Wire::within(&wire.a, move || netstack::Nic::open(&missing)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no Ethernet interface MAC 02:00:00:00:00:0c; present are: mig0 (02:00:00:00:00:0a)"
    );
}

/// Polls a host on a thread of its own while `work` runs.
fn while_polled<T>(host: &mut Host<netstack::Nic>, work: impl FnOnce() -> T + Send) -> T
where
    T: Send,
{
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let result = work();
            done.store(true, Ordering::Relaxed);
            result
        });
        while !done.load(Ordering::Relaxed) && !worker.is_finished() {
            host.poll();
            let now = Instant::now();
            host.stack.wait(now, Some(now + Duration::from_millis(5)), &[]).unwrap();
        }
        worker.join().unwrap()
    })
}

#[test]
fn a_ping_from_another_kernel_is_answered_by_the_stack() {
    if world::cannot_run() {
        return;
    }
    for ipv6 in [false, true] {
        let wire = Wire::new(1500, 1500);
        kernel_peer(&wire);
        let mut a = Host::new(Wire::nic(&wire.a, None).unwrap(), 1, ipv6);
        let answered = while_polled(&mut a, || in_the_end(|| ping(&wire.b, world::address(1, ipv6))));
        assert!(answered, "no answer over IPv{}", if ipv6 { 6 } else { 4 });
    }
}

#[test]
fn a_closed_port_is_told_from_an_absent_host() {
    if world::cannot_run() {
        return;
    }
    let wire = Wire::new(1500, 1500);
    kernel_peer(&wire);
    let mut a = Host::new(Wire::nic(&wire.a, None).unwrap(), 1, false);
    let key = a.key;
    let start = Instant::now();
    for (last, expected) in [
        (2, "10.74.0.2:7474 is there, but its migration port is closed"),
        (9, "no host answers for 10.74.0.9:7474 on the migration network: nothing came back to ARP or ND from mig0"),
    ] {
        let to = SocketAddr::new(world::address(last, false), world::PORT);
        a.stack.connect(to, key, Instant::now()).unwrap();
        let reason = loop {
            a.poll();
            if let Some(reason) = a.closed() {
                break reason;
            }
            assert!(start.elapsed() < world::BOUND);
            a.stack.wait(Instant::now(), None, &[]).unwrap();
        };
        assert_eq!(reason.to_string(), expected);
    }
}

#[test]
fn hosts_meet_inside_a_vlan_and_not_across_vlans() {
    if world::cannot_run() {
        return;
    }
    let wire = Wire::new(1500, 1500);
    let mut a = Host::new(Wire::nic(&wire.a, Some(10)).unwrap(), 1, false);
    let mut b = Host::new(Wire::nic(&wire.b, Some(10)).unwrap(), 2, false);
    let ids = connect(&mut a, &mut b);
    transfer(&mut a, &mut b, ids, 100, 200_000);
    let batches = a.stack.counters();
    assert!(batches.sent_bytes / batches.sent_frames > 10_000, "tagged batches were cut before the NIC: {batches:?}");
    for other in [None, Some(11)] {
        drop(b);
        b = Host::new(Wire::nic(&wire.b, other).unwrap(), 2, false);
        b.stack.allowed().insert(a.key);
        a.stack.connect(b.address, b.key, Instant::now()).unwrap();
        let reason = world::until(&mut a, &mut b, "the handshake to fail", |a, b| {
            assert!(b.connected().is_none(), "a connection between VLANs");
            a.take(|event| match event {
                Event::Closed { reason, .. } if !matches!(reason, netstack::CloseReason::Silent { .. }) => {
                    Some(reason.clone())
                }
                _ => None,
            })
        });
        assert!(
            matches!(&reason, netstack::CloseReason::NoNeighbour { .. } | netstack::CloseReason::NoAnswer { .. }),
            "{reason}"
        );
    }
}

#[test]
fn a_flood_of_garbage_harms_nothing() {
    if world::cannot_run() {
        return;
    }
    let wire = Wire::new(1500, 1500);
    let (mut a, mut b) = wire.hosts(false);
    let ids = connect(&mut a, &mut b);
    let mut flood = Wire::nic(&wire.a, None).unwrap();
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let flooder = scope.spawn(|| {
            let mut random = 0x1234_5678_9abc_def1u64;
            let mut sent = 0u64;
            while !stop.load(Ordering::Relaxed) {
                // Paced: what no host could take in would only be a test of which of two threads is the faster.
                if sent % 64 == 63 {
                    thread::sleep(Duration::from_millis(1));
                }
                let frame = garbage(&mut random);
                let frame = netstack::nic::OutgoingFrame { header: &frame, body: &[], udp_start: None, segment: None };
                match flood.send(&frame) {
                    Ok(()) => sent += 1,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::yield_now(),
                    Err(_) => {}
                }
            }
            sent
        });
        // Also where it fails, or the flood would never end.
        let stopping = Stopping(&stop);
        transfer(&mut a, &mut b, ids, 100, 200_000);
        drop(stopping);
        flooder.join().unwrap()
    });
    assert!(sent > 1000, "only {sent} frames of garbage were sent");
    assert_eq!(b.stack.open_connections(), 1);
    assert_eq!((a.closed(), b.closed()), (None, None));
}

/// Sets a flag when it goes.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A frame for host b that is right up to some point, and random from there.
fn garbage(random: &mut u64) -> Vec<u8> {
    let mut next = || world::xorshift(random);
    let mut frame = vec![2, 0, 0, 0, 0, 0x0b, 2, 0, 0, 0, 0, 0x0a, 0x08, 0x00];
    frame.extend([0x45, 0, 0x04, 0xd0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 74, 0, 1, 10, 74, 0, 2]);
    frame.extend([0x1d, 0x32, 0x1d, 0x32, 0x04, 0xbc, 0, 0]);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum);
    // A QUIC Initial's first byte now and then, so that it gets further.
    frame.push(if next() % 2 == 0 { 0xc3 } else { next() as u8 });
    let length = 60 + next() as usize % 1400;
    let right = next() as usize % 60;
    while frame.len() < length {
        frame.push(next() as u8);
    }
    if next() % 4 == 0 {
        frame[12..14].copy_from_slice(&[[0x86, 0xdd], [0x08, 0x06], [0x81, 0x00], [0x12, 0x34]][next() as usize % 4]);
    }
    for byte in &mut frame[right.max(12)..60] {
        if next() % 8 == 0 {
            *byte = next() as u8;
        }
    }
    frame
}

#[test]
fn datagrams_to_a_port_that_is_not_ours_are_refused_by_the_stack() {
    if world::cannot_run() {
        return;
    }
    let wire = Wire::new(1500, 1500);
    kernel_peer(&wire);
    let mut a = Host::new(Wire::nic(&wire.a, None).unwrap(), 1, false);
    let refused = while_polled(&mut a, || {
        Wire::within(&wire.b, || {
            let socket = UdpSocket::bind("10.74.0.2:0").unwrap();
            socket.connect("10.74.0.1:9").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            in_the_end(|| {
                let _ = socket.send(b"x");
                let answer = socket.recv(&mut [0; 16]);
                answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
            })
        })
    });
    assert!(refused, "no ICMP port unreachable");
}

/// An ARP request (RFC 826) for an address, from host 2.
fn who_has(address: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 0x0b, 0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0x0b, 10, 74, 0, 2]);
    frame.extend([0; 6]);
    frame.extend(address);
    frame
}

/// An echo request (RFC 792) to an address, from host 2.
fn echo(address: [u8; 4]) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 1, 0, 0, 10, 74, 0, 2];
    ip.extend(address);
    let sum = checksum(&ip);
    ip[10..12].copy_from_slice(&sum);
    let mut icmp = vec![8, 0, 0, 0, 0x47, 0x57, 0, 1, b'p', b'i', b'n', b'g'];
    let sum = checksum(&icmp);
    icmp[2..4].copy_from_slice(&sum);
    [&[2, 0, 0, 0, 0, 0x0a, 2, 0, 0, 0, 0, 0x0b, 0x08, 0][..], &ip, &icmp].concat()
}

/// A neighbour solicitation (RFC 4861 section 4.3) for an address, from host 2, to its solicited-node group.
fn solicit(address: Ipv6Addr) -> Vec<u8> {
    let [.., x, y, z] = address.octets();
    let (from, to) = (
        world::address(2, true),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(x), u16::from_be_bytes([y, z])),
    );
    let IpAddr::V6(from) = from else { panic!("IPv6") };
    let mac = EthernetAddress([2, 0, 0, 0, 0, 0x0b]);
    let icmp = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: address, lladdr: Some(mac.into()) });
    let length = icmp.buffer_len();
    let ip =
        Ipv6Repr { src_addr: from, dst_addr: to, next_header: IpProtocol::Icmpv6, payload_len: length, hop_limit: 255 };
    let mut frame = vec![0x33, 0x33, 0xff, x, y, z, 2, 0, 0, 0, 0, 0x0b, 0x86, 0xdd];
    frame.resize(14 + ip.buffer_len() + length, 0);
    let mut packet = Ipv6Packet::new_unchecked(&mut frame[14..]);
    ip.emit(&mut packet);
    icmp.emit(&from, &to, &mut Icmpv6Packet::new_unchecked(packet.payload_mut()), &ChecksumCapabilities::default());
    frame
}

/// Whose address a frame gives as its sender's, where it is an ARP reply, an echo reply or a neighbour advertisement.
fn answers_for(frame: &[u8]) -> Option<IpAddr> {
    match (frame.get(12..14)?, frame.get(20..22)?) {
        ([0x08, 0x06], [0, 2]) => Some(IpAddr::from(*frame.get(28..32)?.first_chunk::<4>()?)),
        ([0x08, 0x00], _) if frame.get(23) == Some(&1) && frame.get(34) == Some(&0) => {
            Some(IpAddr::from(*frame.get(26..30)?.first_chunk::<4>()?))
        }
        ([0x86, 0xdd], [58, _]) if frame.get(54) == Some(&136) => {
            Some(IpAddr::from(*frame.get(62..78)?.first_chunk::<16>()?))
        }
        _ => None,
    }
}

#[test]
fn kernel_and_stack_never_answer_for_each_others_addresses() {
    if world::cannot_run() {
        return;
    }
    for ipv6 in [false, true] {
        let wire = Wire::new(1500, 1500);
        // The kernel of a has addresses of the very network elsewhere, where Linux would answer for them on every interface.
        run(&format!("ip -n {} link set lo up", wire.a));
        run(&format!("ip -n {} addr add 10.74.0.9/32 dev lo", wire.a));
        run(&format!("ip -n {} addr add fd00:7474::9/128 dev lo nodad", wire.a));
        let mut listener = Wire::nic(&wire.b, None).unwrap();
        let mut a = Host::new(Wire::nic(&wire.a, None).unwrap(), 1, ipv6);
        let (kernels, stacks) = (world::address(9, ipv6), world::address(1, ipv6));
        // What is asked of the stack comes last: when that is answered, what was asked before was heard.
        let asked: Vec<Vec<u8>> = match ipv6 {
            false => [[10, 74, 0, 9], [10, 74, 0, 1]].into_iter().flat_map(|to| [who_has(to), echo(to)]).collect(),
            true => ["fd00:7474::9", "fd00:7474::1"].map(|to| solicit(to.parse().unwrap())).to_vec(),
        };
        let wanted = asked.len() / 2;
        let mut heard = Vec::new();
        let mut batch = FrameBatch::new(16);
        let start = Instant::now();
        let mut asked_at = None;
        while heard.iter().filter(|address| **address == stacks).count() < wanted {
            assert!(start.elapsed() < world::BOUND, "{heard:?}");
            // A link that has just come up may lose what is sent first.
            if asked_at.is_none_or(|at: Instant| at.elapsed() > Duration::from_secs(1)) {
                heard.retain(|address| *address != stacks);
                for frame in &asked {
                    let frame =
                        netstack::nic::OutgoingFrame { header: frame, body: &[], udp_start: None, segment: None };
                    listener.send(&frame).unwrap();
                }
                asked_at = Some(Instant::now());
            }
            a.poll();
            let now = Instant::now();
            a.stack.wait(now, Some(now + Duration::from_millis(5)), &[]).unwrap();
            if batch.is_empty() {
                listener.receive(&mut batch).unwrap();
            }
            while let Some(frame) = batch.take() {
                heard.extend(answers_for(&frame.bytes[..frame.length]));
            }
        }
        assert!(!heard.contains(&kernels), "somebody answered for the kernel's address: {heard:?}");
        assert!(heard.iter().all(|address| *address == stacks), "{heard:?}");
    }
}
