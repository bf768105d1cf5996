//! Migrations away from here, and the list of all: the control plane hands the VM to the migration engine and waits. What
//! it does at a destination is in [`super::arrivals`].

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::diagnosis::{Diagnosis, Reason};
use model::names::{HostName, VmName};
use model::receipt::{Receipt, Verdict};

use crate::api::host::{Check, HostAnswer, MigrationRow, VmState};
use crate::api::migrate::{Ended, FromMigrate, MigrationId, Outgoing, ToMigrate, VmToMove};
use crate::api::vmm::{VmmAnswer, VmmLife, VmmRequest};
use crate::host::control_plane::ControlPlane;
use crate::host::facts;
use crate::host::located::locate;
use crate::host::record;
use crate::host::serve::Caller;
use crate::host::vms::Running;

/// How often a waiting command looks whether Ctrl-C was pressed.
const LOOK: Duration = Duration::from_millis(100);
/// Why a move ended whose engine did.
pub(super) const ENGINE_DIED: &str = "the migrate role of this host ended in the middle of the move";
/// How often the lease of a VM that was found running is read.
const LEASE_LOOK: Duration = Duration::from_secs(2);

/// A migration that this host takes or took part in.
#[derive(Clone, Debug)]
struct Known {
    row: MigrationRow,
    receipt: Option<Receipt>,
    under_way: bool,
}

/// The migrations of this host since it booted, or since its control plane was restarted.
#[derive(Debug, Default)]
pub struct Moves {
    known: Mutex<BTreeMap<MigrationId, Known>>,
}

/// A migration's identity as people see it.
pub fn shown(id: MigrationId) -> String {
    format!("{id:016x}")
}

impl Moves {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<MigrationId, Known>) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn begin(&self, id: MigrationId, vm: &VmName, source: &HostName, destination: &HostName) {
        let row = MigrationRow {
            id: shown(id),
            vm: vm.clone(),
            source: source.clone(),
            destination: destination.clone(),
            state: "starting".to_owned(),
            thousandths: None,
        };
        self.with(|known| known.insert(id, Known { row, receipt: None, under_way: true }));
    }

    pub(super) fn end(&self, id: MigrationId, state: &str, receipt: Option<Receipt>) {
        self.with(|known| {
            if let Some(known) = known.get_mut(&id) {
                known.row.state = state.to_owned();
                known.receipt = receipt;
                known.under_way = false;
            }
        });
    }

    /// Whether this host still takes part in a move of this VM to here: what arrived is being audited after the resume.
    fn is_coming(&self, vm: &VmName, here: &HostName) -> bool {
        self.with(|known| {
            known.values().any(|known| known.under_way && known.row.vm == *vm && known.row.destination == *here)
        })
    }

    /// All of them, with how far those under way are.
    pub fn rows(&self, plane: &ControlPlane) -> Vec<MigrationRow> {
        let mut rows = self.with(|known| known.clone());
        for progress in plane.engine.progress() {
            if let Some(known) = rows.get_mut(&progress.id) {
                known.row.state = progress.phase;
                known.row.thousandths = progress.thousandths;
            }
        }
        rows.into_values().map(|known| known.row).collect()
    }

    /// The receipt of one that ended.
    pub fn receipt(&self, id: &str) -> Option<Receipt> {
        let id = MigrationId::from_str_radix(id, 16).ok()?;
        self.with(|known| known.get(&id)?.receipt.clone())
    }
}

/// Moves a VM away, or only looks whether it can be.
///
/// # Errors
/// Every reason why it was not moved, and where it runs.
pub fn migrate(
    plane: &Arc<ControlPlane>,
    vm: &VmName,
    destination: &HostName,
    check_only: bool,
    caller: &Caller<'_>,
) -> Result<HostAnswer, Diagnosis> {
    let what = format!("VM {vm} was not migrated");
    let runs = || matches!(plane.vms.state(vm), Some(VmState::Running | VmState::Paused));
    while runs() && plane.moves.is_coming(vm, plane.name()) {
        if caller.cancelled() {
            let cause = "it was cancelled while the audit of the VM's move to here went on";
            return Err(Diagnosis::new(what, cause, format!("vm migrate {vm} {destination}")));
        }
        caller.progress("waiting for the audit of the move to here", None);
        std::thread::sleep(LOOK);
    }
    let before = plane.vms.state(vm).filter(|state| matches!(state, VmState::Running | VmState::Paused));
    let from = [VmState::Running, VmState::Paused];
    let (running, before) = match before {
        Some(before) => (plane.vms.transition(vm, &from, VmState::MovingOut, &what)?, before),
        None => (plane.vms.transition(vm, &from, VmState::MovingOut, &what)?, VmState::Running),
    };
    let here = format!("it is still running on {}", plane.name());
    let moved = move_out(plane, &running, destination, check_only, before == VmState::Paused, caller);
    // Where the VM was released, its entry is gone and this changes nothing.
    plane.vms.set_state(vm, before);
    moved.map_err(|refusal| if refusal.vm_now.is_some() { refusal } else { refusal.vm_now(here) })
}

fn move_out(
    plane: &Arc<ControlPlane>,
    running: &Arc<Running>,
    destination: &HostName,
    check_only: bool,
    paused: bool,
    caller: &Caller<'_>,
) -> Result<HostAnswer, Diagnosis> {
    let vm = &running.vm.vm;
    let what = format!("VM {vm} was not migrated");
    let refused = |cause: String, hint: &str| Diagnosis::new(&what, cause, hint);
    if *destination == *plane.name() {
        return Err(refused(format!("{destination} is this host"), "host list"));
    }
    if let Some(trouble) = plane.engine.trouble() {
        return Err(refused(format!("the migration stack of this host is not up: {trouble}"), "network migration-nic"));
    }
    if !plane.hosts.knows(destination) {
        let cause = format!("no host {destination} with a migration NIC shares a datastore with this one");
        return Err(refused(cause, "host list"));
    }
    let id = random_id().map_err(|error| refused(format!("no random number is to be had: {error}"), "host check"))?;
    let monitor = running.monitor.connect();
    let monitor =
        monitor.map_err(|error| refused(format!("the monitor of the VM is away: {error}"), "log show vmm"))?;
    let labels = running.config.nics.iter().map(|nic| (nic.port_group.clone(), plane.vlan(&nic.port_group)));
    let to_move = VmToMove {
        name: vm.clone(),
        datastore: running.vm.datastore.clone(),
        config: running.config_text.clone(),
        spec: running.spec.clone(),
        port_groups: labels.collect(),
        epoch: running.epoch(),
        paused,
    };
    let facts = facts::facts(plane).ok_or_else(|| refused("KVM cannot be used here".to_owned(), "host check"))?;
    let facts = Box::new(facts);
    let outgoing = Outgoing { id, vm: to_move, facts, destination: destination.clone(), check_only };
    let said = plane.engine.listen(id);
    plane.moves.begin(id, vm, plane.name(), destination);
    let start = ToMigrate::Start(Box::new(outgoing));
    let told = plane.engine.tell(&start, &[monitor.as_fd(), running.monitor.memory()]);
    let ended = match told {
        Err(error) => Err(refused(format!("the migrate role does not answer: {error}"), "log show migrate")),
        Ok(()) => wait_for_end(plane, running, id, &said, caller, paused),
    };
    plane.engine.forget(id);
    conclude(plane, running, id, (check_only, paused), ended)
}

/// Waits for the end of a migration at its source, releasing the VM when it runs elsewhere.
fn wait_for_end(
    plane: &Arc<ControlPlane>,
    running: &Arc<Running>,
    id: MigrationId,
    said: &Receiver<FromMigrate>,
    caller: &Caller<'_>,
    paused: bool,
) -> Result<Ended, Diagnosis> {
    let vm = &running.vm.vm;
    loop {
        match said.recv_timeout(LOOK) {
            Ok(FromMigrate::Progress(progress)) => caller.progress(&progress.phase, progress.thousandths),
            Ok(FromMigrate::Release(_)) => release(plane, running),
            Ok(FromMigrate::Ended(ended)) => return Ok(*ended),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => {
                if caller.cancelled() {
                    caller.progress("giving up", None);
                    // If the engine is away, its end is noticed next.
                    let _ = plane.engine.tell(&ToMigrate::Cancel(id), &[]);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Err(settle_without_engine(plane, running, vm, paused)),
        }
    }
}

/// The engine died in the middle of a migration. Who runs the VM is what the lease says; if it is this host, the VM
/// goes on.
fn settle_without_engine(plane: &Arc<ControlPlane>, running: &Arc<Running>, vm: &VmName, paused: bool) -> Diagnosis {
    let what = format!("VM {vm} was not migrated");
    match plane.leases.resolve(&running.vm, running.epoch()) {
        Ok(epoch) => {
            let resumed = go_on(running, paused);
            hold_in(plane, running, epoch, paused);
            let place = match resumed {
                Ok(_) => format!("it is still running on {}", plane.name()),
                Err(error) => format!("{} holds it, but it could not be resumed: {error}", plane.name()),
            };
            Diagnosis::new(what, ENGINE_DIED, format!("log show migrate, then: vm migrate {vm} HOST")).vm_now(place)
        }
        Err(crate::host::leases::LeaseFailure::HeldBy(holder)) => {
            release(plane, running);
            let place = format!("it runs on {} now", holder.name);
            Diagnosis::new(format!("the move of VM {vm} has no receipt"), ENGINE_DIED, "log show migrate").vm_now(place)
        }
        Err(failure) => {
            let place = "it is stopped here until the datastore tells who runs it".to_owned();
            Diagnosis::of(what, vec![Reason::new(ENGINE_DIED, "log show migrate"), failure.reason()]).vm_now(place)
        }
    }
}

/// Lets a VM that this host holds run, unless it runs already (it was not stunned) or was paused before.
pub(super) fn go_on(running: &Running, paused: bool) -> Result<(), String> {
    let status = running.monitor.ask(&VmmRequest::Status, &[]).map_err(|error| error.to_string())?;
    let runs = matches!(status, VmmAnswer::Status(status) if status.life == VmmLife::Running);
    if paused || runs {
        return Ok(());
    }
    running.monitor.ask(&VmmRequest::Resume, &[]).map(|_| ()).map_err(|error| error.to_string())
}

/// This host holds the VM in this epoch now, and a control plane after this one must know.
fn hold_in(plane: &ControlPlane, running: &Running, epoch: u64, paused: bool) {
    if running.epoch() != epoch {
        running.set_epoch(epoch);
        record::write(&plane.run_dir, running, paused);
    }
}

/// Looks after a VM that this control plane found running, on a thread of its own: it may have been moving away when the
/// control plane before this one died, and the engine then finishes the move with nobody to tell. When the lease is another
/// host's in a later epoch, the VM is released here.
pub fn watch_lease(plane: &Arc<ControlPlane>, running: &Arc<Running>) {
    let (plane, running) = (Arc::clone(plane), Arc::clone(running));
    let name = running.vm.vm.clone();
    let watching = move || {
        let still_here = || plane.vms.running(&name).is_some_and(|now| now.monitor.pid() == running.monitor.pid());
        while still_here() {
            std::thread::sleep(LEASE_LOOK);
            let state = plane.vms.state(&name);
            // A move that this control plane began is settled by it.
            if !matches!(state, Some(VmState::Running | VmState::Paused)) {
                continue;
            }
            match plane.leases.holder(&running.vm) {
                Ok(Some(holder)) if holder.own => {
                    hold_in(&plane, &running, holder.epoch, state == Some(VmState::Paused));
                }
                Ok(Some(holder)) if holder.epoch > running.epoch() => {
                    log::info!("VM {name} moved to {} while no control plane ran", holder.name);
                    release(&plane, &running);
                }
                // Nobody else holds it, or the datastore does not tell: the fence of the host lease stands behind this.
                Ok(_) | Err(_) => {}
            }
        }
    };
    if let Err(error) = std::thread::Builder::new().name("lease-watch".to_owned()).spawn(watching) {
        log::error!("the lease of a VM that was found running is not watched: {error}");
    }
}

/// The VM runs elsewhere: its monitor here ends, and the lease, which is another's now, is left alone.
fn release(plane: &ControlPlane, running: &Running) {
    let vm = &running.vm.vm;
    if plane.vms.remove(vm, Some(running.monitor.pid()), Some("it moved to another host".to_owned())).is_some() {
        record::remove(&plane.run_dir, vm);
        running.monitor.kill();
    }
}

fn conclude(
    plane: &ControlPlane,
    running: &Running,
    id: MigrationId,
    (check_only, paused): (bool, bool),
    ended: Result<Ended, Diagnosis>,
) -> Result<HostAnswer, Diagnosis> {
    let ended = ended.inspect_err(|_| plane.moves.end(id, "failed", None))?;
    if ended.runs_here && ended.epoch != 0 {
        hold_in(plane, running, ended.epoch, paused);
    }
    if let Some(receipt) = &ended.receipt {
        write_receipt(plane, &running.vm.vm, receipt);
    }
    let state = match (&ended.receipt, &ended.failure) {
        (_, Some(_)) => "failed",
        (Some(receipt), None) if receipt.verdict == Verdict::Cancelled => "cancelled",
        (Some(_), None) => "moved",
        (None, None) => "checked",
    };
    plane.moves.end(id, state, ended.receipt.clone());
    match (ended.failure, ended.receipt) {
        (Some(failure), _) => Err(failure),
        (None, Some(receipt)) => Ok(HostAnswer::Migrated(Box::new(receipt))),
        (None, None) if check_only => {
            let found = "every condition is fulfilled on both hosts".to_owned();
            Ok(HostAnswer::Checks(vec![Check { subject: "migration".to_owned(), found, problems: Vec::new() }]))
        }
        (None, None) => Ok(HostAnswer::Done(format!("the migration {} ended without a receipt", shown(id)))),
    }
}

fn write_receipt(plane: &ControlPlane, vm: &VmName, receipt: &Receipt) {
    let written = locate(plane, vm, "the receipt was not written").map(|located| {
        let text = toml::to_string(receipt).map_err(|error| error.to_string())?;
        located.write_receipt(&receipt.id, &text).map_err(|error| error.to_string())
    });
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::error!("receipt {} of VM {vm}: {error}", receipt.id),
        Err(refusal) => log::error!("receipt {} of VM {vm}: {refusal}", receipt.id),
    }
}

fn random_id() -> std::io::Result<MigrationId> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(MigrationId::from_le_bytes(bytes))
}

/// Gives a migration up.
///
/// # Errors
/// None of this name is under way.
pub fn cancel(plane: &ControlPlane, id: &str) -> Result<String, Diagnosis> {
    let what = "no migration was cancelled";
    let under_way = plane.engine.progress();
    let wanted = MigrationId::from_str_radix(id, 16).ok();
    let Some(progress) = under_way.iter().find(|progress| Some(progress.id) == wanted) else {
        return Err(Diagnosis::new(what, format!("no migration {id} is under way on this host"), "migration list"));
    };
    let told = plane.engine.tell(&ToMigrate::Cancel(progress.id), &[]);
    told.map_err(|error| Diagnosis::new(what, error.to_string(), "log show migrate"))?;
    Ok(format!("migration {id} is being given up: migration list"))
}
