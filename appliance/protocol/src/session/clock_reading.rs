//! What the guest's clock shows, or would show if the guest had not stood still.
//!
//! Each end counts on by its own monotonic clock; the hosts' wall clocks are neither trusted nor compared.

use crate::time::{Duration, Instant};

/// A reading of the guest's kvmclock at a moment of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockReading {
    at: Instant,
    ns: u64,
}

impl ClockReading {
    /// It shows `ns` nanoseconds at `at`.
    pub fn new(at: Instant, ns: u64) -> Self {
        Self { at, ns }
    }

    /// The peer's word, heard at `at`, that it showed `ns` nanoseconds when that was said: the way is taken to be half of the
    /// round trip.
    pub fn heard(at: Instant, ns: u64, rtt: Duration) -> Self {
        Self { at, ns: ns.saturating_add((rtt / 2).nanos()) }
    }

    /// Of two words of the peer the one that waited less on its way, and so says more.
    #[must_use]
    pub fn or_ahead(self, other: Self) -> Self {
        let at = self.at.max(other.at);
        if other.at(at) > self.at(at) { other } else { self }
    }

    /// What it is to show at `now`, nanoseconds.
    pub fn at(&self, now: Instant) -> u64 {
        self.ns.saturating_add(now.since(self.at).nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_missed_is_the_sum_of_what_each_end_measures_and_half_a_round_trip() {
        let (second, ms) = (Instant::from_nanos(1_000_000_000), Duration::from_millis(1));
        // The source reads it, and says so 12 ms later; its origin of time is not the destination's.
        let said = ClockReading::new(second, 7_000_000_000).at(second + Duration::from_millis(12));
        let heard_at = Instant::from_nanos(5);
        let heard = ClockReading::heard(heard_at, said, ms * 4);
        // Until it is set there 30 ms go by.
        assert_eq!(heard.at(heard_at + Duration::from_millis(30)), 7_000_000_000 + (12 + 2 + 30) * 1_000_000);
        // The same said again, and held up by 9 ms: it shows less, whichever came first.
        let late = ClockReading::heard(heard_at + ms * 20, said + (ms * 11).nanos(), ms * 4);
        assert_eq!((heard.or_ahead(late), late.or_ahead(heard)), (heard, heard));
        assert_eq!(heard.at(Instant::ZERO), 7_014_000_000, "time does not go back");
        assert_eq!(ClockReading::heard(heard_at, u64::MAX, ms).at(second), u64::MAX, "a peer may say anything");
    }
}
