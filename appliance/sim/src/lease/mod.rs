//! The lease world: many hosts keep leases on one datastore with the real machines of `protocol::lease`, start, stop
//! and move VMs, and everything goes wrong.
//!
//! `world` is the loop; `host`, `clock` and `disk` are what it is made of; `faults` says what may go wrong
//! and which fences stand against it; [`invariants`] are the promises; [`seeds`] runs many worlds.

mod clock;
mod disk;
mod faults;
mod host;
pub mod invariants;
pub mod seeds;
mod world;
