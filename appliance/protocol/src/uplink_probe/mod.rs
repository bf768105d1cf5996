//! Whether the port groups of one label on two hosts lie on one physical network: each host sends frames on its uplink, with
//! the port group's VLAN, and listens on it for those of the other (`docs/decisions/a-probe-frame.md`).
//!
//! ```text
//!   source                                              destination
//!     |-- offer: two tokens for each port group ------------>|    the migration connection, authenticated
//!     |                                                      |
//!     |== frame with the source's token ====================>|    the uplinks, where anybody may listen and talk
//!     |<============== frame with the destination's token ===|
//!     |                                                      |
//!     |<----------- answer: what the destination heard ------|    the migration connection
//! ```
//! Who hears a frame has learned one token and none of those that are waited for at the other end: a stranger can fake no
//! answer, and only repeat to one network what was sent on another, which takes a way between them.
//!
//! In reading order: [`tokens`] are what is agreed on, [`frame`] is how a token travels, [`exchange`] is when frames are sent and
//! what came of it. The judgement is [`crate::checks::physical_network`].

pub mod exchange;
pub mod frame;
pub mod tokens;

pub use exchange::{Exchange, Step};
pub use tokens::{Agreed, End, Token};
