//! How answers look to a person, and to a program.
//!
//! [`table`] and [`record`] are the two shapes; [`answers`] says which answer takes which, and shapes most of them;
//! [`hosts`] and [`processors`] shape those of `host list` and `host cpu`.

pub mod answers;
mod hosts;
mod processors;
pub mod record;
pub mod table;

pub use answers::{json, text};
