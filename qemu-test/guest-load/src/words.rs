//! The lines that a client outside and the service in the guest exchange over TCP.
//!
//! | client | service |
//! |---|---|
//! | `tick N` | `tock N SERVED RECORD SUM UPTIME_NS GAP_NS BACK` |
//! | `dirty MIB PAGES_PER_SECOND` | `ok` |
//! | `memory` | `memory PAGES WRITES DAMAGED` |
//! | `off` | none: the guest powers off |

use std::fmt;
use std::str::FromStr;

/// The service's TCP port.
pub const PORT: u16 = 7000;

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Answer this number.
    Tick(u64),
    /// Rewrite this many MiB of memory at this many pages a second; 0 stops.
    Dirty {
        /// Size of the working set in MiB.
        mebibytes: u32,
        /// Pages rewritten a second.
        pages_per_second: u32,
    },
    /// How is the memory?
    Memory,
    /// Power off.
    Off,
}

/// The answer to a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tock {
    /// The tick's number.
    pub number: u64,
    /// Ticks that this connection has been answered, this one included.
    pub served: u64,
    /// The newest journal record that the disk has acknowledged; 0 if none.
    pub record: u64,
    /// Its checksum.
    pub sum: u64,
    /// The guest's monotonic clock.
    pub uptime_ns: u64,
    /// The longest time between two looks of the guest at its clock, since the service started.
    pub gap_ns: u64,
    /// How often the guest saw its clock go back.
    pub clock_back: u64,
}

/// How the dirtied memory is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryReport {
    /// Pages in the working set.
    pub pages: u64,
    /// Pages rewritten so far.
    pub writes: u64,
    /// Pages that were not as the writer had left them.
    pub damaged: u64,
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tick(number) => write!(f, "tick {number}"),
            Self::Dirty { mebibytes, pages_per_second } => write!(f, "dirty {mebibytes} {pages_per_second}"),
            Self::Memory => f.write_str("memory"),
            Self::Off => f.write_str("off"),
        }
    }
}

impl FromStr for Ask {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let wrong = || format!("not understood: {line}");
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["tick", number] => number.parse().map(Self::Tick).map_err(|_| wrong()),
            ["dirty", mebibytes, rate] => match (mebibytes.parse(), rate.parse()) {
                (Ok(mebibytes), Ok(pages_per_second)) => Ok(Self::Dirty { mebibytes, pages_per_second }),
                _ => Err(wrong()),
            },
            ["memory"] => Ok(Self::Memory),
            ["off"] => Ok(Self::Off),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Tock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, served, record, sum, uptime_ns, gap_ns, clock_back } = self;
        write!(f, "tock {number} {served} {record} {sum} {uptime_ns} {gap_ns} {clock_back}")
    }
}

impl FromStr for Tock {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let values = numbers(line, "tock", 7)?;
        Ok(Self {
            number: values[0],
            served: values[1],
            record: values[2],
            sum: values[3],
            uptime_ns: values[4],
            gap_ns: values[5],
            clock_back: values[6],
        })
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory {} {} {}", self.pages, self.writes, self.damaged)
    }
}

impl FromStr for MemoryReport {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let values = numbers(line, "memory", 3)?;
        Ok(Self { pages: values[0], writes: values[1], damaged: values[2] })
    }
}

fn numbers(line: &str, word: &str, count: usize) -> Result<Vec<u64>, String> {
    let mut words = line.split_whitespace();
    let first = words.next();
    let values: Option<Vec<u64>> = words.map(|word| word.parse().ok()).collect();
    match values {
        Some(values) if first == Some(word) && values.len() == count => Ok(values),
        _ => Err(format!("not understood: {line}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        for ask in [Ask::Tick(7), Ask::Dirty { mebibytes: 64, pages_per_second: 1000 }, Ask::Memory, Ask::Off] {
            assert_eq!(ask.to_string().parse(), Ok(ask));
        }
        let tock = Tock { number: 1, served: 2, record: 3, sum: u64::MAX, uptime_ns: 5, gap_ns: 6, clock_back: 7 };
        assert_eq!(tock.to_string().parse(), Ok(tock));
        let memory = MemoryReport { pages: 1, writes: 2, damaged: 3 };
        assert_eq!(memory.to_string().parse(), Ok(memory));
    }

    #[test]
    fn half_a_line_is_not_understood() {
        assert!("tock 1 2".parse::<Tock>().is_err());
        assert!("tick".parse::<Ask>().is_err());
        assert!("dirty 1 x".parse::<Ask>().is_err());
    }
}
