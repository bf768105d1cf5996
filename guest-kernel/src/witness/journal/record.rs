//! What stands in a slot: a record of eight sectors, each of which says which record's part it is, so that a record that
//! was written in part only is told from one that was not written at all.
//!
//! A sector, in little-endian 64-bit words: 0 the magic number, 1 the record's number, 2 up to which number all had been
//! flushed when it was written, 3 the seed, 4 which sector of the record, 5 to 62 content that follows from these, 63 the
//! sum of the words before.

use crate::witness::content::{Content, Recipe, Write};

/// Bytes of a record.
pub const RECORD_BYTES: usize = 4096;
/// 64-bit words of a record.
pub const RECORD_WORDS: usize = RECORD_BYTES / 8;
/// Bytes that a disk writes whole or not at all (virtio 1.2, section 5.2.4).
pub const SECTOR_BYTES: usize = 512;

const SECTOR_WORDS: usize = SECTOR_BYTES / 8;
const SECTORS: usize = RECORD_BYTES / SECTOR_BYTES;
const MAGIC: u64 = u64::from_le_bytes(*b"witnessJ");
/// Words of a sector before its content.
const HEAD_WORDS: usize = 5;
const SUM: usize = SECTOR_WORDS - 1;
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// The words of a record as they lie in memory and on the disk of a little-endian machine.
pub type Words = [u64; RECORD_WORDS];

/// A record, apart from its content, which follows from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number; the first is 1.
    pub number: u64,
    /// All records up to this number had been flushed when this one was written; 0 for none.
    pub flushed: u64,
    /// What its content follows from, with its number.
    pub seed: u64,
}

/// What was found in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Zeros: nothing was ever written there.
    Nothing,
    /// A record, every word of it.
    Whole(Record),
    /// Sectors of several records, or of one and of none.
    Torn {
        /// The record with the highest number of which a sector is whole; none if no sector is.
        newest: Option<Record>,
        /// How many sectors are whole parts of that record, of eight.
        sectors: u8,
    },
    /// Nothing of a journal.
    Foreign,
}

impl Found {
    /// The record with the highest number of which something was found.
    pub fn newest(&self) -> Option<Record> {
        match self {
            Self::Whole(record) => Some(*record),
            Self::Torn { newest, .. } => *newest,
            Self::Nothing | Self::Foreign => None,
        }
    }
}

impl Record {
    /// Writes all words of the record.
    pub fn write(&self, words: &mut Words) {
        for (part, sector) in words.as_chunks_mut::<SECTOR_WORDS>().0.iter_mut().enumerate() {
            sector[..HEAD_WORDS].copy_from_slice(&[MAGIC, self.number, self.flushed, self.seed, part as u64]);
            for (index, word) in sector.iter_mut().enumerate().take(SUM).skip(HEAD_WORDS) {
                *word = self.word(part, index);
            }
            sector[SUM] = sum(sector);
        }
    }

    fn word(&self, part: usize, index: usize) -> u64 {
        let recipe = Recipe { seed: self.seed, content: Content::Random, write: Write::Page };
        recipe.keys(self.number, part as u32).word(index)
    }

    /// The record that a sector, number `part` of its slot, is a whole part of.
    fn of(sector: &[u64; SECTOR_WORDS], part: usize) -> Option<Self> {
        let record = Self { number: sector[1], flushed: sector[2], seed: sector[3] };
        let is_whole = sector[0] == MAGIC
            && sector[4] == part as u64
            && sector[SUM] == sum(sector)
            && (HEAD_WORDS..SUM).all(|index| sector[index] == record.word(part, index));
        is_whole.then_some(record)
    }
}

fn sum(sector: &[u64; SECTOR_WORDS]) -> u64 {
    sector[..SUM].iter().fold(MAGIC, |sum, word| (sum ^ word).wrapping_mul(FACTOR).rotate_left(29))
}

/// Reads a slot.
pub fn read(words: &Words) -> Found {
    let sectors = words.as_chunks::<SECTOR_WORDS>().0;
    if words.iter().all(|word| *word == 0) {
        return Found::Nothing;
    }
    if sectors.iter().all(|sector| sector[0] != MAGIC) {
        return Found::Foreign;
    }
    let parts = || sectors.iter().enumerate().filter_map(|(part, sector)| Record::of(sector, part));
    let newest = parts().max_by_key(|record| record.number);
    let count = parts().filter(|record| Some(*record) == newest).count();
    match newest {
        Some(record) if count == SECTORS => Found::Whole(record),
        newest => Found::Torn { newest, sectors: count as u8 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(number: u64) -> Words {
        let mut words = [0; RECORD_WORDS];
        Record { number, flushed: number - 1, seed: 7 }.write(&mut words);
        words
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_no_flipped_bit_passes() {
        let mut words = words(9);
        assert_eq!(read(&words), Found::Whole(Record { number: 9, flushed: 8, seed: 7 }));
        for bit in 0..RECORD_BYTES * 8 {
            words[bit / 64] ^= 1 << (bit % 64);
            assert!(!matches!(read(&words), Found::Whole(_)), "bit {bit}");
            words[bit / 64] ^= 1 << (bit % 64);
        }
    }

    #[test]
    fn a_record_that_was_written_in_part_is_torn_and_says_by_which() {
        let (mut torn, new) = (words(1), words(257));
        torn[..3 * SECTOR_WORDS].copy_from_slice(&new[..3 * SECTOR_WORDS]);
        let newest = Some(Record { number: 257, flushed: 256, seed: 7 });
        assert_eq!(read(&torn), Found::Torn { newest, sectors: 3 });
        let mut first = [0; RECORD_WORDS];
        first[7 * SECTOR_WORDS..].copy_from_slice(&new[7 * SECTOR_WORDS..]);
        assert_eq!(read(&first), Found::Torn { newest, sectors: 1 });
    }

    #[test]
    fn sectors_in_each_others_place_are_no_record() {
        let mut words = words(3);
        let (first, second) = words.split_at_mut(SECTOR_WORDS);
        first.swap_with_slice(&mut second[..SECTOR_WORDS]);
        assert!(matches!(read(&words), Found::Torn { sectors: 6, .. }));
    }

    #[test]
    fn nothing_and_what_somebody_else_wrote_are_told_from_records() {
        assert_eq!(read(&[0; RECORD_WORDS]), Found::Nothing);
        let mut words = [0; RECORD_WORDS];
        words[100] = 1;
        assert_eq!(read(&words), Found::Foreign);
    }
}
