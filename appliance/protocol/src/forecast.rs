//! What a guest is expected to dirty, by a moment in which it was watched, and what a move of it would be like.

use crate::time::Duration;

/// How many different pages a guest dirtied in a moment, and in the first part of it. Most guests write some pages again and
/// again: the more of them are found in the first part, the fewer new ones come in the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirtySample {
    /// How long the first part was.
    pub part: Duration,
    /// Pages of the first part.
    pub part_pages: u64,
    /// How long the whole was.
    pub whole: Duration,
    /// Pages of the whole, each once.
    pub whole_pages: u64,
}

impl DirtySample {
    /// Pages a second, over the whole.
    pub fn pages_per_s(&self) -> u64 {
        (self.whole_pages as f64 / seconds(self.whole)) as u64
    }

    /// Pages a second, over the first part alone.
    pub fn at_first_pages_per_s(&self) -> u64 {
        (self.part_pages as f64 / seconds(self.part)) as u64
    }

    /// Different pages that are expected to be dirtied in this time: evenly as long as it was watched, and then as many new ones as
    /// came in the second part.
    pub fn dirtied_in(&self, span: Duration) -> f64 {
        let whole = self.whole_pages as f64;
        if span <= self.whole {
            return whole * span.nanos() as f64 / self.whole.nanos().max(1) as f64;
        }
        let new = self.whole_pages.saturating_sub(self.part_pages) as f64;
        let per_s = new / seconds(self.whole.saturating_sub(self.part));
        whole + per_s * seconds(span.saturating_sub(self.whole))
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.nanos().max(1) as f64 / 1e9
}

/// What a move would be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// From the first page until the guest runs on the destination, and the stun at the end; `None` if the rounds would not end as
    /// the guest dirties now.
    pub moved: Option<(Duration, Duration)>,
    /// The stun with nothing left to send.
    pub stun_least: Duration,
    /// The longest that is accepted.
    pub stun_max: Duration,
    /// What the link is expected to carry, bytes a second.
    pub bandwidth_bytes_per_s: u64,
    /// What the guest dirties, pages a second.
    pub dirty_pages_per_s: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_written_again_and_again_are_expected_once() {
        let ms = Duration::from_millis;
        let hot = DirtySample { part: ms(100), part_pages: 1_000, whole: ms(200), whole_pages: 1_000 };
        assert_eq!((hot.dirtied_in(ms(100)), hot.dirtied_in(ms(60_000))), (500.0, 1_000.0));
        let wide = DirtySample { part: ms(100), part_pages: 1_000, whole: ms(200), whole_pages: 2_000 };
        assert_eq!((wide.dirtied_in(ms(200)), wide.dirtied_in(ms(1_200))), (2_000.0, 12_000.0));
        assert_eq!(wide.pages_per_s(), 10_000);
    }
}
