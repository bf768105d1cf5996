//! What two hosts say to each other on the control stream.
//!
//! [`Message::encode`] and [`Message::decode`] are the only way in and out. What was decoded is within every bound
//! of `config/limits.toml`; an offer, which a destination acts upon, is a [`ValidatedOffer`].
//!
//! In reading order: [`catalogue`] lists the messages; [`content`] and [`offer`] are what they hold; `kind` are their
//! numbers, and `codec` turns them into frames and back.

pub mod catalogue;
mod codec;
pub mod content;
mod kind;
pub mod offer;
#[cfg(test)]
mod tests;

pub use catalogue::Message;
pub use content::{
    AUDIT_HASHES_MAX, Answer, HandOver, Hello, MigrationId, Rehearsal, Resumed, RunState, STATE_PART_BYTES_MAX,
    StatePart, SwitchReady,
};
pub use offer::{Offer, ValidatedOffer};
