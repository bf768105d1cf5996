//! `cargo lab test`: everything that can be checked on this machine, summed up in one line.
//!
//! `tally` counts, and reads what test runners say; `native` runs the checks of the source tree (format, lints,
//! documentation, all unit and native tests, the guest kernel), `executables` the tests among them; `older` moves VMs between an older build and this one; `nested` boots real images and holds the product to its
//! promises.

mod executables;
mod native;
mod nested;
mod older;
mod tally;

pub use native::check_source;
pub use nested::{break_every_phase, check_nested, contend, measure_take_overs, move_a_database};
pub use older::{OLDER, check as check_older};
pub use tally::{Tally, Verdict};
