//! What happens on a stack.

use std::net::SocketAddr;

use super::claim::Conflict;
use crate::nic::LinkState;
use crate::stream::{CloseReason, PublicKey};

/// Names a connection; never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub(crate) u64);

impl std::fmt::Display for ConnectionId {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "connection {}", self.0)
    }
}

/// What happened; several of one kind on one connection may be told as one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Both sides know each other's key, and messages can go both ways.
    Connected {
        /// Which.
        connection: ConnectionId,
        /// Who it is.
        peer: PublicKey,
        /// From where.
        address: SocketAddr,
        /// Whether the peer opened it.
        incoming: bool,
        /// The MTU of the peer's migration NIC.
        peer_mtu: u16,
    },
    /// `recv_control` has a message.
    Control(ConnectionId),
    /// `recv_record` has a record.
    Records(ConnectionId),
    /// `send_record` or `send_control` said `Full` before, and has room again.
    Writable(ConnectionId),
    /// The connection is no more; everything that was received can still be taken until `forget`.
    Closed {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: CloseReason,
    },
    /// The NIC's link went up or down.
    Link(LinkState),
    /// The NIC is gone; [`Stack::replace_port`](super::Stack::replace_port) goes on with another.
    Gone,
    /// Another NIC uses our address, or none does any more.
    Conflict(Option<Conflict>),
}
