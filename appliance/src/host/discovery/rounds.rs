//! When records are exchanged: every few seconds, and at once where somebody wants it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long somebody who wants a round waits for its end: a datastore that does not answer must not hold a list up.
const PATIENCE: Duration = Duration::from_secs(1);

/// The rounds of exchange.
#[derive(Debug, Default)]
pub struct Rounds {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Somebody carries rounds out.
    runs: bool,
    /// One more is wanted before the next is due.
    wanted: bool,
    begun: u64,
    ended: u64,
}

impl Rounds {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A round begins, on the thread that carries them out.
    pub(super) fn begins(&self) {
        let mut state = self.lock();
        *state = State { runs: true, wanted: false, begun: state.begun + 1, ended: state.ended };
    }

    /// It ended: what was wanted before it began is done.
    pub(super) fn ended(&self) {
        let mut state = self.lock();
        state.ended = state.begun;
        self.changed.notify_all();
    }

    /// None follows.
    pub(super) fn over(&self) {
        self.lock().runs = false;
        self.changed.notify_all();
    }

    /// Waits until the next is wanted, `pause` at most.
    pub(super) fn pause(&self, pause: Duration) {
        drop(self.changed.wait_timeout_while(self.lock(), pause, |state| !state.wanted));
    }

    /// Has one carried out now, and waits a second at most until it ended: what this host has to say is written then, and what the others
    /// wrote is read.
    pub fn now(&self) {
        self.now_within(PATIENCE);
    }

    /// Whether it ended in time.
    pub(super) fn now_within(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        let wanted = state.begun + 1;
        state.wanted = true;
        self.changed.notify_all();
        while state.runs && state.ended < wanted {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.ended >= wanted
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Longer than any test waits.
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn who_wants_a_round_gets_one_that_began_afterwards_and_at_once() {
        let (rounds, said, read) = (Rounds::default(), AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            rounds.begins();
            scope.spawn(|| {
                // The one under way has read already what it will.
                while !rounds.lock().wanted {
                    std::thread::yield_now();
                }
                rounds.ended();
                rounds.pause(LONG);
                rounds.begins();
                read.store(said.load(Ordering::SeqCst), Ordering::SeqCst);
                rounds.ended();
            });
            said.store(1, Ordering::SeqCst);
            assert!(rounds.now_within(LONG / 2));
            assert_eq!(read.load(Ordering::SeqCst), 1, "it was carried out before it was wanted");
        });
    }

    #[test]
    fn nobody_waits_for_rounds_that_do_not_come() {
        let rounds = Rounds::default();
        assert!(!rounds.now_within(LONG), "nobody carries them out yet");
        rounds.begins();
        assert!(!rounds.now_within(Duration::from_millis(10)), "a datastore hangs");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| rounds.now_within(LONG));
            rounds.over();
            assert!(!waits.join().expect("ended"), "the host is shut down");
        });
    }
}
