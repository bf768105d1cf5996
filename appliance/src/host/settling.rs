//! Where a VM is after a move whose engine, or control plane, died: only the lease says, and it is asked for as long as
//! it takes.

use std::sync::Arc;
use std::time::Duration;

use model::diagnosis::{Diagnosis, Reason};

use crate::api::host::VmState;
use crate::api::vmm::{VmmAnswer, VmmLife, VmmRequest};
use crate::host::caller::Caller;
use crate::host::control_plane::ControlPlane;
use crate::host::leases::LeaseFailure;
use crate::host::running::Running;
use crate::host::taken_away::taken;
use crate::host::undecided::{Undecided, what_is_left};
use crate::host::vms::Held;
use crate::host::{owed, record, undecided};

/// Why a move ended whose engine did.
pub(super) const ENGINE_DIED: &str = "the migrate role of this host ended in the middle of the move";
/// How a VM ended here that moved.
pub(super) const MOVED: &str = "it moved to another host";
/// What came of a move of which nobody can tell, for the list.
pub(super) const UNKNOWN: &str = "unknown";
/// How long a monitor whose connection ended may take until its process is gone, if it is ending.
const DYING: Duration = Duration::from_secs(5);
/// Pause before a lease is asked again that did not answer who runs a VM.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// A move away whose end the engine did not report.
#[derive(Debug)]
pub(super) struct Unreported {
    /// What came of it, in a word for the list.
    pub(super) state: &'static str,
    /// What a person is told.
    pub(super) told: Diagnosis,
}

impl Unreported {
    /// One that came to nothing.
    pub(super) fn failed(told: Diagnosis) -> Self {
        Self { state: "failed", told }
    }

    /// Whether it is known what came of it.
    pub(super) fn is_known(&self) -> bool {
        self.state != UNKNOWN
    }
}

/// The engine died in the middle of a move away. Who runs the VM is what the lease says.
pub(super) fn without_engine(plane: &ControlPlane, held: &mut Held<'_>, caller: &Caller<'_>) -> Unreported {
    by_lease(plane, held, ENGINE_DIED, caller)
}

/// A move away came to nothing that the engine could tell (`why`). Who runs the VM is what the lease says; it is asked until
/// it answers, because the VM may be stunned, and stays so till then. If it is this host, the VM goes on. The fence of the
/// host lease bounds it: a host that cannot reach the datastore kills the VM, and with its monitor there is nothing left to
/// settle. A lease that will never tell is not waited for: what becomes of the VM, a person decides.
pub(super) fn by_lease(plane: &ControlPlane, held: &mut Held<'_>, why: &str, caller: &Caller<'_>) -> Unreported {
    let running = Arc::clone(held.running());
    let vm = &running.vm.vm;
    let what = format!("VM {vm} was not migrated");
    let mut told = String::new();
    loop {
        let failure = match plane.leases.resolve(&running.vm, running.epoch()) {
            Ok(epoch) => {
                let place = goes_on(plane, held, epoch);
                owe_what_is_left(plane, held);
                let hint = format!("log show migrate, then: vm migrate {vm} HOST");
                return Unreported::failed(Diagnosis::new(what, why, hint).vm_now(place));
            }
            Err(LeaseFailure::HeldBy(holder)) if !holder.own => {
                release(plane, &running, MOVED.to_owned());
                let what = format!("the move of VM {vm} has no receipt");
                let place = format!("it runs on {} now", holder.name);
                let told = Diagnosis::new(what, why, "log show migrate").vm_now(place);
                return Unreported { state: "moved", told };
            }
            Err(failure) => failure,
        };
        if running.monitor.is_gone() || !held.is_here() {
            owe_what_is_left(plane, held);
            let place =
                format!("it does not run on {}: its monitor ended; vm show {vm} tells who holds it", plane.name());
            let reasons = reasons(why, failure.reason());
            return Unreported::failed(Diagnosis::of(what, reasons).vm_now(place));
        }
        if let Some(hint) = what_is_left(vm, &failure) {
            let base = running.epoch();
            let (runs, place) = leave(plane, held, base, &failure, &hint);
            let reasons = reasons(why, Reason::new(failure.to_string(), hint));
            let (state, what) = match runs {
                true => ("failed", what),
                false => (UNKNOWN, format!("whether VM {vm} was migrated is not known")),
            };
            return Unreported { state, told: Diagnosis::of(what, reasons).vm_now(place) };
        }
        let waits = format!("its lease, which says who runs it: {failure}");
        if waits != told {
            log::warn!("VM {vm} is stopped and waits for {waits}");
            plane.vms.waits_for(vm, Some(waits.clone()));
            told = waits;
        }
        caller.progress(&format!("{vm} may be stopped, and waits for {told}"), None);
        if caller.cancelled_within(ASK_AGAIN) {
            caller.progress("this cannot be given up: the lease is asked until it answers; vm kill ends the VM", None);
        }
    }
}

/// The VM may have ended here, and its lease been given up, before this host won a later epoch of it: for nobody, unless it
/// was started again.
pub(super) fn owe_what_is_left(plane: &ControlPlane, held: &Held<'_>) {
    let vm = &held.running().vm;
    if !held.is_here() && plane.vms.running(&vm.vm).is_none() {
        owed::owe(plane, vm);
    }
}

/// The VM is this host's in this epoch: it goes on as it was. Returns where it is, for a person.
pub(super) fn goes_on(plane: &ControlPlane, held: &mut Held<'_>, epoch: u64) -> String {
    let paused = *held.before() == VmState::Paused;
    let (host, vm) = (plane.name(), held.running().vm.vm.clone());
    let mut told = String::new();
    let why = loop {
        let failure = match go_on(plane, held.running(), epoch, paused) {
            Ok(_) => return still_here(plane, held),
            Err(StandsStill::Monitor(why)) => break why,
            // It came to be another's before this host had its disks: that one needs their locks.
            Err(StandsStill::Lease(LeaseFailure::HeldBy(holder))) => {
                release(plane, held.running(), taken(&holder));
                return format!("{}: vm show {vm}", taken(&holder));
            }
            Err(StandsStill::Lease(failure)) => failure,
        };
        if held.running().monitor.is_gone() || !held.is_here() {
            return still_here(plane, held);
        }
        if let Some(hint) = what_is_left(&vm, &failure) {
            held.running().set_epoch(epoch);
            let (_, place) = leave(plane, held, epoch.saturating_sub(1), &failure, &hint);
            return format!("{place}; {failure}: {hint}");
        }
        let waits = format!("its lease, which says whether it may still run here: {failure}");
        if waits != told {
            log::warn!("VM {vm} is stopped and waits for {waits}");
            plane.vms.waits_for(&vm, Some(waits.clone()));
            told = waits;
        }
        std::thread::sleep(ASK_AGAIN);
    };
    // A process that ends closes its connections some time before it is gone.
    if held.running().monitor.wait_gone(DYING).is_ok() {
        return still_here(plane, held);
    }
    held.leave_as(VmState::Paused);
    held.running().set_epoch(epoch);
    record::update(&plane.run_dir, held.running(), true);
    format!("it is {host}'s, but could not be resumed ({why}) and is paused: vm resume")
}

/// Leaves a VM whose lease will not tell as it stands (`host::undecided`); it is this host's if that holds an epoch after `base`. Whether
/// it runs on, and where it is, for a person.
fn leave(plane: &ControlPlane, held: &mut Held<'_>, base: u64, failure: &LeaseFailure, hint: &str) -> (bool, String) {
    let (host, running) = (plane.name(), Arc::clone(held.running()));
    let (vm, life) = (&running.vm.vm, running.monitor.status().map(|status| status.life));
    let runs = matches!(life, Ok(VmmLife::Running));
    undecided::tell_all(vm, &life, failure, hint);
    if runs {
        return (true, format!("it is still running on {host}"));
    }
    let paused = *held.before() == VmState::Paused;
    let undecided = Undecided::new(base, paused, None, failure, hint.to_owned());
    plane.vms.note_undecided(vm, running.monitor.pid(), Some(undecided));
    held.leave_as(VmState::Paused);
    let place = match life {
        Ok(_) => format!("it is stopped on {host}, and listed as paused"),
        Err(why) => {
            format!("it was to be stopped on {host}, and is listed as paused; its monitor does not tell: {why}")
        }
    };
    (false, format!("{place}; it goes on or ends there when its lease tells"))
}

/// Why the engine could not tell how a move ended, and why the lease does not either: once, where the engine had it from the lease.
fn reasons(why: &str, failure: Reason) -> Vec<Reason> {
    let engine = (!why.contains(&failure.cause)).then(|| Reason::new(why, "log show migrate"));
    engine.into_iter().chain([failure]).collect()
}

/// Why a VM does not go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum StandsStill {
    /// The lease does not say that it may.
    #[error("{0}")]
    Lease(LeaseFailure),
    /// Its monitor does not let it.
    #[error("{0}")]
    Monitor(String),
}

/// Where a VM is that was not moved, for a person: `it is still paused on host-a`.
pub(super) fn still_here(plane: &ControlPlane, held: &Held<'_>) -> String {
    let (host, gone) = (plane.name(), held.running().monitor.is_gone() || !held.is_here());
    let vm = &held.running().vm.vm;
    // Who only looks keeps nobody from moving or pausing it meanwhile.
    let now = Some(held).filter(|held| held.only_looks()).and_then(|_| plane.vms.state(vm));
    match now.as_ref().unwrap_or(held.before()) {
        _ if gone && held.only_looks() => format!("it does not run on {host} any more: vm show {vm} tells where it is"),
        _ if gone => format!("it is stopped: its monitor on {host} ended"),
        VmState::Paused => format!("it is still paused on {host}"),
        _ => format!("it is still running on {host}"),
    }
}

/// Lets a VM that this host holds in `epoch` run, unless it runs already (it was not stunned) or was paused before. The epoch in
/// which it is held then. Until it runs its record says that it moves: a control plane after this one would else take it for a VM
/// that runs, and leave it stunned.
pub(super) fn go_on(plane: &ControlPlane, running: &Running, epoch: u64, paused: bool) -> Result<u64, StandsStill> {
    let ask = |request| running.monitor.ask(&request, &[]).map_err(|error| StandsStill::Monitor(error.to_string()));
    let runs = matches!(ask(VmmRequest::Status)?, VmmAnswer::Status(status) if status.life == VmmLife::Running);
    let mut epoch = epoch;
    if !paused && !runs {
        ask(VmmRequest::TakeDisks)?;
        epoch = plane.leases.assure(&running.vm, epoch).map_err(StandsStill::Lease)?;
        ask(VmmRequest::Resume)?;
    }
    hold_in(plane, running, epoch, paused);
    Ok(epoch)
}

/// This host holds the VM in this epoch now, and a control plane after this one must know.
pub(super) fn hold_in(plane: &ControlPlane, running: &Running, epoch: u64, paused: bool) {
    if running.epoch() != epoch {
        running.set_epoch(epoch);
        record::update(&plane.run_dir, running, paused);
    }
}

/// The VM is another host's: its monitor here ends, and the lease is left alone. `end` is how it ended here.
pub(super) fn release(plane: &ControlPlane, running: &Running, end: String) {
    let vm = &running.vm.vm;
    if plane.vms.remove(vm, running.monitor.pid(), Some(end)).is_some() {
        record::remove(&plane.run_dir, vm);
        running.monitor.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use model::names::VmName;

    use super::*;
    use crate::api::lease::{LeaseAnswer, LeaseRequest};
    use crate::host::control_plane::stand_in::Place;
    use crate::host::monitor::stand_in::{self, StandIn};

    /// What is asked of the lease of a VM that a move has left behind, and how it is told to stand then. Its monitor's life is `life`, if it tells.
    fn left_behind(test: &str, answer: LeaseAnswer, life: impl Into<Option<VmmLife>>) -> (Vec<String>, VmState) {
        let life = life.into();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let asks = Arc::clone(&asked);
        let place = Place::without_datastore(test, move |request| {
            asks.lock().expect("held").push(request.clone());
            answer.clone()
        });
        let web = "web".parse().expect("valid");
        let monitor = StandIn::start(&web);
        monitor.answers(move |request| match request {
            VmmRequest::Status => Some(match life {
                Some(life) => stand_in::status(life),
                None => VmmAnswer::Failed("it does not tell".to_owned()),
            }),
            VmmRequest::TakeDisks => Some(VmmAnswer::Done),
            // The guest is never let run.
            _ => None,
        });
        place.plane.vms.put(&web, monitor.running(), VmState::Running);
        let hold = || place.plane.vms.hold(&web, &[VmState::Running], VmState::MovingOut, "").expect("it is here");
        let mut held = hold();
        let told = by_lease(&place.plane, &mut held, "the link is cut", &Caller::nobody()).told.to_string();
        assert!(told.contains("the link is cut"), "{told}");
        drop(held);
        let after = place.plane.vms.state(&web).expect("it is here");
        // The same where the move said that it is this host's.
        let mut told = vec![told];
        if life.is_some_and(|life| life != VmmLife::Running) {
            place.plane.vms.put(&web, monitor.running(), VmState::Running);
            told.push(goes_on(&place.plane, &mut hold(), 5));
        }
        assert_eq!(place.plane.vms.state(&web), Some(after.clone()));
        assert!(!place.plane.vms.running(&web).expect("it is here").monitor.is_gone(), "it is left to a person");
        let asked = asked.lock().expect("held");
        assert!(asked.iter().all(|request| matches!(request, LeaseRequest::Resolve { .. })), "{asked:?}");
        assert_eq!(asked.len(), told.len(), "it is asked once: it never tells");
        (told, after)
    }

    #[test]
    fn what_the_engine_had_from_the_lease_is_told_once() {
        let damaged = || Reason::new("the lease of VM web is damaged", "lease break web");
        assert_eq!(reasons("nobody can tell: the lease of VM web is damaged", damaged()), [damaged()]);
        let both = reasons(ENGINE_DIED, damaged());
        assert_eq!(both, [Reason::new(ENGINE_DIED, "log show migrate"), damaged()]);
    }

    #[test]
    fn a_vm_whose_lease_will_never_tell_is_left_as_it_stands_and_a_person_is_told_what_to_do() {
        let web: VmName = "web".parse().expect("valid");
        let why = || "the lease of VM web is damaged".to_owned();
        let damaged = || LeaseAnswer::Damaged { vm: web.clone(), why: why(), mark: 7 };
        let (told, after) = left_behind("settle-damaged", damaged(), VmmLife::Paused);
        assert_eq!((told.len(), after), (2, VmState::Paused));
        for told in told {
            assert!(told.contains("vm kill web, then lease break web") && told.contains("stopped on host-a"), "{told}");
        }
        let (told, after) = left_behind("settle-runs", damaged(), VmmLife::Running);
        assert_eq!(after, VmState::Running, "it was never stopped");
        assert!(told[0].contains("vm kill web, then lease break web"), "{told:?}");
        assert!(told[0].contains("still running on host-a"), "{told:?}");
        let (told, after) = left_behind("settle-untold", damaged(), None);
        assert_eq!(after, VmState::Paused, "it is not let run");
        assert!(told[0].contains("its monitor does not tell") && !told[0].contains("is stopped on"), "{told:?}");
        let (told, _) = left_behind("settle-area", LeaseAnswer::AreaDamaged(why()), VmmLife::Paused);
        assert!(told.iter().all(|told| told.contains("vm kill web; ")), "{told:?}");
        // It was given a new lease on another host, by force.
        let (told, _) = left_behind("settle-new", LeaseAnswer::NoLease, VmmLife::Paused);
        assert!(told.iter().all(|told| told.contains("vm kill web, then vm start web")), "{told:?}");
    }
}
