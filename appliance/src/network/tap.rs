//! Taps: the host's end of a VM's NIC. The tap lives as long as somebody holds its descriptor.
//!
//! The one file of this folder (with `packet`) that talks to the kernel by ioctl, hence its `unsafe`.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use rustix::ioctl::{Setter, Updater, ioctl, opcode};

use super::link;
use super::netlink::{Netlink, NetlinkError};

/// Bytes of the virtio-net header before each frame (virtio 1.2, 5.1.6: with `num_buffers`).
pub const HEADER_BYTES: usize = 12;

const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<libc::c_int>(b'T', 202);
const TUNSETVNETHDRSZ: rustix::ioctl::Opcode = opcode::write::<libc::c_int>(b'T', 216);

/// A tap, plugged into nothing yet and down: it passes no frame, in neither direction, until its link is set up.
#[derive(Debug)]
pub struct Tap {
    /// The kernel's name.
    pub name: String,
    /// The kernel's handle.
    pub index: u32,
    /// What the VMM reads and writes frames on, each behind a header of [`HEADER_BYTES`].
    pub file: OwnedFd,
}

/// `struct ifreq` with flags (netdevice(7)).
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

impl Tap {
    /// Makes a tap of this name, at most 15 bytes. It must not exist yet.
    pub fn create(netlink: &mut Netlink, name: &str) -> Result<Self, NetlinkError> {
        let file = open(name).map_err(|error| {
            NetlinkError::Refused(rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
        })?;
        let found = link::by_name(netlink, name)?.ok_or(NetlinkError::Refused(rustix::io::Errno::NODEV))?;
        let _ = link::keep_ipv6_off(name);
        Ok(Self { name: name.to_owned(), index: found.index, file })
    }
}

fn open(name: &str) -> io::Result<OwnedFd> {
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_TUN_EXCL).cast_unsigned() as u16,
        rest: [0; 22],
    };
    if name.is_empty() || name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    let file: OwnedFd = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?
        .into();
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq` (40 bytes on x86-64), which `InterfaceRequest` is; its opcode is
    // encoded with the size of an int by the kernel's own definition.
    unsafe { ioctl(&file, Updater::<TUNSETIFF, InterfaceRequest>::new(&mut request)) }?;
    let size = HEADER_BYTES as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    unsafe { ioctl(&file, Setter::<TUNSETVNETHDRSZ, libc::c_int>::new(size)) }?;
    Ok(file)
}
