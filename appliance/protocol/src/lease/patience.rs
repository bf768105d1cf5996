//! How long somebody goes on whose I/O fails, or whom another is ahead of.

use model::limits;

use crate::time::{Duration, Instant};

const RETRY: Duration = Duration::from_millis(limits::LEASE_RETRY_MS);
const CONTENTION: Duration = Duration::from_millis(limits::LEASE_CONTENTION_MS);
const FAILURES_MAX: u32 = 4;

/// What somebody has borne so far.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: u32,
    contentions: u32,
}

impl Patience {
    /// Something failed: when to try again; none if it failed often enough.
    pub(super) fn failed(&mut self, now: Instant) -> Option<Instant> {
        self.failures += 1;
        (self.failures <= FAILURES_MAX).then(|| now + RETRY)
    }

    /// Whether anything has failed yet.
    pub(super) fn has_borne_any(&self) -> bool {
        self.failures > 0
    }

    /// Another was ahead: when to try again. Who lost more often waits longer, and `chance`, which is any number, keeps
    /// two that contend apart.
    pub(super) fn outvoted(&mut self, now: Instant, chance: u64) -> Instant {
        self.contentions += 1;
        let most = CONTENTION.nanos() << self.contentions.min(6);
        now + Duration::from_nanos(CONTENTION.nanos() / 2 + chance % most)
    }

    /// What failed has been told: the next try begins anew.
    pub(super) fn forget_failures(&mut self) {
        self.failures = 0;
    }
}
