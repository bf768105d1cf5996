//! A host's own clock: another origin, another rate, and it can stop.

use protocol::time::{Duration, Instant};

/// The monotonic clock of one host as a function of true time.
#[derive(Clone, Debug)]
pub(crate) struct Clock {
    true_base: Instant,
    own_base: Instant,
    /// Own nanoseconds for a million true ones.
    rate: u64,
    stopped: bool,
}

impl Clock {
    /// A clock that shows `origin` at true time `now` and gains `drift_ppm`.
    pub(crate) fn new(now: Instant, origin: Instant, drift_ppm: i64) -> Self {
        Self { true_base: now, own_base: origin, rate: 1_000_000_u64.saturating_add_signed(drift_ppm), stopped: false }
    }

    /// What it shows at true time `now`.
    pub(crate) fn shows(&self, now: Instant) -> Instant {
        if self.stopped {
            return self.own_base;
        }
        let passed = u128::from(now.since(self.true_base).nanos()) * u128::from(self.rate) / 1_000_000;
        self.own_base + Duration::from_nanos(passed as u64)
    }

    /// The true time at which it shows at least `own`.
    pub(crate) fn when(&self, own: Instant) -> Instant {
        let span = u128::from(own.since(self.own_base).nanos()) * 1_000_000;
        let passed = span.div_ceil(u128::from(self.rate));
        self.true_base + Duration::from_nanos(u64::try_from(passed).unwrap_or(u64::MAX)) + Duration::from_nanos(1)
    }

    /// It stops.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.own_base = self.shows(now);
        self.stopped = true;
    }

    /// It goes on from where it stopped.
    pub(crate) fn go_on(&mut self, now: Instant) {
        if self.stopped {
            self.stopped = false;
            self.true_base = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_never_met_too_early() {
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        for drift in [-4_900, 0, 4_900] {
            let clock = Clock::new(at(100), at(7_777), drift);
            for own in [7_778, 9_999, 123_456] {
                assert!(clock.shows(clock.when(at(own))) >= at(own));
            }
        }
    }

    #[test]
    fn a_stopped_clock_forgets_the_time_that_passed() {
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        let mut clock = Clock::new(at(0), at(0), 0);
        clock.stop(at(10));
        assert_eq!(clock.shows(at(500)), at(10));
        clock.go_on(at(500));
        assert_eq!(clock.shows(at(501)), at(11));
    }
}
