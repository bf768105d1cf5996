//! How answers look to a person, and to a program.
//!
//! [`table`] and [`record`] are the two shapes; [`answers`] says which answer takes which.

pub mod answers;
pub mod record;
pub mod table;

pub use answers::{json, text};
