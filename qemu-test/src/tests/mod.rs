//! `cargo lab test`: everything that can be checked on this machine, summed up in one line.
//!
//! `tally` counts, and reads what cargo's test runner says; `native` runs the checks of the source tree (format, lints,
//! documentation, all unit and native tests, the guest kernel); `nested` boots real images and holds the product to its
//! promises.

mod native;
mod nested;
mod tally;

pub use native::check_source;
pub use nested::check_nested;
pub use tally::Tally;
