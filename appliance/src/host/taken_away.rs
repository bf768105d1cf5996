//! VMs that run here and are another host's by their lease: a move was finished while no control plane ran, or somebody broke
//! the lease by force. They end here. Those that stand still because their lease does not tell whose they are ([`undecided`]) are looked
//! at in the same round.
//!
//! No fence depends on this: it is there so that nobody has to look after a VM that runs in two places, in one of which it
//! cannot write any more. A VM that runs here by a lease that somebody replaced as damaged, saying that it ran nowhere, is not ended: epochs
//! begin again there, and do not tell whose word is the later. People are told of it ([`Astray`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::diagnosis::Reason;
use model::names::VmName;

use crate::api::host::VmState;
use crate::api::lease::Holder;
use crate::datastore::Datastore;
use crate::host::control_plane::ControlPlane;
use crate::host::leases::LeaseFailure;
use crate::host::running::Running;
use crate::host::settling::{hold_in, release};
use crate::host::undecided;
use crate::journal;

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// After so many looks every VM was looked at: a look reads all that hosts wrote about a VM, from the storage that renewals use.
const LOOKS_A_ROUND: usize = 16;
/// The states in which nothing is being done with a VM. What is done with another is settled by who does it.
const IDLE: [VmState; 2] = [VmState::Running, VmState::Paused];

/// The VMs that run here although their leases are another's or nobody's, and what people were told of each.
#[derive(Debug, Default)]
pub struct Astray(Mutex<BTreeMap<VmName, String>>);

impl Astray {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmName, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a look at a VM's lease found: whose it is instead, or that all is well; whether that is news.
    fn note(&self, vm: &VmName, whose: Option<String>) -> bool {
        let mut all = self.lock();
        match whose {
            None => drop(all.remove(vm)),
            Some(whose) => return all.insert(vm.clone(), whose.clone()) != Some(whose),
        }
        false
    }

    /// Why something is wrong with each of them that still runs here.
    pub fn problems(&self, plane: &ControlPlane) -> Vec<Reason> {
        let mut all = self.lock();
        all.retain(|vm, _| plane.vms.state(vm).is_some());
        all.iter().map(|(vm, whose)| Reason::new(format!("VM {vm} runs here, and {whose}"), mend(vm))).collect()
    }
}

/// What a person can do about a VM that runs here by a lease of before.
fn mend(vm: &VmName) -> String {
    format!(
        "its lease was replaced while it ran (lease break); vm stop {vm} here, or vm kill {vm}, then vm start {vm} on the host that is to have it"
    )
}

/// Looks at the leases of the VMs that run here from a datastore, some at a time, for ever.
pub fn keep(plane: &Arc<ControlPlane>, datastore: &Datastore) {
    let mut round: Vec<Arc<Running>> = Vec::new();
    let mut at_once = 1;
    let mut damaged = BTreeSet::new();
    loop {
        std::thread::sleep(LOOK);
        if round.is_empty() {
            let here = plane.vms.all_running().into_iter();
            let here =
                here.filter(|(running, state)| running.vm.datastore == *datastore.name() && IDLE.contains(state));
            round = here.map(|(running, _)| running).collect();
            at_once = round.len().div_ceil(LOOKS_A_ROUND);
        }
        let rest = round.len().saturating_sub(at_once);
        for running in round.split_off(rest) {
            if datastore.available() {
                look(plane, &running, &mut damaged);
            }
        }
    }
}

/// Looks at the lease of a VM that ran here a moment ago; `damaged` are those whose leases people were told to be damaged.
fn look(plane: &ControlPlane, running: &Running, damaged: &mut BTreeSet<VmName>) {
    if plane.vms.undecided(&running.vm.vm).is_some() {
        return undecided::look_again(plane, running);
    }
    let holder = plane.leases.holder(&running.vm);
    if let Some(news) = news_of_damage(&running.vm.vm, &holder, damaged) {
        log::error!("{news}");
    }
    let held_in = match holder {
        Ok(Some(holder)) if holder.own => Ok(holder.epoch),
        Ok(Some(holder)) if holder.epoch > running.epoch() => Err(holder),
        // Whoever works on it settles it.
        Ok(_) if !plane.vms.state(&running.vm.vm).is_some_and(|state| IDLE.contains(&state)) => return,
        // It is older than what is known here, or what was decided for this host was not made known yet, or it was broken.
        Ok(_) => match plane.leases.assure(&running.vm, running.epoch()) {
            Ok(epoch) => Ok(epoch),
            Err(LeaseFailure::HeldBy(holder)) => Err(holder),
            Err(LeaseFailure::NoLease) => {
                return tell_astray(plane, running, Some("nobody holds its lease".to_owned()));
            }
            Err(_) => return,
        },
        // A datastore that does not tell ends nothing: the fence of the host lease stands behind this.
        Err(_) => return,
    };
    let older = held_in.as_ref().err().filter(|holder| holder.epoch <= running.epoch());
    tell_astray(
        plane,
        running,
        older.map(|holder| format!("{} holds its lease (epoch {})", holder.name, holder.epoch)),
    );
    settle(plane, running, held_in);
}

/// Notes whose the lease of a VM is that runs here all the same, and tells it once.
fn tell_astray(plane: &ControlPlane, running: &Running, whose: Option<String>) {
    let vm = &running.vm.vm;
    let is_news = plane.astray.note(vm, whose.clone());
    if let Some(whose) = whose.filter(|_| is_news) {
        log::error!("VM {vm} runs here, and {whose}: host check");
    }
}

/// What people are to be told of damage by what the lease of a VM that runs here answered, each time that it comes to be damaged.
fn news_of_damage(
    vm: &VmName,
    answered: &Result<Option<Holder>, LeaseFailure>,
    damaged: &mut BTreeSet<VmName>,
) -> Option<String> {
    match answered {
        Err(failure @ LeaseFailure::Damaged { .. }) if damaged.insert(vm.clone()) => Some(format!(
            "{failure}; VM {vm} stays as it is here, and can be neither moved nor started again: host check"
        )),
        Ok(_) => {
            damaged.remove(vm);
            None
        }
        Err(_) => None,
    }
}

/// Settles a VM that this host holds in an epoch, or another.
fn settle(plane: &ControlPlane, running: &Running, held_in: Result<u64, Holder>) {
    if held_in.as_ref().is_ok_and(|epoch| *epoch <= running.epoch()) {
        return;
    }
    // Held, so that nobody works on it meanwhile; whoever does now, settles it.
    let Ok(held) = plane.vms.hold(&running.vm.vm, &IDLE, VmState::Releasing, "") else { return };
    if held.running().monitor.pid() != running.monitor.pid() {
        return;
    }
    match held_in {
        Ok(epoch) if epoch > running.epoch() => hold_in(plane, running, epoch, *held.before() == VmState::Paused),
        Err(holder) if holder.epoch > running.epoch() => end(plane, running, &holder),
        // It was older than what is known here.
        _ => {}
    }
}

/// The VM is another's, for good: epochs do not go back.
fn end(plane: &ControlPlane, running: &Running, holder: &Holder) {
    let (vm, Holder { name: by, epoch, .. }) = (&running.vm.vm, holder);
    log::warn!(target: journal::NEWS, "VM {vm} ends here: {by} took its lease (epoch {epoch}); lease show {vm}");
    release(plane, running, taken(holder));
}

/// How a VM ended here whose lease another took.
pub(super) fn taken(holder: &Holder) -> String {
    format!("{} took its lease (epoch {})", holder.name, holder.epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::lease::{LeaseAnswer, LeaseRequest};
    use crate::host::control_plane::stand_in::Place;
    use crate::host::monitor::stand_in::StandIn;

    fn web() -> VmName {
        "web".parse().expect("valid")
    }

    fn host_b(epoch: u64) -> Holder {
        let name = "host-b".parse().expect("valid");
        Holder { host: [2; 16], name, generation: 1, epoch, alive: true, own: false, since_unix_s: None }
    }

    /// A control plane that runs `web` in epoch 1, whose lease role says that `held_by`, and that host-b won epoch 2.
    fn broken(test: &str, held_by: Option<Holder>) -> (Place, StandIn, Arc<Running>) {
        let place = Place::without_datastore(test, move |request| match request {
            LeaseRequest::Query(_) => LeaseAnswer::Holder(held_by.clone()),
            LeaseRequest::Resolve { epoch: 0, .. } => LeaseAnswer::HeldBy(host_b(2)),
            _ => LeaseAnswer::Failed("it was not to be asked".to_owned()),
        });
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let monitor = StandIn::start(&web());
        let running = monitor.running();
        place.plane.vms.put(&web(), Arc::clone(&running), VmState::Running);
        (place, monitor, running)
    }

    #[test]
    fn a_vm_that_runs_by_a_lease_that_was_replaced_is_told_of_and_goes_on() {
        let cases: [(&str, LeaseAnswer, &str); 2] = [
            ("replaced", LeaseAnswer::HeldBy(host_b(1)), "host-b holds its lease (epoch 1)"),
            ("nobodys", LeaseAnswer::NoLease, "nobody holds its lease"),
        ];
        for (test, resolved, whose) in cases {
            let place = Place::without_datastore(test, move |request| match request {
                LeaseRequest::Query(_) => LeaseAnswer::Holder(None),
                LeaseRequest::Resolve { epoch: 0, .. } => resolved.clone(),
                _ => LeaseAnswer::Failed("it was not to be asked".to_owned()),
            });
            let monitor = StandIn::start(&web());
            let running = monitor.running();
            place.plane.vms.put(&web(), Arc::clone(&running), VmState::Running);
            let mut damaged = BTreeSet::new();
            look(&place.plane, &running, &mut damaged);
            assert_eq!(place.plane.vms.state(&web()), Some(VmState::Running), "{whose}");
            let problems = place.plane.astray.problems(&place.plane);
            assert!(
                problems.len() == 1 && problems[0].cause == format!("VM web runs here, and {whose}"),
                "{problems:?}"
            );
            assert!(!place.plane.astray.note(&web(), Some(whose.to_owned())), "it was told");
            place.plane.astray.note(&web(), None);
            assert_eq!(place.plane.astray.problems(&place.plane), []);
        }
    }

    #[test]
    fn a_vm_whose_lease_was_broken_ends_here_whether_another_holds_it_or_nobody() {
        for (test, held_by) in [("taken", Some(host_b(2))), ("broken", None)] {
            let (place, _monitor, running) = broken(test, held_by);
            let (plane, datastore) = (Arc::clone(&place.plane), place.plane.datastores.all()[0].clone());
            // Ends with the process of the test.
            std::thread::spawn(move || keep(&plane, &datastore));
            place.wait("its monitor ends", || running.monitor.is_gone());
            assert_eq!(place.plane.vms.state(&web()), None);
            let end = place.plane.vms.last_end(&web()).expect("told");
            assert_eq!(end, "host-b took its lease (epoch 2)");
            assert_eq!(place.plane.owed.all(), [], "what is another's is not given up");
        }
    }

    #[test]
    fn what_was_read_before_a_vm_came_back_ends_nothing() {
        let place = Place::without_datastore("came-back", |request| match request {
            LeaseRequest::Query(_) => LeaseAnswer::Holder(Some(host_b(4))),
            _ => LeaseAnswer::held(5),
        });
        let monitor = StandIn::start(&web());
        let running = monitor.running();
        running.set_epoch(5);
        place.plane.vms.put(&web(), Arc::clone(&running), VmState::Running);
        look(&place.plane, &running, &mut BTreeSet::new());
        settle(&place.plane, &running, Err(host_b(4)));
        assert!(!running.monitor.is_gone());
        assert_eq!(place.plane.vms.state(&web()), Some(VmState::Running));
    }

    #[test]
    fn a_vm_whose_lease_is_damaged_runs_on_and_people_are_told_once() {
        let why = || "the lease of VM web is damaged".to_owned();
        let place = Place::without_datastore("lease-damaged", move |request| match request {
            LeaseRequest::Query(_) => LeaseAnswer::Damaged { vm: web(), why: why(), mark: 7 },
            // Whoever asks more of it ends the VM.
            _ => LeaseAnswer::HeldBy(host_b(9)),
        });
        let monitor = StandIn::start(&web());
        let running = monitor.running();
        place.plane.vms.put(&web(), Arc::clone(&running), VmState::Running);
        let mut damaged = BTreeSet::new();
        look(&place.plane, &running, &mut damaged);
        assert_eq!(damaged, BTreeSet::from([web()]), "it was told");
        assert!(!running.monitor.is_gone());
        assert_eq!(place.plane.vms.state(&web()), Some(VmState::Running));
        let mut told = |answered| news_of_damage(&web(), &answered, &mut damaged).is_some();
        let is_damaged = || Err(LeaseFailure::Damaged { vm: web(), why: why(), mark: 7 });
        assert!(!told(is_damaged()), "again");
        assert!(!told(Err(LeaseFailure::StandsStill)) && !told(is_damaged()), "silence is no news of the lease");
        assert!(!told(Ok(None)) && told(is_damaged()), "it was sound meanwhile");
    }

    #[test]
    fn nothing_is_ended_that_somebody_works_on_or_of_which_the_lease_does_not_tell() {
        let place = Place::without_datastore("does-not-tell", |_| LeaseAnswer::Failed("it is away".to_owned()));
        let monitor = StandIn::start(&web());
        let running = monitor.running();
        place.plane.vms.put(&web(), Arc::clone(&running), VmState::Running);
        look(&place.plane, &running, &mut BTreeSet::new());
        let moving = place.plane.vms.hold(&web(), &[VmState::Running], VmState::MovingOut, "").expect("it runs");
        settle(&place.plane, &running, Err(host_b(2)));
        assert!(!running.monitor.is_gone());
        drop(moving);
        settle(&place.plane, &running, Err(host_b(2)));
        assert_eq!(place.plane.vms.state(&web()), None);
    }
}
