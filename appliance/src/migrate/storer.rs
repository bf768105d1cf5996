//! The third thread: writes page records into memory, one after the other, while the loop receives the next.
//!
//! One for all moves. One thread receives for all of them, and what it brings costs about as much to store as it cost to receive: a second
//! thread that stores would have nothing to do. How much waits for it is bounded by who asks ([`WAITING_BYTES_MAX`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use protocol::destination::PagesStored;
use protocol::verify::PageHash;
use protocol::wire::ValidatedRecord;
use rustix::event::{EventfdFlags, eventfd};

use super::memory::GuestRam;
use super::records::Storage;

/// Bytes that may wait to be stored, of all moves that have any there: each has an equal share of them, and what is beyond stays with the
/// transport, whose flow control holds its source back. It is what a turn of the loop brings at most (64 frames of 64 KiB), which
/// the thread stores while the next goes on; and some milliseconds of its work, so that the last pages of a VM that stands still do not wait longer
/// behind those of other moves.
pub const WAITING_BYTES_MAX: usize = 4 << 20;

/// Memory that is written into, until it is let go of.
type Target = Arc<Mutex<Option<Storage>>>;

/// A record that waits.
#[derive(Debug)]
struct Job {
    target: Target,
    record: ValidatedRecord<Bytes>,
    bytes: usize,
}

/// A record that was stored.
#[derive(Debug)]
pub struct Stored {
    target: Target,
    bytes: usize,
    /// What lies in memory now, or why it does not.
    pub pages: Result<PagesStored, String>,
}

/// The memory of one move. Once it is dropped, nothing more is written into it.
#[derive(Debug)]
pub struct Filling {
    target: Target,
    waiting: usize,
}

impl Filling {
    /// Fresh memory.
    pub fn of(ram: Arc<GuestRam>) -> Self {
        Self { target: Arc::new(Mutex::new(Some(Storage::new(ram)))), waiting: 0 }
    }

    /// Bytes that wait to be stored, or to be told of.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting
    }

    /// Whether this was stored here.
    pub fn has(&self, stored: &Stored) -> bool {
        Arc::ptr_eq(&self.target, &stored.target)
    }

    /// Takes note that this was stored.
    pub fn note(&mut self, stored: &Stored) {
        self.waiting = self.waiting.saturating_sub(stored.bytes);
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        // Of what waits nothing is written any more; what is being written at this moment is waited for.
        *lock(&self.target) = None;
    }
}

/// The thread, and the way to it and back.
#[derive(Debug)]
pub struct Storer {
    jobs: Sender<Job>,
    results: Receiver<Stored>,
    ready: Arc<OwnedFd>,
}

impl AsFd for Storer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Storer {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread or descriptor is left.
    pub fn start() -> io::Result<Self> {
        let (jobs, todo) = channel::<Job>();
        let (done, results) = channel();
        let ready = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let signal = Arc::clone(&ready);
        std::thread::Builder::new().name("storer".to_owned()).spawn(move || {
            for Job { target, record, bytes } in todo {
                let Some(pages) = lock(&target).as_mut().map(|storage| storage.store(&record)) else { continue };
                // Its memory comes back to who receives.
                drop(record);
                if done.send(Stored { target, bytes, pages }).is_err() {
                    return;
                }
                // It fails only if the counter is full, and then it is readable anyway.
                let _ = rustix::io::write(&*signal, &1_u64.to_ne_bytes());
            }
        })?;
        Ok(Self { jobs, results, ready })
    }

    /// Has a record stored, after all that came before it.
    pub fn ask(&self, filling: &mut Filling, record: ValidatedRecord<Bytes>) {
        let bytes = bytes_of(&record);
        filling.waiting += bytes;
        if self.jobs.send(Job { target: Arc::clone(&filling.target), record, bytes }).is_err() {
            log::error!("the storing thread ended");
        }
    }

    /// What was stored.
    pub fn take(&self) -> Vec<Stored> {
        let _ = rustix::io::read(&*self.ready, &mut [0_u8; 8]);
        self.results.try_iter().collect()
    }
}

fn lock(target: &Target) -> MutexGuard<'_, Option<Storage>> {
    target.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a record takes while it waits, or then what is told of it: 72 bytes may stand for 65,536 pages of zeros.
fn bytes_of(record: &ValidatedRecord<Bytes>) -> usize {
    let told = usize::try_from(record.count()).unwrap_or(usize::MAX).saturating_mul(size_of::<(u64, PageHash)>());
    record.content_bytes().len().saturating_add(told)
}

#[cfg(test)]
mod tests {
    use protocol::pages::{PAGE_BYTES, Window};
    use protocol::wire::{MigrationId, RecordHeader};
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    const PAGES: u64 = 65_536;
    const MIGRATION: MigrationId = MigrationId(7);

    fn ram() -> Arc<GuestRam> {
        let memfd = memfd_create("test", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&memfd, PAGES * PAGE_BYTES as u64).expect("a size");
        Arc::new(GuestRam::over(memfd, PAGES * PAGE_BYTES as u64).expect("its memory"))
    }

    /// A record of one page that is full of `byte`.
    fn record(page: u64, round: u16, byte: u8) -> ValidatedRecord<Bytes> {
        let window = Window { first: page / 64 * 64, pages: 1 << (page % 64) };
        let content = [byte; PAGE_BYTES];
        let header = RecordHeader::window(MIGRATION, round, window, 0, [PageHash::of(&content)]);
        let bytes = Bytes::from([&header.encode()[..], &content].concat());
        ValidatedRecord::parse(bytes, MIGRATION, PAGES).expect("a record")
    }

    /// Waits for so many results.
    fn results(storer: &Storer, count: usize) -> Vec<Stored> {
        let mut all = Vec::new();
        while all.len() < count {
            let mut ready = [PollFd::new(storer, PollFlags::IN)];
            let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(poll(&mut ready, Some(&patience)), Ok(1), "{} of {count} came", all.len());
            all.extend(storer.take());
        }
        all
    }

    #[test]
    fn records_are_stored_in_their_order_and_each_is_told_once() {
        let (storer, ram) = (Storer::start().expect("a thread"), ram());
        let mut filling = Filling::of(Arc::clone(&ram));
        for page in 0..200 {
            storer.ask(&mut filling, record(page, 1, page as u8 | 1));
        }
        assert_eq!(filling.waiting_bytes(), 200 * (PAGE_BYTES + size_of::<(u64, PageHash)>()));
        let results = results(&storer, 200);
        for (page, stored) in (0..).zip(&results) {
            assert!(filling.has(stored));
            filling.note(stored);
            let expected = vec![(page, PageHash::of(&[page as u8 | 1; PAGE_BYTES]))];
            assert_eq!(stored.pages, Ok(PagesStored { round: 1, covered: 1, stored: expected }));
        }
        assert_eq!((results.len(), filling.waiting_bytes()), (200, 0));
    }

    #[test]
    fn once_a_memory_is_let_go_of_nothing_more_is_written_into_it_and_nobody_holds_it() {
        let (storer, [first, gone]) = (Storer::start().expect("a thread"), [ram(), ram()]);
        let [mut other, mut filling] = [&first, &gone].map(|ram| Filling::of(Arc::clone(ram)));
        // The thread stands still before the first record.
        let target = Arc::clone(&other.target);
        let held = lock(&target);
        storer.ask(&mut other, record(0, 1, 1));
        storer.ask(&mut filling, record(0, 1, 1));
        storer.ask(&mut other, record(1, 1, 1));
        drop(filling);
        assert_eq!(Arc::strong_count(&gone), 1);
        drop(held);
        let results = results(&storer, 2);
        assert!(results.iter().all(|stored| other.has(stored)));
        assert_eq!((first.touched_from(0), gone.touched_from(0)), (Some(0), None));
    }

    #[test]
    fn what_cannot_be_stored_is_told_and_those_after_it_are_stored() {
        let (storer, ram) = (Storer::start().expect("a thread"), ram());
        let mut filling = Filling::of(Arc::clone(&ram));
        let header = RecordHeader::window(MIGRATION, 1, Window { first: 0, pages: 1 }, 0, []).compressed(3);
        let bytes = Bytes::from([&header.encode()[..], &[0xff; 3]].concat());
        storer.ask(&mut filling, ValidatedRecord::parse(bytes, MIGRATION, PAGES).expect("a record"));
        storer.ask(&mut filling, record(1, 1, 1));
        let results = results(&storer, 2);
        let error = results[0].pages.as_ref().expect_err("it is no block of lz4");
        assert!(error.starts_with("a page record cannot be unpacked: "), "{error}");
        assert!(results[1].pages.is_ok());
    }

    #[test]
    fn a_record_of_zeros_counts_for_what_is_told_of_it() {
        let bytes = Bytes::copy_from_slice(&RecordHeader::zeros(MIGRATION, 1, 0, 65_536).encode());
        let zeros = ValidatedRecord::parse(bytes, MIGRATION, PAGES).expect("a record");
        let (storer, mut filling) = (Storer::start().expect("a thread"), Filling::of(ram()));
        storer.ask(&mut filling, zeros);
        assert!(filling.waiting_bytes() >= 65_536 * size_of::<(u64, PageHash)>());
        let results = results(&storer, 1);
        assert!(filling.waiting_bytes() > 0, "until it is noted, it is there");
        filling.note(&results[0]);
        assert_eq!(filling.waiting_bytes(), 0);
    }
}
