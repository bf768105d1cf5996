//! Until when the VMs of a datastore may run, in memory that the lease role shares with their monitors: each renewal moves it on,
//! and a monitor needs nobody's word to end in time, should the lease role stand still.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use model::limits;
use protocol::time::{Duration, Instant};
use rustix::fs::ftruncate;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::boot_clock::now;

/// A page: what is mapped.
const BYTES: usize = 4096;

/// The moment on the clock of this boot (`boot_clock`), as one process sees it: nanoseconds in the first eight bytes of a file, 0
/// where no host lease is held.
#[derive(Debug)]
pub struct Deadline {
    page: NonNull<AtomicU64>,
}

// SAFETY: the page is this value's own mapping, which stays where it is, and all access to it is atomic.
unsafe impl Send for Deadline {}

/// The lease role's, who moves it on.
#[derive(Debug)]
pub struct OwnDeadline(Deadline);

impl OwnDeadline {
    /// The one at `path`, as an earlier process left it, or a fresh one.
    ///
    /// # Errors
    /// The file cannot be made or mapped.
    pub fn at(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        // What is there stays, and what is missing is 0.
        ftruncate(&file, BYTES as u64)?;
        Deadline::map(file, ProtFlags::READ | ProtFlags::WRITE).map(Self)
    }

    /// VMs may run until `moment`; None: none may.
    pub fn set(&self, moment: Option<Instant>) {
        self.0.word().store(moment.map_or(0, Instant::nanos), Ordering::Release);
    }
}

impl Deadline {
    /// That in a file which [`OwnDeadline::at`] made, opened for reading at least.
    ///
    /// # Errors
    /// It is too short, or cannot be mapped.
    pub fn over(file: File) -> io::Result<Self> {
        if file.metadata()?.len() < BYTES as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Self::map(file, ProtFlags::READ)
    }

    fn map(file: impl AsFd, access: ProtFlags) -> io::Result<Self> {
        // SAFETY: a mapping at a place that the kernel chooses, over nothing that exists.
        let page = unsafe { mmap(std::ptr::null_mut(), BYTES, access, MapFlags::SHARED, file, 0) }?;
        Ok(Self { page: NonNull::new(page.cast()).ok_or(io::ErrorKind::InvalidData)? })
    }

    /// The moment.
    fn get(&self) -> Instant {
        Instant::from_nanos(self.word().load(Ordering::Acquire))
    }

    /// Whether monitors had to end themselves: a moment came, and what a monitor gets after it, and nobody moved it on or fenced.
    pub fn has_passed(&self) -> bool {
        self.get() != Instant::ZERO && self.left() == Duration::ZERO
    }

    /// How long a monitor may still run, with what the lease role gets after the moment to end it and to tell why.
    pub fn left(&self) -> Duration {
        (self.get() + Duration::from_millis(limits::LEASE_SELF_END_MS)).since(now())
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: the mapping is a page, aligned to one, readable at least, and lives as long as `self`; who may only read it
        // has no value with a method that writes. The file lies in memory and never shrinks.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `map` with this length, and no reference to it outlives `self`.
        let unmapped = unsafe { munmap(self.page.as_ptr().cast(), BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_monitor_sees_each_move_of_the_deadline_and_a_successor_of_the_lease_role_finds_it() {
        let path = std::env::temp_dir().join(format!("godwit-deadline-{}", std::process::id()));
        let own = OwnDeadline::at(&path).expect("made");
        let seen = Deadline::over(File::open(&path).expect("opened")).expect("mapped");
        assert_eq!(seen.get(), Instant::from_nanos(0), "no VM may run yet");
        own.set(Some(Instant::from_nanos(7)));
        assert_eq!(seen.get(), Instant::from_nanos(7));
        drop(own);
        let successor = OwnDeadline::at(&path).expect("opened");
        assert_eq!(seen.get(), Instant::from_nanos(7), "nothing ended with the process");
        assert!(seen.left() == Duration::ZERO && seen.has_passed(), "long ago");
        successor.set(Some(now() + Duration::from_secs(600)));
        assert!(seen.left() > Duration::from_secs(60));
        successor.set(None);
        assert!(seen.left() == Duration::ZERO && !seen.has_passed(), "it was fenced");
        assert_eq!(seen.get(), Instant::from_nanos(0));
        std::fs::remove_file(path).expect("removed");
    }

    #[test]
    fn a_file_that_is_no_deadline_is_refused_and_not_mapped() {
        let path = std::env::temp_dir().join(format!("godwit-no-deadline-{}", std::process::id()));
        std::fs::write(&path, b"short").expect("written");
        assert!(Deadline::over(File::open(&path).expect("opened")).is_err());
        std::fs::remove_file(path).expect("removed");
    }
}
