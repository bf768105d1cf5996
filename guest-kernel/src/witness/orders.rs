//! What all CPUs are to do.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Which page of the working set is dirtied next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Pattern {
    /// Any, evenly.
    Random,
    /// One after the other, round and round.
    Sequential,
    /// Nine of ten in the first sixteenth of the set.
    Hot,
}

/// What pages are compared with their versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verify {
    /// None.
    Off,
    /// All, round and round.
    Scan,
    /// All, round and round, and each before it is overwritten, so that no damage is covered up.
    On,
}

/// What all CPUs are to do: written by the first, read by all.
#[derive(Debug)]
pub struct Orders {
    rate: AtomicU64,
    scan: AtomicU64,
    set_pages: AtomicU64,
    pattern: AtomicU64,
    verify: AtomicU64,
    nap: AtomicBool,
    /// Counts changes of the rates, which the paces must take over.
    edition: AtomicU64,
    /// Counts audits asked for.
    audit: AtomicU64,
}

impl Orders {
    /// Nothing to do.
    pub const fn new() -> Self {
        Self {
            rate: AtomicU64::new(0),
            scan: AtomicU64::new(0),
            set_pages: AtomicU64::new(0),
            pattern: AtomicU64::new(0),
            verify: AtomicU64::new(Verify::Off as u64),
            nap: AtomicBool::new(false),
            edition: AtomicU64::new(1),
            audit: AtomicU64::new(0),
        }
    }

    /// Orders pages dirtied a second, by all CPUs together.
    pub fn set_rate(&self, rate: u64) {
        self.rate.store(rate, Relaxed);
        self.edition.fetch_add(1, Relaxed);
    }

    /// Orders pages verified a second, by all CPUs together.
    pub fn set_scan(&self, rate: u64) {
        self.scan.store(rate, Relaxed);
        self.edition.fetch_add(1, Relaxed);
    }

    /// Orders the size of the working set in pages.
    pub fn set_set(&self, pages: u64) {
        self.set_pages.store(pages, Relaxed);
    }

    /// Orders which page comes next.
    pub fn set_pattern(&self, pattern: Pattern) {
        self.pattern.store(pattern as u64, Relaxed);
    }

    /// Whether a CPU halts until its next tick when nothing is due.
    pub fn nap(&self) -> bool {
        self.nap.load(Relaxed)
    }

    /// Orders or forbids naps.
    pub fn set_nap(&self, nap: bool) {
        self.nap.store(nap, Relaxed);
    }

    /// Asks for an audit: everything is verified once from the first page on, at full speed, whatever else is ordered.
    /// The result is its number, which [`Tally::audited`](super::tally::Tally::audited) shows when a CPU is through.
    pub fn start_audit(&self) -> u64 {
        self.audit.fetch_add(1, Relaxed) + 1
    }

    /// Orders what is verified.
    pub fn set_verify(&self, verify: Verify) {
        self.verify.store(verify as u64, Relaxed);
    }

    pub(super) fn rate(&self) -> u64 {
        self.rate.load(Relaxed)
    }

    pub(super) fn scan(&self) -> u64 {
        self.scan.load(Relaxed)
    }

    pub(super) fn set_pages(&self) -> u64 {
        self.set_pages.load(Relaxed)
    }

    pub(super) fn pattern(&self) -> Pattern {
        [Pattern::Random, Pattern::Sequential, Pattern::Hot][(self.pattern.load(Relaxed) as usize).min(2)]
    }

    pub(super) fn verify(&self) -> Verify {
        [Verify::Off, Verify::Scan, Verify::On][(self.verify.load(Relaxed) as usize).min(2)]
    }

    pub(super) fn edition(&self) -> u64 {
        self.edition.load(Relaxed)
    }

    pub(super) fn audit(&self) -> u64 {
        self.audit.load(Relaxed)
    }
}

impl Default for Orders {
    fn default() -> Self {
        Self::new()
    }
}
