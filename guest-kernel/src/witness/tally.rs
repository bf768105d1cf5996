//! What one CPU has done.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::witness::clock::Gap;

/// What one CPU has done: written by it, read by the first.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Tally {
    /// Pages that have their first content.
    pub filled: AtomicU64,
    /// New versions written.
    pub dirtied: AtomicU64,
    /// Pages compared.
    pub verified: AtomicU64,
    /// Times that the whole share was compared.
    pub passes: AtomicU64,
    /// Pages that were not as they should be.
    pub bad: AtomicU64,
    /// Number of the latest audit that is complete.
    pub audited: AtomicU64,
    /// Sum of all versions when that audit was complete. It is `versions_due` unless a part of the version table was lost.
    pub versions: AtomicU64,
    /// New versions written when that audit was complete.
    pub versions_due: AtomicU64,
    /// Longest time between two looks at the TSC.
    pub gap: Gap,
}

impl Tally {
    /// Nothing done.
    pub const fn new() -> Self {
        Self {
            filled: AtomicU64::new(0),
            dirtied: AtomicU64::new(0),
            verified: AtomicU64::new(0),
            passes: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            audited: AtomicU64::new(0),
            versions: AtomicU64::new(0),
            versions_due: AtomicU64::new(0),
            gap: Gap::new(),
        }
    }
}

/// Adds to a counter of the tally of this CPU.
pub(super) fn add(counter: &AtomicU64, count: u64) {
    // Only its own CPU writes a tally: no locked operation is needed.
    counter.store(counter.load(Relaxed) + count, Relaxed);
}
