//! The lines that come in: a word or its first letter, and a value.

use crate::report::settings;
use crate::witness::orders::{Pattern, Verify};

/// Most bytes of a command.
pub const COMMAND_MAX: usize = 64;

/// What a test or a person can ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// `r`, `report`: a record now.
    Report,
    /// `g`, `gap`: forget the longest gaps.
    ResetGap,
    /// `d`, `dirty`: dirty pages at the rate that was set last.
    Dirty,
    /// `i`, `idle`: stop dirtying.
    Idle,
    /// `v`, `verify`: verify everything once from the first page, then a record of its own.
    VerifyAll,
    /// `verify on|scan|off`.
    Verify(Verify),
    /// `rate N|max`: pages a second.
    Rate(u64),
    /// `scan N|max`: pages a second.
    Scan(u64),
    /// `set SIZE|all`: bytes.
    Set(u64),
    /// `pattern random|sequential|hot`.
    Pattern(Pattern),
    /// `report_ms N`: milliseconds, 0 for none.
    ReportEvery(u64),
    /// `nap on|off`.
    Nap(bool),
    /// `j`, `journal`: flush everything and read the whole journal back, then a record of its own.
    Journal,
    /// `journal N|max`: records a second.
    JournalRate(u64),
    /// `poke PAGE [BIT]`: flip a bit of a page behind the witness's back.
    Poke {
        /// Number of the page.
        page: u64,
        /// 0 to 32,767.
        bit: usize,
    },
    /// `q`, `off`: power off.
    PowerOff,
    /// `b`, `reboot`: reset.
    Reboot,
    /// `t`, `triple`: triple fault.
    TripleFault,
    /// `h`, `hang`: stop for ever, deaf to interrupts.
    Hang,
}

impl Command {
    /// Understands one line, without its end.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (word, value, more) = (words.next()?, words.next(), words.next());
        if words.next().is_some() {
            return None;
        }
        Some(match (word, value, more) {
            ("r" | "report", None, None) => Self::Report,
            ("g" | "gap", None, None) => Self::ResetGap,
            ("d" | "dirty", None, None) => Self::Dirty,
            ("i" | "idle", None, None) => Self::Idle,
            ("v" | "verify", None, None) => Self::VerifyAll,
            ("verify", Some(value), None) => Self::Verify(settings::verify(value)?),
            ("rate", Some(value), None) => Self::Rate(settings::rate(value)?),
            ("scan", Some(value), None) => Self::Scan(settings::rate(value)?),
            ("set", Some(value), None) => Self::Set(settings::size(value)?),
            ("pattern", Some(value), None) => Self::Pattern(settings::pattern(value)?),
            ("report_ms", Some(value), None) => Self::ReportEvery(settings::number(value)?),
            ("nap", Some(value), None) => Self::Nap(settings::switch(value)?),
            ("j" | "journal", None, None) => Self::Journal,
            ("journal", Some(value), None) => Self::JournalRate(settings::rate(value)?),
            ("poke", Some(page), bit) => {
                let bit = bit.map_or(Some(0), settings::number).filter(|bit| *bit < 32_768)? as usize;
                Self::Poke { page: settings::number(page)?, bit }
            }
            ("q" | "off", None, None) => Self::PowerOff,
            ("b" | "reboot", None, None) => Self::Reboot,
            ("t" | "triple", None, None) => Self::TripleFault,
            ("h" | "hang", None, None) => Self::Hang,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_letters_and_values_are_understood() {
        for (line, command) in [
            ("r", Command::Report),
            (" report ", Command::Report),
            ("v", Command::VerifyAll),
            ("verify off", Command::Verify(Verify::Off)),
            ("rate max", Command::Rate(u64::MAX)),
            ("j", Command::Journal),
            ("journal max", Command::JournalRate(u64::MAX)),
            ("set 256M", Command::Set(256 << 20)),
            ("poke 5", Command::Poke { page: 5, bit: 0 }),
            ("poke 5 32767", Command::Poke { page: 5, bit: 32_767 }),
            ("t", Command::TripleFault),
        ] {
            assert_eq!(Command::parse(line), Some(command), "{line}");
        }
    }

    #[test]
    fn nothing_half_understood_is_done() {
        for line in ["", "x", "rate", "rate 5 6", "poke 5 32768", "poke", "off now", "set 5Q", "poke 1 2 3"] {
            assert_eq!(Command::parse(line), None, "{line}");
        }
    }
}
