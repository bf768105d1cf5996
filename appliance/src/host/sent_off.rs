//! A move that nobody waits for: the console that ordered it is told that it began, or why it did not, and all consoles how
//! it ended.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use model::diagnosis::Diagnosis;
use model::names::{HostName, VmName};

use crate::api::host::HostAnswer;
use crate::api::migrate::Wish;
use crate::host::caller::{Caller, LOOK};
use crate::host::control_plane::ControlPlane;
use crate::host::departures;
use crate::host::moves::shown;
use crate::journal;

type Outcome = Result<HostAnswer, Diagnosis>;

/// Who tells of the end of a move.
#[derive(Debug, Default)]
enum Teller {
    /// The console that ordered it still waits for its begin.
    #[default]
    Console,
    /// The console was told that it began: the end is news.
    News,
    /// It ended before the console was told anything.
    Ended(Outcome),
}

#[derive(Debug, Default)]
struct Handover {
    teller: Mutex<Teller>,
    changed: Condvar,
}

impl Handover {
    fn teller(&self) -> MutexGuard<'_, Teller> {
        self.teller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The move ended; gives back what the console does not tell any more.
    fn end(&self, outcome: Outcome) -> Option<Outcome> {
        let mut teller = self.teller();
        if matches!(*teller, Teller::News) {
            return Some(outcome);
        }
        *teller = Teller::Ended(outcome);
        self.changed.notify_one();
        None
    }

    /// Waits until the move has begun, or ended; what it gave in the latter case.
    fn wait(&self, mut has_begun: impl FnMut() -> bool) -> Option<Outcome> {
        let mut teller = self.teller();
        loop {
            if let Teller::Ended(_) = *teller {
                let Teller::Ended(outcome) = std::mem::take(&mut *teller) else { return None };
                return Some(outcome);
            }
            if has_begun() {
                *teller = Teller::News;
                return None;
            }
            teller = self.changed.wait_timeout(teller, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Begins to move a VM away. Returns when the move is under way or queued, or has ended by then.
///
/// # Errors
/// Every reason why it was not begun.
pub fn begin(
    plane: &Arc<ControlPlane>,
    vm: &VmName,
    destination: &HostName,
    wish: Wish,
) -> Result<HostAnswer, Diagnosis> {
    if plane.moves.is_coming(vm, plane.name()) {
        let cause = "what arrived with its move to here is still being compared (the audit), which takes seconds";
        return Err(Diagnosis::new(format!("VM {vm} was not migrated"), cause, "migration list; then try again"));
    }
    let handover = Arc::new(Handover::default());
    let earlier: Vec<_> = plane.moves.under_way().into_iter().map(|moving| moving.id).collect();
    let departure = {
        let (plane, vm, destination) = (Arc::clone(plane), vm.clone(), destination.clone());
        let handover = Arc::clone(&handover);
        move || {
            let outcome = departures::migrate(&plane, &vm, &destination, wish, &Caller::nobody());
            match handover.end(outcome) {
                Some(Ok(_)) => log::info!(target: journal::NEWS, "VM {vm} moved to {destination}: migration list"),
                Some(Err(told)) => log::error!("{told}"),
                None => {}
            }
        }
    };
    std::thread::Builder::new().name("depart".to_owned()).spawn(departure).map_err(|error| {
        let cause = format!("no thread can be made for its move: {error}");
        Diagnosis::new(format!("VM {vm} was not migrated"), cause, "host check")
    })?;
    let mut begun = None;
    let ended = handover.wait(|| {
        let moving = plane.moves.under_way().into_iter();
        begun = moving.map(|moving| (moving.vm, moving.id)).find(|(name, id)| name == vm && !earlier.contains(id));
        begun.is_some()
    });
    ended.unwrap_or_else(|| {
        let id = begun.map(|(_, id)| shown(id)).unwrap_or_default();
        Ok(HostAnswer::Done(format!(
            "VM {vm} is on its way to {destination}; migration list shows how far it is, migration cancel {id} gives it up"
        )))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(text: &str) -> Outcome {
        Ok(HostAnswer::Done(text.to_owned()))
    }

    #[test]
    fn the_end_of_a_move_is_told_once_by_the_console_that_still_waits_or_as_news() {
        let early = Handover::default();
        assert_eq!(early.end(done("moved")), None, "the console waits");
        assert_eq!(early.wait(|| panic!("it ended")), Some(done("moved")));
        let late = Handover::default();
        assert_eq!(late.wait(|| true), None, "it began");
        assert_eq!(late.end(done("moved")), Some(done("moved")), "nobody waits any more");
    }

    #[test]
    fn a_console_waits_until_a_move_begins_or_ends() {
        let handover = Arc::new(Handover::default());
        let ending = Arc::clone(&handover);
        let mut looks = 0;
        let mut thread = None;
        let ended = handover.wait(|| {
            looks += 1;
            if looks == 3 {
                let ending = Arc::clone(&ending);
                thread = Some(std::thread::spawn(move || ending.end(done("refused"))));
            }
            false
        });
        assert_eq!(ended, Some(done("refused")));
        assert_eq!(thread.expect("it was made").join().expect("ended"), None);
    }
}
