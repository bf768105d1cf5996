//! Why a connection ended, in terms of what an operator can do about it.

use std::net::SocketAddr;
use std::time::Duration;

use quinn_proto::{ConnectionError, TransportErrorCode};

use super::key::PublicKey;

/// TLS alerts (RFC 8446 section 6).
const ALERT_BAD_CERTIFICATE: u8 = 42;
const ALERT_ACCESS_DENIED: u8 = 49;
const ALERT_CERTIFICATE_REQUIRED: u8 = 116;
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// Why a connection is no more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// We closed it.
    #[error("closed by this host")]
    ByUs,
    /// The peer closed it.
    #[error("the other host ended the connection (code {code}: {reason})")]
    ByPeer {
        /// The peer's code.
        code: u64,
        /// The peer's words.
        reason: String,
    },
    /// The peer has another key than the one published for it.
    #[error("{address} has another key than {expected}, which is published for it")]
    PeerKeyUnknown {
        /// Whom we called.
        address: SocketAddr,
        /// Whom we expected there.
        expected: PublicKey,
    },
    /// An incoming peer's key is on no list.
    #[error("a host at {address} called with a key that no host of our datastores publishes")]
    CallerUnknown {
        /// Where it called from.
        address: SocketAddr,
    },
    /// The peer does not know our key.
    #[error("{address} refused this host's key: it does not know it (yet)")]
    OurKeyRefused {
        /// Whom we called.
        address: SocketAddr,
    },
    /// Nobody has the address.
    #[error("no host answers for {address} on the migration network: nothing came back to ARP or ND from {nic}")]
    NoNeighbour {
        /// Whom we called.
        address: SocketAddr,
        /// Through which NIC.
        nic: String,
    },
    /// The host is there and nobody listens.
    #[error("{address} is there, but its migration port is closed")]
    PortClosed {
        /// Whom we called.
        address: SocketAddr,
    },
    /// Packets went out and nothing came back.
    #[error("no answer from {address} within {} ms", waited.as_millis())]
    NoAnswer {
        /// Whom we called.
        address: SocketAddr,
        /// For how long.
        waited: Duration,
    },
    /// The peer has no room for another connection.
    #[error("{address} has no room for another migration connection")]
    Busy {
        /// Whom we called.
        address: SocketAddr,
    },
    /// It was established, and then nothing came for the idle timeout.
    #[error("nothing came from {address} for {} ms", silence.as_millis())]
    Silent {
        /// The peer.
        address: SocketAddr,
        /// The idle timeout.
        silence: Duration,
    },
    /// The same, and our own link is or was down.
    #[error("the link of migration NIC {nic} went down")]
    LinkDown {
        /// Which NIC.
        nic: String,
    },
    /// The peer does not know the connection any more: its migrate role started anew.
    #[error(
        "{address} does not know this connection any more: its migration role was started again, or one of the two was silent for too long"
    )]
    PeerRestarted {
        /// The peer.
        address: SocketAddr,
    },
    /// The other side speaks another transport.
    #[error("{address} speaks another version of the migration transport")]
    VersionMismatch {
        /// The peer.
        address: SocketAddr,
    },
    /// The peer broke the rules, or we think so.
    #[error("protocol error with {address}: {what}")]
    Protocol {
        /// The peer.
        address: SocketAddr,
        /// What was wrong.
        what: String,
    },
}

/// What is known about a connection when it ends.
pub(crate) struct Circumstances<'a> {
    pub(crate) address: SocketAddr,
    pub(crate) expected: Option<PublicKey>,
    pub(crate) incoming: bool,
    pub(crate) established: bool,
    /// Packets for the peer never left, because nobody answered ARP.
    pub(crate) no_neighbour: bool,
    pub(crate) link_was_down: bool,
    pub(crate) nic: &'a str,
    pub(crate) handshake_timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

/// Tells an operator's reason from QUIC's.
pub(crate) fn explain(error: &ConnectionError, around: &Circumstances<'_>) -> CloseReason {
    let address = around.address;
    match error {
        ConnectionError::LocallyClosed => CloseReason::ByUs,
        ConnectionError::ApplicationClosed(close) => CloseReason::ByPeer {
            code: close.error_code.into_inner(),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::Reset => CloseReason::PeerRestarted { address },
        ConnectionError::VersionMismatch => CloseReason::VersionMismatch { address },
        ConnectionError::TimedOut => explain_silence(around),
        ConnectionError::TransportError(ours) => match alert(ours.code) {
            Some(ALERT_ACCESS_DENIED | ALERT_BAD_CERTIFICATE) => match around.expected {
                Some(expected) => CloseReason::PeerKeyUnknown { address, expected },
                None => CloseReason::CallerUnknown { address },
            },
            Some(ALERT_CERTIFICATE_REQUIRED) if around.incoming => CloseReason::CallerUnknown { address },
            Some(ALERT_NO_APPLICATION_PROTOCOL) => CloseReason::VersionMismatch { address },
            _ => CloseReason::Protocol { address, what: ours.to_string() },
        },
        ConnectionError::ConnectionClosed(theirs) => match alert(theirs.error_code) {
            Some(ALERT_ACCESS_DENIED | ALERT_BAD_CERTIFICATE) => CloseReason::OurKeyRefused { address },
            Some(ALERT_NO_APPLICATION_PROTOCOL) => CloseReason::VersionMismatch { address },
            _ if theirs.error_code == TransportErrorCode::CONNECTION_REFUSED => CloseReason::Busy { address },
            _ => CloseReason::Protocol { address, what: theirs.to_string() },
        },
        ConnectionError::CidsExhausted => CloseReason::Protocol { address, what: error.to_string() },
    }
}

fn explain_silence(around: &Circumstances<'_>) -> CloseReason {
    let address = around.address;
    if around.link_was_down {
        CloseReason::LinkDown { nic: around.nic.to_owned() }
    } else if around.established {
        CloseReason::Silent { address, silence: around.idle_timeout }
    } else if around.no_neighbour {
        CloseReason::NoNeighbour { address, nic: around.nic.to_owned() }
    } else {
        CloseReason::NoAnswer { address, waited: around.handshake_timeout }
    }
}

fn alert(code: TransportErrorCode) -> Option<u8> {
    let code = u64::from(code);
    (code & !0xff == 0x100).then_some(code as u8)
}

/// Why something was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No room now; `Event::Writable` tells when there is.
    #[error("the connection's queue is full")]
    Full,
    /// The connection is not established, or no more.
    #[error("there is no such connection")]
    NotConnected,
    /// Larger than the bound.
    #[error("{size} bytes are more than {most}, the most at a time")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The bound.
        most: usize,
    },
    /// Records of no bytes do not exist.
    #[error("a record has at least one byte")]
    Empty,
}
