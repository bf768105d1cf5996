//! What two hosts have between them: a network namespace for each, and a cable or a switch that joins them.

use std::fs::File;
use std::process::{Command, Stdio};

use godwit::network::link;
use godwit::network::netlink::Netlink;
use godwit::network::packet::PacketSocket;
use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Two network namespaces that are joined. Removed at the end.
pub(crate) struct Cable {
    /// The two ends, and where there is one the switch or the router.
    namespaces: Vec<String>,
    /// The ends lie in different networks.
    is_routed: bool,
    name: String,
}

/// Moves this thread into a network namespace.
pub(crate) fn enter(namespace: &str) {
    let namespace = File::open(format!("/run/netns/{namespace}")).expect("ip netns made it");
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("it is ours");
}

/// A socket on a link of a network namespace that hears frames with this EtherType.
pub(crate) fn listen(namespace: &str, link: &str, ether_type: u16) -> PacketSocket {
    let (namespace, link) = (namespace.to_owned(), link.to_owned());
    let opened = std::thread::spawn(move || {
        enter(&namespace);
        let found = link::by_name(&mut Netlink::open().expect("a socket"), &link).expect("asked").expect("it is there");
        PacketSocket::open(found.index, ether_type).expect("root may")
    });
    opened.join().expect("opened")
}

/// The MAC address of a third host's NIC.
const INTRUDER: &str = "02:00:00:00:00:99";

impl Cable {
    /// Lays a cable; none, with the reason on standard error, where this process may not make namespaces.
    pub(crate) fn lay(name: &str) -> Option<Self> {
        let cable = Self::namespaces(name, &["a", "b"])?;
        let [a, b] = &cable.namespaces[..] else { panic!("two ends") };
        let laid = ip(&["-n", a, "link", "add", "mig0", "type", "veth", "peer", "name", "mig0", "netns", b])
            && [a, b].iter().all(|end| ip(&["-n", end, "link", "set", "mig0", "up"]));
        assert!(laid, "a veth pair");
        Some(cable)
    }

    /// The same with two switches between the ends, joined by a trunk that carries frames of so many bytes; all else
    /// carries 9000. (A veth does not drop what its peer is too narrow for, it refuses it.)
    pub(crate) fn lay_through_switches(name: &str, trunk_mtu: u16) -> Option<Self> {
        let cable = Self::namespaces(name, &["a", "b", "s"])?;
        let [a, b, switches] = &cable.namespaces[..] else { panic!("two ends and the switches") };
        let mtu = trunk_mtu.to_string();
        let switch = |end: &str| {
            let (bridge, port, trunk) = (format!("switch-{end}"), format!("port-{end}"), format!("trunk-{end}"));
            let namespace = if end == "a" { a } else { b };
            let nic = ["-n", namespace, "link", "add", "mig0", "mtu", "9000", "type", "veth", "peer", "name"];
            ip(&[&nic[..], &[&port, "mtu", "9000", "netns", switches]].concat())
                && ip(&["-n", switches, "link", "add", &bridge, "type", "bridge"])
                && [&port, &trunk]
                    .iter()
                    .all(|port| ip(&["-n", switches, "link", "set", port, "master", &bridge, "up"]))
                && ip(&["-n", switches, "link", "set", &bridge, "up"])
                && ip(&["-n", namespace, "link", "set", "mig0", "up"])
        };
        let trunk = ["-n", switches, "link", "add", "trunk-a", "mtu", &mtu, "type", "veth", "peer", "name", "trunk-b"];
        if !ip(&[&trunk[..], &["mtu", &mtu]].concat()) || !["a", "b"].into_iter().all(switch) {
            eprintln!("skipped: no bridge can be made");
            return None;
        }
        Some(cable)
    }

    /// The same with a router between the ends, each of which lies in a network of its own. The NICs carry 9000 bytes, what
    /// lies behind the router so many.
    pub(crate) fn lay_through_router(name: &str, behind_mtu: u16) -> Option<Self> {
        let mut cable = Self::namespaces(name, &["a", "b", "r"])?;
        cable.is_routed = true;
        let [a, b, router] = &cable.namespaces[..] else { panic!("two ends and the router") };
        for (end, namespace) in [("a", a), ("b", b)] {
            let port = format!("to-{end}");
            let nic = ["-n", namespace, "link", "add", "mig0", "mtu", "9000", "type", "veth", "peer", "name"];
            assert!(ip(&[&nic[..], &[&port, "mtu", "9000", "netns", router]].concat()), "a veth pair");
            assert!(ip(&["-n", namespace, "link", "set", "mig0", "up"]));
            assert!(ip(&["-n", router, "link", "set", &port, "up"]));
        }
        let mtu = behind_mtu.to_string();
        for (port, address, network) in
            [("to-a", "10.99.0.254/24", "10.99.0.0/24"), ("to-b", "10.98.0.254/24", "10.98.0.0/24")]
        {
            assert!(ip(&["-n", router, "address", "add", address, "dev", port]));
            // Not the MTU of the link: a veth refuses what its peer is too narrow for, where a router drops it.
            assert!(ip(&["-n", router, "route", "replace", network, "dev", port, "mtu", "lock", &mtu]));
        }
        let forwards = ["netns", "exec", router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"];
        assert!(ip(&forwards), "it forwards");
        Some(cable)
    }

    /// The address of one end, and what leads to the other's network, as the configuration of its host has them.
    pub(crate) fn address(&self, end: usize) -> String {
        match (self.is_routed, end) {
            (false, end) => format!("address = \"10.99.0.{}/24\"", end + 1),
            (true, 0) => "address = \"10.99.0.1/24\"\ngateway = \"10.99.0.254\"".to_owned(),
            (true, _) => "address = \"10.98.0.2/24\"\ngateway = \"10.98.0.254\"".to_owned(),
        }
    }

    fn namespaces(name: &str, ends: &[&str]) -> Option<Self> {
        let mut cable = Self { namespaces: Vec::new(), is_routed: false, name: name.to_owned() };
        for end in ends {
            let namespace = format!("gw-{name}-{end}-{}", std::process::id());
            if !ip(&["netns", "add", &namespace]) || !ip(&["-n", &namespace, "link", "set", "lo", "up"]) {
                eprintln!("skipped: no network namespace can be made (root is needed, and iproute2)");
                return None;
            }
            cable.namespaces.push(namespace);
        }
        Some(cable)
    }

    /// The namespace of one end.
    pub(crate) fn namespace(&self, end: usize) -> &str {
        &self.namespaces[end]
    }

    /// Lets the switch carry so much, as tc(8) writes it (the NICs' own queues are passed by); false, with the reason on
    /// standard error, where the kernel cannot.
    pub(crate) fn carries(&self, rate: &str) -> bool {
        let shaped = ["port-a", "port-b"].iter().all(|port| {
            let tc = ["-n", &self.namespaces[2], "qdisc", "replace", "dev", port, "root", "tbf", "rate", rate];
            // A small burst: a probe of some milliseconds would measure what passes at once, and not the rate.
            let status = Command::new("tc").args(tc).args(["burst", "20kb", "latency", "50ms"]).status();
            status.is_ok_and(|status| status.success())
        });
        if !shaped {
            eprintln!("skipped: no link can be made slow here (tc and the kernel's tbf are needed)");
        }
        shaped
    }

    /// Puts a third host, whose kernel has this address, at the first host's switch; its NIC's MAC address.
    pub(crate) fn intrude(&mut self, address: &str) -> String {
        let (switches, third) = (self.namespaces[2].clone(), Self::namespaces(&format!("{}-x", self.name), &["x"]));
        let mut third = third.expect("it could be made before");
        let namespace = third.namespaces.remove(0);
        let nic = ["-n", &namespace, "link", "add", "nic0", "address", INTRUDER, "type", "veth", "peer", "name"];
        assert!(ip(&[&nic[..], &["port-x", "netns", &switches]].concat()), "a veth pair");
        assert!(ip(&["-n", &switches, "link", "set", "port-x", "master", "switch-a", "up"]));
        assert!(ip(&["-n", &namespace, "address", "add", address, "dev", "nic0"]));
        assert!(ip(&["-n", &namespace, "link", "set", "nic0", "up"]));
        self.namespaces.push(namespace);
        INTRUDER.to_owned()
    }

    /// Lets it ask for an address of its network, as whoever begins to talk does.
    pub(crate) fn intruder_asks_for(&self, address: &str) {
        let datagram = format!("echo > /dev/udp/{address}/9");
        ip(&["netns", "exec", self.namespaces.last().expect("it is there"), "bash", "-c", &datagram]);
    }

    /// Takes it away again.
    pub(crate) fn intruder_leaves(&mut self) {
        let namespace = self.namespaces.pop().expect("it is there");
        assert!(ip(&["netns", "delete", &namespace]));
    }

    /// Takes the first host's NIC out of its slot.
    pub(crate) fn unplug_nic(&self) {
        assert!(ip(&["-n", &self.namespaces[0], "link", "delete", "mig0"]));
    }

    /// Puts a NIC into that slot again, and its cable into the switch: another NIC, with another MAC address.
    pub(crate) fn plug_nic_in(&self) {
        let (host, switches) = (&self.namespaces[0], &self.namespaces[2]);
        let nic = ["-n", host, "link", "add", "mig0", "mtu", "9000", "type", "veth", "peer", "name"];
        assert!(ip(&[&nic[..], &["port-a", "mtu", "9000", "netns", switches]].concat()), "a veth pair");
        assert!(ip(&["-n", switches, "link", "set", "port-a", "master", "switch-a", "up"]));
    }

    /// The links of one end, besides its loopback.
    pub(crate) fn links(&self, end: usize) -> Vec<String> {
        links(&self.namespaces[end])
    }

    /// Gives one end a further NIC whose link is up, for a vswitch.
    pub(crate) fn add_uplink(&self, end: usize, name: &str) {
        let (namespace, far) = (&self.namespaces[end], format!("{name}-far"));
        assert!(ip(&["-n", namespace, "link", "add", name, "type", "veth", "peer", "name", &far]));
        assert!([name, far.as_str()].iter().all(|link| ip(&["-n", namespace, "link", "set", link, "up"])));
    }

    /// Gives both ends a further NIC for a vswitch, and joins these in a namespace of their own whose kernel has this address
    /// in the guests' network; its name.
    pub(crate) fn join_guests(&mut self, uplink: &str, address: &str) -> String {
        let outside = Self::namespaces(&format!("{}-o", self.name), &["o"]);
        let namespace = outside.expect("others could be made before").namespaces.remove(0);
        assert!(ip(&["-n", &namespace, "link", "add", "lan", "type", "bridge"]));
        assert!(ip(&["-n", &namespace, "address", "add", address, "dev", "lan"]));
        assert!(ip(&["-n", &namespace, "link", "set", "lan", "up"]));
        for (end, port) in [(0, "port-a"), (1, "port-b")] {
            let nic = ["-n", &self.namespaces[end], "link", "add", uplink, "type", "veth", "peer", "name", port];
            assert!(ip(&[&nic[..], &["netns", &namespace]].concat()), "a veth pair");
            assert!(ip(&["-n", &self.namespaces[end], "link", "set", uplink, "up"]));
            assert!(ip(&["-n", &namespace, "link", "set", port, "master", "lan", "up"]));
        }
        self.namespaces.push(namespace.clone());
        namespace
    }

    /// Sets what one end's NIC carries.
    pub(crate) fn set_mtu(&self, end: usize, mtu: u16) {
        assert!(ip(&["-n", &self.namespaces[end], "link", "set", "mig0", "mtu", &mtu.to_string()]));
    }

    /// Gives the NIC at one end another name, and so to a host that looks for a NIC of either name one that appeared.
    pub(crate) fn rename(&self, end: usize, from: &str, to: &str) {
        let namespace = &self.namespaces[end];
        assert!(ip(&["-n", namespace, "link", "set", from, "down"]));
        assert!(ip(&["-n", namespace, "link", "set", from, "name", to]));
        assert!(ip(&["-n", namespace, "link", "set", to, "up"]));
    }

    /// Pulls the first host's cable out of its switch, or plugs it in again. (A NIC that is switched off at the host itself the host switches on
    /// again.)
    pub(crate) fn plugged(&self, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        assert!(ip(&["-n", &self.namespaces[2], "link", "set", "port-a", state]));
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            ip(&["netns", "delete", namespace]);
        }
    }
}

/// The links of a namespace, besides its loopback.
pub(crate) fn links(namespace: &str) -> Vec<String> {
    let listed = Command::new("ip").args(["-n", namespace, "-br", "link"]).output().expect("ip runs");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let names = text.lines().filter_map(|line| line.split([' ', '@']).next()).map(str::to_owned);
    names.filter(|name| name != "lo").collect()
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
