//! What travels between two hosts: control messages on one ordered stream, page records in any order.
//!
//! ```text
//! control:  frame header | chunk header, payload | chunk header, payload | ...
//! record:   record header (which pages, which round, a hash) | content of the pages that are not zero
//! ```
//!
//! In reading order: [`cursor`] reads and writes integers without ever reading too far, and [`error`] is what can be
//! wrong with bytes; [`frame`] is the header that every version can read, and cuts the control stream into frames;
//! [`chunk`] holds the typed, versioned, length-bounded pieces of a frame; [`message`] is what they say; [`record`] is
//! how pages travel.

pub mod chunk;
pub mod cursor;
pub mod error;
pub mod frame;
pub mod message;
pub mod record;

pub use error::WireError;
pub use frame::{Frame, FrameReader};
pub use message::{Message, MigrationId, ValidatedOffer};
pub use record::{PagePlan, RecordHeader, ValidatedRecord};
