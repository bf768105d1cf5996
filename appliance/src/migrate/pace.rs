//! How much of the link a move takes, where the operator set a bound: records leave no faster than that, one by one.

use std::time::{Duration, Instant};

/// What was left undone for longer than this is not made up for.
const MADE_UP_FOR: Duration = Duration::from_millis(20);

/// The bound of one move.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    bytes_per_s: u64,
    free_at: Instant,
}

impl Pace {
    /// At most so many bytes a second, at least one, from now on.
    pub fn new(now: Instant, bytes_per_s: u64) -> Self {
        Self { bytes_per_s: bytes_per_s.max(1), free_at: now }
    }

    /// Whether the next record may leave.
    pub fn is_free(&self, now: Instant) -> bool {
        self.free_at <= now
    }

    /// When the next record may leave.
    pub fn free_at(&self) -> Instant {
        self.free_at
    }

    /// A record left.
    pub fn sent(&mut self, now: Instant, bytes: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let from = now.checked_sub(MADE_UP_FOR).map_or(self.free_at, |earliest| self.free_at.max(earliest));
        self.free_at = from + takes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_leave_at_the_pace_and_one_that_is_late_is_made_up_for() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now, 1_000_000);
        let mut sent = 0;
        for _ in 0..1_000 {
            while pace.is_free(now) {
                pace.sent(now, 3_000);
                sent += 3_000;
            }
            // The caller wakes late each time.
            now = pace.free_at() + Duration::from_millis(1);
        }
        let allowed = (pace.free_at() - (now - Duration::from_millis(1))).as_micros();
        assert_eq!(allowed, 0);
        assert!((2_990_000..=3_010_000).contains(&sent), "{sent} bytes in about three seconds");
    }

    #[test]
    fn a_long_rest_allows_no_flood() {
        let now = Instant::now();
        let mut pace = Pace::new(now, 1_000_000);
        let later = now + Duration::from_secs(60);
        let mut sent = 0;
        while pace.is_free(later) {
            pace.sent(later, 1_000);
            sent += 1_000;
        }
        assert_eq!(sent, 21_000, "20 ms of it, and the record that is under way");
    }
}
