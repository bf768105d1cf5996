//! Two hosts, one VM, one move, and whatever can go wrong with it.
//!
//! The machines are the real ones: the source's, the destination's, and each host's keeper of leases over one shared
//! lease area. Records and control messages are real bytes. Simulated are the guest ([`guest`]), whose pages are
//! version numbers, the hosts and their processes ([`host`]), the connection ([`link`]) and the datastore's sectors
//! ([`datastore`]). [`faults`] says what goes wrong and when, [`world`] lets it happen, [`source_side`] and
//! [`destination_side`] carry out effects, and [`invariants`] are the promises that are checked after every step.

pub mod datastore;
mod destination_side;
pub mod faults;
pub mod guest;
pub mod host;
pub mod invariants;
pub mod link;
mod source_side;
pub mod world;

pub use faults::{Fault, Side, When};
pub use invariants::Violation;
pub use world::{Ended, Setup, World};
