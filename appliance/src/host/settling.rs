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
use crate::host::vms::Held;
use crate::host::{owed, record};

/// Why a move ended whose engine did.
pub(super) const ENGINE_DIED: &str = "the migrate role of this host ended in the middle of the move";
/// How a VM ended here that moved.
pub(super) const MOVED: &str = "it moved to another host";
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
}

/// The engine died in the middle of a move away. Who runs the VM is what the lease says.
pub(super) fn without_engine(plane: &ControlPlane, held: &mut Held<'_>, caller: &Caller<'_>) -> Unreported {
    by_lease(plane, held, ENGINE_DIED, caller)
}

/// A move away came to nothing that the engine could tell (`why`). Who runs the VM is what the lease says; it is asked until
/// it answers, because the VM may be stunned, and stays so till then. If it is this host, the VM goes on. The fence of the
/// host lease bounds it: a host that cannot reach the datastore kills the VM, and with its monitor there is nothing left to
/// settle.
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
            let reasons = vec![Reason::new(why, "log show migrate"), failure.reason()];
            return Unreported::failed(Diagnosis::of(what, reasons).vm_now(place));
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
fn owe_what_is_left(plane: &ControlPlane, held: &Held<'_>) {
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
