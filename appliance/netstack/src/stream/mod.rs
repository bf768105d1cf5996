//! QUIC between migration peers, as quinn-proto's state machine under our rules.
//!
//! ```text
//!   Handshaking --(TLS done, peer's hello read)--> Established --(close, loss, idle)--> Closed
//!        |                                                                                ^
//!        +--(unknown key, refused, unreachable, no answer in time)------------------------+
//! ```
//!
//! Each side opens one unidirectional stream for control (its first): frames of a length and a body, of which the first
//! is the hello. Every further stream carries one record and ends with it, so that records overtake each other and a
//! lost packet delays only its own.
//!
//! In reading order: [`key`] (identities), `tls` (raw public keys, RFC 7250), [`congestion`], `transport` (QUIC's
//! parameters), `control` and `record` (what travels), [`connection`], [`close`] (why it ended), [`estimates`].

pub mod close;
pub mod congestion;
pub(crate) mod connection;
mod control;
pub mod estimates;
pub mod key;
mod record;
pub(crate) mod tls;
pub(crate) mod transport;

pub use close::{CloseReason, SendError};
pub use control::CONTROL_MESSAGE_MAX;
pub use estimates::Estimates;
pub use key::{KeyError, KeyPair, PublicKey};
pub use record::RECORD_MAX;
pub use tls::Allowed;
