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

/// The wall clock, seconds since 1970-01-01 UTC.
pub fn unix_s() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    u64::try_from(now.tv_sec).unwrap_or(0)
}
