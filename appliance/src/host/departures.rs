//! Migrations away from here: the control plane hands the VM to the migration engine and waits.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use model::diagnosis::{Diagnosis, Reason};
use model::names::{HostName, VmName};
use protocol::checks::{Judged, by_condition, link};
use protocol::session::PhaseName;
use protocol::uplink_probe::End;

use crate::api::host::{Check, HostAnswer, VmState};
use crate::api::migrate::{Ended, FromMigrate, MigrationId, Outgoing, ToMigrate, VmHere, VmToMove, Wish};
use crate::host::caller::{Caller, LOOK};
use crate::host::control_plane::ControlPlane;
use crate::host::leases::LeaseFailure;
use crate::host::lifecycle::{KILLED, end_monitor};
use crate::host::moves::{self, UnderWay, shown};
use crate::host::record::MovingOut;
use crate::host::running::Running;
use crate::host::settling::{
    ENGINE_DIED, MOVED, Unreported, by_lease, goes_on, hold_in, release, still_here, without_engine,
};
use crate::host::uplinks::Probing;
use crate::host::vms::Held;
use crate::host::{facts, owed, peer, receipts, record, uplinks};
use crate::journal;

/// How long a move may take to be given up before a kill ends the monitor all the same: a monitor that cannot finish its
/// last I/O does not let the engine end the stun.
const GIVE_UP_BOUND: Duration = Duration::from_secs(10);
/// Pause between two requests to give a move up: one that has yet to reach the engine does not hear the first.
const CANCEL_AGAIN: Duration = Duration::from_secs(1);
/// How long a control plane that was restarted tries to reach the engine for a move of an earlier one.
const FOLLOW_BOUND: Duration = Duration::from_secs(10);

/// Moves a VM away, or only looks whether it can be.
///
/// # Errors
/// Every reason why it was not moved, and where it runs.
pub fn migrate(
    plane: &Arc<ControlPlane>,
    vm: &VmName,
    destination: &HostName,
    wish: Wish,
    caller: &Caller<'_>,
) -> Result<HostAnswer, Diagnosis> {
    let what = format!("VM {vm} was not migrated");
    let runs = || matches!(plane.vms.state(vm), Some(VmState::Running | VmState::Paused));
    while runs() && plane.moves.is_coming(vm, plane.name()) {
        caller.progress("waiting for the audit of the move to here", None);
        if caller.cancelled_within(LOOK) {
            let cause = "it was cancelled while the audit of the VM's move to here went on";
            return Err(Diagnosis::new(what, cause, format!("vm migrate {vm} {destination}")));
        }
    }
    let from = [VmState::Running, VmState::Paused];
    // A check asks the VM nothing: whoever wants to stop, kill or really move it meanwhile may.
    let mut held = match wish.check_only {
        true => plane.vms.look(vm, &from, &what)?,
        false => plane.vms.hold(vm, &from, VmState::MovingOut, &what)?,
    };
    if let Some(undecided) = plane.vms.undecided(vm) {
        return Err(Diagnosis::of(what, vec![undecided.refusal(vm)]).vm_now(still_here(plane, &held)));
    }
    let moved = move_out(plane, &mut held, destination, wish, caller);
    note_over(plane, &held, wish.check_only);
    // Where the VM was released, its entry is gone and letting go of it changes nothing.
    moved.map_err(|refusal| if refusal.vm_now.is_some() { refusal } else { refusal.vm_now(still_here(plane, &held)) })
}

fn move_out(
    plane: &Arc<ControlPlane>,
    held: &mut Held<'_>,
    destination: &HostName,
    wish: Wish,
    caller: &Caller<'_>,
) -> Result<HostAnswer, Diagnosis> {
    let running = Arc::clone(held.running());
    let vm = &running.vm.vm;
    let what = format!("VM {vm} was not migrated");
    let refused = |cause: String, hint: &str| Diagnosis::new(&what, cause, hint);
    plane.refuse_if_ending(&what)?;
    let (peer, damage) = (peer::check(plane, destination), lease_damage(plane, &running));
    // What a check finds at the destination is told beside a damaged lease.
    if peer.is_err() || (damage.is_some() && !wish.check_only) {
        return Err(Diagnosis::of(&what, peer.err().into_iter().chain(damage).collect()));
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
        paused: *held.before() == VmState::Paused,
    };
    let facts = facts::facts(plane).ok_or_else(|| refused("KVM cannot be used here".to_owned(), "host check"))?;
    let facts = Box::new(facts);
    let probe = uplinks::agree(plane, &running.config);
    let probe = probe.map_err(|error| refused(format!("no random number is to be had: {error}"), "host check"))?;
    let outgoing = Outgoing { id, vm: to_move, facts, destination: destination.clone(), wish, probe };
    let listening = plane.engine.listen(id);
    // A check moves nothing, and stands in no list of moves.
    if !wish.check_only {
        plane.moves.begin(id, vm, plane.name(), destination);
        let moving_out = MovingOut { id, destination: destination.clone() };
        let noted = record::write_moving_out(&plane.run_dir, &running, outgoing.vm.paused, moving_out);
        if let Err(error) = noted {
            let refusal = refused(format!("the move cannot be noted: {error}"), "host check");
            return conclude(plane, held, id, wish.check_only, Err(Unreported::failed(refusal)));
        }
    }
    let start = ToMigrate::Start(Box::new(outgoing));
    let told = plane.engine.tell(&start, &[monitor.as_fd(), running.monitor.memory()]);
    // It is the engine's alone: by its end the monitor knows that the engine has died.
    drop(monitor);
    let ended = match told {
        Err(error) => {
            let cause = format!("the migrate role does not answer: {error}");
            Err(Unreported::failed(refused(cause, "log show migrate")))
        }
        Ok(()) => wait_for_end(plane, held, id, &listening.said, caller),
    };
    plane.engine.forget(&listening);
    conclude(plane, held, id, wish.check_only, ended)
}

/// Takes up a move away that the control plane before this one began, on a thread of its own: the engine may go on with it,
/// and nobody may work on the VM meanwhile. When this returns, nobody can.
pub fn adopt(plane: &Arc<ControlPlane>, running: &Arc<Running>, moving_out: MovingOut) {
    let (plane, running) = (Arc::clone(plane), Arc::clone(running));
    let (taken, taking) = std::sync::mpsc::channel::<()>();
    let settling = move || {
        let (vm, MovingOut { id, destination }) = (&running.vm.vm, moving_out);
        let Ok(mut held) = plane.vms.hold(vm, &[VmState::Running, VmState::Paused], VmState::MovingOut, "") else {
            // It ended just now.
            return;
        };
        plane.moves.begin(id, vm, plane.name(), &destination);
        drop(taken);
        let listening = plane.engine.listen(id);
        let caller = Caller::nobody();
        let ended = if follow(&plane, id) {
            wait_for_end(&plane, &mut held, id, &listening.said, &caller)
        } else {
            Err(without_engine(&plane, &mut held, &caller))
        };
        plane.engine.forget(&listening);
        let concluded = conclude(&plane, &mut held, id, false, ended);
        note_over(&plane, &held, false);
        match concluded {
            Ok(_) => {
                log::info!(target: journal::NEWS, "VM {vm} moved to {destination}; an earlier control plane began that")
            }
            Err(told) => log::error!("a move that an earlier control plane began: {told}"),
        }
    };
    match std::thread::Builder::new().name("settle".to_owned()).spawn(settling) {
        // Nothing comes: it ends when the VM is held.
        Ok(_) => drop(taking.recv()),
        Err(error) => log::error!("a VM that was moving away is not taken up: {error}"),
    }
}

/// The move is over: a control plane after this one is not to take it up, unless whose the VM is is not known.
fn note_over(plane: &ControlPlane, held: &Held<'_>, check_only: bool) {
    let is_decided = plane.vms.undecided(&held.running().vm.vm).is_none();
    if !check_only && is_decided && held.is_here() {
        record::update(&plane.run_dir, held.running(), *held.after() == VmState::Paused);
    }
}

/// Asks the engine for a move; false if it cannot be reached.
fn follow(plane: &ControlPlane, id: MigrationId) -> bool {
    let deadline = Instant::now() + FOLLOW_BOUND;
    while Instant::now() < deadline {
        if plane.engine.tell(&ToMigrate::Follow(id), &[]).is_ok() {
            return true;
        }
        std::thread::sleep(LOOK);
    }
    false
}

/// Waits for the end of a migration at its source, releasing the VM when it runs elsewhere.
fn wait_for_end(
    plane: &Arc<ControlPlane>,
    held: &mut Held<'_>,
    id: MigrationId,
    said: &Receiver<FromMigrate>,
    caller: &Caller<'_>,
) -> Result<Ended, Unreported> {
    let mut probing = None;
    loop {
        match said.recv_timeout(LOOK) {
            Ok(FromMigrate::Progress(progress)) => caller.progress(&progress.doing, progress.thousandths),
            // If the engine is away, its end is noticed next.
            Ok(FromMigrate::ProbeUplinks(_, agreed)) => {
                probing = Some(Probing::begin(plane, End::Source, agreed));
                let _ = plane.engine.tell(&ToMigrate::UplinksOpen(id), &[]);
            }
            Ok(FromMigrate::HearUplinks(_)) => {
                let found = probing.take().map(Probing::stop);
                let _ = plane.engine.tell(&ToMigrate::UplinksHeard(id, found), &[]);
            }
            Ok(FromMigrate::Release(_)) => release(plane, held.running(), MOVED.to_owned()),
            Ok(FromMigrate::Ended(ended))
                if matches!(ended.vm, VmHere::Unknown | VmHere::Undecided) && held.is_here() && !held.only_looks() =>
            {
                return Err(untold(plane, held, &ended, caller));
            }
            Ok(FromMigrate::Ended(ended)) => return Ok(*ended),
            Ok(FromMigrate::Unknown(_)) => return Err(died(plane, held, caller)),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => {
                if caller.cancelled() {
                    caller.progress("giving up", None);
                    // If the engine is away, its end is noticed next.
                    let _ = plane.engine.tell(&ToMigrate::Cancel(id), &[]);
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Err(died(plane, held, caller)),
        }
    }
}

/// The engine could not learn whose the VM is, because it lost its monitor or its lease is damaged, and the monitor is still
/// here: the VM may be stunned, and nothing but its lease lets it go on, or end here.
fn untold(plane: &Arc<ControlPlane>, held: &mut Held<'_>, ended: &Ended, caller: &Caller<'_>) -> Unreported {
    const LOST: &str = "the migrate role lost the monitor of the VM in the middle of the move";
    let why = ended.failure.as_ref().and_then(|failure| failure.reasons.first());
    let settled = by_lease(plane, held, why.map_or(LOST, |reason| &reason.cause), caller);
    // Of a VM that turns out to have moved, or may have, it would say that it was not.
    if let Some(receipt) = ended.receipt.as_ref().filter(|_| settled.is_known() && settled.state != "moved") {
        receipts::keep(plane, receipt);
    }
    settled
}

/// The engine does not know of what it was to do. Of a check nothing is left to settle: it never asked the VM nor its lease.
fn died(plane: &ControlPlane, held: &mut Held<'_>, caller: &Caller<'_>) -> Unreported {
    if !held.only_looks() {
        return without_engine(plane, held, caller);
    }
    let what = format!("VM {} was not checked", held.running().vm.vm);
    Unreported::failed(Diagnosis::new(what, ENGINE_DIED, "log show migrate").vm_now(still_here(plane, held)))
}

fn conclude(
    plane: &Arc<ControlPlane>,
    held: &mut Held<'_>,
    id: MigrationId,
    check_only: bool,
    ended: Result<Ended, Unreported>,
) -> Result<HostAnswer, Diagnosis> {
    let ended = ended.map_err(|Unreported { state, told }| {
        plane.moves.end(id, state, None);
        told
    })?;
    // The engine does not know what a person had done with the VM before, nor always that its monitor is gone.
    let place = match ended.vm {
        // Nothing came of a check, whatever others did with the VM meanwhile.
        _ if held.only_looks() => Some(still_here(plane, held)),
        VmHere::Nothing => None,
        // Its monitor is gone: where it is not, the lease was asked.
        VmHere::Unknown | VmHere::Undecided => {
            owed::owe(plane, &held.running().vm);
            None
        }
        VmHere::Runs | VmHere::Stopped if !held.is_here() => {
            // Its guest ended here meanwhile, and the engine may have won a later epoch for nobody.
            owed::owe(plane, &held.running().vm);
            Some(still_here(plane, held))
        }
        VmHere::Runs => {
            if ended.epoch != 0 {
                hold_in(plane, held.running(), ended.epoch, *held.before() == VmState::Paused);
            }
            Some(still_here(plane, held))
        }
        // It is this host's, and could not be resumed once.
        VmHere::Stopped => {
            let epoch = if ended.epoch == 0 { held.running().epoch() } else { ended.epoch };
            Some(goes_on(plane, held, epoch))
        }
    };
    if let Some(receipt) = &ended.receipt {
        receipts::keep(plane, receipt);
    }
    let state = match (&ended.receipt, &ended.failure) {
        (Some(receipt), _) => moves::state_of(receipt),
        (None, Some(_)) => "failed",
        (None, None) => "checked",
    };
    plane.moves.end(id, state, ended.receipt.clone());
    // The link is known where the destination has answered.
    if check_only && !ended.link.is_empty() {
        let here = place.unwrap_or_else(|| still_here(plane, held));
        let lease = lease_damage(plane, held.running());
        return Ok(HostAnswer::Checks(judged(here, lease, &ended)));
    }
    match (ended.failure, ended.receipt) {
        (Some(failure), _) => Err(place.into_iter().fold(failure, Diagnosis::vm_now)),
        (None, Some(receipt)) => Ok(HostAnswer::Migrated(Box::new(receipt))),
        (None, None) => Ok(HostAnswer::Done(format!("the migration {} ended without a receipt", shown(id)))),
    }
}

/// Why no host can take the lease of a VM that runs here, if it is damaged, and what mends that. What else keeps it from being
/// looked at, the move meets where it goes by it.
fn lease_damage(plane: &ControlPlane, running: &Running) -> Option<Reason> {
    if let Some(damage) = plane.datastores.get(&running.vm.datastore)?.lease_damage() {
        return Some(damage);
    }
    let failure = plane.leases.holder_if_it_answers(&running.vm).err()?;
    let hint = match &failure {
        LeaseFailure::Damaged { vm, .. } => format!(
            "it runs on meanwhile; if the storage is sound again: vm stop {vm}, and when it is off, lease break {vm} gives it a new lease, by \
             which any host starts it"
        ),
        LeaseFailure::AreaDamaged(_) => failure.reason().hint,
        _ => return None,
    };
    Some(Reason::new(failure.to_string(), hint))
}

/// What a person reads of the checks of a move: where the VM is now, whether its lease can be taken, then a line for each condition, and what it
/// would be like.
fn judged(place: String, lease: Option<Reason>, ended: &Ended) -> Vec<Check> {
    let link = ended.link.as_str();
    let conditions = by_condition(&ended.findings).into_iter().map(|Judged { condition, well, blockers, warnings }| {
        let found = match (condition.as_str(), blockers.is_empty() && warnings.is_empty()) {
            (link::NAME, true) => format!("{well}: {link}"),
            (link::NAME, false) => link.to_owned(),
            (_, true) => well.to_owned(),
            (_, false) => "not as it should be".to_owned(),
        };
        Check { subject: condition, found, problems: blockers, warnings }
    });
    let forecast = ended.forecast.iter().map(|forecast| Check::well("the move", forecast.clone()));
    let found = if lease.is_none() { "not damaged" } else { "damaged" };
    let lease = Check { problems: lease.into_iter().collect(), ..Check::well("VM lease", found) };
    [Check::well("the VM", place), lease].into_iter().chain(conditions).chain(forecast).collect()
}

pub(super) fn random_id() -> std::io::Result<MigrationId> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    Ok(MigrationId::from_le_bytes(bytes))
}

/// Gives the move of a VM up that is to be killed. None when the move is over, and the kill may go on as usual; a line
/// for a person where the move could not be given up in time and the monitor was ended in the middle of it.
///
/// # Errors
/// The move is committed: the VM is the destination's. Or the monitor does not end.
pub(super) fn give_up_to_kill(
    plane: &ControlPlane,
    vm: &VmName,
    what: &str,
    caller: &Caller<'_>,
) -> Result<Option<String>, Diagnosis> {
    let deadline = Instant::now() + GIVE_UP_BOUND;
    while Instant::now() < deadline {
        if plane.vms.state(vm) != Some(VmState::MovingOut) {
            return Ok(None);
        }
        if let Some(moving) = away(plane, vm) {
            if is_committed(plane, moving.id) {
                return Err(committed(vm, &moving.destination, what));
            }
            caller.progress(&format!("giving the move of {vm} to {} up", moving.destination), None);
            // An engine that is away is no hindrance: the lease is being asked then.
            let _ = plane.engine.tell(&ToMigrate::Cancel(moving.id), &[]);
        }
        let again = Instant::now() + CANCEL_AGAIN;
        while Instant::now() < again && plane.vms.state(vm) == Some(VmState::MovingOut) {
            std::thread::sleep(LOOK);
        }
    }
    let Some(running) = plane.vms.running(vm) else { return Ok(None) };
    plane.vms.note_end(vm, KILLED.to_owned());
    end_monitor(&running, what)?;
    Ok(Some(format!(
        "the monitor of VM {vm} was killed in the middle of its move; vm show {vm} tells whether another host holds it"
    )))
}

fn away(plane: &ControlPlane, vm: &VmName) -> Option<UnderWay> {
    plane.moves.under_way().into_iter().find(|moving| moving.vm == *vm && moving.destination != *plane.name())
}

fn is_committed(plane: &ControlPlane, id: MigrationId) -> bool {
    let progress = plane.engine.progress();
    let phase = progress.iter().find(|progress| progress.id == id).and_then(|progress| progress.phase);
    phase.is_some_and(PhaseName::is_after_the_commit)
}

fn committed(vm: &VmName, destination: &HostName, what: &str) -> Diagnosis {
    let cause = format!("its move is committed: it is {destination}'s");
    Diagnosis::new(what, cause, format!("on {destination}: vm kill {vm}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::lease::{Holder, LeaseAnswer};
    use crate::api::vmm::{VmmAnswer, VmmLife, VmmRequest};
    use crate::host::control_plane::stand_in::Place;
    use crate::host::discovery::{HostRecord, example};
    use crate::host::monitor::stand_in::{self, StandIn};

    #[test]
    fn a_check_leaves_the_vm_and_its_lease_alone_whatever_becomes_of_it_meanwhile() {
        let host_b: HostName = "host-b".parse().expect("valid");
        let holder = Holder {
            host: [2; 16],
            name: host_b,
            generation: 1,
            epoch: 2,
            alive: true,
            own: false,
            since_unix_s: None,
        };
        let place = Place::without_datastore("departure-check", move |_| LeaseAnswer::HeldBy(holder.clone()));
        let web = "web".parse().expect("valid");
        let monitor = StandIn::start(&web);
        let plane = &place.plane;
        plane.vms.put(&web, monitor.running(), VmState::Running);
        let mut held = plane.vms.look(&web, &[VmState::Running], "").expect("it runs here");
        // The engine is away.
        let (engine, said) = std::sync::mpsc::channel();
        drop(engine);
        let ended = wait_for_end(plane, &mut held, 1, &said, &Caller::nobody());
        let told = conclude(plane, &mut held, 1, true, ended).expect_err("its engine died").to_string();
        assert!(told.contains("it is still running on host-a"), "{told}");
        // It is killed meanwhile.
        plane.vms.remove(&web, monitor.pid(), None).expect("it was here");
        let failure = Some(Diagnosis::new("VM web was not migrated", "the link is cut", ""));
        for vm in [VmHere::Runs, VmHere::Stopped, VmHere::Unknown] {
            let ended = Ended { vm, failure: failure.clone(), ..bare_end() };
            let told = conclude(plane, &mut held, 1, true, Ok(ended)).expect_err("it failed").to_string();
            assert!(told.contains("it does not run on host-a any more"), "{told}");
        }
        assert!(plane.owed.all().is_empty(), "{:?}", plane.owed);
    }

    #[test]
    fn a_move_of_a_vm_whose_lease_is_damaged_is_refused_by_its_check_too_with_what_mends_the_lease() {
        let web: VmName = "web".parse().expect("valid");
        let why = || "the lease of VM web is damaged".to_owned();
        for (test, answer, mend) in [
            (
                "departure-mend",
                LeaseAnswer::Damaged { vm: web.clone(), why: why(), mark: 7 },
                "lease break web gives it",
            ),
            ("departure-area", LeaseAnswer::AreaDamaged(why()), "shut down every host"),
        ] {
            let place = Place::without_datastore(test, move |_| answer.clone());
            let (plane, monitor) = (&place.plane, StandIn::start(&web));
            plane.vms.put(&web, monitor.running(), VmState::Running);
            let host_b = "host-b".parse().expect("valid");
            let refusal = migrate(plane, &web, &host_b, Wish::default(), &Caller::nobody()).expect_err("refused");
            assert!(refusal.to_string().contains(&why()) && refusal.to_string().contains(mend), "{refusal}");
            let mut held = plane.vms.look(&web, &[VmState::Running], "").expect("it runs here");
            let ended = Ended { link: "1 Gbit/s".to_owned(), ..bare_end() };
            let Ok(HostAnswer::Checks(checks)) = conclude(plane, &mut held, 1, true, Ok(ended)) else {
                panic!("no checks")
            };
            let problems: Vec<_> = checks.iter().flat_map(|check| &check.problems).collect();
            assert!(problems.len() == 1 && problems[0].cause == why() && problems[0].hint.contains(mend), "{checks:?}");
        }
    }

    #[test]
    fn no_vm_is_moved_to_a_name_that_two_hosts_have() {
        let place = Place::without_datastore("departure-twins", |_| LeaseAnswer::Done);
        let (plane, web) = (&place.plane, "web".parse().expect("valid"));
        let monitor = StandIn::start(&web);
        plane.vms.put(&web, monitor.running(), VmState::Running);
        for beat in 1..=2 {
            let told = HostRecord { twin: Some("02".repeat(16)), ..example("host-b", beat) };
            plane.hosts.note(&"lab".parse().expect("valid"), told, Instant::now());
        }
        for check_only in [true, false] {
            let wish = Wish { check_only, ..Wish::default() };
            let host_b = "host-b".parse().expect("valid");
            let refusal = migrate(plane, &web, &host_b, wish, &Caller::nobody()).expect_err("refused").to_string();
            assert!(refusal.contains("two living hosts have the name host-b"), "{refusal}");
            assert!(refusal.contains("it is still running on host-a"), "{refusal}");
        }
    }

    #[test]
    fn a_vm_whose_engine_lost_its_monitor_goes_on_in_it_when_the_lease_says_so() {
        let place = Place::without_datastore("departure-untold", |_| LeaseAnswer::held(5));
        let web = "web".parse().expect("valid");
        let monitor = StandIn::start(&web);
        let (resumed, resumes) = std::sync::mpsc::channel();
        let resumed = std::sync::Mutex::new(resumed);
        monitor.answers(move |request| match request {
            VmmRequest::Status => Some(stand_in::status(VmmLife::Paused)),
            VmmRequest::TakeDisks => Some(VmmAnswer::Done),
            VmmRequest::Resume => {
                // The test may be over.
                let _ = resumed.lock().expect("held").send(());
                Some(VmmAnswer::Done)
            }
            _ => None,
        });
        let (plane, running) = (&place.plane, monitor.running());
        plane.vms.put(&web, Arc::clone(&running), VmState::Running);
        let mut held = plane.vms.hold(&web, &[VmState::Running], VmState::MovingOut, "").expect("it runs here");
        let failure = Some(Diagnosis::new("VM web was not migrated", "its monitor does not answer", ""));
        let (engine, said) = std::sync::mpsc::channel();
        let ended = Ended { vm: VmHere::Unknown, failure, ..bare_end() };
        engine.send(FromMigrate::Ended(Box::new(ended))).expect("heard");
        let ended = wait_for_end(plane, &mut held, 1, &said, &Caller::nobody());
        let told = conclude(plane, &mut held, 1, false, ended).expect_err("it was not moved").to_string();
        assert!(told.contains("its monitor does not answer") && told.contains("still running on host-a"), "{told}");
        assert!(resumes.try_recv().is_ok(), "the guest is not left stunned");
        assert_eq!((running.epoch(), plane.owed.all()), (5, Vec::new()));
    }

    #[test]
    fn an_epoch_that_is_won_for_a_vm_that_ended_meanwhile_is_given_up_unless_it_was_started_again() {
        let place = Place::without_datastore("departure-left", |_| LeaseAnswer::held(5));
        let web = "web".parse().expect("valid");
        let plane = &place.plane;
        for started_again in [true, false] {
            let (monitor, later) = (StandIn::start(&web), StandIn::start(&web));
            for monitor in [&monitor, &later] {
                monitor.answers(|_| Some(VmmAnswer::Failed("it ends".to_owned())));
            }
            plane.vms.put(&web, monitor.running(), VmState::Running);
            let mut held = plane.vms.hold(&web, &[VmState::Running], VmState::MovingOut, "").expect("it runs here");
            held.running().monitor.kill();
            plane.vms.remove(&web, monitor.pid(), None).expect("it was here");
            if started_again {
                plane.vms.put(&web, later.running(), VmState::Running);
            }
            without_engine(plane, &mut held, &Caller::nobody());
            assert_eq!(plane.owed.has(&held.running().vm), !started_again);
            plane.vms.remove(&web, later.pid(), None);
        }
    }

    #[test]
    fn a_move_whose_engine_heard_of_a_damaged_lease_returns_with_the_vm_standing_and_no_receipt_that_it_failed() {
        let web: VmName = "web".parse().expect("valid");
        let vm = web.clone();
        let place = Place::without_datastore("departure-damaged", move |_| LeaseAnswer::Damaged {
            vm: vm.clone(),
            why: "the lease of VM web is damaged".to_owned(),
            mark: 7,
        });
        let monitor = StandIn::start(&web);
        monitor.answers(|request| match request {
            VmmRequest::Status => Some(stand_in::status(VmmLife::Paused)),
            _ => None,
        });
        let (plane, running) = (&place.plane, monitor.running());
        let moving_out = MovingOut { id: 1, destination: "host-b".parse().expect("valid") };
        record::begin(&plane.run_dir, &running.vm).expect("noted");
        record::write_moving_out(&plane.run_dir, &running, false, moving_out).expect("noted");
        plane.vms.put(&web, Arc::clone(&running), VmState::Running);
        let mut held = plane.vms.hold(&web, &[VmState::Running], VmState::MovingOut, "").expect("it runs here");
        plane.moves.begin(1, &web, plane.name(), &"host-b".parse().expect("valid"));
        let failure = Some(Diagnosis::new("whether VM web was migrated is not known", "host-b was silent", ""));
        let (engine, said) = std::sync::mpsc::channel();
        let ended = Ended { vm: VmHere::Undecided, failure, ..bare_end() };
        engine.send(FromMigrate::Ended(Box::new(ended))).expect("heard");
        let ended = wait_for_end(plane, &mut held, 1, &said, &Caller::nobody());
        let told = conclude(plane, &mut held, 1, false, ended).expect_err("nobody knows").to_string();
        note_over(plane, &held, false);
        for part in [
            "whether VM web was migrated is not known",
            "it is stopped on host-a",
            "host-b was silent",
            "the lease of VM web is damaged",
            "vm kill web, then lease break web",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        drop(held);
        assert_eq!(plane.moves.rows(plane)[0].state, "unknown");
        assert_eq!(plane.vms.state(&web), Some(VmState::Paused));
        assert!(plane.vms.waiting_for(&web).is_some_and(|what| what.contains("then lease break web")));
        let left = record::left(&plane.run_dir).records;
        assert!(left[0].moving_out.is_some(), "a control plane after this one settles it anew: {left:?}");
    }

    fn bare_end() -> Ended {
        Ended::nothing_moved(1, 1)
    }

    #[test]
    fn a_move_whose_engine_died_after_the_commit_is_listed_as_moved() {
        let host_b: HostName = "host-b".parse().expect("valid");
        let holder = Holder {
            host: [2; 16],
            name: host_b.clone(),
            generation: 1,
            epoch: 2,
            alive: true,
            own: false,
            since_unix_s: None,
        };
        let place = Place::without_datastore("departure-moved", move |_| LeaseAnswer::HeldBy(holder.clone()));
        let web = "web".parse().expect("valid");
        let monitor = StandIn::start(&web);
        let plane = &place.plane;
        plane.vms.put(&web, monitor.running(), VmState::Running);
        let mut held = plane.vms.hold(&web, &[VmState::Running], VmState::MovingOut, "").expect("it runs here");
        plane.moves.begin(1, &web, plane.name(), &host_b);
        let ended = without_engine(plane, &mut held, &Caller::nobody());
        let told = conclude(plane, &mut held, 1, false, Err(ended)).expect_err("there is no receipt");
        assert!(told.to_string().contains("it runs on host-b now"), "{told}");
        assert_eq!(plane.moves.rows(plane)[0].state, "moved");
    }
}
