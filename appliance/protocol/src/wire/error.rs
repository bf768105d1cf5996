//! What is wrong with bytes that a peer sent.

use super::cursor::Short;

/// What is wrong with bytes that a peer sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// These are no bytes of this protocol.
    #[error("it does not speak the migration protocol (first bytes {0:02x?})")]
    Magic([u8; 4]),
    /// A length goes beyond its bound.
    #[error("{what} of {bytes} bytes; the bound is {max}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length.
        bytes: u64,
        /// The bound.
        max: u64,
    },
    /// Something ends before it is complete.
    #[error("{0} is cut short")]
    Short(&'static str),
    /// A value that the protocol does not allow.
    #[error("{0} has a value that the protocol does not allow")]
    Value(&'static str),
    /// Another protocol version than was agreed.
    #[error("a message of protocol version {found} where {agreed} was agreed")]
    Version {
        /// What it says.
        found: u16,
        /// What was agreed in the hello.
        agreed: u16,
    },
    /// A message or a chunk of a kind that this version does not know and must not skip.
    #[error("{what} of the unknown kind {kind:#06x}")]
    Kind {
        /// A message or a chunk.
        what: &'static str,
        /// Its kind.
        kind: u16,
    },
    /// A chunk that a message cannot do without.
    #[error("{0} is missing")]
    Missing(&'static str),
}

impl From<Short> for WireError {
    fn from(_: Short) -> Self {
        Self::Short("a value")
    }
}

/// Whether `what` keeps to its bound.
pub(crate) fn bound(what: &'static str, bytes: u64, max: u64) -> Result<(), WireError> {
    if bytes > max { Err(WireError::TooLong { what, bytes, max }) } else { Ok(()) }
}
