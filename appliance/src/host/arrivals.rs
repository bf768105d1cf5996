//! Migrations to here: the control plane looks whether the VM can come, builds it, opens its disks once it is this host's,
//! and settles what a process that died in the middle, or could not learn whose the VM is, has left.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvError};
use std::time::{Duration, Instant};

use model::diagnosis::Reason;
use model::limits;
use model::names::DatastoreName;
use model::receipt::Receipt;
use model::units::Bytes;

use crate::api::host::VmState;
use crate::api::lease::VmOnDatastore;
use crate::api::migrate::{FromMigrate, Incoming, ToMigrate, VmHere};
use crate::api::vmm::{VmmAnswer, VmmLife, VmmRequest};
use crate::host::born::{BootFiles, Born, Unattached};
use crate::host::control_plane::ControlPlane;
use crate::host::disk_locks::{LeftLocks, take_disks};
use crate::host::leases::LeaseFailure;
use crate::host::located::{Located, locate};
use crate::host::moves::shown;
use crate::host::reap::{self, GONE_BOUND};
use crate::host::record::MovingIn;
use crate::host::running::Running;
use crate::host::settling::{ENGINE_DIED, StandsStill, UNKNOWN, go_on};
use crate::host::undecided::{Undecided, what_is_left};
use crate::host::vms::{Claim, Unclaimed};
use crate::host::{
    announcing, checks, ends, facts, maintenance, owed, receipts, record, undecided, unfollowed, uplinks,
};
use crate::journal;

/// Pause before a lease is asked again that did not tell whose a VM is.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What came of a migration to here, in a word for the list, and its receipt where this host has to keep it.
type Taken = (&'static str, Option<Receipt>);

/// Takes part in a migration to this host, on a thread of its own.
pub fn incoming(plane: &Arc<ControlPlane>, incoming: Incoming) {
    let listening = plane.engine.listen(incoming.id);
    let (plane, id) = (Arc::clone(plane), incoming.id);
    let taken = std::thread::Builder::new().name(format!("in-{}", incoming.vm.name)).spawn(move || {
        // A check moves nothing, and stands in no list of moves.
        if !incoming.check_only {
            plane.moves.begin(id, &incoming.vm.name, &incoming.source, plane.name());
        }
        let outcome = take_in(&plane, &incoming, &listening.said);
        plane.engine.forget(&listening);
        match outcome {
            Ok(_) if incoming.check_only => {}
            Ok((state, receipt)) => {
                if state == "moved" {
                    let (vm, source) = (&incoming.vm.name, &incoming.source);
                    log::info!(target: journal::NEWS, "VM {vm} moved here from {source}");
                }
                plane.moves.end(id, state, receipt);
            }
            // Whoever asked is told.
            Err(why) if incoming.check_only => log::info!("VM {} cannot move to here: {why}", incoming.vm.name),
            Err(why) => {
                let (vm, source) = (&incoming.vm.name, &incoming.source);
                log::warn!("VM {vm} did not come here from {source} (migration {}): {why}", shown(id));
                plane.moves.end(id, "failed", None);
            }
        }
    });
    if let Err(error) = taken {
        log::error!("a migration to here is not served: {error}");
    }
}

fn take_in(plane: &Arc<ControlPlane>, incoming: &Incoming, said: &Receiver<FromMigrate>) -> Result<Taken, String> {
    let id = &incoming.id;
    let facts = facts::facts(plane).ok_or("KVM cannot be used here")?;
    plane.engine.tell(&ToMigrate::Facts(*id, Box::new(facts)), &[]).map_err(|error| error.to_string())?;
    let probing = (!incoming.probe.is_empty()).then(|| uplinks::of_arrival(plane, incoming));
    let prepared = prepare(plane, incoming);
    if let Some(probing) = probing {
        let found = Some(probing.wait());
        plane.engine.tell(&ToMigrate::UplinksHeard(*id, found), &[]).map_err(|error| error.to_string())?;
    }
    let Prepared { located, built } = match prepared {
        Ok(prepared) => prepared,
        Err(reasons) => {
            let why = reasons.iter().map(|reason| reason.cause.clone()).collect::<Vec<_>>().join("; ");
            plane.engine.tell(&ToMigrate::Refuse(*id, reasons), &[]).map_err(|error| error.to_string())?;
            wait_for_end(said);
            return Err(why);
        }
    };
    let Some((born, claimed)) = built else {
        plane.engine.tell(&ToMigrate::Accept { id: *id, disks_us: 0 }, &[]).map_err(|error| error.to_string())?;
        wait_for_end(said);
        return Ok(("checked", None));
    };
    // In this order: the monitor ends before the claim does.
    let (_claimed, born) = (claimed, born);
    let monitor = born.running.monitor.connect().map_err(|error| error.to_string())?;
    let beside = [monitor.as_fd(), born.running.monitor.memory()];
    let disks_us = rehearse(&located, &born.running);
    plane.engine.tell(&ToMigrate::Accept { id: *id, disks_us }, &beside).map_err(|error| error.to_string())?;
    // It is the engine's alone: by its end the monitor knows that the engine has died.
    drop(monitor);
    follow(plane, incoming, &located, born, said)
}

/// Gives a machine that waits for its guest what that one boots from if it resets itself in its next move.
fn give_image(located: &Located, running: &Running) -> Result<(), Reason> {
    let boot = &running.config.boot;
    let image = BootFiles::open(located, boot)?;
    let request = VmmRequest::Image { cmdline: boot.cmdline.clone(), initrd: image.initrd.is_some() };
    let given = running.monitor.ask(&request, &image.beside());
    given.map(drop).map_err(|error| Reason::new(error.to_string(), "log show vmm"))
}

/// How long the disks take to be opened and locked, microseconds: the lesser of two times, because one may meet the server at something else. A
/// lock is not to be had yet, and takes a round trip as an open does.
fn rehearse(located: &Located, running: &Running) -> u64 {
    let once = || {
        let mut took = Duration::ZERO;
        for disk in &running.config.disks {
            let began = Instant::now();
            // One that cannot be opened was refused before, or is told of when it matters.
            let _ = located.open_disk(disk);
            took += began.elapsed() * if disk.read_only { 1 } else { 2 };
        }
        took
    };
    u64::try_from(once().min(once()).as_micros()).unwrap_or(u64::MAX)
}

/// Waits until the engine is done with a migration that this host has nothing more to do for.
fn wait_for_end(said: &Receiver<FromMigrate>) {
    while !matches!(said.recv(), Ok(FromMigrate::Ended(_)) | Err(_)) {}
}

/// The claim on a VM that moves in. Taken back, with the VM's record, if the VM did not come to run here.
struct Claimed<'a> {
    plane: &'a ControlPlane,
    vm: VmOnDatastore,
    claim: Claim<'a>,
}

impl<'a> Claimed<'a> {
    /// `memory` bytes are kept for it, of `most` that all VMs together may have.
    fn new(
        plane: &'a ControlPlane,
        vm: &VmOnDatastore,
        what: &str,
        memory: u64,
        most: u64,
    ) -> Result<Self, Vec<Reason>> {
        let claim = plane.vms.claim_with(&vm.vm, VmState::MovingIn, what, memory, most);
        let claim = claim.map_err(|unclaimed| match unclaimed {
            Unclaimed::Busy(busy) => busy.reasons,
            Unclaimed::Short { free } => vec![checks::too_little_memory(Bytes(memory), Bytes(free))],
        })?;
        Ok(Self { plane, vm: vm.clone(), claim })
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        // A lease that is owed has its note there.
        if self.claim.is_open() && !self.plane.owed.has(&self.vm) {
            record::remove(&self.plane.run_dir, &self.vm.vm);
        }
    }
}

/// What the engine says of a move.
struct Said<'a> {
    from: &'a Receiver<FromMigrate>,
    kept: Option<FromMigrate>,
}

impl Said<'_> {
    fn next(&mut self) -> Result<FromMigrate, RecvError> {
        self.kept.take().map_or_else(|| self.from.recv(), Ok)
    }

    /// The disks were answered for: what the engine asked while that took time is answered too.
    fn pass_over_questions(&mut self) {
        self.kept = self.from.try_iter().find(|said| !matches!(said, FromMigrate::OpenDisks(..)));
    }
}

/// Follows a migration to this host to its end; the monitor is dropped, and so killed, unless the VM came to run here.
fn follow(
    plane: &Arc<ControlPlane>,
    incoming: &Incoming,
    located: &Located,
    born: Born,
    said: &Receiver<FromMigrate>,
) -> Result<Taken, String> {
    let id = incoming.id;
    let (mut disks_open, mut left) = (false, LeftLocks::default());
    // The lease would not tell whether a VM that was this host's still is.
    let mut is_untold = false;
    let running = Arc::clone(&born.running);
    // Taken when the VM is this host's and runs: what follows is only the audit of what arrived.
    let mut arriving = Some(born);
    let mut said = Said { from: said, kept: None };
    loop {
        match (said.next(), &arriving) {
            // Asked again before it heard the answer.
            (Ok(FromMigrate::OpenDisks(..)), Some(_)) if disks_open => unfollowed::has_disks(plane, id),
            (Ok(FromMigrate::OpenDisks(..)), Some(born)) => {
                let opened = take_disks(plane, located, &born.running, &mut left).map_err(Unattached::reason);
                let ours = opened.and_then(|()| {
                    let ours = still_ours(plane, &born.running, incoming.vm.epoch + 1);
                    is_untold = ours.as_ref().is_err_and(|why| what_is_left(&incoming.vm.name, why).is_some());
                    ours.map_err(|failure| failure.reason())
                });
                let opened = ours.and_then(|()| plane.open_taps(&born.running)).map_err(|reason| reason.cause);
                disks_open = opened.is_ok();
                // The VM is this host's: if the engine is away, the end of its messages says so next, and the lease decides.
                if let Err(error) = plane.engine.tell(&ToMigrate::DisksOpen(id, opened), &[]) {
                    log::error!("migration {}: the engine is not told of the disks: {error}", shown(id));
                }
                said.pass_over_questions();
            }
            (Ok(FromMigrate::Resumed { epoch, .. }), _) => {
                let frames = announcing::by_monitor(&running);
                // If the engine is away, the receipt does without, and the end of its messages says so next.
                let _ = plane.engine.tell(&ToMigrate::Announced { id, frames }, &[]);
                announcing::by_guest(&running);
                if let Some(born) = arriving.take() {
                    settle_in(plane, incoming.vm.paused, born, epoch);
                }
            }
            (Ok(FromMigrate::Ended(ended)), _) if ended.vm == VmHere::Runs => {
                if let Some(born) = arriving.take() {
                    settle_in(plane, incoming.vm.paused, born, ended.epoch);
                }
                if let Some(receipt) = &ended.receipt {
                    // The source did not live to write it.
                    receipts::keep(plane, receipt);
                }
                return Ok(("moved", ended.receipt));
            }
            (Ok(FromMigrate::Ended(ended)), _) => {
                let causes = ended.failure.map(|failure| failure.reasons).unwrap_or_default();
                let causes: Vec<String> = causes.into_iter().map(|reason| reason.cause).collect();
                let why = if causes.is_empty() { "it was given up".to_owned() } else { causes.join("; ") };
                // Whose it is the engine could not learn, or this host not when it had the disks: it may be the only copy.
                if ended.vm == VmHere::Undecided || ended.vm == VmHere::Stopped && is_untold {
                    let Some(born) = arriving.take() else { return Err(why) };
                    let settled = settle_by_lease(plane, born, moving_in(incoming), &why, disks_open);
                    return settled.map(|state| (state, None));
                }
                // What runs here already has a watcher, which sees to its end.
                if matches!(ended.vm, VmHere::Stopped | VmHere::Unknown)
                    && let Some(born) = arriving.take()
                {
                    drop(born);
                    end_and_give_up(plane, &running);
                }
                // Where the VM is now, its source says: this host knows it only from before.
                return Err(why);
            }
            (Ok(_), _) => {}
            (Err(_), _) => match arriving.take() {
                Some(born) => {
                    let settled = settle_by_lease(plane, born, moving_in(incoming), ENGINE_DIED, disks_open);
                    return settled.map(|state| (state, None));
                }
                None => return Ok(("moved", None)),
            },
        }
    }
}

/// The VM is this host's and runs.
fn settle_in(plane: &Arc<ControlPlane>, paused: bool, born: Born, epoch: u64) {
    let state = if paused { VmState::Paused } else { VmState::Running };
    // The lease may have told of a later one when the disks had been opened.
    born.running.set_epoch(epoch.max(born.running.epoch()));
    plane.vms.put(&born.running.vm.vm, Arc::clone(&born.running), state);
    record::update(&plane.run_dir, &born.running, paused);
    ends::watch(plane, born);
}

/// Why a VM that was moving in does not run here.
struct NotHere {
    why: String,
    /// Its lease is this host's, or may be: it is to be given up, so that the VM can be started again.
    may_hold: bool,
}

/// The migration engine could not tell whose a VM is that was moving in, or died, or the control plane itself did (`why`). Whether the
/// move is committed is what the lease says; it is asked as the destination asks that does not know the outcome of its commit, and so
/// decides where nobody has. A VM that is this host's has its whole state here (the commit comes after it), so it goes on.
/// One that does not has no monitor here when this returns, unless the lease will not tell: then it stands still. What came of the move, for
/// the list.
fn settle_by_lease(
    plane: &Arc<ControlPlane>,
    born: Born,
    moving_in: MovingIn,
    why: &str,
    disks_open: bool,
) -> Result<&'static str, String> {
    let running = Arc::clone(&born.running);
    ask_lease(plane, born, moving_in, why, disks_open).map_err(|NotHere { why: more, may_hold }| {
        running.monitor.kill();
        if may_hold {
            end_and_give_up(plane, &running);
        }
        if more.is_empty() { why.to_owned() } else { format!("{why}; {more}") }
    })
}

/// Ends the monitor of a VM whose lease this host holds, or may, and has the lease given up.
fn end_and_give_up(plane: &ControlPlane, running: &Running) {
    let vm = &running.vm;
    running.monitor.kill();
    // Another host may have the lease only when nothing writes here any more; the claim on the VM lasts till then.
    reap::wait_gone(&vm.vm, &running.monitor, GONE_BOUND, |what| plane.vms.waits_for(&vm.vm, Some(what)));
    owed::owe(plane, vm);
}

fn ask_lease(
    plane: &Arc<ControlPlane>,
    born: Born,
    moving_in: MovingIn,
    died: &str,
    disks_open: bool,
) -> Result<&'static str, NotHere> {
    let MovingIn { id, source_epoch, paused } = moving_in;
    let mut why = "its lease does not tell whose it is".to_owned();
    let mut left = LeftLocks::default();
    let deadline = Instant::now() + Duration::from_millis(limits::LEASE_EXPIRY_MS * 2);
    while Instant::now() < deadline {
        let life = match life(&born.running) {
            // Without the state nothing was committed: the engine commits after the state is restored. One that lives may be doing both
            // before its monitor ends.
            Some(VmmLife::Empty | VmmLife::Built) => return Err(NotHere { why: String::new(), may_hold: true }),
            Some(life) => life,
            // Nobody may decide for a VM of which it is not known that all of it is here.
            None if born.running.monitor.is_gone() => {
                return Err(NotHere { why: "its monitor ended".to_owned(), may_hold: true });
            }
            None => {
                why = "its monitor does not answer".to_owned();
                std::thread::sleep(ASK_AGAIN);
                continue;
            }
        };
        match plane.leases.resolve(&born.running.vm, source_epoch) {
            Ok(epoch) => {
                // A guest that runs has its disks; the engine let it run before it died.
                let opened = if disks_open || life == VmmLife::Running {
                    Ok(())
                } else {
                    open(plane, &born.running, epoch, &mut left)
                };
                match opened {
                    Ok(()) => match go_on(plane, &born.running, epoch, paused) {
                        Ok(epoch) => {
                            announcing::announce(&born.running);
                            settle_in(plane, paused, born, epoch);
                            unfollowed::has_disks(plane, id);
                            return Ok("moved");
                        }
                        Err(StandsStill::Lease(failure)) => why = format!("the VM is this host's, but {failure}"),
                        Err(StandsStill::Monitor(cause)) => {
                            return Err(NotHere { why: format!("the VM is this host's, but {cause}"), may_hold: true });
                        }
                    },
                    // This is the only copy, and a datastore that is only being mounted will have its disks.
                    Err(cause) => why = format!("the VM is this host's, but {cause}"),
                }
            }
            Err(LeaseFailure::HeldBy(holder)) if !holder.own => {
                return Err(NotHere { why: String::new(), may_hold: false });
            }
            Err(failure) => {
                if let Some(hint) = what_is_left(&born.running.vm.vm, &failure) {
                    leave(plane, born, moving_in, life, &failure, hint);
                    log::error!("a move to here has no known outcome: {died}");
                    return Ok(UNKNOWN);
                }
                // The datastore has yet to answer.
                why = format!("its lease does not tell whose it is: {failure}");
            }
        }
        std::thread::sleep(ASK_AGAIN);
    }
    Err(NotHere { why, may_hold: true })
}

/// Leaves a VM whose lease will not tell whose it is as it stands: the source's copy may be gone (`host::undecided`). Its record stays that
/// of a VM that moves in: a control plane after this one settles it anew.
fn leave(
    plane: &Arc<ControlPlane>,
    born: Born,
    moving_in: MovingIn,
    life: VmmLife,
    failure: &LeaseFailure,
    hint: String,
) {
    let MovingIn { id, source_epoch, paused } = moving_in;
    let running = Arc::clone(&born.running);
    let vm = &running.vm.vm;
    undecided::tell_all(vm, &Ok::<_, ()>(life), failure, &hint);
    if life == VmmLife::Running {
        // It was this host's when the engine let it run.
        return settle_in(plane, paused, born, source_epoch + 1);
    }
    running.set_epoch(source_epoch);
    let undecided = Undecided::new(source_epoch, paused, Some(id), failure, hint);
    plane.vms.put_undecided(vm, Arc::clone(&running), undecided);
    ends::watch(plane, born);
}

/// That a VM which has its disks, and their locks, is this host's still, in this epoch or a later one.
fn still_ours(plane: &ControlPlane, running: &Running, epoch: u64) -> Result<(), LeaseFailure> {
    let assured = plane.leases.assure(&running.vm, epoch)?;
    running.set_epoch(assured);
    Ok(())
}

/// Opens the disks and taps of a VM that is this host's in this epoch.
fn open(plane: &ControlPlane, running: &Running, epoch: u64, left: &mut LeftLocks) -> Result<(), String> {
    let vm = &running.vm;
    let datastore = plane.datastores.get(&vm.datastore);
    let datastore = datastore.ok_or_else(|| format!("datastore {} is not configured here any more", vm.datastore))?;
    let located = Located { name: vm.vm.clone(), datastore, config_text: running.config_text.clone() };
    let opened = take_disks(plane, &located, running, left).map_err(Unattached::reason);
    let opened = opened
        .and_then(|()| still_ours(plane, running, epoch).map_err(|failure| failure.reason()))
        .and_then(|()| plane.open_taps(running));
    opened.map_err(|reason| reason.cause)
}

/// The same for a VM that waits for nobody else's locks any more, and may have its disks already.
///
/// # Errors
/// Why it has not.
pub(super) fn open_all(plane: &ControlPlane, running: &Running, epoch: u64) -> Result<(), String> {
    open(plane, running, epoch, &mut LeftLocks::default())
}

fn moving_in(incoming: &Incoming) -> MovingIn {
    MovingIn { id: incoming.id, source_epoch: incoming.vm.epoch, paused: incoming.vm.paused }
}

fn life(running: &Running) -> Option<VmmLife> {
    match running.monitor.ask(&VmmRequest::Status, &[]) {
        Ok(VmmAnswer::Status(status)) => Some(status.life),
        _ => None,
    }
}

/// Takes up a VM that was moving in when the control plane before this one died, on a thread of its own: it runs here if
/// the lease comes to say so, and its monitor ends if not. When this returns, nobody else can work on the VM.
pub fn adopt(plane: &Arc<ControlPlane>, running: Arc<Running>, moving_in: MovingIn) {
    const DIED: &str = "the control plane of this host ended in the middle of the move";
    let (plane, name) = (Arc::clone(plane), running.vm.vm.clone());
    let (taken, taking) = std::sync::mpsc::channel::<()>();
    let settling = move || {
        let what = format!("VM {name} cannot come to {}", plane.name());
        // It has its memory already.
        let memory = running.spec.memory_bytes;
        let vm = running.vm.clone();
        let born = Born::adopted(running);
        let Ok(_claimed) = Claimed::new(&plane, &vm, &what, memory, u64::MAX) else { return };
        drop(taken);
        if let Err(why) = settle_by_lease(&plane, born, moving_in, DIED, false) {
            log::error!("VM {name} was moving in and does not run here: {why}");
        }
    };
    match std::thread::Builder::new().name("settle".to_owned()).spawn(settling) {
        // Nothing comes: it ends when the VM is claimed.
        Ok(_) => drop(taking.recv()),
        Err(error) => log::error!("a VM that was moving in is not taken up: {error}"),
    }
}

/// A VM that can come here.
struct Prepared<'a> {
    located: Located,
    /// What was built for it, unless only that was asked: dropped, its monitor ends before the claim does.
    built: Option<(Born, Claimed<'a>)>,
}

/// Why this host could not take the lease of a VM on this datastore, as far as that shows before it is asked for: at the end of a move it
/// would be too late.
fn lease_trouble(plane: &ControlPlane, datastore: &DatastoreName) -> Option<Reason> {
    let here = plane.name();
    let leases = match plane.leases.status() {
        Ok(leases) => leases,
        Err(failure) => {
            let Reason { cause, hint } = failure.reason();
            return Some(Reason::new(
                format!("{here} could not take its lease: {cause}"),
                format!("on {here}: {hint}"),
            ));
        }
    };
    if leases.iter().any(|lease| lease.datastore == *datastore && lease.held) {
        return None;
    }
    let cause =
        format!("{here} does not hold its host lease on datastore {datastore}, without which it may run no VM of it");
    Some(Reason::new(cause, format!("on {here}: host check tells why; it takes seconds after a boot")))
}

/// Looks whether a VM can come here and, unless only that was asked, builds it.
fn prepare<'a>(plane: &'a Arc<ControlPlane>, incoming: &Incoming) -> Result<Prepared<'a>, Vec<Reason>> {
    let vm = &incoming.vm;
    let what = format!("VM {} cannot come to {}", vm.name, plane.name());
    plane.refuse_if_ending(&what).map_err(|refusal| refusal.reasons)?;
    maintenance::refuse(plane, &what).map_err(|refusal| refusal.reasons)?;
    let located = locate(plane, &vm.name, &what).map_err(|refusal| refusal.reasons)?;
    if *located.datastore.name() != vm.datastore {
        let hint = "give the shared datastore one name on all hosts: config show";
        let cause = format!("the VM lies on {} here and on {} there", located.datastore.name(), vm.datastore);
        return Err(vec![Reason::new(cause, hint)]);
    }
    // What runs is what the source started, not what the file says by now.
    let located = Located { config_text: vm.config.clone(), ..located };
    let draft = located.draft();
    let mut reasons = checks::start_problems(plane, &located, &draft);
    for (label, vlan) in &vm.port_groups {
        if plane.port_group_problem(label).is_none() && plane.vlan(label) != *vlan {
            let cause = format!("port group {label} is another VLAN on {}", plane.name());
            reasons.push(Reason::new(cause, format!("give it the same VLAN on both hosts: port_group.{label}.vlan")));
        }
    }
    reasons.extend(lease_trouble(plane, &vm.datastore));
    let config = match draft.config {
        Ok(config) if reasons.is_empty() => config,
        _ => return Err(reasons),
    };
    if incoming.check_only {
        return Ok(Prepared { located, built: None });
    }
    let claimed = Claimed::new(plane, &located.vm(), &what, vm.spec.memory_bytes, plane.memory_for_vms().0)?;
    // Who enters it now is told of this VM.
    maintenance::refuse(plane, &what).map_err(|refusal| refusal.reasons)?;
    let begun = record::begin(&plane.run_dir, &located.vm());
    begun.map_err(|error| vec![Reason::new(format!("its arrival cannot be noted: {error}"), "host check")])?;
    let born = Born::of_spec(plane, &located, &config, vm.spec.clone(), 0).map_err(|reason| vec![reason])?;
    give_image(&located, &born.running).map_err(|reason| vec![reason])?;
    let written = record::write_moving_in(&plane.run_dir, &born.running, moving_in(incoming));
    written.map_err(|error| vec![Reason::new(format!("its arrival cannot be noted: {error}"), "host check")])?;
    Ok(Prepared { located, built: Some((born, claimed)) })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use model::names::VmName;
    use protocol::lease::record::Watchdog;

    use super::*;
    use crate::api::lease::{DatastoreLease, Holder, LeaseAnswer, LeaseRequest};
    use crate::host::control_plane::stand_in::Place;
    use crate::host::monitor::stand_in::{self, StandIn};

    const MOVE: MovingIn = MovingIn { id: 1, source_epoch: 1, paused: false };

    fn web() -> VmName {
        "web".parse().expect("valid")
    }

    /// The lease came to this host.
    fn is_own(request: &LeaseRequest) -> LeaseAnswer {
        let (host, name) = ([1; 16], "host-a".parse().expect("valid"));
        let own = Holder { host, name, generation: 1, epoch: 2, alive: true, own: true, since_unix_s: None };
        match request {
            LeaseRequest::Query(_) => LeaseAnswer::Holder(Some(own)),
            LeaseRequest::Resolve { epoch: 1, .. } => LeaseAnswer::held(2),
            _ => LeaseAnswer::Failed("the datastore does not answer".to_owned()),
        }
    }

    #[test]
    fn a_host_that_could_not_take_a_lease_says_so_before_a_vm_comes() {
        let lab: DatastoreName = "lab".parse().expect("valid");
        let trouble = |test: &str, answer: Option<bool>| {
            let place = Place::without_datastore(test, move |_| {
                let Some(held) = answer else {
                    loop {
                        std::thread::park();
                    }
                };
                LeaseAnswer::Status(vec![DatastoreLease {
                    datastore: "lab".parse().expect("valid"),
                    held,
                    renewed_ms: 1,
                    trouble: String::new(),
                    refusal: None,
                    watchdog: Watchdog::None,
                    area: None,
                    damage: None,
                    mend: None,
                }])
            });
            lease_trouble(&place.plane, &lab).map(|reason| reason.cause)
        };
        assert_eq!(trouble("arrive-held", Some(true)), None);
        assert!(
            trouble("arrive-lost", Some(false))
                .expect("told")
                .contains("does not hold its host lease on datastore lab")
        );
        assert!(trouble("arrive-silent", None).expect("told").contains("the lease role does not answer"));
    }

    /// A monitor whose VM has its state and does not run, and what it answers when it is to run.
    fn arrived(resumed: fn() -> VmmAnswer) -> StandIn {
        let monitor = StandIn::start(&web());
        monitor.answers(move |request| match request {
            VmmRequest::Status => Some(stand_in::status(VmmLife::Paused)),
            VmmRequest::Announce { .. } => Some(VmmAnswer::Announced { frames: 1, unheard: 0, since_ms: Some(0) }),
            VmmRequest::AttachDisk { .. } | VmmRequest::TakeDisks | VmmRequest::AnnounceByGuest => {
                Some(VmmAnswer::Done)
            }
            VmmRequest::Resume => Some(resumed()),
            _ => None,
        });
        monitor
    }

    #[test]
    fn a_vm_that_is_this_hosts_waits_for_its_datastore_after_a_restart_of_the_control_plane() {
        let (asked, asks) = channel();
        let place = Place::without_datastore("arrival-waits", move |request| {
            // The test may be over.
            let _ = asked.send(());
            is_own(request)
        });
        let monitor = arrived(|| VmmAnswer::Done);
        let running = monitor.running_with("[[disk]]\nfile = \"disk.img\"\n");
        adopt(&place.plane, Arc::clone(&running), MOVE);
        // Asked again, because the disk cannot be opened yet; or not at all.
        place.wait("the lease is asked", || asks.try_recv().is_ok() || running.monitor.is_gone());
        place.wait("the lease is asked again", || asks.try_recv().is_ok() || running.monitor.is_gone());
        place.write("vms/web/vm.toml", "");
        place.write("vms/web/disk.img", &"0".repeat(4096));
        let runs = || place.plane.vms.state(&web()) == Some(VmState::Running);
        place.wait("it goes on or ends", || runs() || running.monitor.is_gone());
        assert_eq!(place.plane.vms.state(&web()), Some(VmState::Running));
        assert_eq!(place.plane.owed.all(), []);
    }

    #[test]
    fn an_arrival_whose_lease_is_damaged_stands_still_and_is_told_and_goes_on_when_its_lease_tells() {
        let answers = Arc::new(std::sync::Mutex::new(false));
        let is_sound = Arc::clone(&answers);
        let place = Place::without_datastore("arrival-damaged", move |request| match request {
            _ if *is_sound.lock().expect("held") => is_own(request),
            _ => LeaseAnswer::Damaged { vm: web(), why: "the lease of VM web is damaged".to_owned(), mark: 7 },
        });
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let monitor = arrived(|| VmmAnswer::Done);
        let running = monitor.running();
        record::begin(&place.plane.run_dir, &running.vm).expect("noted");
        record::write_moving_in(&place.plane.run_dir, &running, MOVE).expect("noted");
        adopt(&place.plane, Arc::clone(&running), MOVE);
        place.wait("it stands still", || place.plane.vms.state(&web()) == Some(VmState::Paused));
        let waits_for = place.plane.vms.waiting_for(&web()).expect("it is told");
        assert!(waits_for.contains("is damaged") && waits_for.contains("then lease break web"), "{waits_for}");
        assert!(!running.monitor.is_gone() && place.plane.owed.all().is_empty(), "it is left to a person");
        let left = record::left(&place.plane.run_dir).records;
        assert!(left[0].moving_in.is_some(), "a control plane after this one settles it anew: {left:?}");
        *answers.lock().expect("held") = true;
        for _ in 0..2 {
            crate::host::undecided::look_again(&place.plane, &running);
        }
        assert_eq!((place.plane.vms.state(&web()), running.epoch()), (Some(VmState::Running), 2));
        let left = record::left(&place.plane.run_dir).records;
        assert!(left[0].moving_in.is_none(), "{left:?}");
    }

    #[test]
    fn the_lease_of_a_vm_that_came_here_and_does_not_go_on_is_given_up() {
        let place = Place::without_datastore("arrival-owed", is_own);
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let monitor = arrived(|| VmmAnswer::Failed("it cannot".to_owned()));
        let running = monitor.running();
        adopt(&place.plane, Arc::clone(&running), MOVE);
        place.wait("its monitor ends", || running.monitor.is_gone());
        place.wait("nothing of it is here", || place.plane.vms.state(&web()).is_none());
        assert_eq!(place.plane.owed.all(), std::slice::from_ref(&running.vm));
    }
}
