//! A VM starts on this host.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use model::diagnosis::{Diagnosis, Reason};
use model::limits;
use model::names::VmName;
use model::units::Bytes;
use model::vm_config::{Draft, VmConfig};

use crate::api::host::VmState;
use crate::api::lease::{TakenFrom, VmOnDatastore};
use crate::api::vmm::VmmRequest;
use crate::datastore::Datastore;
use crate::host::born::{BootFiles, Born, Unattached};
use crate::host::caller::{Caller, LOOK};
use crate::host::control_plane::ControlPlane;
use crate::host::disk_locks::{LeftLocks, take_disks};
use crate::host::leases::LeaseFailure;
use crate::host::located::{KERNEL_HINT, Located, locate};
use crate::host::running::Running;
use crate::host::vms::{Claim, Unclaimed};
use crate::host::{checks, ends, host_lease, maintenance, owed, record, settling};

/// Pause before a disk's lock is tried again.
pub(super) const LOCK_AGAIN: Duration = Duration::from_secs(1);
/// States in which this host has to do with a VM that does not run here.
const IS_NOT_HERE: [VmState; 3] = [VmState::MovingIn, VmState::Cloning, VmState::Making];

/// Starts a VM: checks, the host's lease on the datastore, the VM's lease, monitor, machine, kernel, in this order; what
/// was made is unmade on any failure.
///
/// # Errors
/// Every reason why it cannot start here, or who holds it.
pub fn start(plane: &Arc<ControlPlane>, name: &VmName, caller: &Caller<'_>) -> Result<String, Diagnosis> {
    carry_out(plane, name, caller, None)
}

/// The same for a VM whose guest restarts, under the claim that its end here left: maintenance ends nothing that runs.
///
/// # Errors
/// As [`start`].
pub fn start_again<'a>(plane: &'a Arc<ControlPlane>, name: &VmName, ended: Claim<'a>) -> Result<String, Diagnosis> {
    carry_out(plane, name, &Caller::nobody(), Some(ended))
}

fn carry_out<'a>(
    plane: &'a Arc<ControlPlane>,
    name: &VmName,
    caller: &Caller<'_>,
    ended: Option<Claim<'a>>,
) -> Result<String, Diagnosis> {
    let what = format!("VM {name} was not started");
    let restarts = ended.is_some();
    let refuse_new = || if restarts { Ok(()) } else { maintenance::refuse(plane, &what) };
    plane.refuse_if_ending(&what)?;
    refuse_new()?;
    caller.progress(&format!("starting {name}"), None);
    let located = locate(plane, name, &what)?;
    let draft = located.draft();
    let Ok(config) = &draft.config else {
        return Err(Diagnosis::of(&what, checks::start_problems(plane, &located, &draft)));
    };
    let _claim = claim(plane, &located, &draft, config.memory, &what, caller, ended)?;
    // Who enters it now is told of this VM.
    refuse_new()?;
    let mut left = LeftLocks::default();
    meet_holder(plane, &located.vm(), &located.datastore, &mut left, caller)
        .map_err(|reason| Diagnosis::of(&what, vec![reason]))?;
    let problems = checks::start_problems(plane, &located, &draft);
    if !problems.is_empty() {
        return Err(Diagnosis::of(&what, problems));
    }
    host_lease::wait(plane, &located.datastore, name, caller, &format!("vm start {name}"))
        .map_err(|reason| Diagnosis::of(&what, vec![reason]))?;
    // What an earlier boot left may have come up meanwhile.
    refuse_new()?;
    let vm = located.vm();
    let noted = record::begin(&plane.run_dir, &vm);
    noted.map_err(|error| Diagnosis::new(&what, format!("its start cannot be noted: {error}"), "host check"))?;
    let started = acquire(plane, &vm, caller).and_then(|(epoch, taken_from)| {
        if taken_from.is_some() || plane.servers.may_keep_for_the_dead(located.datastore.name()) {
            // Unless that was done just now. What is not given up now is asked for again with the disks.
            let _ = left.give_up(plane, &located.datastore);
        }
        let started = bring_up(plane, &located, config, epoch, &mut left, caller);
        if started.is_err() {
            // Tried again if it cannot be done now.
            let _ = owed::give_up(plane, &vm);
        }
        let warning = located.datastore.refuses_writes().map(|Reason { cause, hint, .. }| format!("; {cause}: {hint}"));
        started.map(|line| match taken_from {
            Some(taken) => format!("{line}; it was {}", taken.text(plane.name())),
            None => line,
        } + &warning.unwrap_or_default())
    });
    if started.is_err() && !plane.owed.has(&vm) {
        record::remove(&plane.run_dir, name);
    }
    started.map_err(|reason| Diagnosis::of(&what, vec![reason]))
}

/// Begins to work on the VM, with its memory, as soon as a lease of an earlier start is given up.
fn claim<'a>(
    plane: &'a ControlPlane,
    located: &Located,
    draft: &Draft,
    memory: Bytes,
    what: &str,
    caller: &Caller<'_>,
    ended: Option<Claim<'a>>,
) -> Result<Claim<'a>, Diagnosis> {
    let name = &located.name;
    while ended.is_none() && plane.vms.state(name) == Some(VmState::Releasing) {
        caller.progress(&format!("waiting until an earlier lease of {name} is given up"), None);
        if caller.cancelled_within(LOOK) {
            break;
        }
    }
    let most = plane.memory_for_vms().0;
    let claimed = match ended {
        Some(ended) => ended.followed_by(VmState::Starting, memory.0, most),
        None => plane.vms.claim_with(name, VmState::Starting, what, memory.0, most),
    };
    claimed.map_err(|unclaimed| match unclaimed {
        // Until its move is committed it is its source's; what is copied or made does not run.
        Unclaimed::Busy(busy) if plane.vms.state(name).is_some_and(|now| IS_NOT_HERE.contains(&now)) => busy,
        Unclaimed::Busy(busy) => busy.vm_now(format!("it is on {}, this host", plane.name())),
        Unclaimed::Short { free } => {
            // Memory may have come free meanwhile; what else is wrong is told beside it all the same.
            let met = meet_holder(plane, &located.vm(), &located.datastore, &mut LeftLocks::default(), caller);
            let mut problems =
                met.map_or_else(|reason| vec![reason], |()| checks::start_problems(plane, located, draft));
            let short = checks::too_little_memory(memory, Bytes(free));
            if !problems.iter().any(|problem| problem.hint == short.hint) {
                problems.push(short);
            }
            Diagnosis::of(what, problems)
        }
    })
}

/// Asks who holds the VM before anything looks at its files. A host that lives is told at once. Of one that is dead, the server is first made
/// to give up what it has: a disk that it delegated to the dead host answers nobody else, not even who asks for its size, until it
/// misses that host by itself. So is a VM that nobody holds, where a host died and the server was not told yet: that host may have given
/// the lease up before. That the lease is whose it was said to be is asked again when it is taken.
fn meet_holder(
    plane: &ControlPlane,
    vm: &VmOnDatastore,
    datastore: &Datastore,
    left: &mut LeftLocks,
    caller: &Caller<'_>,
) -> Result<(), Reason> {
    match plane.leases.holder_if_it_answers(vm) {
        Ok(Some(holder)) if holder.own => return Ok(()),
        Ok(Some(holder)) if holder.alive => return Err(LeaseFailure::HeldBy(holder).reason()),
        Ok(Some(_)) => {}
        Ok(None) if plane.servers.may_keep_for_the_dead(datastore.name()) => {}
        Err(damaged @ (LeaseFailure::Damaged { .. } | LeaseFailure::AreaDamaged(_))) => return Err(damaged.reason()),
        // What cannot be known now is met when the lease is taken.
        Ok(None) | Err(_) => return Ok(()),
    }
    let began = Instant::now();
    let most = Duration::from_millis(limits::DATASTORE_LOCK_MS_MAX);
    // Where there is nothing that it could be told, the files and the disks' locks show what is left.
    while let Err(reason) = left.give_up(plane, datastore) {
        if began.elapsed() >= most || caller.cancelled_within(LOCK_AGAIN) {
            return Err(reason);
        }
        caller.progress(&format!("waiting until its server gives up what a dead host has: {}", reason.cause), None);
    }
    Ok(())
}

/// Takes the VM's lease.
fn acquire(plane: &ControlPlane, vm: &VmOnDatastore, caller: &Caller<'_>) -> Result<(u64, Option<TakenFrom>), Reason> {
    acquire_and_tell(plane, vm, caller).map_err(|failure| {
        let mut reason = failure.reason();
        if failure.leaves_doubt() {
            owed::owe(plane, vm);
            let doubt = "whether this host got the lease is not known; if it did, it gives it up by itself";
            reason.cause = format!("{}; {doubt}", reason.cause);
            reason.hint = format!("vm start {} tries again, here or on another host; log show lease", vm.vm);
        }
        reason
    })
}

/// Asks for the VM's lease, and tells who waits for it if it takes long: one that is to be written may have to wait for what an earlier
/// process of the lease role wrote.
fn acquire_and_tell(
    plane: &ControlPlane,
    vm: &VmOnDatastore,
    caller: &Caller<'_>,
) -> Result<(u64, Option<TakenFrom>), LeaseFailure> {
    let (began, (done, answer)) = (Instant::now(), channel());
    std::thread::scope(|scope| {
        let ask = move || drop(done.send(plane.leases.acquire(vm)));
        if std::thread::Builder::new().name("acquire".to_owned()).spawn_scoped(scope, ask).is_err() {
            return plane.leases.acquire(vm);
        }
        loop {
            match answer.recv_timeout(LOCK_AGAIN) {
                Ok(answer) => {
                    plane.vms.waits_for(&vm.vm, None);
                    return answer;
                }
                Err(RecvTimeoutError::Timeout) => {
                    let (passed, settle) = (began.elapsed().as_secs(), limits::LEASE_SETTLE_MS / 1000);
                    let why = format!("what was written of leases before may have to settle first, {settle} s at most");
                    let what = format!("its lease, {passed} s: {why}");
                    caller.progress(&format!("waiting for {what}"), None);
                    plane.vms.waits_for(&vm.vm, Some(what));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(LeaseFailure::Unknown("who asked for its lease ended without a word".to_owned()));
                }
            }
        }
    })
}

fn bring_up(
    plane: &Arc<ControlPlane>,
    located: &Located,
    config: &VmConfig,
    epoch: u64,
    left: &mut LeftLocks,
    caller: &Caller<'_>,
) -> Result<String, Reason> {
    let born = Born::new(plane, located, config, epoch)?;
    let name = &located.name;
    plane.vms.born(name, Arc::clone(&born.running));
    // Before its guest runs: a control plane after this one must find it whenever this one dies.
    let written = record::write(&plane.run_dir, &born.running, false);
    written.map_err(|error| Reason::new(format!("its record cannot be written: {error}"), "host check"))?;
    disks(plane, located, &born.running, left, caller)?;
    let assured = plane.leases.assure(&born.running.vm, epoch).map_err(|failure| failure.reason())?;
    settling::hold_in(plane, &born.running, assured, false);
    boot(plane, located, &born.running)?;
    plane.owed.settled(&born.running.vm);
    plane.vms.put(name, Arc::clone(&born.running), VmState::Running);
    ends::watch(plane, born);
    Ok(format!("VM {name} runs on this host (lease epoch {assured})"))
}

/// Gives the VM its disks. Locks that a host which died has left on the server are given up; where they cannot be, they are waited for.
fn disks(
    plane: &ControlPlane,
    located: &Located,
    running: &Running,
    left: &mut LeftLocks,
    caller: &Caller<'_>,
) -> Result<(), Reason> {
    let vm = &running.vm.vm;
    let began = Instant::now();
    let most = Duration::from_millis(limits::DATASTORE_LOCK_MS_MAX);
    let attached = loop {
        let reason = match take_disks(plane, located, running, left) {
            Ok(()) => break Ok(()),
            Err(Unattached::Failed(reason)) => break Err(reason),
            Err(Unattached::Locked(reason)) => reason,
        };
        let passed = began.elapsed();
        if passed >= most {
            break Err(reason);
        }
        if passed < LOCK_AGAIN {
            log::info!("VM {vm} waits for a disk: {}", reason.cause);
        }
        let what = format!("a disk, {} of at most {} s: {}", passed.as_secs(), most.as_secs(), reason.cause);
        caller.progress(&format!("waiting for {what}"), None);
        plane.vms.waits_for(vm, Some(what));
        if caller.cancelled_within(LOCK_AGAIN) {
            let hint = format!("vm start {vm} tries again");
            break Err(Reason::new(format!("it was cancelled while it waited for a disk: {}", reason.cause), hint));
        }
    };
    plane.vms.waits_for(vm, None);
    attached
}

fn boot(plane: &ControlPlane, located: &Located, running: &Running) -> Result<(), Reason> {
    let boot = &running.config.boot;
    plane.open_taps(running)?;
    let image = BootFiles::open(located, boot)?;
    let load = VmmRequest::Load { cmdline: boot.cmdline.clone(), initrd: image.initrd.is_some() };
    let loaded = running.monitor.ask(&load, &image.beside());
    loaded
        .map_err(|error| Reason::new(format!("the kernel {} cannot be loaded: {error}", boot.kernel), KERNEL_HINT))?;
    let resumed = running.monitor.ask(&VmmRequest::Resume, &[]);
    resumed.map_err(|error| Reason::new(error.to_string(), "log show vmm")).map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use model::host_config::{DatastoreKind, NfsVersion};

    use super::*;
    use crate::api::channel::Channel;
    use crate::api::host::{HostAnswer, HostRequest};
    use crate::api::lease::{Holder, LeaseAnswer, LeaseRequest};
    use crate::boot_clock;
    use crate::host::control_plane::stand_in::Place;

    /// What the lease role is asked by who starts a VM that host-b holds, or nobody, and what the start is told before it looks at a file.
    fn meeting(test: &str, holder: Option<Holder>, no_death_is_open: bool) -> (Result<(), Reason>, Vec<LeaseRequest>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let asks = Arc::clone(&asked);
        let place = Place::without_datastore(test, move |request| {
            asks.lock().expect("held").push(request.clone());
            match request {
                LeaseRequest::Query(_) => LeaseAnswer::Holder(holder.clone()),
                LeaseRequest::DeadBoots(_) => LeaseAnswer::DeadBoots(Vec::new()),
                _ => LeaseAnswer::Failed("it is not asked".to_owned()),
            }
        });
        let vm = VmOnDatastore { datastore: "nfs".parse().expect("valid"), vm: "web".parse().expect("valid") };
        if no_death_is_open {
            place.plane.servers.with_deaths(&vm.datastore, |deaths| deaths.observe(boot_clock::now(), []));
        }
        let (server, export) = ([127, 0, 0, 1].into(), "/vms".to_owned());
        let kind = DatastoreKind::Nfs { server, port: 2049, export, version: NfsVersion::V4_2 };
        let configured = model::host_config::Datastore { name: vm.datastore.clone(), kind };
        let datastore = Datastore::new(&configured, std::path::Path::new("/nowhere"), "host-a");
        let met = meet_holder(&place.plane, &vm, &datastore, &mut LeftLocks::default(), &Caller::nobody());
        let asked = asked.lock().expect("held").iter().filter(|one| is_of_a_meeting(one)).cloned().collect();
        (met, asked)
    }

    fn host_b(alive: bool) -> Option<Holder> {
        let (name, epoch) = ("host-b".parse().expect("valid"), 1);
        Some(Holder { host: [2; 16], name, generation: 1, epoch, alive, own: false, since_unix_s: None })
    }

    fn is_of_a_meeting(request: &LeaseRequest) -> bool {
        matches!(request, LeaseRequest::Query(_) | LeaseRequest::DeadBoots(_))
    }

    #[test]
    fn who_starts_a_vm_is_told_what_it_waits_for_while_its_lease_is_not_given() {
        let (give, given) = channel();
        let place = Place::without_datastore("acquire", move |request| match request {
            LeaseRequest::Acquire(_) => {
                given.recv().expect("it is given");
                LeaseAnswer::held(3)
            }
            _ => LeaseAnswer::Failed("it is not asked".to_owned()),
        });
        let vm = VmOnDatastore { datastore: "lab".parse().expect("valid"), vm: "web".parse().expect("valid") };
        let (channel, console) = Channel::<HostAnswer, HostRequest>::pair().expect("sockets");
        let acquired = std::thread::scope(|scope| {
            // Gone with a panic, so that nobody waits for it.
            let give = give;
            let starting = scope.spawn(|| acquire(&place.plane, &vm, &Caller::console(&channel)));
            let (told, _) = console.receive_within(Duration::from_secs(60)).expect("it is told");
            let HostAnswer::Progress { doing, .. } = told else { panic!("{told:?}") };
            assert!(doing.starts_with("waiting for its lease, "), "{doing}");
            give.send(()).expect("it waits");
            starting.join().expect("it ends")
        });
        assert_eq!(acquired.expect("held").0, 3);
    }

    #[test]
    fn the_server_of_a_vm_whose_holder_is_dead_gives_up_what_that_has_before_a_file_is_looked_at() {
        let (met, asked) = meeting("met-dead", host_b(false), true);
        met.expect("it goes on");
        assert!(matches!(&asked[..], [LeaseRequest::Query(_), LeaseRequest::DeadBoots(_)]), "{asked:?}");
    }

    #[test]
    fn a_holder_that_lives_is_told_and_its_server_is_told_nothing() {
        let (met, asked) = meeting("met-alive", host_b(true), false);
        assert!(met.expect_err("it is held").cause.contains("host-b holds its lease"));
        assert!(matches!(&asked[..], [LeaseRequest::Query(_)]), "{asked:?}");
    }

    #[test]
    fn a_vm_that_nobody_holds_is_not_met_before_the_server_gave_up_what_a_dead_host_has() {
        let (met, asked) = meeting("met-nobody", None, false);
        met.expect("it goes on");
        assert!(matches!(&asked[..], [LeaseRequest::Query(_), LeaseRequest::DeadBoots(_)]), "{asked:?}");
        let (met, asked) = meeting("met-nobody-dead", None, true);
        met.expect("it goes on");
        assert!(matches!(&asked[..], [LeaseRequest::Query(_)]), "it waits for no look: {asked:?}");
    }
}
