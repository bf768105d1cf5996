//! The cable between the two ends: two network namespaces joined by a veth, as it comes (MTU 1500, offloads on).
//!
//! Two cables in fact, alike: on `kernel0` each end has an address of the kernel's, for programs that use its stack; on
//! `mig0` none, for a stack of one's own.

use std::net::Ipv4Addr;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use crate::child::Child;
use crate::error::Result;

/// The cables; removed at the end.
pub(super) struct Link {
    namespaces: [String; 2],
}

/// The name of each end's NIC without an address.
pub(super) const BARE_NIC: &str = "mig0";

impl Link {
    /// Lays them.
    pub(super) fn lay(tag: &str) -> Result<Self> {
        let link = Self { namespaces: ["a", "b"].map(|end| format!("gw-bench-{tag}-{end}")) };
        link.remove();
        for namespace in &link.namespaces {
            Child::new("ip", ["netns", "add", namespace]).run()?;
        }
        let [a, b] = &link.namespaces;
        for nic in ["kernel0", BARE_NIC] {
            Child::new("ip", ["-n", a, "link", "add", nic, "type", "veth", "peer", "name", nic, "netns", b]).run()?;
        }
        for (end, namespace) in link.namespaces.iter().enumerate() {
            let address = format!("{}/24", kernel_address(end));
            Child::new("ip", ["-n", namespace, "address", "add", &address, "dev", "kernel0"]).run()?;
            for nic in ["lo", "kernel0", BARE_NIC] {
                Child::new("ip", ["-n", namespace, "link", "set", nic, "up"]).run()?;
            }
        }
        Ok(link)
    }

    /// A program that runs at one end: 0 or 1.
    pub(super) fn at(&self, end: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
        Child::new("ip", ["netns", "exec", &self.namespaces[end]]).arg(program).into_command()
    }

    /// Ends what still runs at an end, which only a run that was interrupted leaves, and takes the cables away.
    fn remove(&self) {
        for namespace in &self.namespaces {
            // It need not be there.
            let pids = Child::new("ip", ["netns", "pids", namespace]).output().unwrap_or_default();
            for pid in pids.lines().filter_map(|pid| Pid::from_raw(pid.trim().parse().ok()?)) {
                // The only error is that it ended by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = Child::new("ip", ["netns", "delete", namespace]).succeeds();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The kernel's address at one end.
pub(super) fn kernel_address(end: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 98, 0, end as u8 + 1)
}

/// The address that a stack of its own may use on the bare NIC.
pub(super) fn bare_address(end: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, 0, end as u8 + 1)
}
