//! Takes an interface away from the kernel's own network stack.
//!
//! What makes the kernel silent on it: no address; IFF_NOARP and `arp_ignore` (Linux otherwise answers ARP on any
//! interface for any of its addresses); strict `rp_filter` (no route leads out here, so every IPv4 packet that comes
//! in is refused); `disable_ipv6` and `addr_gen_mode` none (no link-local address, no neighbour discovery).

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use super::selector::Found;
use super::socket::NicError;
use super::{link, syscall};

const SYSCTLS: [(&str, &str, &str); 6] = [
    // IPv6 first: a link-local address appears as soon as the interface comes up.
    ("ipv6", "addr_gen_mode", "1"),
    ("ipv6", "accept_ra", "0"),
    ("ipv6", "disable_ipv6", "1"),
    ("ipv4", "arp_ignore", "8"),
    ("ipv4", "rp_filter", "1"),
    ("ipv4", "forwarding", "0"),
];

/// The offload that cuts a batch of datagrams into frames, as `ethtool -k` calls it.
pub(crate) const CUTTING: &str = "tx-udp-segmentation";

/// Silences the kernel on the interface, sets its MTU and brings it up.
pub(crate) fn take_from_kernel(control: BorrowedFd<'_>, nic: &Found, mtu: Option<u16>) -> Result<(), NicError> {
    let failed = |what: &'static str| {
        let interface = nic.name.clone();
        move |source: io::Error| NicError::Prepare { interface, what, source }
    };
    for (family, key, value) in SYSCTLS {
        let path = format!("/proc/sys/net/{family}/conf/{}/{key}", nic.name);
        // A kernel without IPv6 has nothing to be silenced there.
        if family == "ipv6" && !Path::new(&path).exists() {
            continue;
        }
        fs::write(&path, value).map_err(failed("set the interface's sysctls"))?;
    }
    let addresses = syscall::kernel_addresses(&nic.name).map_err(failed("list the interface's addresses"))?;
    if let Some(address) = addresses.first() {
        return Err(NicError::HasKernelAddress { interface: nic.name.clone(), address: *address });
    }
    if let Some(mtu) = mtu {
        syscall::set_mtu(control, &nic.name, u32::from(mtu)).map_err(|source| NicError::MtuRefused {
            interface: nic.name.clone(),
            mtu,
            source,
        })?;
    }
    let flags = syscall::flags(control, &nic.name).map_err(failed("read the interface's flags"))?;
    syscall::set_flags(control, &nic.name, flags | libc::IFF_UP | libc::IFF_NOARP)
        .map_err(failed("bring the interface up"))?;
    // Without it a physical NIC hands up datagrams one by one. Devices that lack it, or pass batches anyway, say no.
    if let Err(error) = link::enable_feature(control, &nic.name, "rx-udp-gro-forwarding") {
        log::debug!("{}: rx-udp-gro-forwarding stays as it is: {error}", nic.name);
    }
    // Virtio NICs can cut batches and do not until they are told. Where nobody can, batches are cut before they are sent.
    if let Err(error) = link::enable_feature(control, &nic.name, CUTTING) {
        log::debug!("{}: {CUTTING} stays as it is: {error}", nic.name);
    }
    Ok(())
}
