//! Promises of the product, held against real images on hosts in QEMU. One fleet is booted for all that are tried with one
//! server; the order is that of the list, and each leaves the fleet as it found it.
//!
//! A new promise: a function in the file of its subject and one line in `promises`.

mod at_once;
mod bench;
mod boot;
mod console;
mod database;
mod every_phase;
mod faults;
mod fences;
mod guest;
mod image;
mod knfsd;
mod losses;
mod migration;
mod promises;
mod same_instant;
mod take_over;
mod vm;

pub use database::move_a_database;
pub use every_phase::break_every_phase;
pub use promises::check_nested;
pub use same_instant::contend;
pub use take_over::measure as measure_take_overs;
