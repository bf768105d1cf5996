//! The words of the kernel command line, `key=value` each. Words that are not known are ignored, since a VMM may add
//! some of its own, but named in a record.

use heapless::Vec;

use crate::witness::content::{Content, PAGE_BYTES, Write};
use crate::witness::echo::Address;
use crate::witness::orders::{Pattern, Verify};
use crate::witness::pace::FLAT_OUT;

/// Most words that are complained about.
pub const COMPLAINTS_MAX: usize = 8;

/// What the witness is to do from the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `seed=N`: content and order of pages follow from it.
    pub seed: u64,
    /// `rate=N|max`: pages dirtied a second, by all CPUs together.
    pub rate: u64,
    /// `set=SIZE|all`: bytes of the working set.
    pub set: u64,
    /// `own=SIZE|all`: bytes that are owned, filled and verified.
    pub own: u64,
    /// `pattern=random|sequential|hot`: which page is next. `pattern=zero` is `content=zero`.
    pub pattern: Pattern,
    /// `content=random|uniform|zero`: what pages hold.
    pub content: Content,
    /// `write=page|line`: how much a new version rewrites.
    pub write: Write,
    /// `verify=on|scan|off`.
    pub verify: Verify,
    /// `scan=N|max`: pages verified a second, by all CPUs together.
    pub scan: u64,
    /// `report_ms=N`: milliseconds between two records, 0 for none.
    pub report_ms: u64,
    /// `start=run|idle`: whether pages are dirtied before a command says so.
    pub idle: bool,
    /// `nap=on|off`: halt until the next tick when nothing is due, instead of looking at the clock.
    pub nap: bool,
    /// `tick_hz=N`: LAPIC timer interrupts a second, 0 for none.
    pub tick_hz: u64,
    /// `cpus=N`: most CPUs that are used.
    pub cpus: u64,
    /// `journal=N|max`: records a second that the first disk takes; none leaves the disk alone.
    pub journal: Option<u64>,
    /// `echo=ADDRESS/PREFIX`: where the first network interface answers; none leaves it alone.
    pub echo: Option<Address>,
    /// `s5=PORT:VALUE`: how to power off, instead of what ACPI says.
    pub s5: Option<(u16, u16)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            seed: 1,
            rate: 1000,
            set: 64 << 20,
            own: u64::MAX,
            pattern: Pattern::Random,
            content: Content::Random,
            write: Write::Page,
            verify: Verify::On,
            scan: FLAT_OUT,
            report_ms: 1000,
            idle: false,
            nap: false,
            tick_hz: 100,
            cpus: u64::MAX,
            journal: None,
            echo: None,
            s5: None,
        }
    }
}

/// A decimal or, after `0x`, hexadecimal number.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A rate in pages or records a second, or `max`.
pub fn rate(text: &str) -> Option<u64> {
    if text == "max" { Some(FLAT_OUT) } else { number(text) }
}

/// A size in bytes, with K, M or G as powers of 1024, or `all`.
pub fn size(text: &str) -> Option<u64> {
    if text == "all" {
        return Some(u64::MAX);
    }
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number(digits)?.checked_mul(1 << shift)
}

/// Pages of a size, `u64::MAX` staying without limit.
pub fn pages(bytes: u64) -> u64 {
    if bytes == u64::MAX { bytes } else { bytes / PAGE_BYTES as u64 }
}

/// One of several words.
fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Option<T> {
    choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value)
}

/// A pattern's name.
pub fn pattern(text: &str) -> Option<Pattern> {
    choice(text, &[("random", Pattern::Random), ("sequential", Pattern::Sequential), ("hot", Pattern::Hot)])
}

/// A verification's name.
pub fn verify(text: &str) -> Option<Verify> {
    choice(text, &[("on", Verify::On), ("scan", Verify::Scan), ("off", Verify::Off)])
}

/// On or off.
pub fn switch(text: &str) -> Option<bool> {
    choice(text, &[("on", true), ("off", false)])
}

fn port_value(text: &str) -> Option<(u16, u16)> {
    let (port, value) = text.split_once(':')?;
    Some((number(port)?.try_into().ok()?, number(value)?.try_into().ok()?))
}

impl Settings {
    /// Reads a command line; the second part of the result are the words that made no sense.
    pub fn parse(line: &str) -> (Self, Vec<&str, COMPLAINTS_MAX>) {
        let (mut settings, mut complaints) = (Self::default(), Vec::new());
        for word in line.split_ascii_whitespace() {
            if settings.take(word).is_none() {
                // More complaints than fit would not make it clearer.
                let _ = complaints.push(word);
            }
        }
        (settings, complaints)
    }

    fn take(&mut self, word: &str) -> Option<()> {
        let (key, value) = word.split_once('=')?;
        match key {
            "seed" => self.seed = number(value)?,
            "rate" => self.rate = rate(value)?,
            "set" => self.set = size(value)?,
            "own" => self.own = size(value)?,
            "pattern" if value == "zero" => self.content = Content::Zero,
            "pattern" => self.pattern = pattern(value)?,
            "content" => {
                let names = [("random", Content::Random), ("uniform", Content::Uniform), ("zero", Content::Zero)];
                self.content = choice(value, &names)?;
            }
            "write" => self.write = choice(value, &[("page", Write::Page), ("line", Write::Line)])?,
            "verify" => self.verify = verify(value)?,
            "scan" => self.scan = rate(value)?,
            "report_ms" => self.report_ms = number(value)?,
            "start" => self.idle = choice(value, &[("idle", true), ("run", false)])?,
            "nap" => self.nap = switch(value)?,
            "tick_hz" => self.tick_hz = number(value).filter(|hz| *hz <= 10_000)?,
            "cpus" => self.cpus = number(value).filter(|cpus| *cpus > 0)?,
            "journal" => self.journal = Some(rate(value)?),
            "echo" => self.echo = Some(Address::parse(value)?),
            "s5" => self.s5 = Some(port_value(value)?),
            _ => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_understood() {
        let (settings, complaints) = Settings::parse(
            "seed=0x2a rate=20000 set=256M own=1G pattern=hot content=uniform write=line verify=scan scan=max \
             report_ms=250 start=idle nap=on tick_hz=1000 cpus=2 journal=400 echo=10.9.0.2/24 s5=0x604:0x2000",
        );
        assert_eq!(complaints, [""; 0]);
        assert_eq!(
            settings,
            Settings {
                seed: 42,
                rate: 20_000,
                set: 256 << 20,
                own: 1 << 30,
                pattern: Pattern::Hot,
                content: Content::Uniform,
                write: Write::Line,
                verify: Verify::Scan,
                scan: FLAT_OUT,
                report_ms: 250,
                idle: true,
                nap: true,
                tick_hz: 1000,
                cpus: 2,
                journal: Some(400),
                echo: Some(Address { octets: [10, 9, 0, 2], prefix: 24 }),
                s5: Some((0x604, 0x2000)),
            }
        );
    }

    #[test]
    fn words_without_sense_are_named_and_change_nothing() {
        let line = "console=ttyS0 rate=fast set=1X tick_hz=99999 quiet s5=4 cpus=0 rate=-1 set=99999999999G";
        let (settings, complaints) = Settings::parse(line);
        assert_eq!(settings, Settings::default());
        assert_eq!(complaints.len(), 8);
    }

    #[test]
    fn zero_as_a_pattern_means_zero_content() {
        assert_eq!(Settings::parse("pattern=zero").0.content, Content::Zero);
    }
}
