//! How answers look to a person, and to a program.
//!
//! [`table`] and [`record`] are the two shapes; [`answers`] says which answer takes which, and shapes most of them;
//! [`hosts`], [`processors`], [`network`] and [`clone`] shape those of `host list`, `host cpu`, the migration NIC and `vm clone`.

pub mod answers;
mod clone;
mod hosts;
mod network;
mod processors;
pub mod record;
pub mod table;

pub use answers::{json, text};
