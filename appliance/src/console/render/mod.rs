//! How answers look to a person, and to a program.
//!
//! [`table`] and [`record`] are the two shapes; [`answers`] says which answer takes which, and [`clone`] is that of a clone.

pub mod answers;
mod clone;
pub mod record;
pub mod table;

pub use answers::{json, text};
