//! Whose the machine's dirty log is. There is one, and a harvest takes out what was written for good: whoever else counted on it
//! would miss those pages. A move has it for itself. A check that only watches the guest gives way to a move: the move
//! starts the log anew, with every page marked, and nothing that the check still asks for touches it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One who may hold the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asker(u64);

#[derive(Clone, Copy, Debug)]
struct Held {
    by: Asker,
    sample: bool,
}

/// Who holds the log.
#[derive(Debug, Default)]
pub struct Holder {
    held: Mutex<Option<Held>>,
    askers: AtomicU64,
}

/// The log is not the asker's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a move of the VM has the dirty log")]
pub struct NotYours;

impl Holder {
    /// One more who may ask.
    pub fn asker(&self) -> Asker {
        Asker(self.askers.fetch_add(1, Ordering::Relaxed))
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the log for `by`: of a check that only watches, where `sample`. A check's is taken over, a move's is not.
    ///
    /// # Errors
    /// A move has it, or what `start` says; then nobody has it.
    pub fn start(&self, by: Asker, sample: bool, start: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let mut held = self.held();
        if held.is_some_and(|held| held.by != by && !held.sample) {
            return Err(NotYours.to_string());
        }
        *held = None;
        start()?;
        *held = Some(Held { by, sample });
        Ok(())
    }

    /// Works with the log that `by` has started. Nobody takes it over meanwhile.
    ///
    /// # Errors
    /// Another has it.
    pub fn with<T>(&self, by: Asker, work: impl FnOnce() -> T) -> Result<T, NotYours> {
        let held = self.held();
        if held.is_some_and(|held| held.by == by) { Ok(work()) } else { Err(NotYours) }
    }

    /// Ends the log of `by` by `stop`; one that was taken over goes on.
    ///
    /// # Errors
    /// What `stop` says; nobody has it all the same.
    pub fn stop(&self, by: Asker, stop: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let mut held = self.held();
        if held.is_none_or(|held| held.by == by) {
            *held = None;
            stop()?;
        }
        Ok(())
    }

    /// Whether the log is on for a move.
    pub fn is_of_a_move(&self) -> bool {
        self.held().is_some_and(|held| !held.sample)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_takes_the_log_over_from_a_check_which_can_neither_end_nor_read_it_any_more() {
        let holder = Holder::default();
        let (check, moving) = (holder.asker(), holder.asker());
        let well = || Ok(());
        holder.start(check, true, well).expect("free");
        assert!(!holder.is_of_a_move() && holder.with(check, || 7) == Ok(7));
        holder.start(moving, false, well).expect("a check gives way");
        assert!(holder.is_of_a_move());
        assert_eq!(holder.with(check, || 7), Err(NotYours));
        holder.stop(check, || panic!("the move's log is ended")).expect("nothing to do");
        assert!(holder.start(check, true, || panic!("the move's log is started anew")).is_err());
        assert_eq!(holder.with(moving, || 7), Ok(7));
        holder.stop(moving, well).expect("its own");
        assert!(!holder.is_of_a_move());
        holder.start(check, true, well).expect("free again");
        // One that could not be started is nobody's.
        assert!(holder.start(moving, false, || Err("no".to_owned())).is_err());
        assert_eq!(holder.with(check, || 7), Err(NotYours));
    }
}
