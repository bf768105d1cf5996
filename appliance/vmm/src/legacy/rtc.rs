//! The real-time clock with its CMOS memory: an MC146818 at ports 0x70 and 0x71, without interrupts.
//!
//! Time is the host's, plus what the guest has set it off by. Hours are of 24; the guest chooses between binary and BCD.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::bus::BusDevice;
use crate::device::{Device, DeviceError};
use crate::state::{ChunkKind, StateError, decode, encode};

/// First port: the index; the next is the data.
pub const PORT: u64 = 0x70;
/// Number of ports.
pub const PORTS: u64 = 2;
/// Register of the century, as the FADT tells the guest.
pub const CENTURY: u8 = 0x32;

const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const WEEKDAY: u8 = 6;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 10;
const STATUS_B: u8 = 11;
const STATUS_C: u8 = 12;
const STATUS_D: u8 = 13;

/// The divider of a 32,768 Hz crystal, no update in progress.
const A_DIVIDER: u8 = 0x26;
const B_SET: u8 = 1 << 7;
const B_BINARY: u8 = 1 << 2;
const B_24_HOURS: u8 = 1 << 1;
const D_VALID: u8 = 1 << 7;

const SUBJECT: &str = "real-time clock";

/// The clock.
pub struct Rtc {
    now_s: fn() -> i64,
    index: u8,
    memory: [u8; 128],
    /// Guest time minus host time, in seconds.
    offset_s: i64,
}

#[derive(Serialize, Deserialize)]
struct State {
    index: u8,
    memory: Vec<u8>,
    offset_s: i64,
}

fn host_now_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

impl Default for Rtc {
    fn default() -> Self {
        Self::new(host_now_s)
    }
}

impl Rtc {
    /// A clock that asks `now_s` for the seconds since 1970.
    pub fn new(now_s: fn() -> i64) -> Self {
        let mut memory = [0; 128];
        memory[usize::from(STATUS_B)] = B_24_HOURS;
        Self { now_s, index: 0, memory, offset_s: 0 }
    }

    fn is_being_set(&self) -> bool {
        self.memory[usize::from(STATUS_B)] & B_SET != 0
    }

    fn encode(&self, value: u8) -> u8 {
        let binary = self.memory[usize::from(STATUS_B)] & B_BINARY != 0;
        if binary { value } else { (value / 10) << 4 | (value % 10) }
    }

    fn decode(&self, register: u8) -> i64 {
        let value = self.memory[usize::from(register)];
        let binary = self.memory[usize::from(STATUS_B)] & B_BINARY != 0;
        i64::from(if binary { value } else { (value >> 4) * 10 + (value & 15) })
    }

    /// Puts the time of this moment into the registers.
    fn latch(&mut self) {
        let seconds = (self.now_s)().saturating_add(self.offset_s);
        let (days, rest) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
        let (year, month, day) = date_of(days);
        let registers = [
            (SECONDS, rest % 60),
            (MINUTES, rest / 60 % 60),
            (HOURS, rest / 3600),
            // 1970-01-01 was a Thursday, day 5 of a week that begins with Sunday as day 1.
            (WEEKDAY, (days + 4).rem_euclid(7) + 1),
            (DAY, day),
            (MONTH, month),
            (YEAR, year.rem_euclid(100)),
            (CENTURY, year.div_euclid(100).rem_euclid(100)),
        ];
        for (register, value) in registers {
            self.memory[usize::from(register)] = self.encode(value as u8);
        }
    }

    /// Takes the registers as the time of this moment.
    fn adopt(&mut self) {
        let year = self.decode(CENTURY) * 100 + self.decode(YEAR);
        let days = days_of(year, self.decode(MONTH).clamp(1, 12), self.decode(DAY).clamp(1, 31));
        let seconds = self.decode(HOURS) * 3600 + self.decode(MINUTES) * 60 + self.decode(SECONDS);
        self.offset_s = (days * 86400 + seconds).saturating_sub((self.now_s)());
    }

    fn write_register(&mut self, value: u8) {
        match self.index {
            STATUS_A | STATUS_C | STATUS_D => {}
            STATUS_B => {
                let was_set = self.is_being_set();
                if !was_set {
                    self.latch();
                }
                self.memory[usize::from(STATUS_B)] = value & (B_SET | B_BINARY) | B_24_HOURS;
                if was_set && !self.is_being_set() {
                    self.adopt();
                }
            }
            SECONDS | MINUTES | HOURS | WEEKDAY | DAY | MONTH | YEAR | CENTURY if !self.is_being_set() => {
                // Setting a single register of the running clock, as some guests do.
                self.latch();
                self.memory[usize::from(self.index)] = value;
                self.adopt();
            }
            index => self.memory[usize::from(index)] = value,
        }
    }
}

/// Year, month and day of a count of days since 1970-01-01, in the Gregorian calendar (days counted in eras of 400 years
/// that begin on the first of March).
fn date_of(days: i64) -> (i64, i64, i64) {
    let shifted = days.saturating_add(719_468);
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The inverse of [`date_of`].
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl BusDevice for Rtc {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset != 1 {
            return;
        }
        if !self.is_being_set() {
            self.latch();
        }
        data[0] = match self.index {
            STATUS_A => A_DIVIDER,
            STATUS_C => 0,
            STATUS_D => D_VALID,
            index => self.memory[usize::from(index)],
        };
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        match offset {
            // The top bit masks the NMI, which nothing here raises.
            0 => self.index = data[0] & 0x7f,
            _ => self.write_register(data[0]),
        }
    }
}

impl Device for Rtc {
    fn name(&self) -> String {
        SUBJECT.into()
    }

    fn chunk(&self) -> ChunkKind {
        ChunkKind::new(ChunkKind::RTC, 0, 1)
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&mut self) {
        // A reset does not stop the clock or clear its memory: a battery keeps them.
        self.index = 0;
        self.memory[usize::from(STATUS_B)] = B_24_HOURS;
    }

    fn export_state(&self) -> Result<Vec<u8>, StateError> {
        encode(SUBJECT, &State { index: self.index, memory: self.memory.to_vec(), offset_s: self.offset_s })
    }

    fn import_state(&mut self, version: u16, bytes: &[u8]) -> Result<(), StateError> {
        self.chunk().check_version(version)?;
        let state: State = decode(SUBJECT, bytes)?;
        let memory = state.memory.try_into().map_err(|_| StateError::invalid(SUBJECT, "it has not 128 registers"))?;
        if state.index > 0x7f {
            return Err(StateError::invalid(SUBJECT, "the index is out of range"));
        }
        self.memory = memory;
        self.index = state.index;
        self.offset_s = state.offset_s;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 2026-02-28 23:59:58, a Saturday.
    fn fixed() -> i64 {
        1_772_323_198
    }

    fn read(rtc: &mut Rtc, register: u8) -> u8 {
        rtc.write(0, &[register | 0x80]);
        let mut data = [0xff];
        BusDevice::read(rtc, 1, &mut data);
        data[0]
    }

    fn set(rtc: &mut Rtc, register: u8, value: u8) {
        rtc.write(0, &[register]);
        rtc.write(1, &[value]);
    }

    fn date(rtc: &mut Rtc) -> [u8; 8] {
        [CENTURY, YEAR, MONTH, DAY, WEEKDAY, HOURS, MINUTES, SECONDS].map(|register| read(rtc, register))
    }

    #[test]
    fn the_guest_reads_the_hosts_time_in_bcd_or_binary() {
        let mut rtc = Rtc::new(fixed);
        assert_eq!(date(&mut rtc), [0x20, 0x26, 0x02, 0x28, 7, 0x23, 0x59, 0x58]);
        set(&mut rtc, STATUS_B, B_BINARY);
        assert_eq!(date(&mut rtc), [20, 26, 2, 28, 7, 23, 59, 58]);
        assert_eq!(read(&mut rtc, STATUS_D), D_VALID);
        assert_eq!(read(&mut rtc, STATUS_A) & 0x80, 0);
    }

    #[test]
    fn a_time_that_the_guest_sets_stays_set_and_moves_with_it() {
        let mut rtc = Rtc::new(fixed);
        set(&mut rtc, STATUS_B, B_SET | B_BINARY);
        for (register, value) in
            [(CENTURY, 20), (YEAR, 0), (MONTH, 2), (DAY, 29), (HOURS, 1), (MINUTES, 2), (SECONDS, 3)]
        {
            set(&mut rtc, register, value);
        }
        set(&mut rtc, STATUS_B, B_BINARY);
        let expected = [20, 0, 2, 29, 3, 1, 2, 3];
        assert_eq!(date(&mut rtc), expected);
        let mut other = Rtc::new(fixed);
        other.import_state(1, &rtc.export_state().unwrap()).unwrap();
        assert_eq!(date(&mut other), expected);
    }

    #[test]
    fn memory_that_is_no_clock_keeps_what_is_written() {
        let mut rtc = Rtc::new(fixed);
        set(&mut rtc, 0x40, 0xa5);
        assert_eq!(read(&mut rtc, 0x40), 0xa5);
    }

    proptest! {
        #[test]
        fn dates_and_days_are_each_others_inverse(days in -1_000_000i64..10_000_000) {
            let (year, month, day) = date_of(days);
            prop_assert!((1..=12).contains(&month) && (1..=31).contains(&day));
            prop_assert_eq!(days_of(year, month, day), days);
            prop_assert!(date_of(days + 1) > (year, month, day));
        }

        #[test]
        fn any_state_and_any_access_is_taken_or_refused_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            offset_s: i64,
            accesses in proptest::collection::vec((any::<bool>(), 0u64..2, any::<u8>()), 0..60),
        ) {
            let mut rtc = Rtc::new(fixed);
            let _ = rtc.import_state(1, &bytes);
            let state = State { index: 0, memory: bytes.iter().copied().chain([0; 128]).take(128).collect(), offset_s };
            rtc.import_state(1, &encode(SUBJECT, &state).unwrap()).unwrap();
            for (write, offset, value) in accesses {
                if write { rtc.write(offset, &[value]) } else { BusDevice::read(&mut rtc, offset, &mut [0xff]) }
            }
        }
    }
}
