//! Two hosts, one VM, one move, and whatever can go wrong with it.
//!
//! The machines are the real ones: the source's, the destination's, and each host's keeper of leases over one shared
//! lease area. Records and control messages are real bytes. Simulated are the guest, whose pages are version numbers,
//! the hosts and their processes, the connection and the datastore's reachability.
//!
//! ```text
//!   operator ---> source_side  ----- link ----- destination_side          faults: any of it fails
//!                  |       |                      |          |            invariants: checked after every step
//!                guest   keeper -- datastore -- keeper     guest
//! ```
//! In reading order: [`setup`] is what a world is like, `event` what can happen, [`world`] the loop that lets it happen.
//! [`host`], [`guest`], [`link`] and [`datastore`] are what it is made of; [`keeper`] and [`engine`] are the processes of
//! a host, `source_side` and `destination_side` carry out what an engine wants, with `storing`, `ways` is what comes late; `operator` and [`faults`] are what
//! drives it all, `settling` is what the host role does where an engine could not tell, and [`invariants`] are the promises.

pub mod datastore;
mod destination_side;
pub mod engine;
mod event;
pub mod faults;
pub mod guest;
pub mod host;
pub mod invariants;
pub mod keeper;
pub mod link;
mod operator;
mod settling;
pub mod setup;
mod source_side;
pub mod storing;
mod ways;
pub mod world;

pub use faults::{Fault, When};
pub use host::Side;
pub use setup::Setup;
pub use world::{Ended, World};
