//! One conversation with the kernel by netlink (rtnetlink(7), sock_diag(7)): requests that are acknowledged, and dumps.

use std::time::Duration;

use std::fmt::Debug;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

/// The kernel's dumps come in datagrams of at most 32 KiB.
const DATAGRAM_BYTES_MAX: usize = 64 * 1024;
/// The kernel answers at once; this bounds the wait all the same.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket itself failed.
    #[error("the kernel's netlink cannot be used")]
    Socket(#[from] Errno),
    /// The kernel refused the request.
    #[error("the kernel refused")]
    Refused(#[source] Errno),
    /// The kernel's answer made no sense.
    #[error("the kernel's netlink answer was not understood: {0}")]
    Garbled(String),
}

impl NetlinkError {
    /// The error number behind it, if any.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Socket(errno) | Self::Refused(errno) => Some(*errno),
            Self::Garbled(_) => None,
        }
    }
}

/// A message of the kernel's netlink and back.
pub trait Message: NetlinkSerializable + NetlinkDeserializable<Error: Debug> + Debug {}

impl<M: NetlinkSerializable + NetlinkDeserializable<Error: Debug> + Debug> Message for M {}

/// An open conversation.
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens one about links, addresses and routes in the network namespace of this thread.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::open_for(None)
    }

    /// Opens one about sockets in the network namespace of this thread.
    pub fn open_sock_diag() -> Result<Self, NetlinkError> {
        Self::open_for(Some(netlink::SOCK_DIAG))
    }

    fn open_for(protocol: Option<Protocol>) -> Result<Self, NetlinkError> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends a request and waits for its acknowledgement. `flags` are those beside REQUEST and ACK.
    pub fn request<M: Message>(&mut self, message: M, flags: u16) -> Result<(), NetlinkError> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers::<M>(true).map(drop)
    }

    /// Sends a request for a list and returns all of it.
    pub fn dump<M: Message>(&mut self, message: M) -> Result<Vec<M>, NetlinkError> {
        self.send(message, NLM_F_REQUEST | NLM_F_DUMP)?;
        self.answers(false)
    }

    fn send<M: Message>(&mut self, message: M, flags: u16) -> Result<(), NetlinkError> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        sendto(&self.socket, &bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Collects messages until the acknowledgement or the end of the list.
    fn answers<M: Message>(&mut self, acknowledged: bool) -> Result<Vec<M>, NetlinkError> {
        let mut found = Vec::new();
        let mut buffer = vec![0_u8; DATAGRAM_BYTES_MAX];
        loop {
            let length = match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => length,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut rest = &buffer[..length];
            while rest.len() >= 16 {
                let size = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
                if size < 16 || size > rest.len() {
                    return Err(NetlinkError::Garbled(format!("a message of {size} bytes in {}", rest.len())));
                }
                let message = NetlinkMessage::<M>::deserialize(&rest[..size]);
                rest = &rest[size.next_multiple_of(4).min(rest.len())..];
                let message = match message {
                    Ok(message) => message,
                    // An attribute that a newer kernel has and this program does not know costs that one entry.
                    Err(error) => {
                        log::debug!("a netlink message was skipped: {error}");
                        continue;
                    }
                };
                // An answer to a request that timed out earlier.
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => match error.code {
                        None if acknowledged => return Ok(found),
                        None => {}
                        Some(code) => return Err(NetlinkError::Refused(Errno::from_raw_os_error(-code.get()))),
                    },
                    _ => {}
                }
            }
        }
    }
}
