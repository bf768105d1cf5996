//! What the lab's Debian guest runs while it is moved, and the words that its clients outside share with it.
//!
//! `journal`: numbered, checksummed, chained records, each on the disk before the next is begun; `words`: the lines that
//! client and service exchange; `memory`: pages that are rewritten at a rate and checked before each rewrite; `power_button`:
//! what the guest does when it is pressed; `service`: ties them together inside the guest.

#![forbid(unsafe_code)]

pub mod journal;
pub mod memory;
pub mod power_button;
pub mod service;
pub mod words;
