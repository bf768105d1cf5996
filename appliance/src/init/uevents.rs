//! What the kernel tells of devices as they appear (NETLINK_KOBJECT_UEVENT): messages of `KEY=value` texts, each ended by a
//! zero byte.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recvfrom, socket_with};

use crate::api::channel::wait_readable;

/// The multicast group of the kernel's own messages.
const KERNEL_GROUP: u32 = 1;
/// Room for the messages of a machine that finds hundreds of devices while nobody reads.
const QUEUE_BYTES: usize = 4 * 1024 * 1024;
/// The kernel's bound of one message (UEVENT_BUFFER_SIZE) with the header before it.
const MESSAGE_BYTES_MAX: usize = 8192;

/// What happened within a wait.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum News {
    /// A device appeared that has this modalias.
    Device(String),
    /// Something happened that asks for no module.
    Other,
    /// Messages were lost: look at every device again.
    Lost,
    /// Nothing happened.
    Quiet,
}

/// A subscription to the kernel's messages.
pub(super) struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    pub(super) fn open() -> Result<Self, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(KOBJECT_UEVENT))?;
        let _ = set_socket_recv_buffer_size_force(&socket, QUEUE_BYTES);
        bind(&socket, &SocketAddrNetlink::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    /// Waits for the next message, at most `bound`.
    pub(super) fn next(&self, bound: Duration) -> News {
        if !wait_readable(self.socket.as_fd(), bound).unwrap_or(false) {
            return News::Quiet;
        }
        let mut buffer = [0_u8; MESSAGE_BYTES_MAX];
        match recvfrom(&self.socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _, sender)) => {
                let kernel = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
                if kernel.is_some_and(|sender| sender.pid() == 0) { read(&buffer[..length]) } else { News::Other }
            }
            Err(Errno::NOBUFS) => News::Lost,
            Err(_) => News::Other,
        }
    }
}

fn read(message: &[u8]) -> News {
    let mut texts = message.split(|byte| *byte == 0).filter_map(|text| std::str::from_utf8(text).ok());
    let added = texts.next().is_some_and(|header| header.starts_with("add@") || header.starts_with("bind@"));
    let modalias = texts.find_map(|text| text.strip_prefix("MODALIAS="));
    modalias.filter(|_| added).map_or(News::Other, |modalias| News::Device(modalias.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_appears_tells_what_it_wants() {
        let message =
            b"add@/devices/pci0000:00/0000:00:03.0\0ACTION=add\0SUBSYSTEM=pci\0MODALIAS=pci:v00001AF4d00001041\0";
        assert_eq!(read(message), News::Device("pci:v00001AF4d00001041".into()));
        assert_eq!(read(b"remove@/devices/x\0ACTION=remove\0MODALIAS=pci:v1\0"), News::Other);
        assert_eq!(read(b"add@/devices/x\0ACTION=add\0"), News::Other);
        assert_eq!(read(b"\xff\xfe"), News::Other);
        assert_eq!(read(b""), News::Other);
    }
}
