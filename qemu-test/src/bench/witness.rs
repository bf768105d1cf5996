//! The lines of the witness (guest-kernel/README.md), asked for and understood.

use std::time::{Duration, Instant};

use crate::bench::conversation::Conversation;
use crate::error::{LabError, Result};

/// Far more than anything that is asked of a witness takes.
const BOUND: Duration = Duration::from_secs(120);

/// What a record says, as far as it is needed here.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Record {
    /// Guest time in seconds.
    pub(super) t_s: f64,
    /// Longest time between two looks at the TSC since the gaps were forgotten.
    pub(super) gap_max: Duration,
    /// Pages that were not as they should be, clocks that went back, registers and interrupts that were lost.
    pub(super) faults: u64,
    /// Pages rewritten since the start.
    pub(super) dirtied: u64,
}

impl Record {
    /// Pages rewritten a second since an earlier record, in the time that passed on this machine: the guest's own may stand still in a stun.
    pub(super) fn pages_per_s_since(self, earlier: Self, passed: Duration) -> f64 {
        self.dirtied.saturating_sub(earlier.dirtied) as f64 / passed.as_secs_f64()
    }
}

/// The TSC at the guest's first instruction.
pub(super) fn first_tsc(serial: &mut Conversation) -> Result<u64> {
    serial.line("the witness's first line", BOUND, |line| said(line)?.strip_prefix("first tsc=")?.parse().ok())
}

/// Waits until all memory is filled; gives the record of that moment.
pub(super) fn ready(serial: &mut Conversation) -> Result<Record> {
    serial.line("a witness that is ready", BOUND, |line| record(said(line)?.strip_prefix("ready ")?))
}

/// Makes it forget the longest gap.
pub(super) fn forget_gaps(serial: &mut Conversation) -> Result<()> {
    serial.type_line("g")?;
    serial.line("the witness's ok", BOUND, |line| said(line)?.starts_with("ok").then_some(()))
}

/// A record that is later than `last`.
pub(super) fn record_after(serial: &mut Conversation, last: Record) -> Result<Record> {
    serial.type_line("r")?;
    serial.line("the witness's record", BOUND, |line| record(said(line)?).filter(|record| record.t_s > last.t_s))
}

/// How often a clock is asked for: the quickest answer counts.
const CLOCK_ASKS: u32 = 5;
/// Pause between two asks: records tell milliseconds.
const CLOCK_PAUSE: Duration = Duration::from_millis(10);

/// How far the guest's clock is behind this machine's, which counts from `began`, in seconds: by the quickest of some answers; and the last
/// record. The guest began at another time, so only the difference between two of these tells anything.
pub(super) fn clock_behind(serial: &mut Conversation, began: Instant, last: Record) -> Result<(f64, Record)> {
    let mut record = last;
    let mut behind = f64::INFINITY;
    for _ in 0..CLOCK_ASKS {
        std::thread::sleep(CLOCK_PAUSE);
        record = record_after(serial, record)?;
        behind = behind.min(began.elapsed().as_secs_f64() - record.t_s);
    }
    Ok((behind, record))
}

/// Has all memory verified; anything that is not as it should be is an error.
pub(super) fn audit(serial: &mut Conversation) -> Result<()> {
    serial.type_line("v")?;
    let line = serial.line("the witness's audit", BOUND, |line| {
        said(line).filter(|said| said.starts_with("audit ")).map(str::to_owned)
    })?;
    let whole = value(&line, "bad") == Some("0") && value(&line, "versions") == value(&line, "versions_due");
    if whole { Ok(()) } else { Err(LabError::Input(format!("the guest's memory was damaged: {line}"))) }
}

fn said(line: &str) -> Option<&str> {
    line.strip_prefix("witness: ")
}

fn value<'a>(said: &'a str, key: &str) -> Option<&'a str> {
    said.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn record(said: &str) -> Option<Record> {
    let number = |key: &str| value(said, key)?.parse::<u64>().ok();
    let faults = ["bad", "tsc_back", "clock_back", "timer_back", "registers_bad", "ipis_lost", "ipis_extra"];
    Some(Record {
        t_s: said.strip_prefix("t=")?.split(' ').next()?.parse().ok()?,
        gap_max: Duration::from_micros(number("gap_max_us")?),
        faults: faults.into_iter().map(number).sum::<Option<u64>>()?,
        dirtied: number("dirtied")?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    const LINE: &str = "t=12.345 pages=1 verified=2 dirtied=77 bad=0 gap_us=5 gap_max_us=4321 tsc_back=0 clock_back=0 \
                        timer_back=1 ticks=3 tick_gap_us=9 clock=12.344 cpus=1 filled=1 passes=0 ipis_lost=0 \
                        ipis_extra=0 registers_bad=0";

    #[test]
    fn a_record_is_read_whole_or_not_at_all() {
        let read = record(LINE).expect("whole");
        assert_eq!(read, Record { t_s: 12.345, gap_max: Duration::from_micros(4321), faults: 1, dirtied: 77 });
        assert_eq!(record(LINE.split(" registers").next().unwrap()), None, "a line that was cut is no record");
    }

    #[test]
    fn a_guests_pace_is_what_it_rewrote_between_two_records_over_the_time_that_passed() {
        let record = |t_s, dirtied| Record { t_s, dirtied, ..Record::default() };
        // Its own clock stood still for half a second.
        let pace = record(12.0, 3_000).pages_per_s_since(record(10.0, 500), Duration::from_millis(2_500));
        assert!((pace - 1_000.0).abs() < 1e-9, "{pace}");
    }

    #[test]
    fn a_clock_is_read_by_the_quickest_of_its_answers() {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let began = Instant::now();
        let guest = std::thread::spawn(move || {
            let mut says = theirs.try_clone().expect("cloned");
            let mut asks = BufReader::new(theirs).lines();
            // A guest that began 100 s before; the last of its answers is ten seconds on its way less than the others.
            for late_s in [14.0, 13.0, 12.0, 11.0, 1.0] {
                assert_eq!(asks.next().expect("an ask").expect("read"), "r");
                let t = began.elapsed().as_secs_f64() + 100.0 - late_s;
                writeln!(says, "witness: {}", LINE.replace("t=12.345", &format!("t={t:.3}"))).expect("written");
            }
        });
        let mut serial = Conversation::over(Box::new(ours), None).expect("set up");
        let (behind, last) = clock_behind(&mut serial, began, Record::default()).expect("answers");
        guest.join().expect("no panic");
        assert!((-99.0..-92.0).contains(&(behind + 0.001)), "{behind}");
        assert!(last.t_s > 99.0, "{last:?}");
    }

    #[test]
    fn a_key_is_not_taken_for_a_longer_one() {
        assert_eq!(value("audit versions_due=4 versions=3", "versions"), Some("3"));
    }
}
