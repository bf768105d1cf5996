//! The networks between hosts: bridges and taps in a network namespace of our own. Nothing of the outer machine's network
//! is touched and none of its ports is used.
//!
//! ```text
//!  namespace gw-<tag>
//!    management 10.77.1.1/24 --- tap of each host        (the kernel's stack of the hosts)
//!    datastore  10.77.2.1/24 --- tap of each host        (NFS server: here, or in a machine with a tap of its own)
//!    migration  no address   --- tap of each host        (the migration stack of the hosts)
//!    guests     10.77.4.1/24 --- tap of each host        (uplink of their vswitch; clients of guests live here)
//! ```

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::str::FromStr;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::child::Child;
use crate::error::{Doing, LabError, Result};

/// One of the networks that every host is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wire {
    /// The hosts' own addresses.
    Management,
    /// To the storage servers.
    Datastore,
    /// Where moves travel.
    Migration,
    /// The uplink of the vswitch: what VMs talk through.
    Guests,
}

impl Wire {
    /// All wires, in the order of a host's NICs.
    pub const ALL: [Self; 4] = [Self::Management, Self::Datastore, Self::Migration, Self::Guests];

    /// Its place among a host's NICs, from 1.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }

    /// The address of this end on the wire, where this end has one.
    pub fn outer_address(self) -> Option<Ipv4Addr> {
        (self != Self::Migration).then(|| Ipv4Addr::new(10, 77, self.number(), 1))
    }

    /// A host's address on the wire.
    pub fn host_address(self, host_number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number(), 10 + host_number)
    }

    /// The MAC address of a host's NIC on the wire.
    pub fn host_mac(self, host_number: u8) -> String {
        format!("52:54:00:67:{:02x}:{host_number:02x}", self.number())
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Management => "management",
            Self::Datastore => "datastore",
            Self::Migration => "migration",
            Self::Guests => "guests",
        })
    }
}

impl FromStr for Wire {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let known = Self::ALL.into_iter().find(|wire| wire.to_string() == text);
        known.ok_or_else(|| format!("{text} is not a wire: write management, datastore, migration or guests"))
    }
}

/// A namespace with its wires.
#[derive(Debug, Clone)]
pub struct Wires {
    namespace: String,
}

impl Wires {
    /// The wires of the fleet with this tag, laid or not.
    pub fn of(tag: &str) -> Self {
        Self { namespace: format!("gw-{tag}") }
    }

    /// The namespace's name.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Whether the namespace exists.
    pub fn are_laid(&self) -> bool {
        self.file().exists()
    }

    /// Makes the namespace and its bridges.
    pub fn lay(&self) -> Result<()> {
        Child::new("ip", ["netns", "add", &self.namespace]).run()?;
        // Neighbours and routes of IPv6 on this end would only make noise; frames of hosts and guests pass all the same.
        let quiet =
            "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6";
        self.inside("sh").arg("-c").arg(quiet).run()?;
        let mut commands = String::from("link set lo up\n");
        for wire in Wire::ALL {
            // An address of its own: a bridge without one takes the lowest of its ports, so that each host that is plugged in or
            // out may give the server another, and the others wait for it until their neighbour tables have noticed.
            let mac = wire.host_mac(0);
            commands += &format!(
                "link add {wire} address {mac} mtu 9000 type bridge stp_state 0 mcast_snooping 0 forward_delay 0\n"
            );
            if let Some(address) = wire.outer_address() {
                commands += &format!("address add {address}/24 dev {wire}\n");
            }
            commands += &format!("link set {wire} up\n");
        }
        self.ip(&commands)
    }

    /// Makes a host's taps and plugs them in.
    pub fn plug(&self, host: &str) -> Result<()> {
        self.plug_into(host, &Wire::ALL)
    }

    /// Makes the taps of a machine on some of the wires and plugs them in.
    pub fn plug_into(&self, host: &str, wires: &[Wire]) -> Result<()> {
        let mut commands = String::new();
        for wire in wires.iter().copied() {
            let tap = tap_name(host, wire);
            commands += &format!("tuntap add {tap} mode tap vnet_hdr\nlink set {tap} mtu 9000 master {wire} up\n");
        }
        self.ip(&commands)
    }

    /// Removes a host's taps.
    pub fn unplug(&self, host: &str) -> Result<()> {
        self.ip(&Wire::ALL.map(|wire| format!("link delete {}\n", tap_name(host, wire))).concat())
    }

    /// Cuts one host's cable.
    pub fn cut(&self, host: &str, wire: Wire) -> Result<()> {
        self.ip(&format!("link set {} down\n", tap_name(host, wire)))
    }

    /// Mends one host's cable.
    pub fn mend(&self, host: &str, wire: Wire) -> Result<()> {
        self.ip(&format!("link set {} up\n", tap_name(host, wire)))
    }

    /// Takes a host's tap off its bridge: what it sends goes nowhere, and its link stays up.
    pub fn take_off(&self, host: &str, wire: Wire) -> Result<()> {
        self.ip(&format!("link set {} nomaster\n", tap_name(host, wire)))
    }

    /// Plugs a host's tap into its bridge again.
    pub fn put_on(&self, host: &str, wire: Wire) -> Result<()> {
        self.ip(&format!("link set {} master {wire}\n", tap_name(host, wire)))
    }

    /// Makes two links of which the second is plugged into a wire's bridge: what is sent on the first arrives there.
    pub fn pair(&self, [ours, at_bridge]: [&str; 2], wire: Wire) -> Result<()> {
        self.ip(&format!(
            "link add {ours} mtu 9000 type veth peer name {at_bridge} mtu 9000\nlink set {at_bridge} master {wire} up\n\
             link set {ours} up\n"
        ))
    }

    /// Removes them.
    pub fn unpair(&self, [ours, _]: [&str; 2]) -> Result<()> {
        self.ip(&format!("link delete {ours}\n"))
    }

    /// Whether a host's cable is whole.
    pub fn is_whole(&self, host: &str, wire: Wire) -> Result<bool> {
        let said =
            Child::new("ip", ["-n", &self.namespace, "-brief", "link", "show", &tap_name(host, wire)]).output()?;
        Ok(said.contains(",UP") || said.contains("<UP"))
    }

    /// Takes everything down. Whoever still runs inside keeps it alive, so end them first.
    pub fn remove(&self) -> Result<()> {
        if self.are_laid() { Child::new("ip", ["netns", "delete", &self.namespace]).run() } else { Ok(()) }
    }

    /// A program to run inside the namespace.
    pub fn inside(&self, program: impl AsRef<std::ffi::OsStr>) -> Child {
        Child::new("ip", ["netns", "exec", &self.namespace]).arg(program)
    }

    /// Runs `work` on a thread of its own inside the namespace: sockets that it opens belong there and stay usable outside.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.file()).at("opening", &self.file())?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .doing("entering the lab's network namespace")?;
                Ok(work())
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn file(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.namespace)
    }

    /// Runs a batch of `ip` commands inside.
    pub(crate) fn ip(&self, commands: &str) -> Result<()> {
        let mut command = Child::new("ip", ["-n", &self.namespace, "-batch", "-"]).into_command();
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().doing("starting ip")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(commands.as_bytes()).doing("telling ip what to do")?;
        }
        let output = child.wait_with_output().doing("waiting for ip")?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(LabError::Input(format!("ip refused in namespace {}: {said}\ncommands:\n{commands}", self.namespace)))
    }
}

/// The tap of a host on a wire: at most 15 bytes, so hosts go by their last letter.
pub fn tap_name(host: &str, wire: Wire) -> String {
    format!("{}-{wire}", host.trim_start_matches("host-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_and_address_is_of_one_host_and_one_wire() {
        let mut seen = std::collections::BTreeSet::new();
        for wire in Wire::ALL {
            for (host, number) in [("host-a", 1), ("host-b", 2)] {
                assert!(tap_name(host, wire).len() < 16);
                assert!(seen.insert(tap_name(host, wire)));
                assert!(seen.insert(wire.host_mac(number)));
                assert!(seen.insert(wire.host_address(number).to_string()));
            }
            assert_eq!(wire.to_string().parse(), Ok(wire));
        }
        assert!("mangement".parse::<Wire>().is_err());
    }
}
