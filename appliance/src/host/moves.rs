//! Migrations, as the control plane takes part in them: at the source it hands the VM to the migration engine and
//! waits; at the destination it looks whether the VM can come, builds it, and opens its disks once it is this host's.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::diagnosis::{Diagnosis, Reason};
use model::limits;
use model::names::{HostName, VmName};
use model::receipt::{Receipt, Verdict};

use crate::api::host::{Check, HostAnswer, MigrationRow, VmState};
use crate::api::migrate::{Ended, FromMigrate, Incoming, MigrationId, Outgoing, ToMigrate, VmToMove};
use crate::api::vmm::{VmmAnswer, VmmLife, VmmRequest};
use crate::host::control_plane::ControlPlane;
use crate::host::lifecycle::{self, Born};
use crate::host::located::{Located, locate};
use crate::host::record;
use crate::host::serve::Caller;
use crate::host::vms::Running;
use crate::host::{checks, facts};

/// How often a waiting command looks whether Ctrl-C was pressed.
const LOOK: Duration = Duration::from_millis(100);

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

    fn begin(&self, id: MigrationId, vm: &VmName, source: &HostName, destination: &HostName) {
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

    fn end(&self, id: MigrationId, state: &str, receipt: Option<Receipt>) {
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
    conclude(plane, running, id, check_only, ended)
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
    let died = "the migrate role of this host ended in the middle of the move";
    match plane.leases.resolve(&running.vm, running.epoch()) {
        Ok(epoch) => {
            let resumed = go_on(running, paused);
            running.set_epoch(epoch);
            let place = match resumed {
                Ok(_) => format!("it is still running on {}", plane.name()),
                Err(error) => format!("{} holds it, but it could not be resumed: {error}", plane.name()),
            };
            Diagnosis::new(what, died, format!("log show migrate, then: vm migrate {vm} HOST")).vm_now(place)
        }
        Err(crate::host::leases::LeaseFailure::HeldBy(holder)) => {
            release(plane, running);
            let place = format!("it runs on {} now", holder.name);
            Diagnosis::new(format!("the move of VM {vm} has no receipt"), died, "log show migrate").vm_now(place)
        }
        Err(failure) => {
            let place = "it is stopped here until the datastore tells who runs it".to_owned();
            Diagnosis::of(what, vec![Reason::new(died, "log show migrate"), failure.reason()]).vm_now(place)
        }
    }
}

/// Lets a VM that this host holds run, unless it runs already (it was not stunned) or was paused before.
fn go_on(running: &Running, paused: bool) -> Result<(), String> {
    let status = running.monitor.ask(&VmmRequest::Status, &[]).map_err(|error| error.to_string())?;
    let runs = matches!(status, VmmAnswer::Status(status) if status.life == VmmLife::Running);
    if paused || runs {
        return Ok(());
    }
    running.monitor.ask(&VmmRequest::Resume, &[]).map(|_| ()).map_err(|error| error.to_string())
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
    check_only: bool,
    ended: Result<Ended, Diagnosis>,
) -> Result<HostAnswer, Diagnosis> {
    let ended = ended.inspect_err(|_| plane.moves.end(id, "failed", None))?;
    if ended.runs_here && ended.epoch != 0 {
        running.set_epoch(ended.epoch);
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

/// Takes part in a migration to this host, on a thread of its own.
pub fn incoming(plane: &Arc<ControlPlane>, incoming: Incoming) {
    let said = plane.engine.listen(incoming.id);
    let (plane, id) = (Arc::clone(plane), incoming.id);
    let taken = std::thread::Builder::new().name(format!("in-{}", incoming.vm.name)).spawn(move || {
        plane.moves.begin(id, &incoming.vm.name, &incoming.source, plane.name());
        let outcome = take_in(&plane, &incoming, &said);
        plane.engine.forget(id);
        match outcome {
            Ok(state) => plane.moves.end(id, state, None),
            Err(why) => {
                log::error!("migration {} of VM {} to here: {why}", shown(id), incoming.vm.name);
                plane.moves.end(id, "failed", None);
            }
        }
    });
    if let Err(error) = taken {
        log::error!("a migration to here is not served: {error}");
    }
}

fn take_in(
    plane: &Arc<ControlPlane>,
    incoming: &Incoming,
    said: &Receiver<FromMigrate>,
) -> Result<&'static str, String> {
    let Incoming { id, vm, check_only, .. } = incoming;
    let facts = facts::facts(plane).ok_or("KVM cannot be used here")?;
    plane.engine.tell(&ToMigrate::Facts(*id, Box::new(facts)), &[]).map_err(|error| error.to_string())?;
    let prepared = prepare(plane, incoming);
    let (located, born) = match prepared {
        Ok(prepared) => prepared,
        Err(reasons) => {
            let why = reasons.iter().map(|reason| reason.cause.clone()).collect::<Vec<_>>().join("; ");
            plane.engine.tell(&ToMigrate::Refuse(*id, reasons), &[]).map_err(|error| error.to_string())?;
            return Err(why);
        }
    };
    let Some(born) = born else {
        plane.engine.tell(&ToMigrate::Accept(*id), &[]).map_err(|error| error.to_string())?;
        return Ok(if *check_only { "checked" } else { "accepted" });
    };
    let _claimed = Claimed { plane: Arc::clone(plane), vm: vm.name.clone() };
    let monitor = born.running.monitor.connect().map_err(|error| error.to_string())?;
    let beside = [monitor.as_fd(), born.running.monitor.memory()];
    plane.engine.tell(&ToMigrate::Accept(*id), &beside).map_err(|error| error.to_string())?;
    follow(plane, incoming, &located, born, said)
}

/// Takes a claim on a VM back if the VM did not come to run here.
struct Claimed {
    plane: Arc<ControlPlane>,
    vm: VmName,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if self.plane.vms.state(&self.vm) == Some(VmState::MovingIn) {
            self.plane.vms.remove(&self.vm, None, None);
        }
    }
}

/// Follows a migration to this host to its end; the monitor is dropped, and so killed, unless the VM came to run here.
fn follow(
    plane: &Arc<ControlPlane>,
    incoming: &Incoming,
    located: &Located,
    born: Born,
    said: &Receiver<FromMigrate>,
) -> Result<&'static str, String> {
    let id = incoming.id;
    let mut disks_open = false;
    // Taken when the VM is this host's and runs: what follows is only the audit of what arrived.
    let mut arriving = Some(born);
    loop {
        match (said.recv(), &arriving) {
            (Ok(FromMigrate::OpenDisks(_)), Some(born)) => {
                let opened = lifecycle::attach_disks(located, &born.running)
                    .and_then(|()| plane.open_taps(&born.running))
                    .map_err(|reason| reason.cause);
                disks_open = opened.is_ok();
                plane.engine.tell(&ToMigrate::DisksOpen(id, opened), &[]).map_err(|error| error.to_string())?;
            }
            (Ok(FromMigrate::Resumed { epoch, .. }), Some(born)) => {
                plane.announce(&born.running);
                settle_in(plane, incoming, arriving.take(), epoch);
            }
            (Ok(FromMigrate::Ended(ended)), _) if ended.runs_here => {
                settle_in(plane, incoming, arriving.take(), ended.epoch);
                return Ok("moved");
            }
            (Ok(FromMigrate::Ended(ended)), _) => {
                let why = ended.failure.map_or_else(|| "it was given up".to_owned(), |failure| failure.to_string());
                return Err(why);
            }
            (Ok(_), _) => {}
            (Err(_), _) => match arriving.take() {
                Some(born) => return settle_incoming(plane, incoming, located, born, disks_open),
                None => return Ok("moved"),
            },
        }
    }
}

/// The VM is this host's and runs; `born` is `None` where that is known already.
fn settle_in(plane: &Arc<ControlPlane>, incoming: &Incoming, born: Option<Born>, epoch: u64) {
    let Some(born) = born else { return };
    let state = if incoming.vm.paused { VmState::Paused } else { VmState::Running };
    born.running.set_epoch(epoch);
    plane.vms.put(&incoming.vm.name, Arc::clone(&born.running), state);
    record::write(&plane.run_dir, &born.running, incoming.vm.paused);
    lifecycle::watch(plane, born);
}

/// The engine of the destination died in the middle of a migration. Whether it had committed is what the lease says:
/// nothing is decided here, only read, because the source wins the epoch where the engine had not. A VM that is this
/// host's has its whole state here (the commit comes after it), so it goes on.
fn settle_incoming(
    plane: &Arc<ControlPlane>,
    incoming: &Incoming,
    located: &Located,
    born: Born,
    disks_open: bool,
) -> Result<&'static str, String> {
    const DIED: &str = "the migrate role of this host ended in the middle of the move";
    // Without the state nothing was committed, and nothing ever will be: the engine commits after the state is restored.
    if let Ok(VmmAnswer::Status(status)) = born.running.monitor.ask(&VmmRequest::Status, &[])
        && status.life == VmmLife::Built
    {
        return Err(DIED.to_owned());
    }
    let deadline = Instant::now() + Duration::from_millis(limits::LEASE_EXPIRY_MS * 2);
    while Instant::now() < deadline {
        match plane.leases.holder(&located.vm()) {
            Ok(Some(holder)) if holder.own => {
                if !disks_open {
                    let opened =
                        lifecycle::attach_disks(located, &born.running).and_then(|()| plane.open_taps(&born.running));
                    opened.map_err(|reason| format!("{DIED}; the VM is this host's, but {}", reason.cause))?;
                }
                // The engine may have let it run before it died.
                go_on(&born.running, incoming.vm.paused)
                    .map_err(|why| format!("{DIED}; the VM is this host's, but {why}"))?;
                plane.announce(&born.running);
                settle_in(plane, incoming, Some(born), holder.epoch);
                return Ok("moved");
            }
            Ok(Some(holder)) if holder.epoch > incoming.vm.epoch || !holder.alive => break,
            Ok(None) => break,
            // The source has yet to win its epoch, or the datastore to answer.
            Ok(Some(_)) | Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
    Err(DIED.to_owned())
}

/// Looks whether a VM can come here and, unless only that was asked, builds it.
fn prepare(plane: &Arc<ControlPlane>, incoming: &Incoming) -> Result<(Located, Option<Born>), Vec<Reason>> {
    let vm = &incoming.vm;
    let what = format!("VM {} cannot come to {}", vm.name, plane.name());
    let located = locate(plane, &vm.name, &what).map_err(|refusal| refusal.reasons)?;
    if *located.datastore.name() != vm.datastore {
        let hint = "give the shared datastore one name on all hosts: config show";
        let cause = format!("the VM lies on {} here and on {} there", located.datastore.name(), vm.datastore);
        return Err(vec![Reason::new(cause, hint)]);
    }
    // What runs is what the source started, not what the file says by now.
    let located = Located { config_text: vm.config.clone(), ..located };
    let config = located.config(&what).map_err(|refusal| refusal.reasons)?;
    let mut reasons = checks::start_problems(plane, &located, &config);
    for (label, vlan) in &vm.port_groups {
        if plane.port_group_problem(label).is_none() && plane.vlan(label) != *vlan {
            let cause = format!("port group {label} is another VLAN on {}", plane.name());
            reasons.push(Reason::new(cause, format!("give it the same VLAN on both hosts: port_group.{label}.vlan")));
        }
    }
    if !reasons.is_empty() {
        return Err(reasons);
    }
    if incoming.check_only {
        return Ok((located, None));
    }
    plane.vms.claim(&vm.name, VmState::MovingIn, &what).map_err(|refusal| refusal.reasons)?;
    match Born::of_spec(plane, &located, &config, vm.spec.clone(), 0) {
        Ok(born) => Ok((located, Some(born))),
        Err(reason) => {
            plane.vms.remove(&vm.name, None, None);
            Err(vec![reason])
        }
    }
}
