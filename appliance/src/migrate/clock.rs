//! The time of this process, in the two forms that it is wanted in.

use std::time::{Duration, Instant};

use protocol::time;

/// The origin of this process's time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// A moment as the machines know it.
    pub fn of(&self, now: Instant) -> time::Instant {
        let nanos = now.saturating_duration_since(self.origin).as_nanos();
        time::Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// A moment as the kernel knows it.
    pub fn back(&self, at: time::Instant) -> Instant {
        self.origin + Duration::from_nanos(at.nanos().min(u64::MAX / 4))
    }
}
