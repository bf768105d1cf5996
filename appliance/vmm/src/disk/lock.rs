//! The lock of a disk: that no other host writes it (`flock(2)`; on NFSv4 the server holds it).

use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::raw::DiskError;

/// The lock on the file of a disk that may be written. It can be taken and let go of while the disk is at work.
#[derive(Debug)]
pub struct DiskLock {
    file: Arc<File>,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It was never taken, or was let go of.
    Free,
    /// It was taken, and not let go of since.
    Held,
    /// The disk is used without it, until it can be taken.
    Late,
}

impl DiskLock {
    /// The lock on this open file, not taken yet.
    pub(super) fn new(file: Arc<File>) -> Self {
        Self { file, state: Mutex::new(State::Free) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes it for this machine alone. One that was taken before and lost otherwise than by [`Self::release`] is not taken
    /// anew: whoever has it since must not be written over. False if another has it.
    ///
    /// # Errors
    /// flock(2) fails.
    pub fn take(&self) -> Result<bool, DiskError> {
        let mut state = self.state();
        if *state != State::Held {
            match flock(&*self.file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => *state = State::Held,
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
                Err(error) => return Err(DiskError::flock(error)),
            }
        }
        Ok(true)
    }

    /// The disk may be used without it until [`Self::take`] succeeds: whoever has it is known not to write any more.
    pub fn may_be_late(&self) {
        let mut state = self.state();
        if *state == State::Free {
            *state = State::Late;
        }
    }

    /// Whether the disk may be used without it.
    pub fn is_late(&self) -> bool {
        *self.state() == State::Late
    }

    /// Lets go of it, so that another host may write the file.
    ///
    /// # Errors
    /// flock(2) fails.
    pub fn release(&self) -> Result<(), DiskError> {
        let mut state = self.state();
        if *state == State::Held {
            flock(&*self.file, FlockOperation::Unlock).map_err(DiskError::flock)?;
            *state = State::Free;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::raw::RawDisk;
    use super::super::raw::tests::image;
    use super::*;

    /// A disk in a file, the path by which the file is opened anew, and its descriptor.
    fn disk() -> (RawDisk, impl Fn() -> File) {
        let (memfd, path) = image();
        let open = move || {
            let _kept = &memfd;
            File::options().read(true).write(true).open(&path).unwrap()
        };
        (RawDisk::new(open(), false).unwrap(), open)
    }

    #[test]
    fn a_lock_that_was_let_go_of_comes_back_unless_another_has_it() {
        let (disk, open) = disk();
        let (lock, other) = (disk.lock().unwrap(), open());
        assert!(lock.take().unwrap());
        other.try_lock().expect_err("it is the disk's");
        lock.release().unwrap();
        other.try_lock().unwrap();
        assert!(!lock.take().unwrap(), "another has it");
        other.unlock().unwrap();
        assert!(lock.take().unwrap());
        other.try_lock().expect_err("it is taken back");
        assert!(lock.take().unwrap(), "it is there already");
    }

    #[test]
    fn a_lock_that_was_lost_is_not_taken_anew() {
        let (disk, open) = disk();
        let lock = disk.lock().unwrap();
        lock.take().unwrap();
        disk.file().unlock().unwrap();
        lock.take().unwrap();
        open().try_lock().expect("the disk has not locked it");
    }

    #[test]
    fn a_late_lock_is_taken_when_it_comes_free_and_from_then_on_is_like_any() {
        let (disk, open) = disk();
        let (lock, dead) = (disk.lock().unwrap(), open());
        dead.try_lock().unwrap();
        lock.may_be_late();
        assert!(!lock.take().unwrap() && lock.is_late());
        lock.release().unwrap();
        assert!(lock.is_late(), "there was nothing to let go of");
        drop(dead);
        assert!(lock.take().unwrap() && !lock.is_late());
        open().try_lock().expect_err("it is the disk's");
        lock.may_be_late();
        assert!(!lock.is_late(), "it is held");
    }

    #[test]
    fn a_disk_that_is_only_read_has_no_lock() {
        let (_memfd, path) = image();
        assert!(RawDisk::new(File::open(&path).unwrap(), true).unwrap().lock().is_none());
    }
}
