//! This host's own life on one datastore.
//!
//! ```text
//!            a slot is free, or mine and dead        proved by a second read
//!   Looking ------------------------------> Claiming ----------------------> Live
//!     ^  ^                                     |                              |  cannot renew in time, was declared
//!     |  `------- too slow, or overwritten ----'                              |  dead, or its slot has a new owner
//!     |                                                                       v
//!     `------------------- all VMs are dead (Killed) -------------------- Fencing          Live --leave--> Left
//! ```
//! **The rule.** A host may run VMs until `renewal + I/O bound` after the *start* of its last successful renewal; then
//! it fences, and within the kill time no VM of this datastore runs. Observers wait for the expiry, which is longer
//! (`model::limits` asserts it). So whoever sees the life expired knows that it runs nothing.
//!
//! A life that was fenced never goes on: the next claim has a higher generation, and VM leases name the generation.
//!
//! **Claiming** is a delta lease (Chockler and Malkhi 2002): read, write, wait, read again. The write must end within
//! `LEASE_CLAIM_IO_MS` of the *start* of the read that found the slot free, or the claim is void; the wait is longer
//! than that, so of two hosts that claim one slot the one that wrote first sees the other's write.
//!
//! **Another process of the same boot** is told what its predecessor last remembered ([`OwnEffect::Remember`], kept in
//! memory of the host, not on the datastore: it must be had when the datastore is not). It goes on with that life if
//! the deadline has not passed, and fences when it passes, whether or not the datastore can be read by then. Both read
//! the same clock.
//!
//! Call order: [`HostLease::new`]; then feed [`HostLease::handle_hosts`] with every look at the host bank,
//! [`HostLease::handle_written`] with the end of every write, [`HostLease::handle_killed`] when a fence is complete,
//! [`HostLease::handle_timeout`] at [`HostLease::poll_timeout`]; after each call drain [`HostLease::poll_effect`].
//!
//! In reading order: [`effect`] is what the machine wants done; `state` is how far it is; `slot` says which slot it
//! claims; [`machine`] is the machine.

pub mod effect;
pub mod machine;
mod slot;
mod state;
#[cfg(test)]
mod tests;

pub use effect::{Fence, Note, OwnEffect, Remembered};
pub use machine::{HostIdentity, HostLease, Standing};
