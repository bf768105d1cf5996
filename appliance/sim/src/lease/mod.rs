//! The lease world: many hosts keep leases on one datastore with the real machines of `protocol::lease`, start, stop
//! and move VMs, and everything goes wrong.
//!
//! ```text
//!   operator --- wishes ---> process (the real keeper) --- io ---> disk
//!       |           |               |
//!     moves ------- guest <------ kills        faults: any of it fails; invariants: what must hold all the same
//! ```
//! In reading order: `event` is what can happen, `world` the loop that lets it happen. `host` and its `clock`,
//! `process` and `io` are what keeps leases; `wishes`, `moves` and `guest`, with the server's `locks`, what uses them;
//! `operator`, `faults` and, in worlds of their own, `damage` are what drives it all. `invariants` are the promises; [`seeds`] runs many worlds.

mod clock;
mod damage;
mod event;
mod faults;
mod guest;
mod host;
mod invariants;
mod io;
mod locks;
mod moves;
mod operator;
mod process;
pub mod seeds;
mod wishes;
mod world;
