//! The rate of this machine's time stamp counter, which an emulated host shows to its kernel.
//!
//! The kernel measures it at boot against emulated timers. When the machine is busy the measurement is wrong, once by a
//! factor of three: that host's clock then ran three times too fast, and no lease is made for that. So it is told.

use std::arch::x86_64::_rdtsc;
use std::time::{Duration, Instant};

/// Long enough for a part in a thousand, which is far below the drift that leases tolerate.
const SAMPLE: Duration = Duration::from_millis(50);

/// Thousands of ticks a second.
pub fn time_stamp_counter_khz() -> u64 {
    // SAFETY: rdtsc has no preconditions; every x86-64 processor has it.
    let ticks = || unsafe { _rdtsc() };
    let (began, first) = (Instant::now(), ticks());
    std::thread::sleep(SAMPLE);
    let (passed, last) = (began.elapsed(), ticks());
    let microseconds = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX).max(1);
    last.saturating_sub(first).saturating_mul(1000) / microseconds
}
