//! The lines that go out: `witness: key=value key=value ...`, parseable, one record a line.

use core::fmt::{self, Write};

use heapless::String;

use crate::witness::journal::ledger::Counts;
use crate::witness::memory::{Damage, Likeness};

/// Most bytes of a line, its end included.
pub const LINE_MAX: usize = 1024;

/// A line under way.
pub type Line = String<LINE_MAX>;

/// Takes what fits.
struct Cut<'a>(&'a mut Line);

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            if self.0.len() + letter.len_utf8() > LINE_MAX - 2 {
                return Err(fmt::Error);
            }
            // There is room.
            let _ = self.0.push(letter);
        }
        Ok(())
    }
}

/// A line that begins with the witness's name and ends as serial lines do. What does not fit is cut.
pub fn line(content: fmt::Arguments) -> Line {
    let mut line = Line::new();
    // An error is a line that is full: cut.
    let _ = write!(Cut(&mut line), "witness: {content}");
    // Two bytes were kept for it.
    let _ = line.push_str("\r\n");
    line
}

/// The state of everything at one moment. Times are in the units that their names end with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Since the first instruction, by the TSC.
    pub t_ms: u64,
    /// CPUs at work.
    pub cpus: u64,
    /// Pages owned.
    pub pages: u64,
    /// Pages that have their first content.
    pub filled: u64,
    /// Pages compared since the start.
    pub verified: u64,
    /// Rounds over all pages that every CPU has completed.
    pub passes: u64,
    /// New versions written since the start.
    pub dirtied: u64,
    /// Versions written a second, since the last record.
    pub dirty_rate: u64,
    /// Megabytes verified a second, since the last record.
    pub verify_mbs: u64,
    /// Pages that were not as they should be.
    pub bad: u64,
    /// Longest time between two looks at the TSC, since the last record.
    pub gap_us: u64,
    /// The same, ever.
    pub gap_max_us: u64,
    /// How often the TSC went back.
    pub tsc_back: u64,
    /// How often kvmclock went back.
    pub clock_back: u64,
    /// How often a LAPIC timer went back.
    pub timer_back: u64,
    /// Time by kvmclock, 0 without one.
    pub clock_ms: u64,
    /// Timer interrupts.
    pub ticks: u64,
    /// Longest time between two timer interrupts, since the last record.
    pub tick_gap_us: u64,
    /// Registers that did not keep what was put into them.
    pub registers_bad: u64,
    /// Which that was the last time, as [`crate::witness::cpu::register_last`] has it.
    pub register_last: u64,
    /// Interrupts from another processor that every CPU has taken at least; 0 for one CPU alone.
    pub ipis: u64,
    /// Of those that were sent, how many were never taken.
    pub ipis_lost: u64,
    /// How many were taken that were never sent.
    pub ipis_extra: u64,
    /// Lines that were dropped because nobody took them.
    pub lost_lines: u64,
    /// The journal, if there is one, and the milliseconds that its oldest request has waited for an answer.
    pub journal: Option<(Counts, u64)>,
    /// Requests answered over UDP and TCP, if there is an echo.
    pub echo: Option<[u64; 2]>,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "t={}.{:03} pages={} verified={} dirtied={} bad={} gap_us={} gap_max_us={} tsc_back={} clock_back={} timer_back={} ticks={} \
             tick_gap_us={} clock={}.{:03} cpus={} filled={} passes={} dirty_rate={} verify_mbs={} registers_bad={} \
             register_last={:#x} ipis={} ipis_lost={} ipis_extra={} lost_lines={}",
            self.t_ms / 1000,
            self.t_ms % 1000,
            self.pages,
            self.verified,
            self.dirtied,
            self.bad,
            self.gap_us,
            self.gap_max_us,
            self.tsc_back,
            self.clock_back,
            self.timer_back,
            self.ticks,
            self.tick_gap_us,
            self.clock_ms / 1000,
            self.clock_ms % 1000,
            self.cpus,
            self.filled,
            self.passes,
            self.dirty_rate,
            self.verify_mbs,
            self.registers_bad,
            self.register_last,
            self.ipis,
            self.ipis_lost,
            self.ipis_extra,
            self.lost_lines,
        )?;
        if let Some((counts, wait_ms)) = &self.journal {
            let Counts { written, flushed, read, bad, refused } = counts;
            write!(
                f,
                " journal={written} journal_flushed={flushed} journal_read={read} journal_bad={bad} \
                 journal_refused={refused} journal_wait_ms={wait_ms}"
            )?;
        }
        if let Some([udp, tcp]) = self.echo {
            write!(f, " echo_udp={udp} echo_tcp={tcp}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(
            f,
            "damage page={} address={:#x} version={} word={} words={} found={:#018x} expected={:#018x} like=",
            self.page, self.address, self.version, self.word, self.words, self.found, self.expected
        )?;
        match self.likeness {
            Likeness::Version(version) => write!(f, "version:{version}"),
            Likeness::Zero => f.write_str("zero"),
            Likeness::Page(page) => write!(f, "page:{page}"),
            Likeness::Bits(bits) => write!(f, "bits:{bits}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_record_fits_its_line() {
        let most = u64::MAX;
        let record = Record {
            t_ms: most,
            cpus: 255,
            pages: 1 << 30,
            filled: 1 << 30,
            verified: most,
            passes: 1 << 40,
            dirtied: most,
            dirty_rate: 1 << 40,
            verify_mbs: 1 << 40,
            bad: 1 << 30,
            gap_us: 1 << 44,
            gap_max_us: 1 << 44,
            tsc_back: 1 << 44,
            clock_back: 1 << 44,
            timer_back: 1 << 44,
            clock_ms: most,
            ticks: 1 << 44,
            tick_gap_us: 1 << 44,
            registers_bad: 1 << 30,
            register_last: 1 << 35,
            ipis: most,
            ipis_lost: 1 << 30,
            ipis_extra: 1 << 30,
            lost_lines: 1 << 30,
            echo: Some([most, 1 << 40]),
            journal: Some((
                Counts { written: most, flushed: most, read: most, bad: 1 << 30, refused: 1 << 30 },
                1 << 40,
            )),
        };
        let line = line(format_args!("{record}"));
        assert!(line.ends_with("echo_tcp=1099511627776\r\n"), "{line}");
    }

    #[test]
    fn a_record_reads_as_key_and_value() {
        let record = Record { t_ms: 12_345, pages: 131_072, gap_us: 70_001, ..Record::default() };
        let line = line(format_args!("{record}"));
        assert!(line.starts_with("witness: t=12.345 pages=131072 verified=0 dirtied=0 bad=0 gap_us=70001 "), "{line}");
        assert!(line.trim_end()[9..].split(' ').all(|word| word.split_once('=').is_some()));
    }

    #[test]
    fn what_is_too_long_is_cut_and_still_ends_the_line() {
        let text = line(format_args!("{}", "x".repeat(LINE_MAX)));
        assert!(text.len() == LINE_MAX && text.ends_with("x\r\n"));
    }
}
