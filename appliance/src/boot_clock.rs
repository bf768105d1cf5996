//! The clock of this boot: it counts on while the machine sleeps, is set by nobody, and is the same for all processes.

use protocol::time::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    Instant::from_nanos(seconds * 1_000_000_000 + nanos)
}
