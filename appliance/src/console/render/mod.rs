//! How answers look to a person, and to a program.
//!
//! [`table`] and [`record`] are the two shapes; [`answers`] says which answer takes which, and shapes most of them;
//! [`hosts`] shapes that of `host list`.

pub mod answers;
mod hosts;
pub mod record;
pub mod table;

pub use answers::{json, text};
