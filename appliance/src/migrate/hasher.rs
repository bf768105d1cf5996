//! The second thread: hashes stretches of memory that do not change, one after the other.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use protocol::pages::PAGE_BYTES;
use protocol::verify::PageHash;
use rustix::event::{EventfdFlags, eventfd};

use super::memory::{GuestRam, is_zero};
use crate::api::migrate::MigrationId;

/// Read at once: what the processor's second cache holds.
const PAGES_A_READ: u64 = 64;

#[derive(Debug)]
struct Job {
    migration: MigrationId,
    ram: Arc<GuestRam>,
    first: u64,
    count: u64,
}

/// Hashes that were asked for.
#[derive(Debug)]
pub struct Hashed {
    /// By which migration.
    pub migration: MigrationId,
    /// The first page.
    pub first: u64,
    /// One a page, or why there are none.
    pub hashes: Result<Vec<PageHash>, String>,
}

/// The thread, and the way to it and back.
#[derive(Debug)]
pub struct Hasher {
    jobs: Sender<Job>,
    results: Receiver<Hashed>,
    ready: Arc<OwnedFd>,
}

impl AsFd for Hasher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

impl Hasher {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread or descriptor is left.
    pub fn start() -> io::Result<Self> {
        let (jobs, todo) = channel::<Job>();
        let (done, results) = channel();
        let ready = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let signal = Arc::clone(&ready);
        std::thread::Builder::new().name("hasher".to_owned()).spawn(move || {
            for job in todo {
                let Job { migration, ref ram, first, count } = job;
                let hashes = hash(ram, first, count);
                let hashes = hashes.map_err(|error| format!("the VM's memory cannot be read: {error}"));
                if done.send(Hashed { migration, first, hashes }).is_err() {
                    return;
                }
                // It fails only if the counter is full, and then it is readable anyway.
                let _ = rustix::io::write(&*signal, &1_u64.to_ne_bytes());
            }
        })?;
        Ok(Self { jobs, results, ready })
    }

    /// Asks for the hashes of a stretch.
    pub fn ask(&self, migration: MigrationId, ram: &Arc<GuestRam>, first: u64, count: u64) {
        let job = Job { migration, ram: Arc::clone(ram), first, count };
        if self.jobs.send(job).is_err() {
            log::error!("the hashing thread ended");
        }
    }

    /// What came.
    pub fn take(&self) -> Vec<Hashed> {
        let _ = rustix::io::read(&*self.ready, &mut [0_u8; 8]);
        self.results.try_iter().collect()
    }
}

/// The hashes of a stretch. What was never touched is zero, and is not read.
fn hash(ram: &GuestRam, first: u64, count: u64) -> io::Result<Vec<PageHash>> {
    let end = (first + count).min(ram.pages());
    let mut hashes = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    let mut bytes = Vec::new();
    let mut at = first;
    while at < end {
        let touched = ram.touched_from(at).map_or(end, |touched| touched.min(end));
        hashes.extend((at..touched).map(|_| PageHash::zero()));
        let until = end.min(touched + PAGES_A_READ);
        bytes.resize(usize::try_from(until - touched).unwrap_or(0) * PAGE_BYTES, 0);
        ram.read(touched, &mut bytes)?;
        let (pages, _) = bytes.as_chunks::<PAGE_BYTES>();
        hashes.extend(pages.iter().map(|page| if is_zero(page) { PageHash::zero() } else { PageHash::of(page) }));
        at = until;
    }
    Ok(hashes)
}
