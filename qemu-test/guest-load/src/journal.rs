//! The journal: a whole disk of records of 512 bytes.
//!
//! Record *n* (from 1) lies in slot (*n* - 1) modulo the number of slots and holds the checksum of record *n* - 1. So a lost
//! record shows as a gap, a record of another history (two instances of one guest wrote) as a broken chain, and half a
//! write as a broken checksum. It is read from outside without a file system.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a record.
pub const RECORD_BYTES: usize = 512;
/// What a record begins with.
pub const MAGIC: &[u8; 8] = b"gwjrnl01";
/// Of the record's 512 bytes the last eight are the checksum of the others.
const SUMMED: usize = RECORD_BYTES - 8;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// From 1, without gaps.
    pub number: u64,
    /// Names the run of the guest that wrote it.
    pub run: u64,
    /// The guest's monotonic clock, in ns.
    pub time_ns: u64,
    /// Checksum of the record before; 0 for the first.
    pub before: u64,
}

impl Record {
    /// The record as it lies on the disk.
    pub fn to_bytes(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        for (place, value) in [self.number, self.run, self.time_ns, self.before].into_iter().enumerate() {
            bytes[8 + place * 8..16 + place * 8].copy_from_slice(&value.to_le_bytes());
        }
        // The rest depends on the record too, so that half of an old and half of a new record never pass for one.
        let filling = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        for chunk in bytes[40..SUMMED].chunks_mut(8) {
            chunk.copy_from_slice(&filling[..chunk.len()]);
        }
        let sum = xxh3_64(&bytes[..SUMMED]);
        bytes[SUMMED..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The record's checksum.
    pub fn sum(&self) -> u64 {
        xxh3_64(&self.to_bytes()[..SUMMED])
    }

    fn parse(bytes: &[u8]) -> Slot {
        let word =
            |at: usize| bytes.get(at..at + 8).and_then(|word| word.try_into().ok()).map_or(0, u64::from_le_bytes);
        if bytes.iter().all(|byte| *byte == 0) {
            return Slot::Empty;
        }
        if &bytes[..8] != MAGIC || word(SUMMED) != xxh3_64(&bytes[..SUMMED]) {
            return Slot::Broken;
        }
        Slot::Record(Self { number: word(8), run: word(16), time_ns: word(24), before: word(32) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Empty,
    Broken,
    Record(Record),
}

/// What a reader found on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// The newest record, if there is any.
    pub last: Option<Record>,
    /// How many whole records there are.
    pub records: u64,
    /// What is wrong, a sentence each; at most a hundred.
    pub faults: Vec<String>,
    sums: Vec<(u64, u64)>,
}

impl Audit {
    /// Reads a whole journal.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn read(disk: &File, bytes: u64) -> io::Result<Self> {
        let slots = bytes / RECORD_BYTES as u64;
        let mut audit = Self::default();
        let mut found = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < slots * RECORD_BYTES as u64 {
            let chunk = (slots * RECORD_BYTES as u64 - at).min(buffer.len() as u64) as usize;
            disk.read_exact_at(&mut buffer[..chunk], at)?;
            for (index, bytes) in buffer[..chunk].chunks_exact(RECORD_BYTES).enumerate() {
                let slot = at / RECORD_BYTES as u64 + index as u64;
                match Record::parse(bytes) {
                    Slot::Empty => {}
                    Slot::Broken => audit.fault(format!("slot {slot} holds no whole record")),
                    Slot::Record(record) if (record.number.wrapping_sub(1)) % slots != slot => {
                        audit.fault(format!("record {} lies in slot {slot}: it is doubled or astray", record.number));
                    }
                    Slot::Record(record) => found.push(record),
                }
            }
            at += chunk as u64;
        }
        found.sort_by_key(|record| record.number);
        audit.check_chain(&found, slots);
        audit.records = found.len() as u64;
        audit.last = found.last().copied();
        audit.sums = found.iter().map(|record| (record.number, record.sum())).collect();
        Ok(audit)
    }

    /// Whether nothing is lost, doubled, torn or of another history.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// The checksum of a record that is still on the disk.
    pub fn sum_of(&self, number: u64) -> Option<u64> {
        let at = self.sums.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        Some(self.sums[at].1)
    }

    fn check_chain(&mut self, found: &[Record], slots: u64) {
        if let Some(first) = found.first()
            && first.number > 1
            && found.len() as u64 != slots
        {
            self.fault(format!("records before {} are lost", first.number));
        }
        for pair in found.windows(2) {
            let [before, after] = pair else { continue };
            if after.number != before.number + 1 {
                self.fault(format!("records {} to {} are lost", before.number + 1, after.number - 1));
            } else if after.before != before.sum() {
                self.fault(format!(
                    "record {} follows another record {} than the one here",
                    after.number, before.number
                ));
            }
        }
    }

    fn fault(&mut self, what: String) {
        if self.faults.len() < 100 {
            self.faults.push(what);
        }
    }
}

/// Writes records, each on the disk before it returns.
pub struct Writer {
    disk: File,
    slots: u64,
    run: u64,
    last: Option<Record>,
}

impl Writer {
    /// Goes on after the last record of the journal on `disk`.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn open(disk: File, bytes: u64, run: u64) -> io::Result<Self> {
        let last = Audit::read(&disk, bytes)?.last;
        Ok(Self { disk, slots: bytes / RECORD_BYTES as u64, run, last })
    }

    /// Writes the next record and waits until the disk has it.
    ///
    /// # Errors
    /// The disk refuses the write or the flush; the record then counts as not written.
    pub fn append(&mut self, time_ns: u64) -> io::Result<Record> {
        let number = self.last.map_or(1, |record| record.number + 1);
        let before = self.last.map_or(0, |record| record.sum());
        let record = Record { number, run: self.run, time_ns, before };
        self.disk.write_all_at(&record.to_bytes(), (number - 1) % self.slots * RECORD_BYTES as u64)?;
        self.disk.sync_data()?;
        self.last = Some(record);
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: u64 = 16;
    const BYTES: u64 = SLOTS * RECORD_BYTES as u64;

    fn disk(name: &str) -> File {
        let path = std::env::temp_dir().join(format!("godwit-journal-{name}-{}", std::process::id()));
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        file.set_len(BYTES).unwrap();
        std::fs::remove_file(path).unwrap();
        file
    }

    fn written(name: &str, records: u64) -> File {
        let disk = disk(name);
        let mut writer = Writer::open(disk.try_clone().unwrap(), BYTES, 7).unwrap();
        for time in 0..records {
            writer.append(time).unwrap();
        }
        disk
    }

    #[test]
    fn a_journal_that_went_round_and_over_a_restart_is_sound() {
        let disk = written("round", 20);
        let mut again = Writer::open(disk.try_clone().unwrap(), BYTES, 8).unwrap();
        let last = again.append(1).unwrap();
        let audit = Audit::read(&disk, BYTES).unwrap();
        assert!(audit.is_sound(), "{:?}", audit.faults);
        assert_eq!((audit.last, audit.records), (Some(last), SLOTS));
        assert_eq!(audit.sum_of(21), Some(last.sum()));
        assert_eq!(audit.sum_of(5), None, "written over by record 21");
    }

    #[test]
    fn a_lost_record_is_named() {
        let disk = written("lost", 9);
        disk.write_all_at(&[0; RECORD_BYTES], 3 * RECORD_BYTES as u64).unwrap();
        assert_eq!(Audit::read(&disk, BYTES).unwrap().faults, ["records 4 to 4 are lost"]);
    }

    #[test]
    fn half_a_write_is_named() {
        let disk = written("torn", 9);
        disk.write_all_at(&[1; 100], 3 * RECORD_BYTES as u64 + 200).unwrap();
        let faults = Audit::read(&disk, BYTES).unwrap().faults;
        assert_eq!(faults[0], "slot 3 holds no whole record");
    }

    #[test]
    fn a_record_that_another_instance_of_the_guest_wrote_is_named() {
        let disk = written("history", 9);
        let other = Record { number: 5, run: 7, time_ns: 99, before: 0 };
        disk.write_all_at(&other.to_bytes(), 4 * RECORD_BYTES as u64).unwrap();
        let faults = Audit::read(&disk, BYTES).unwrap().faults;
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(faults[1].contains("record 6 follows another record 5"), "{faults:?}");
    }

    #[test]
    fn a_record_astray_is_named() {
        let disk = written("astray", 5);
        let record = Record { number: 2, run: 7, time_ns: 0, before: 0 };
        disk.write_all_at(&record.to_bytes(), 10 * RECORD_BYTES as u64).unwrap();
        assert_eq!(Audit::read(&disk, BYTES).unwrap().faults, ["record 2 lies in slot 10: it is doubled or astray"]);
    }
}
