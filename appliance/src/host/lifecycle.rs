//! What is done with a VM that runs here: stop, kill, pause, resume. Each holds the VM for as long as its question to the
//! monitor or the lease lasts.

use std::sync::Arc;

use model::diagnosis::{Diagnosis, Reason};
use model::names::VmName;

use crate::api::channel::ChannelError;
use crate::api::host::VmState;
use crate::api::vmm::{VmmAnswer, VmmLife, VmmRequest};
use crate::host::caller::Caller;
use crate::host::control_plane::ControlPlane;
use crate::host::leases::LeaseFailure;
use crate::host::reap::GONE_BOUND;
use crate::host::running::Running;
use crate::host::vms::Held;
use crate::host::{departures, owed, record, settling, undecided};

/// How a VM ends that a kill ended.
pub(super) const KILLED: &str = "it was killed on the console";

/// States from which a VM can be killed at once, whatever another command does with it. Of one that is being moved away
/// the move is given up first; of one that is being started, the start.
const KILLABLE: [VmState; 6] =
    [VmState::Running, VmState::Paused, VmState::Pausing, VmState::Resuming, VmState::Stopping, VmState::Ending];

/// Presses the power button.
///
/// # Errors
/// The VM does not run here.
pub fn stop(plane: &ControlPlane, name: &VmName) -> Result<String, Diagnosis> {
    let what = format!("VM {name} was not stopped");
    let held = plane.vms.hold(name, &[VmState::Running], VmState::Stopping, &what)?;
    asked(held.running(), &VmmRequest::PowerButton, &what)?;
    Ok(format!(
        "the power button of VM {name} was pressed; vm show {name} tells when it is off, vm kill {name} does not wait"
    ))
}

/// Ends a VM at once. A move away that is not committed yet is given up first.
///
/// # Errors
/// The VM does not run here any more, or its monitor does not end.
pub fn kill(plane: &Arc<ControlPlane>, name: &VmName, caller: &Caller<'_>) -> Result<String, Diagnosis> {
    let what = format!("VM {name} was not killed");
    match plane.vms.state(name) {
        Some(VmState::Starting) => return kill_start(plane, name, &what),
        Some(VmState::MovingOut) => {
            if let Some(done) = departures::give_up_to_kill(plane, name, &what, caller)? {
                return Ok(done);
            }
        }
        _ => {}
    }
    let mut held = plane.vms.hold(name, &KILLABLE, VmState::Killing, &what)?;
    plane.vms.note_end(name, KILLED.to_owned());
    let running = Arc::clone(held.running());
    let ended = end_monitor(&running, &what);
    if let Err(refusal) = ended {
        // Killed it is; it only is not gone yet, and its watcher waits for that.
        held.leave_as(VmState::Ending);
        drop(held);
        // It may have gone just now, and its watcher have left the rest to this command.
        if !running.monitor.is_gone() {
            return Err(refusal);
        }
    }
    clear_away(plane, &running)
}

/// What follows the end of a killed monitor, unless its watcher was faster; a line for a person.
fn clear_away(plane: &ControlPlane, running: &Running) -> Result<String, Diagnosis> {
    let name = &running.vm.vm;
    let done = format!("VM {name} was killed");
    let killed = plane.vms.killed(name, running.monitor.pid(), KILLED.to_owned());
    let Some((running, _releasing)) = killed else { return Ok(done) };
    running.drop_taps();
    match owed::give_up(plane, &running.vm) {
        Ok(()) => Ok(done),
        // What was asked for is done, and no trying mends the rest.
        Err(failure @ LeaseFailure::Damaged { .. }) => {
            let Reason { cause, hint, .. } = failure.reason();
            Ok(format!("{done}; {cause}: {hint}"))
        }
        Err(failure) => {
            let what = format!("{done}, but its lease is not given up yet; this host goes on trying");
            Err(Diagnosis::of(what, vec![failure.reason()]).vm_now("it is stopped"))
        }
    }
}

/// Ends the monitor of a VM that is being started: the start fails by it, and clears away what it made.
fn kill_start(plane: &ControlPlane, name: &VmName, what: &str) -> Result<String, Diagnosis> {
    let Some(running) = plane.vms.running(name) else {
        let cause = format!("VM {name} is being started and has no monitor yet");
        return Err(Diagnosis::new(what, cause, "Ctrl-C where it was started gives that up; or try again"));
    };
    plane.vms.note_end(name, KILLED.to_owned());
    end_monitor(&running, what)?;
    Ok(format!("VM {name} was killed while it was being started"))
}

/// Kills a monitor and waits until it is gone.
///
/// # Errors
/// It is still there.
pub(super) fn end_monitor(running: &Running, what: &str) -> Result<(), Diagnosis> {
    running.monitor.kill();
    running.monitor.wait_gone(GONE_BOUND).map_err(|error| {
        let why = match error {
            ChannelError::Timeout(bound) => format!("{} s after it was killed", bound.as_secs()),
            error => error.to_string(),
        };
        let cause = format!("its monitor, process {}, is still there: {why}", running.monitor.pid());
        Diagnosis::new(what, cause, "datastore list: a datastore that does not answer holds its last I/O")
    })
}

/// Stops a VM's vCPUs.
///
/// # Errors
/// It does not run here.
pub fn pause(plane: &ControlPlane, name: &VmName) -> Result<String, Diagnosis> {
    let what = format!("VM {name} was not paused");
    let mut held = plane.vms.hold(name, &[VmState::Running], VmState::Pausing, &what)?;
    let paused = asked(held.running(), &VmmRequest::Pause, &what);
    settle(plane, &mut held, paused.is_ok().then_some(VmState::Paused));
    paused.map(|_| format!("VM {name} is paused on this host"))
}

/// Lets a paused VM's vCPUs run again.
///
/// # Errors
/// It is not paused here.
pub fn resume(plane: &ControlPlane, name: &VmName) -> Result<String, Diagnosis> {
    let what = format!("VM {name} was not resumed");
    let mut held = plane.vms.hold(name, &[VmState::Paused], VmState::Resuming, &what)?;
    if plane.vms.undecided(name).is_some() {
        return undecided::resume(plane, &mut held, &what);
    }
    // A stun that came to nothing let go of its disks.
    asked(held.running(), &VmmRequest::TakeDisks, &what)?;
    let running = Arc::clone(held.running());
    let assured = plane.leases.assure(&running.vm, running.epoch());
    let epoch = assured.map_err(|failure| Diagnosis::of(&what, vec![failure.reason()]))?;
    settling::hold_in(plane, &running, epoch, true);
    let resumed = asked(held.running(), &VmmRequest::Resume, &what);
    settle(plane, &mut held, resumed.is_ok().then_some(VmState::Running));
    resumed.map(|_| format!("VM {name} runs on this host"))
}

/// Leaves a VM as what was asked made of it; where that is not known, as its monitor says that it is.
fn settle(plane: &ControlPlane, held: &mut Held<'_>, done: Option<VmState>) {
    let found = || match held.running().monitor.status().ok()?.life {
        VmmLife::Running => Some(VmState::Running),
        VmmLife::Paused => Some(VmState::Paused),
        VmmLife::Empty | VmmLife::Built | VmmLife::Ended => None,
    };
    if let Some(state) = done.or_else(found).filter(|_| held.is_here()) {
        record::update(&plane.run_dir, held.running(), state == VmState::Paused);
        held.leave_as(state);
    }
}

/// Lets a VM run that may be paused, so that it can shut down.
///
/// # Errors
/// As [`resume`].
pub fn resume_if_paused(plane: &ControlPlane, name: &VmName) -> Result<(), Diagnosis> {
    if plane.vms.state(name) == Some(VmState::Paused) {
        resume(plane, name)?;
    }
    Ok(())
}

fn asked(running: &Running, request: &VmmRequest, what: &str) -> Result<VmmAnswer, Diagnosis> {
    running.monitor.ask(request, &[]).map_err(|error| Diagnosis::new(what, error.to_string(), "log show vmm"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::lease::LeaseAnswer;
    use crate::host::control_plane::stand_in::Place;
    use crate::host::monitor::stand_in::StandIn;

    #[test]
    fn who_killed_a_vm_hears_that_it_is_gone_and_what_is_the_matter_with_its_lease() {
        let web: VmName = "web".parse().expect("valid");
        let damaged =
            LeaseAnswer::Damaged { vm: web.clone(), why: "the lease of VM web is damaged".to_owned(), mark: 7 };
        let killed = |test: &str, answer: LeaseAnswer| {
            let place = Place::without_datastore(test, move |_| answer.clone());
            let monitor = StandIn::start(&web);
            place.plane.vms.put(&web, monitor.running(), VmState::Running);
            kill(&place.plane, &web, &Caller::nobody())
        };
        let done = killed("kill-damaged", damaged).expect("it is killed");
        for told in ["VM web was killed; the lease of VM web is damaged", "lease break web gives it a new lease"] {
            assert!(done.contains(told), "{told}: {done}");
        }
        let refusal = killed("kill-unknown", LeaseAnswer::Unknown("the datastore did not answer".to_owned()));
        let refusal = refusal.expect_err("its lease is still this host's").to_string();
        assert!(refusal.contains("VM web was killed, but") && refusal.contains("it is stopped"), "{refusal}");
    }
}
