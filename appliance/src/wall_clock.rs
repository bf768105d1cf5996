//! The wall clock: for people only, and nothing is decided by it.

use std::time::{Duration, UNIX_EPOCH};

/// What it shows, seconds since 1970-01-01 UTC.
pub fn unix_s() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    u64::try_from(now.tv_sec).unwrap_or(0)
}

/// A moment as people write it, to the second, in UTC (RFC 3339). One that no calendar has, as a host may have told it, is a
/// number.
pub fn text(unix_s: u64) -> String {
    const YEAR_10000: u64 = 253_402_300_800;
    if unix_s >= YEAR_10000 {
        return format!("{unix_s} s after 1970");
    }
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(unix_s)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_told_as_people_write_it_and_any_number_is_told() {
        assert_eq!(text(1_795_905_605), "2026-11-28T22:40:05Z");
        assert_eq!(text(253_402_300_799), "9999-12-31T23:59:59Z");
        assert_eq!(text(u64::MAX), format!("{} s after 1970", u64::MAX));
    }
}
