//! A guest's clocks beside this machine's.

use std::time::{Duration, Instant};

use super::Serial;

/// What a guest's clocks show, kvmclock and the TSC, between two moments.
#[derive(Debug)]
pub(crate) struct GuestClocks {
    asked: Instant,
    shown: [Duration; 2],
    answered: Instant,
}

impl Serial {
    /// Asks the guest what time it is.
    pub(crate) fn clocks(&mut self) -> GuestClocks {
        let asked = Instant::now();
        let record = format!("t={}", self.asked("r", "witness: t="));
        let shown = ["clock=", "t="].map(|key| {
            let text = record.split_whitespace().find_map(|word| word.strip_prefix(key)).expect("it tells the time");
            Duration::from_millis(text.replace('.', "").parse().expect("milliseconds"))
        });
        GuestClocks { asked, shown, answered: Instant::now() }
    }
}

impl GuestClocks {
    /// Both clocks went as far as this machine's since `before`, but for `slack`.
    pub(crate) fn went_as_real_time_since(&self, before: &Self, slack: Duration) {
        let (least, most) = (self.asked - before.answered, self.answered - before.asked);
        // The guest counts the TSC by a rate that it was told in kHz.
        let slack = slack + most / 1_000;
        for (name, (now, then)) in ["kvmclock", "TSC"].iter().zip(self.shown.iter().zip(&before.shown)) {
            let went = *now - *then;
            let range = least.saturating_sub(slack)..=most + slack;
            assert!(range.contains(&went), "{name} went by {went:?}, and real time by {least:?} to {most:?}");
        }
    }
}
