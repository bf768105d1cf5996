//! What the source knows of a stun that the receipt tells of.

use crate::session::ClockReading;
use crate::time::{Duration, Instant};

/// A stun that has begun, and the guest's clock in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stun {
    began: Instant,
    clock: ClockReading,
}

impl Stun {
    /// Began with the first signal at `began`; `clock` is what the guest's kvmclock showed once it stood still.
    pub fn new(began: Instant, clock: ClockReading) -> Self {
        Self { began, clock }
    }

    /// How long it has lasted.
    pub fn lasted(&self, now: Instant) -> Duration {
        now.since(self.began)
    }

    /// How far the guest's clock is from real time after the move, microseconds, behind is negative: it showed `clock_ns` when
    /// the destination said so, and that word took half a round trip to arrive now. The two hosts' own clocks are not
    /// compared.
    pub fn clock_step_us(&self, now: Instant, rtt: Duration, clock_ns: u64) -> i64 {
        let step = i128::from(clock_ns) - i128::from(self.clock.at(now - rtt / 2));
        i64::try_from(step / 1_000).unwrap_or(if step < 0 { i64::MIN } else { i64::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn a_clock_that_was_not_set_is_behind_by_the_time_for_which_it_stood_still() {
        let stun = Stun::new(at(1_000), ClockReading::new(at(1_002), 7_000_000_000));
        // It ran for 5 of the 20 ms that passed; the word of it was 1 ms on its way.
        let step = stun.clock_step_us(at(1_023), Duration::from_millis(2), 7_005_000_000);
        assert_eq!(step, -15_000);
        assert_eq!(stun.lasted(at(1_023)), Duration::from_millis(23));
    }

    #[test]
    fn a_clock_that_was_set_to_real_time_or_beyond_does_not_show_as_behind() {
        let stun = Stun::new(at(1_000), ClockReading::new(at(1_000), 0));
        assert_eq!(stun.clock_step_us(at(1_010), Duration::ZERO, 10_000_000), 0);
        assert_eq!(stun.clock_step_us(at(1_010), Duration::ZERO, 12_000_000), 2_000);
        // What a peer says may be anything.
        assert_eq!(stun.clock_step_us(at(1_010), Duration::ZERO, u64::MAX) / 1_000_000_000, 18_446_744);
    }
}
