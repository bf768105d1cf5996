//! The journal: numbered records on a disk, in order, with flushes between them, by which a move that loses, doubles, tears
//! or brings back what a disk was told shows itself.
//!
//! ```text
//!   survey (what is on the disk?) --> work: write a burst -> flush it -> read some back --> audit: read all back
//!                                       ^                                                      |
//!                                       +------------------------------------------------------+
//! ```
//!
//! Record `n` lies in slot `n % slots`, so the disk holds the latest of them. Each record carries the number up to which
//! everything had been flushed when it was written: whoever reads the disk, in the guest after a start or outside, knows by
//! the records themselves what has to be there ([`survey`]).
//!
//! - [`record`]: what stands in a slot.
//! - [`survey`]: what a whole disk holds, and what of it is not as it should be.
//! - [`ledger`]: what is written, flushed and read next, and what each slot must hold.
//! - [`keeper`]: carries the ledger's orders to the disk.

#[cfg(target_os = "none")]
pub mod keeper;
pub mod ledger;
pub mod record;
pub mod survey;

/// Most slots of a journal: 1 MiB of the disk, whatever its size.
pub const SLOTS_MAX: usize = 256;
/// Fewest: the records of two bursts.
pub const SLOTS_MIN: usize = 16;
/// Records that are written at once, and flushed together.
pub const BURST: u64 = 8;
/// Requests in flight at most.
pub const FLIGHTS_MAX: usize = 16;

/// How many slots a disk of so many bytes has, or none if it is too small.
pub fn slots(disk_bytes: u64) -> Option<usize> {
    let slots = (disk_bytes / record::RECORD_BYTES as u64).min(SLOTS_MAX as u64) as usize;
    (slots >= SLOTS_MIN).then_some(slots)
}
