//! Pages into records, and records into pages.

use bytes::{Bytes, BytesMut};
use netstack::SendError;
use protocol::destination::{Admission, PagesStored};
use protocol::pages::{PAGE_BYTES, Window};
use protocol::source::{Batch, PagesSent};
use protocol::verify::PageHash;
use protocol::wire::record::{Content, HEADER_BYTES, ZEROS_MAX};
use protocol::wire::{MigrationId, PagePlan, RecordHeader};

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
    /// The stretch of touched memory that was found last: nothing lies between `looked` and its first page.
    touched: Option<(u64, u64)>,
    looked: u64,
}

impl Sending {
    /// Begins with a batch.
    pub fn new(migration: MigrationId, batch: Batch) -> Self {
        let pages: u64 = batch.windows.iter().map(Window::count).sum();
        let hashes = Vec::with_capacity(usize::try_from(pages).unwrap_or(0));
        let sent = PagesSent { batch: batch.id, hashes, zero_pages: 0, bytes: 0, saved_bytes: 0 };
        Self { migration, batch, next: 0, sent, zeros: None, waiting: None, touched: None, looked: u64::MAX }
    }

    /// Reads and sends until the transport is full or the batch is done. `buffer` gives an empty buffer, `send` takes a
    /// record.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn go_on(
        &mut self,
        ram: &GuestRam,
        mut buffer: impl FnMut() -> Option<BytesMut>,
        mut send: impl FnMut(Bytes) -> Result<(), SendError>,
    ) -> Result<Step, SendError> {
        loop {
            if let Some(record) = self.waiting.take() {
                let length = record.len() as u64;
                match send(record.clone()) {
                    Ok(()) => self.sent.bytes += length,
                    Err(SendError::Full) => {
                        self.waiting = Some(record);
                        return Ok(Step::Full);
                    }
                    Err(error) => return Err(error),
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
            self.read(ram, window, &mut record);
            self.next += 1;
            self.waiting = Some(record.freeze());
        }
    }

    /// Whether a full window was never touched: it is zero, and is not read, because reading would give it memory.
    fn is_untouched(&mut self, ram: &GuestRam, window: Window) -> bool {
        if self.batch.round != 1 || window.pages != u64::MAX {
            return false;
        }
        let (first, end) = (window.first, window.first + 64);
        let known = self.looked <= first && self.touched.is_none_or(|(_, until)| first < until);
        if !known {
            self.touched = ram.touched_from(first);
            self.looked = first;
        }
        self.touched.is_none_or(|(from, _)| end <= from)
    }

    /// Adds a window to the zeros that are not yet told; gives the record of those before, if they do not adjoin.
    fn add_zeros(&mut self, window: Window) -> Option<Bytes> {
        let adjoins = |(first, count): (u64, u32)| first + u64::from(count) == window.first && count + 64 <= ZEROS_MAX;
        if !self.zeros.is_none_or(adjoins) {
            return self.take_zeros();
        }
        let (_, count) = self.zeros.get_or_insert((window.first, 0));
        *count += 64;
        self.sent.hashes.extend([PageHash::zero(); 64]);
        self.sent.zero_pages += 64;
        self.next += 1;
        None
    }

    fn take_zeros(&mut self) -> Option<Bytes> {
        let (first, count) = self.zeros.take()?;
        let header = RecordHeader::zeros(self.migration, self.batch.round, first, count);
        Some(Bytes::copy_from_slice(&header.encode()))
    }

    /// One window as a record: what is sent is what was hashed, whatever the guest does meanwhile.
    fn read(&mut self, ram: &GuestRam, window: Window, record: &mut BytesMut) {
        record.resize(HEADER_BYTES, 0);
        let first_hash = self.sent.hashes.len();
        let mut zero = 0;
        let mut page = [0; PAGE_BYTES];
        for index in window.iter() {
            ram.read(index, &mut page);
            if is_zero(&page) {
                zero |= 1 << (index - window.first);
                self.sent.zero_pages += 1;
                self.sent.hashes.push(PageHash::zero());
            } else {
                self.sent.hashes.push(PageHash::of(&page));
                record.extend_from_slice(&page);
            }
        }
        let hashes = self.sent.hashes[first_hash..].iter().copied();
        let header = RecordHeader::window(self.migration, self.batch.round, window, zero, hashes);
        record[..HEADER_BYTES].copy_from_slice(&header.encode());
    }
}

/// Writes what was admitted of a record. `written` knows which pages were ever written: fresh memory is zero already.
///
/// # Errors
/// The content cannot be decompressed.
pub fn store(ram: &GuestRam, admission: &Admission<'_>, written: &mut Written) -> Result<PagesStored, String> {
    let unpacked;
    let content = match admission.content {
        Content::Lz4 => {
            let bytes = lz4_flex::block::decompress(admission.bytes, admission.raw_bytes);
            unpacked = bytes.map_err(|error| format!("a page record cannot be unpacked: {error}"))?;
            if unpacked.len() != admission.raw_bytes {
                return Err("a page record is shorter than its pages".to_owned());
            }
            &unpacked[..]
        }
        Content::Raw | Content::Zeros => admission.bytes,
    };
    let mut stored = Vec::with_capacity(admission.write.len());
    let mut page = [0; PAGE_BYTES];
    for plan in &admission.write {
        match plan {
            PagePlan::Zero { page: index } => {
                if written.contains(*index) {
                    ram.write(*index, &[0; PAGE_BYTES]);
                }
                stored.push((*index, PageHash::zero()));
            }
            PagePlan::Content { page: index, offset } => {
                let bytes = content.get(*offset..*offset + PAGE_BYTES).ok_or("a page record is cut short")?;
                ram.write(*index, bytes);
                written.insert(*index);
                // What lies in memory is hashed, not what came.
                ram.read(*index, &mut page);
                stored.push((*index, PageHash::of(&page)));
            }
        }
    }
    Ok(PagesStored { round: admission.round, covered: admission.covered, stored })
}

/// The pages that were ever written.
pub type Written = protocol::pages::PageSet;
