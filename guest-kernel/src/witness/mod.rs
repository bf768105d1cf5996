//! The work of the witness.
//!
//! ```text
//!            orders (rate, set, pattern)
//!                   |
//!   +---------------v------------------------- worker, one per CPU -----+
//!   |  fill its share  ->  dirty at the pace  ->  verify what is left   | --> tally --> report
//!   |        every few pages: look at the TSC                           |
//!   +--------------------------------------------------------------------+
//! ```
//!
//! - [`content`]: what stands in a page.
//! - [`memory`]: which pages there are, their versions, writing and checking one.
//! - [`share`]: which CPU has which pages.
//! - [`pace`]: how many pages are due.
//! - [`orders`]: what all CPUs are to do; [`tally`]: what one has done; [`damages`]: what was found.
//! - [`worker`]: the order of work of one CPU.
//! - [`clock`]: TSC and kvmclock, and what goes back or stands still.
//! - [`frequency`]: how fast the TSC counts.
//! - [`timer`]: the LAPIC's timer.
//! - [`cpu`]: the registers of one processor; [`x87`]: those of x87.
//! - [`ipi`]: interrupts between processors.
//! - [`journal`]: numbered records on a disk.
//! - [`echo`]: answers on the network.

pub mod clock;
pub mod content;
#[cfg(target_os = "none")]
pub mod cpu;
pub mod damages;
pub mod echo;
#[cfg(target_os = "none")]
pub mod frequency;
pub mod ipi;
pub mod journal;
pub mod memory;
pub mod orders;
pub mod pace;
pub mod share;
pub mod tally;
#[cfg(target_os = "none")]
pub mod timer;
pub mod worker;
#[cfg(target_os = "none")]
mod x87;
