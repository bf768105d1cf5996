//! Godwit as one of those who are compared. What a person would type is typed on the consoles of two hosts.
//!
//! `vm` is what the datastore holds of a case, and to which depth its moves are verified; `moves` runs and moves it, whatever the hosts are:
//! `native`, processes of this machine, or `nested`, machines of the lab.

mod moves;
mod native;
mod nested;
mod vm;

pub(super) use moves::AtDepth;
pub(super) use native::Native;
pub(super) use nested::Nested;
pub(super) use vm::{DEPTHS, LEAST, name, place};
