//! How many pages are due at a given rate.

/// No limit.
pub const FLAT_OUT: u64 = u64::MAX;

/// Counts what is due. Time in which nothing could be done, as in a stun, is not made up for beyond 10 ms: a guest that
/// comes back with a burst would measure the burst, not the move.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    rate: u64,
    hz: u64,
    /// TSC up to which time is accounted for.
    since: u64,
    /// Due, in pages x hz.
    due: u128,
}

impl Pace {
    /// `rate` pages a second ([`FLAT_OUT`] for no limit) from `now`, with a TSC of `hz`.
    pub fn new(rate: u64, hz: u64, now: u64) -> Self {
        Self { rate, hz: hz.max(1), since: now, due: 0 }
    }

    /// The rate.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Another rate from `now`.
    pub fn set_rate(&mut self, rate: u64, now: u64) {
        *self = Self::new(rate, self.hz, now);
    }

    /// Takes at most `most` pages that are due at `now`.
    #[inline]
    pub fn take(&mut self, now: u64, most: u64) -> u64 {
        match self.rate {
            0 => return 0,
            FLAT_OUT => return most,
            _ => {}
        }
        let passed = now.saturating_sub(self.since);
        self.since = now;
        let cap = (u128::from(self.rate) * u128::from(self.hz) / 100).max(u128::from(self.hz));
        self.due = (self.due + u128::from(passed) * u128::from(self.rate)).min(cap);
        let taken = most.min((self.due / u128::from(self.hz)) as u64);
        self.due -= u128::from(taken) * u128::from(self.hz);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HZ: u64 = 2_600_000_000;

    #[test]
    fn the_rate_is_kept_over_many_small_steps() {
        let mut pace = Pace::new(20_000, HZ, 0);
        let taken: u64 = (1..=100_000).map(|step| pace.take(step * HZ / 100_000, 32)).sum();
        assert!((19_999..=20_000).contains(&taken), "{taken}");
    }

    #[test]
    fn a_stun_is_not_followed_by_a_burst() {
        let mut pace = Pace::new(20_000, HZ, 0);
        assert_eq!(pace.take(5 * HZ, u64::MAX), 200);
        assert_eq!(pace.take(5 * HZ, u64::MAX), 0);
    }

    #[test]
    fn a_rate_below_one_page_per_cap_still_advances() {
        let mut pace = Pace::new(1, HZ, 0);
        assert_eq!((1..=100).map(|step| pace.take(step * HZ / 10, 32)).sum::<u64>(), 10);
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_and_does_not_wrap() {
        let mut pace = Pace::new(1000, HZ, 10 * HZ);
        assert_eq!(pace.take(HZ, 32), 0);
    }
}
