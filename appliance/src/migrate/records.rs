//! Pages into records, and records into pages.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use netstack::SendError;
use protocol::destination::PagesStored;
use protocol::pages::{PAGE_BYTES, PageSet, WINDOW_PAGES, Window};
use protocol::source::{Batch, PagesSent};
use protocol::verify::{PageHash, Rounds};
use protocol::wire::record::{Content, HEADER_BYTES, ZEROS_MAX};
use protocol::wire::{MigrationId, PagePlan, RecordHeader, ValidatedRecord};

use super::compression::Compressor;
use super::memory::{GuestRam, is_zero};

/// How far a batch is.
#[derive(Debug)]
pub enum Step {
    /// The transport takes nothing more for now.
    Full,
    /// The transport has all of it.
    Done(PagesSent),
}

/// A batch that is being read and sent.
#[derive(Debug)]
pub struct Sending {
    migration: MigrationId,
    batch: Batch,
    next: usize,
    sent: PagesSent,
    /// Windows of nothing but zeros, not yet told.
    zeros: Option<(u64, u32)>,
    /// A record that the transport did not take yet.
    waiting: Option<Bytes>,
    /// Where touched memory goes on, by the last look: nothing was touched between the two.
    looked: Option<(u64, Option<u64>)>,
}

/// Why a batch does not go on.
#[derive(Debug, thiserror::Error)]
pub enum SendingError {
    /// The transport does not take it.
    #[error(transparent)]
    Transport(#[from] SendError),
    /// The guest's memory does not give it.
    #[error("the VM's memory cannot be read")]
    Memory(#[from] std::io::Error),
}

impl Sending {
    /// Begins with a batch.
    pub fn new(migration: MigrationId, batch: Batch) -> Self {
        let pages: u64 = batch.windows.iter().map(Window::count).sum();
        let hashes = Vec::with_capacity(usize::try_from(pages).unwrap_or(0));
        let sent = PagesSent { batch: batch.id, hashes, zero_pages: 0, bytes: 0, saved_bytes: 0 };
        Self { migration, batch, next: 0, sent, zeros: None, waiting: None, looked: None }
    }

    /// Reads and sends until the transport is full or the batch is done. `buffer` gives an empty buffer, `send` takes a
    /// record.
    ///
    /// # Errors
    /// The connection is gone, or the memory failed.
    pub fn go_on(
        &mut self,
        ram: &GuestRam,
        compressor: &mut Compressor,
        mut buffer: impl FnMut() -> Option<BytesMut>,
        mut send: impl FnMut(Bytes) -> Result<(), SendError>,
    ) -> Result<Step, SendingError> {
        loop {
            if let Some(record) = self.waiting.take() {
                let length = record.len() as u64;
                match send(record.clone()) {
                    Ok(()) => self.sent.bytes += length,
                    Err(SendError::Full) => {
                        self.waiting = Some(record);
                        return Ok(Step::Full);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            let Some(window) = self.batch.windows.get(self.next).copied() else {
                if let Some(record) = self.take_zeros() {
                    self.waiting = Some(record);
                    continue;
                }
                return Ok(Step::Done(self.sent.clone()));
            };
            if self.is_untouched(ram, window) {
                if let Some(record) = self.add_zeros(window) {
                    self.waiting = Some(record);
                }
                continue;
            }
            let mut record = buffer().ok_or(SendError::NotConnected)?;
            self.read(ram, window, compressor, &mut record)?;
            self.next += 1;
            self.waiting = Some(record.freeze());
        }
    }

    /// Whether a full window was never touched: it is zero.
    fn is_untouched(&mut self, ram: &GuestRam, window: Window) -> bool {
        if self.batch.round != 1 || window.pages != u64::MAX {
            return false;
        }
        let (first, end) = (window.first, window.first + WINDOW_PAGES);
        let touched = match self.looked {
            Some((looked, touched)) if looked <= first && touched.is_none_or(|touched| first < touched) => touched,
            _ => ram.touched_from(first),
        };
        self.looked = Some((first, touched));
        touched.is_none_or(|touched| end <= touched)
    }

    /// Adds a window to the zeros that are not yet told; gives the record of those before, if they do not adjoin.
    fn add_zeros(&mut self, window: Window) -> Option<Bytes> {
        const PAGES: u32 = WINDOW_PAGES as u32;
        let adjoins =
            |(first, count): (u64, u32)| first + u64::from(count) == window.first && count + PAGES <= ZEROS_MAX;
        if !self.zeros.is_none_or(adjoins) {
            return self.take_zeros();
        }
        let (_, count) = self.zeros.get_or_insert((window.first, 0));
        *count += PAGES;
        self.sent.hashes.extend([PageHash::zero(); WINDOW_PAGES as usize]);
        self.sent.zero_pages += WINDOW_PAGES;
        self.next += 1;
        None
    }

    fn take_zeros(&mut self) -> Option<Bytes> {
        let (first, count) = self.zeros.take()?;
        let header = RecordHeader::zeros(self.migration, self.batch.round, first, count);
        Some(Bytes::copy_from_slice(&header.encode()))
    }

    /// One window as a record: what is sent is what was hashed, whatever the guest does meanwhile.
    fn read(
        &mut self,
        ram: &GuestRam,
        window: Window,
        compressor: &mut Compressor,
        record: &mut BytesMut,
    ) -> std::io::Result<()> {
        let pages = usize::try_from(window.count()).unwrap_or(0);
        record.resize(HEADER_BYTES + pages * PAGE_BYTES, 0);
        let mut at = HEADER_BYTES;
        for (first, count) in window.runs() {
            let bytes = count * PAGE_BYTES;
            ram.read(first, &mut record[at..at + bytes])?;
            at += bytes;
        }
        let first_hash = self.sent.hashes.len();
        let mut zero = 0;
        let mut filled = HEADER_BYTES;
        for (at, index) in (HEADER_BYTES..).step_by(PAGE_BYTES).zip(window.iter()) {
            let page = at..at + PAGE_BYTES;
            if is_zero(&record[page.clone()]) {
                zero |= 1 << (index - window.first);
                self.sent.zero_pages += 1;
                self.sent.hashes.push(PageHash::zero());
                continue;
            }
            self.sent.hashes.push(PageHash::of(&record[page.clone()]));
            if filled < at {
                record.copy_within(page, filled);
            }
            filled += PAGE_BYTES;
        }
        record.truncate(filled);
        let hashes = self.sent.hashes[first_hash..].iter().copied();
        let mut header = RecordHeader::window(self.migration, self.batch.round, window, zero, hashes);
        if let Some(packed) = compressor.pack(&record[HEADER_BYTES..]) {
            header = header.compressed(packed.len());
            self.sent.saved_bytes += (record.len() - HEADER_BYTES - packed.len()) as u64;
            record.truncate(HEADER_BYTES);
            record.extend_from_slice(packed);
        }
        record[..HEADER_BYTES].copy_from_slice(&header.encode());
        Ok(())
    }
}

/// Memory that fills with pages from records.
#[derive(Debug)]
pub struct Storage {
    ram: Arc<GuestRam>,
    /// What each page was written with: records come in any order, and an older page never overwrites a newer one.
    rounds: Rounds,
    /// The pages that were ever written with content: fresh memory is zero already.
    written: PageSet,
    /// What was read back.
    back: Vec<u8>,
}

impl Storage {
    /// Fresh memory.
    pub fn new(ram: Arc<GuestRam>) -> Self {
        let pages = ram.pages();
        Self { ram, rounds: Rounds::new(pages), written: PageSet::empty(pages), back: Vec::new() }
    }

    /// Writes what of a record is newer than what lies in memory, and hashes what lies there then, not what came.
    ///
    /// # Errors
    /// The content cannot be decompressed, or the memory does not take it.
    pub fn store(&mut self, record: &ValidatedRecord<impl AsRef<[u8]>>) -> Result<PagesStored, String> {
        let unpacked;
        let content = match record.content() {
            Content::Lz4 => {
                let bytes = lz4_flex::block::decompress(record.content_bytes(), record.raw_bytes());
                unpacked = bytes.map_err(|error| format!("a page record cannot be unpacked: {error}"))?;
                if unpacked.len() != record.raw_bytes() {
                    return Err("a page record is shorter than its pages".to_owned());
                }
                &unpacked[..]
            }
            Content::Raw | Content::Zeros => record.content_bytes(),
        };
        let round = record.round();
        let newer: Vec<PagePlan> = record.pages().filter(|plan| self.rounds.set(plan.page(), round)).collect();
        let mut stored = Vec::with_capacity(newer.len());
        let mut plans = &newer[..];
        while let Some((first, rest)) = plans.split_first() {
            let count = match first {
                PagePlan::Zero { page } => {
                    self.store_zero(*page).map_err(|error| refused(&error))?;
                    stored.push((*page, PageHash::zero()));
                    1
                }
                PagePlan::Content { page, offset } => {
                    let next = |(after, plan): (usize, &PagePlan)| {
                        let (page, offset) = (page + after as u64 + 1, offset + (after + 1) * PAGE_BYTES);
                        *plan == PagePlan::Content { page, offset }
                    };
                    let count = 1 + rest.iter().enumerate().take_while(|at| next(*at)).count();
                    let bytes = content.get(*offset..*offset + count * PAGE_BYTES);
                    let bytes = bytes.ok_or("a page record is cut short")?;
                    self.store_run(*page, bytes, &mut stored).map_err(|error| refused(&error))?;
                    count
                }
            };
            plans = &plans[count..];
        }
        Ok(PagesStored { round, covered: record.count(), stored })
    }

    fn store_zero(&mut self, page: u64) -> std::io::Result<()> {
        if self.written.contains(page) { self.ram.write(page, &[0; PAGE_BYTES]) } else { Ok(()) }
    }

    fn store_run(&mut self, first: u64, bytes: &[u8], stored: &mut Vec<(u64, PageHash)>) -> std::io::Result<()> {
        self.ram.write(first, bytes)?;
        self.back.resize(bytes.len(), 0);
        self.ram.read(first, &mut self.back)?;
        let (pages, _) = self.back.as_chunks::<PAGE_BYTES>();
        for (index, page) in (first..).zip(pages) {
            self.written.insert(index);
            stored.push((index, PageHash::of(page)));
        }
        Ok(())
    }
}

fn refused(error: &std::io::Error) -> String {
    format!("the VM's memory cannot be written: {error}")
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use proptest::prelude::*;
    use protocol::verify::PageTable;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    const PAGES: u64 = 6 * WINDOW_PAGES;
    const MIGRATION: MigrationId = MigrationId(7);

    fn ram() -> Arc<GuestRam> {
        let memfd: OwnedFd = memfd_create("test", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&memfd, PAGES * PAGE_BYTES as u64).expect("a size");
        Arc::new(GuestRam::over(memfd, PAGES * PAGE_BYTES as u64).expect("its memory"))
    }

    fn content(ram: &GuestRam) -> Vec<u8> {
        let mut all = vec![0; PAGES as usize * PAGE_BYTES];
        ram.read(0, &mut all).expect("all pages");
        all
    }

    /// What was carried: as the sender tells it, the hashes of what was stored, and how each record was written.
    struct Carried {
        sent: PagesSent,
        stored: Vec<PageHash>,
        records: Vec<(Content, usize)>,
    }

    /// A compressor for a link that is slow enough.
    fn packing() -> Compressor {
        let mut compressor = Compressor::default();
        compressor.link_carries(1_000_000);
        compressor
    }

    /// Sends the pages of `set` over a transport that takes one record at a time.
    fn send(source: &GuestRam, set: &PageSet, round: u16, mut compressor: Compressor) -> (PagesSent, Vec<Bytes>) {
        let windows = set.windows().collect();
        let mut sending = Sending::new(MIGRATION, Batch { id: 1, round, windows });
        let mut records = Vec::new();
        loop {
            let mut record = None;
            let step = sending.go_on(
                source,
                &mut compressor,
                || Some(BytesMut::new()),
                |bytes| match record {
                    Some(_) => Err(SendError::Full),
                    None => {
                        record = Some(bytes);
                        Ok(())
                    }
                },
            );
            records.extend(record);
            if let Step::Done(sent) = step.expect("to go on") {
                return (sent, records);
            }
        }
    }

    fn validated(record: &Bytes) -> ValidatedRecord<&Bytes> {
        ValidatedRecord::parse(record, MIGRATION, PAGES).expect("a record")
    }

    /// Sends the pages of `set` and stores them.
    fn carry(source: &GuestRam, storage: &mut Storage, set: &PageSet, round: u16, compressor: Compressor) -> Carried {
        let (sent, records) = send(source, set, round, compressor);
        let mut stored: Vec<_> =
            records.iter().flat_map(|record| storage.store(&validated(record)).expect("to be stored").stored).collect();
        stored.sort_by_key(|(page, _)| *page);
        assert!(stored.iter().map(|(page, _)| *page).eq(pages_of(set)));
        let records = records.iter().map(|record| (validated(record).content(), record.len())).collect();
        Carried { sent, stored: stored.into_iter().map(|(_, hash)| hash).collect(), records }
    }

    fn pages_of(set: &PageSet) -> impl Iterator<Item = u64> {
        set.windows().flat_map(|window| window.iter())
    }

    /// Pages and the byte they are filled with: often the same pages, often with zeros.
    fn fills() -> impl Strategy<Value = Vec<(u64, u8)>> {
        prop::collection::vec((prop_oneof![0..16_u64, 0..PAGES], prop_oneof![Just(0), any::<u8>()]), 0..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_stored_is_what_was_read(
            first in fills(),
            then in fills(),
            compressed in any::<bool>(),
        ) {
            let compressor = || if compressed { packing() } else { Compressor::never() };
            let source = ram();
            let mut storage = Storage::new(ram());
            let fill = |(page, byte): &(u64, u8)| source.write(*page, &[*byte; PAGE_BYTES]).expect("a page");
            first.iter().for_each(fill);
            let Carried { sent, stored, .. } = carry(&source, &mut storage, &PageSet::full(PAGES), 1, compressor());
            prop_assert_eq!(sent.hashes, stored);
            prop_assert!(content(&source) == content(&storage.ram));
            then.iter().for_each(fill);
            let mut dirty = PageSet::empty(PAGES);
            then.iter().for_each(|(page, _)| dirty.insert(*page));
            let Carried { sent, stored, .. } = carry(&source, &mut storage, &dirty, 2, compressor());
            prop_assert_eq!(sent.hashes, stored);
            prop_assert!(content(&source) == content(&storage.ram));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever the order in which the records of all rounds come, and whatever comes twice.
        #[test]
        fn memory_holds_each_pages_newest_version_and_what_is_told_of_it_is_what_was_sent(
            rounds in prop::collection::vec((fills(), any::<bool>()), 1..5),
            order in any::<u64>(),
        ) {
            let source = ram();
            let (mut sent, mut records) = (PageTable::new(PAGES), Vec::new());
            for (round, (fills, compressed)) in (1..).zip(rounds) {
                fills.iter().for_each(|(page, byte)| source.write(*page, &[*byte; PAGE_BYTES]).expect("a page"));
                let mut set = PageSet::empty(PAGES);
                fills.iter().for_each(|(page, _)| set.insert(*page));
                let compressor = if compressed { packing() } else { Compressor::never() };
                let (told, new) = send(&source, &set, round, compressor);
                for (page, hash) in pages_of(&set).zip(told.hashes) {
                    sent.set(page, round, hash);
                }
                records.extend(new);
            }
            let twice = records.iter().step_by(3).cloned().collect::<Vec<_>>();
            records.extend(twice);
            let mut place = order;
            records.sort_by_cached_key(|_| {
                place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                place >> 20
            });
            let (mut storage, mut stored) = (Storage::new(ram()), PageTable::new(PAGES));
            for record in &records {
                let record = validated(record);
                let told = storage.store(&record).expect("to be stored");
                prop_assert_eq!((told.round, told.covered), (record.round(), record.count()));
                for (page, hash) in told.stored {
                    prop_assert!(stored.set(page, told.round, hash), "page {} was written with what is older", page);
                }
            }
            prop_assert!(content(&source) == content(&storage.ram));
            prop_assert_eq!(sent.digest(), stored.digest());
        }
    }

    #[test]
    fn what_compression_saves_is_told_to_the_byte_and_what_does_not_become_shorter_travels_as_it_is() {
        let source = ram();
        let mut noise = 1_u64;
        for page in (0..PAGES).filter(|page| page % 5 != 0) {
            let mut bytes = [page as u8; PAGE_BYTES];
            for byte in bytes.iter_mut().filter(|_| page >= 3 * WINDOW_PAGES) {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (noise >> 56) as u8;
            }
            source.write(page, &bytes).expect("a page");
        }
        let all = PageSet::full(PAGES);
        let plain = carry(&source, &mut Storage::new(ram()), &all, 1, Compressor::never());
        let mut storage = Storage::new(ram());
        let packed = carry(&source, &mut storage, &all, 1, packing());
        assert!(content(&source) == content(&storage.ram));
        let bytes = |carried: &Carried| carried.records.iter().map(|(_, length)| *length as u64).sum::<u64>();
        assert_eq!((plain.sent.saved_bytes, plain.sent.bytes), (0, bytes(&plain)));
        assert_eq!(packed.sent.bytes, bytes(&packed));
        assert_eq!(packed.sent.saved_bytes, plain.sent.bytes - packed.sent.bytes);
        assert!(packed.sent.saved_bytes > plain.sent.bytes / 3, "half of it becomes shorter: {:?}", packed.records);
        let kinds: Vec<Content> = packed.records.iter().map(|(content, _)| *content).collect();
        assert_eq!(kinds, [[Content::Lz4; 3], [Content::Raw; 3]].concat());
    }

    #[test]
    fn memory_that_was_never_touched_is_neither_sent_nor_made() {
        let source = ram();
        source.write(3 * WINDOW_PAGES + 5, &[7; PAGE_BYTES]).expect("a page");
        let mut storage = Storage::new(ram());
        carry(&source, &mut storage, &PageSet::full(PAGES), 1, Compressor::never());
        for ram in [&source, &storage.ram] {
            assert_eq!(ram.touched_from(0), Some(3 * WINDOW_PAGES + 5));
            assert_eq!(ram.touched_from(3 * WINDOW_PAGES + 6), None);
        }
    }
}
