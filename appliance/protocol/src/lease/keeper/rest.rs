//! Which banks must not be written now, because an earlier write may still reach them.

use std::collections::BTreeMap;

use model::limits;

use crate::lease::layout::Bank;
use crate::time::{Duration, Instant};

const SETTLE: Duration = Duration::from_millis(limits::LEASE_SETTLE_MS);

/// Why a bank must not be written.
#[derive(Clone, Copy, Debug)]
enum Rest {
    /// A write is under way.
    Writing,
    /// A write may still land until then.
    Until(Instant),
}

/// The banks that rest.
#[derive(Debug, Default)]
pub(super) struct Resting {
    banks: BTreeMap<Bank, Rest>,
    all_until: Instant,
}

impl Resting {
    /// From when on a bank's own block may be written.
    pub(super) fn free_at(&self, bank: Bank) -> Instant {
        let free_at = match self.banks.get(&bank) {
            None => Instant::ZERO,
            Some(Rest::Until(at)) => *at,
            Some(Rest::Writing) => Instant::NEVER,
        };
        free_at.max(self.all_until)
    }

    /// A write to the bank begins.
    pub(super) fn write_begins(&mut self, bank: Bank) {
        self.banks.insert(bank, Rest::Writing);
    }

    /// It ended; if it failed it may still land.
    pub(super) fn write_ended(&mut self, now: Instant, bank: Bank, failed: bool) {
        if failed {
            self.banks.insert(bank, Rest::Until(now + SETTLE));
        } else {
            self.banks.remove(&bank);
        }
    }

    /// Writes of an earlier process may still land anywhere.
    pub(super) fn all_rest(&mut self, now: Instant) {
        self.all_until = now + SETTLE;
    }

    /// Forgets what has rested for long enough. True if nothing rests any more.
    pub(super) fn settle(&mut self, now: Instant) -> bool {
        self.banks.retain(|_, rest| !matches!(rest, Rest::Until(at) if *at <= now));
        self.banks.is_empty() && now >= self.all_until
    }
}
