//! What a whole disk holds, and what of it is not as it should be: by the guest when it starts, and by whoever reads the
//! disk from outside.
//!
//! With `flushed` the highest number that anybody knows to have been flushed, a slot has to hold its latest record up to
//! that number. A record beyond it may be there, may be missing, and may be torn: that was never promised.

use core::fmt;

use crate::witness::journal::record::{Found, RECORD_BYTES, Record, read};
use crate::witness::journal::{SLOTS_MAX, slots};

/// In what way a slot is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nothing was ever written there, or it was lost altogether.
    Zero,
    /// An earlier record of the slot: a write was lost, or undone by an earlier one.
    Older(u64),
    /// A later record of the slot, which was never written or whose write was not answered.
    Newer(u64),
    /// A record that belongs into another slot.
    Astray(u64),
    /// Parts of more than one record: the highest number among them (0 if no sector is whole), and its sectors.
    Torn(u64, u8),
    /// Nothing of a journal.
    Foreign,
}

/// A slot that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which.
    pub slot: usize,
    /// The number of the record that should be there.
    pub due: u64,
    /// What is there instead.
    pub wrong: Wrong,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "journal damage slot={} record={} like=", self.slot, self.due)?;
        match self.wrong {
            Wrong::Zero => f.write_str("zero"),
            Wrong::Older(number) => write!(f, "older:{number}"),
            Wrong::Newer(number) => write!(f, "newer:{number}"),
            Wrong::Astray(number) => write!(f, "astray:{number}"),
            Wrong::Torn(number, sectors) => write!(f, "torn:{number}/{sectors}"),
            Wrong::Foreign => f.write_str("foreign"),
        }
    }
}

/// What is wrong with `found` in `slot` of `slots`, where record `due` (0 for none yet) has to be.
pub fn compare(found: Found, slot: usize, slots: usize, due: u64) -> Result<(), Wrong> {
    match found {
        Found::Nothing if due == 0 => Ok(()),
        Found::Nothing => Err(Wrong::Zero),
        Found::Foreign => Err(Wrong::Foreign),
        Found::Torn { newest, sectors } => Err(Wrong::Torn(newest.map_or(0, |record| record.number), sectors)),
        Found::Whole(Record { number, .. }) => match number {
            _ if number == due => Ok(()),
            _ if number % slots as u64 != slot as u64 => Err(Wrong::Astray(number)),
            _ if number < due => Err(Wrong::Older(number)),
            _ => Err(Wrong::Newer(number)),
        },
    }
}

/// What was found in all slots of a disk.
#[derive(Clone, Debug)]
pub struct Survey {
    slots: usize,
    found: [Found; SLOTS_MAX],
}

impl Survey {
    /// Of a journal of so many slots, [`SLOTS_MAX`] at most, of which none was read.
    pub const fn new(slots: usize) -> Self {
        Self { slots, found: [Found::Nothing; SLOTS_MAX] }
    }

    /// Of the bytes of a disk; none if they are too few for a journal.
    pub fn of(disk: &[u8]) -> Option<Self> {
        let mut survey = Self::new(slots(disk.len() as u64)?);
        for (slot, bytes) in disk.as_chunks::<RECORD_BYTES>().0.iter().enumerate().take(survey.slots) {
            let words = bytes.as_chunks::<8>().0;
            survey.note(slot, read(&core::array::from_fn(|index| u64::from_le_bytes(words[index]))));
        }
        Some(survey)
    }

    /// Notes what a slot holds.
    pub fn note(&mut self, slot: usize, found: Found) {
        self.found[slot] = found;
    }

    fn all(&self) -> impl Iterator<Item = (usize, Found)> + '_ {
        self.found[..self.slots].iter().copied().enumerate()
    }

    /// How many slots hold what is nothing of a journal.
    pub fn foreign(&self) -> usize {
        self.all().filter(|(_, found)| *found == Found::Foreign).count()
    }

    /// How many slots hold parts of records.
    pub fn torn(&self) -> usize {
        self.all().filter(|(_, found)| matches!(found, Found::Torn { .. })).count()
    }

    /// The highest number of which anything is there; 0 if nothing is.
    pub fn newest(&self) -> u64 {
        self.all().filter_map(|(_, found)| found.newest()).map(|record| record.number).max().unwrap_or(0)
    }

    /// The highest number up to which, by the records themselves, everything was flushed. Of a disk that was written while
    /// it was read this may be more than the slots that were read first show: it has to be read once more then.
    pub fn flushed(&self) -> u64 {
        self.all().filter_map(|(_, found)| found.newest()).map(|record| record.flushed).max().unwrap_or(0)
    }

    /// The number of the record in a slot as far as it can be relied on.
    pub fn whole(&self, slot: usize) -> Option<u64> {
        match self.found[slot] {
            Found::Nothing => Some(0),
            Found::Whole(record) => Some(record.number),
            Found::Torn { .. } | Found::Foreign => None,
        }
    }

    /// In what way a slot is not as it has to be if all up to `flushed` was flushed.
    pub fn damage(&self, slot: usize, flushed: u64) -> Option<Damage> {
        let due = latest(slot, self.slots, flushed);
        match compare(self.found[slot], slot, self.slots, due) {
            Ok(()) | Err(Wrong::Newer(_)) => None,
            // A record that was not flushed was being written.
            Err(Wrong::Torn(number, _)) if number > flushed => None,
            Err(wrong) => Some(Damage { slot, due, wrong }),
        }
    }

    /// The slots that are not as they have to be if all up to `flushed` was flushed.
    pub fn damages(&self, flushed: u64) -> impl Iterator<Item = Damage> + '_ {
        (0..self.slots).filter_map(move |slot| self.damage(slot, flushed))
    }
}

/// The latest record of a slot among those up to `number`; 0 if there is none.
pub fn latest(slot: usize, slots: usize, number: u64) -> u64 {
    let (slot, slots) = (slot as u64, slots as u64);
    number - if number >= slot { (number - slot) % slots } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: usize = 16;

    /// A disk to which the records up to `number` were written, all up to `flushed` flushed.
    fn disk(number: u64, flushed: u64) -> Survey {
        let mut survey = Survey::new(SLOTS);
        for number in 1..=number {
            let record = Record { number, flushed: flushed.min(number - 1), seed: 1 };
            survey.note(number as usize % SLOTS, Found::Whole(record));
        }
        survey
    }

    fn damages(survey: &Survey, flushed: u64) -> std::vec::Vec<Damage> {
        survey.damages(flushed).collect()
    }

    #[test]
    fn each_slot_has_its_latest_record() {
        assert_eq!([latest(3, 16, 2), latest(3, 16, 3), latest(3, 16, 18), latest(3, 16, 19)], [0, 3, 3, 19]);
        assert_eq!([latest(0, 16, 15), latest(0, 16, 16), latest(0, 16, 40)], [0, 16, 32]);
    }

    #[test]
    fn a_disk_that_has_all_that_was_flushed_is_whole_whatever_else_it_has() {
        for (number, flushed) in [(0, 0), (5, 0), (5, 4), (16, 8), (100, 92)] {
            let survey = disk(number, flushed);
            assert_eq!((survey.newest(), survey.flushed()), (number, flushed));
            assert_eq!(damages(&survey, flushed), [], "{number}");
        }
    }

    #[test]
    fn a_disk_is_read_from_its_bytes() {
        let mut bytes = std::vec![0; SLOTS * RECORD_BYTES + 512];
        let mut words = [0; RECORD_BYTES / 8];
        Record { number: 21, flushed: 20, seed: 3 }.write(&mut words);
        let place = &mut bytes[5 * RECORD_BYTES..6 * RECORD_BYTES];
        words.iter().zip(place.as_chunks_mut::<8>().0).for_each(|(word, place)| *place = word.to_le_bytes());
        let survey = Survey::of(&bytes).expect("large enough");
        assert_eq!((survey.newest(), survey.flushed(), survey.whole(5)), (21, 20, Some(21)));
        assert_eq!(damages(&survey, 20).len(), 15, "only the last record is there");
        assert!(Survey::of(&bytes[..RECORD_BYTES]).is_none());
    }

    #[test]
    fn a_flushed_record_that_is_lost_older_torn_or_elsewhere_is_named() {
        let (slot, due) = (95 % SLOTS, 95);
        let record = |number| Record { number, flushed: 90, seed: 1 };
        for (found, wrong) in [
            (Found::Nothing, Wrong::Zero),
            (Found::Whole(record(79)), Wrong::Older(79)),
            (Found::Whole(record(94)), Wrong::Astray(94)),
            (Found::Torn { newest: Some(record(95)), sectors: 5 }, Wrong::Torn(95, 5)),
            (Found::Foreign, Wrong::Foreign),
        ] {
            let mut survey = disk(100, 96);
            survey.note(slot, found);
            assert_eq!(damages(&survey, 96), [Damage { slot, due, wrong }], "{found:?}");
        }
    }

    #[test]
    fn what_was_not_flushed_may_be_missing_or_torn() {
        let mut survey = disk(100, 96);
        let record = |number| Record { number, flushed: 90, seed: 1 };
        survey.note(99 % SLOTS, Found::Whole(record(83)));
        survey.note(100 % SLOTS, Found::Torn { newest: Some(record(100)), sectors: 1 });
        assert_eq!(damages(&survey, 96), []);
        assert_eq!(damages(&survey, 100).len(), 2, "unless somebody knows better");
    }
}
