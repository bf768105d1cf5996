//! VMs that stand still in the middle of a move, because their lease will not tell whose they are: what hosts wrote about them is damaged
//! (`docs/decisions/a-damaged-lease.md`). Ended such a VM may be lost, and going on it may be a second one; so it stays as it is, at the
//! source and at the destination, until its lease tells, or a person kills it.
//!
//! The lease is asked on for as long as the VM stands, because damage may pass and others may mend it:
//!
//! | the lease | the VM |
//! |---|---|
//! | is damaged, or knows nothing of what this host held | stays as it is |
//! | is this host's, by the epoch that the move was for | goes on as it was before |
//! | is another host's, in whatever epoch | ends here |
//!
//! A control plane that is restarted finds the record of the move, and settles that anew.

use std::sync::Arc;

use model::diagnosis::{Diagnosis, Reason};
use model::names::VmName;

use crate::api::host::VmState;
use crate::api::migrate::MigrationId;
use crate::api::vmm::VmmLife;
use crate::host::control_plane::ControlPlane;
use crate::host::leases::LeaseFailure;
use crate::host::running::Running;
use crate::host::settling::{StandsStill, go_on, owe_what_is_left, release};
use crate::host::taken_away::taken;
use crate::host::vms::Held;
use crate::host::{announcing, arrivals, record, unfollowed};
use crate::journal;

/// How a VM stands still whose lease does not tell whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// It is this host's if the lease says that it holds an epoch after this one.
    pub base: u64,
    /// It was paused before the move, and stays so.
    pub paused: bool,
    /// It was coming here, by this move: its disks and networks are to be opened before it goes on.
    pub arrives: Option<MigrationId>,
    /// Why the lease does not tell.
    pub why: String,
    /// What a person can do about it.
    pub hint: String,
    /// The last look could read it.
    pub is_readable: bool,
}

impl Undecided {
    /// One whose lease failed so, for the first time.
    pub fn new(base: u64, paused: bool, arrives: Option<MigrationId>, failure: &LeaseFailure, hint: String) -> Self {
        Self { base, paused, arrives, why: failure.to_string(), hint, is_readable: false }
    }

    /// What it waits for, for a person.
    pub fn waits_for(&self) -> String {
        let Self { why, hint, .. } = self;
        format!("its lease, which says whether it goes on or ends here: {why}; if that stays so: {hint}")
    }

    /// Why nothing else can be done with it.
    pub fn refusal(&self, vm: &VmName) -> Reason {
        let cause = format!("VM {vm} stands still, because nobody can tell which host it is on: {}", self.why);
        Reason::new(cause, self.hint.clone())
    }
}

/// What a person can do about a VM whose lease will not tell who runs it, however often it is asked: what was decided is lost, or the VM
/// was given a new lease without it. None of a lease that may yet tell.
pub(super) fn what_is_left(vm: &VmName, failure: &LeaseFailure) -> Option<String> {
    match failure {
        LeaseFailure::Damaged { .. } => Some(format!("vm kill {vm}, then lease break {vm}")),
        LeaseFailure::AreaDamaged(_) => Some(format!("vm kill {vm}; {}", failure.reason().hint)),
        LeaseFailure::NoLease => Some(format!("vm kill {vm}, then vm start {vm}, on any host")),
        _ => None,
    }
}

/// Tells people of a VM that is left as it stands, in this life of its monitor, for the first time.
pub(super) fn tell_all<E>(vm: &VmName, life: &Result<VmmLife, E>, failure: &LeaseFailure, hint: &str) {
    let stands = match life {
        Ok(VmmLife::Running) => "runs on",
        Ok(_) => "is stopped and stays so",
        Err(_) => "may be stopped, which its monitor does not tell, and is left as it is",
    };
    log::error!(target: journal::NEWS, "VM {vm} {stands}, and nobody can tell which host it is on: {failure}; {hint}");
}

/// Asks the lease once more whose a VM is that stands still, if it can be read.
pub(super) fn look_again(plane: &ControlPlane, running: &Running) {
    let vm = &running.vm.vm;
    let Some(undecided) = plane.vms.undecided(vm) else { return };
    // Only a look: nobody is kept from working on it meanwhile.
    if let Err(failure) = plane.leases.holder(&running.vm) {
        note(plane, running, undecided, &failure);
        return;
    }
    // A mend may be under way that still found it damaged: what comes of it is to be seen before anything is asked of the lease.
    if !undecided.is_readable {
        let now = Undecided { is_readable: true, ..undecided };
        return plane.vms.renew_undecided(vm, running.monitor.pid(), now);
    }
    // Held, so that nobody works on it meanwhile; whoever does now, asks the lease.
    let Ok(mut held) = plane.vms.hold(vm, &[VmState::Paused], VmState::Resuming, "") else { return };
    if held.running().monitor.pid() == running.monitor.pid() {
        // What came of it is told.
        let _ = settle(plane, &mut held);
    }
}

/// As [`look_again`], for a person who wants the VM to go on.
///
/// # Errors
/// Why it does not.
pub(super) fn resume(plane: &ControlPlane, held: &mut Held<'_>, what: &str) -> Result<String, Diagnosis> {
    settle(plane, held).map_err(|reason| Diagnosis::of(what, vec![reason]))
}

/// Asks the lease whose the VM is, and does what it says. What was done, for a person.
fn settle(plane: &ControlPlane, held: &mut Held<'_>) -> Result<String, Reason> {
    let running = Arc::clone(held.running());
    let vm = &running.vm.vm;
    let Some(undecided) = plane.vms.undecided(vm) else {
        return Err(Reason::new(format!("VM {vm} is settled meanwhile"), format!("vm show {vm}")));
    };
    let settled = match plane.leases.resolve(&running.vm, undecided.base) {
        Ok(epoch) => goes_on(plane, held, undecided, epoch),
        Err(LeaseFailure::HeldBy(holder)) if !holder.own => {
            let end = taken(&holder);
            log::warn!(target: journal::NEWS, "VM {vm}, which stood still, ends here: {end}; lease show {vm}");
            release(plane, &running, end);
            return Err(LeaseFailure::HeldBy(holder).reason());
        }
        Err(failure) => {
            note(plane, &running, undecided, &failure);
            Err(failure.reason())
        }
    };
    // It may have ended here before this host won that epoch.
    owe_what_is_left(plane, held);
    settled
}

/// The VM is this host's in this epoch, and goes on as it was.
fn goes_on(plane: &ControlPlane, held: &mut Held<'_>, undecided: Undecided, epoch: u64) -> Result<String, Reason> {
    let running = Arc::clone(held.running());
    let (vm, host, paused) = (&running.vm.vm, plane.name(), undecided.paused);
    let opened = if undecided.arrives.is_some() { arrivals::open_all(plane, &running, epoch) } else { Ok(()) };
    let opened = opened.map_err(|cause| Reason::new(cause, "datastore list"));
    let gone_on = opened.and_then(|()| {
        go_on(plane, &running, epoch, paused).map_err(|stands| match stands {
            StandsStill::Lease(failure) => failure.reason(),
            StandsStill::Monitor(cause) => Reason::new(cause, "log show vmm"),
        })
    });
    if let Err(reason) = gone_on {
        let now = Undecided {
            why: format!("it is {host}'s, but {}", reason.cause),
            hint: reason.hint.clone(),
            ..undecided.clone()
        };
        tell(plane, &running, &undecided, now);
        return Err(reason);
    }
    record::update(&plane.run_dir, &running, paused);
    held.leave_as(if paused { VmState::Paused } else { VmState::Running });
    plane.vms.note_undecided(vm, running.monitor.pid(), None);
    if let Some(id) = undecided.arrives {
        announcing::announce(&running);
        // An engine that knew whose it was before this host did waits for the disks; one that began since has forgotten the move.
        unfollowed::has_disks(plane, id);
    }
    let goes_on = if paused { "is paused as it was" } else { "goes on" };
    log::info!(target: journal::NEWS, "VM {vm}, which stood still, {goes_on} on {host}: its lease is {host}'s");
    Ok(format!("VM {vm} {goes_on} on {host}"))
}

/// The lease does not tell yet, and why.
fn note(plane: &ControlPlane, running: &Running, undecided: Undecided, failure: &LeaseFailure) {
    // One that may yet tell leaves what a person can do as it was.
    let hint = what_is_left(&running.vm.vm, failure).unwrap_or_else(|| undecided.hint.clone());
    let now = Undecided { why: failure.to_string(), hint, is_readable: false, ..undecided.clone() };
    tell(plane, running, &undecided, now);
}

fn tell(plane: &ControlPlane, running: &Running, before: &Undecided, now: Undecided) {
    if now.waits_for() != before.waits_for() {
        log::warn!("VM {} stands still and waits for {}", running.vm.vm, now.waits_for());
    }
    plane.vms.renew_undecided(&running.vm.vm, running.monitor.pid(), now);
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::api::lease::{Holder, LeaseAnswer, LeaseRequest};
    use crate::api::vmm::{VmmAnswer, VmmRequest};
    use crate::host::caller::Caller;
    use crate::host::control_plane::stand_in::Place;
    use crate::host::monitor::stand_in::{self, StandIn};
    use crate::host::{departures, lifecycle};

    const BASE: u64 = 4;

    fn web() -> VmName {
        "web".parse().expect("valid")
    }

    fn damaged() -> LeaseAnswer {
        LeaseAnswer::Damaged { vm: web(), why: "the lease of VM web is damaged".to_owned(), mark: 7 }
    }

    fn host_b(epoch: u64) -> Holder {
        let name = "host-b".parse().expect("valid");
        Holder { host: [2; 16], name, generation: 1, epoch, alive: true, own: false, since_unix_s: None }
    }

    /// A VM that stands still; what its lease answers who looks and who wants it decided; how often its guest was let run.
    struct Standing {
        place: Place,
        _monitor: StandIn,
        running: Arc<Running>,
        lease: Arc<Mutex<[LeaseAnswer; 2]>>,
        resumes: Arc<Mutex<u32>>,
    }

    impl Standing {
        fn new(test: &str, arrives: bool, paused: bool) -> Self {
            let lease = Arc::new(Mutex::new([damaged(), damaged()]));
            let answers = Arc::clone(&lease);
            let place = Place::without_datastore(test, move |request| {
                let [look, decided] = answers.lock().expect("held").clone();
                match request {
                    LeaseRequest::Query(_) => look,
                    LeaseRequest::Resolve { epoch: BASE, .. } => decided,
                    _ => LeaseAnswer::Failed("it was not to be asked".to_owned()),
                }
            });
            place.write("vms/web/vm.toml", "");
            place.write("vms/web/disk.img", &"0".repeat(4096));
            place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
            let monitor = StandIn::start(&web());
            let resumes = Arc::new(Mutex::new(0));
            let resumed = Arc::clone(&resumes);
            monitor.answers(move |request| match request {
                VmmRequest::Status => Some(stand_in::status(VmmLife::Paused)),
                VmmRequest::Announce { .. } => Some(VmmAnswer::Announced { frames: 1, unheard: 0, since_ms: Some(0) }),
                VmmRequest::AttachDisk { .. } | VmmRequest::TakeDisks | VmmRequest::AnnounceByGuest => {
                    Some(VmmAnswer::Done)
                }
                VmmRequest::Resume => {
                    *resumed.lock().expect("held") += 1;
                    Some(VmmAnswer::Done)
                }
                _ => None,
            });
            let running = monitor.running_with("[[disk]]\nfile = \"disk.img\"\n");
            running.set_epoch(BASE);
            place.plane.vms.put(&web(), Arc::clone(&running), VmState::Paused);
            let (why, hint) =
                ("the lease of VM web is damaged".to_owned(), "vm kill web, then lease break web".to_owned());
            let arrives = arrives.then_some(1);
            let undecided = Undecided { base: BASE, paused, arrives, why, hint, is_readable: false };
            place.plane.vms.note_undecided(&web(), running.monitor.pid(), Some(undecided));
            Self { place, _monitor: monitor, running, lease, resumes }
        }

        fn looks(&self, look: LeaseAnswer, decided: LeaseAnswer) {
            *self.lease.lock().expect("held") = [look, decided];
            for _ in 0..2 {
                look_again(&self.place.plane, &self.running);
            }
        }

        fn state(&self) -> Option<VmState> {
            self.place.plane.vms.state(&web())
        }

        fn stands(&self) -> bool {
            self.state() == Some(VmState::Paused)
                && self.place.plane.vms.undecided(&web()).is_some()
                && *self.resumes.lock().expect("held") == 0
                && !self.running.monitor.is_gone()
        }
    }

    #[test]
    fn a_vm_that_stands_still_is_neither_let_go_nor_ended_before_its_lease_tells() {
        for arrives in [false, true] {
            let vm = Standing::new(&format!("stands-{arrives}"), arrives, false);
            let plane = &vm.place.plane;
            vm.looks(damaged(), LeaseAnswer::held(BASE + 1));
            assert!(vm.stands(), "it is only looked at while it is damaged");
            vm.looks(LeaseAnswer::Holder(None), LeaseAnswer::NoLease);
            assert!(vm.stands(), "its new lease is nobody's");
            let told = plane.vms.waiting_for(&web()).expect("told");
            assert!(told.contains("vm kill web, then vm start web"), "{told}");
            vm.looks(LeaseAnswer::Failed("it is away".to_owned()), damaged());
            assert!(vm.stands());
            vm.looks(LeaseAnswer::Holder(Some(host_b(BASE))), damaged());
            assert!(vm.stands(), "it is damaged once more");
            let told = plane.vms.waiting_for(&web()).expect("told");
            assert!(told.contains("is damaged") && told.contains("vm kill web, then lease break web"), "{told}");
            let refused = lifecycle::resume(plane, &web()).expect_err("it does not tell").to_string();
            assert!(refused.contains("is damaged") && refused.contains("lease break web"), "{refused}");
            let to = "host-b".parse().expect("valid");
            let moved = departures::migrate(&plane.clone(), &web(), &to, Default::default(), &Caller::nobody());
            let refused = moved.expect_err("whose it is nobody knows").to_string();
            assert!(refused.contains("VM web stands still") && refused.contains("lease break web"), "{refused}");
            assert!(vm.stands());
            assert_eq!(plane.owed.all(), []);
        }
    }

    #[test]
    fn what_was_settled_meanwhile_is_not_undecided_again_by_a_look_that_took_longer() {
        let vm = Standing::new("settled-meanwhile", false, false);
        let plane = &vm.place.plane;
        let undecided = plane.vms.undecided(&web()).expect("it stands still");
        plane.vms.note_undecided(&web(), vm.running.monitor.pid(), None);
        note(plane, &vm.running, undecided, &LeaseFailure::NoLease);
        assert_eq!(plane.vms.undecided(&web()), None);
    }

    #[test]
    fn a_vm_that_stands_still_goes_on_as_it_was_when_its_lease_is_this_hosts() {
        for (arrives, paused) in [(false, false), (true, false), (false, true), (true, true)] {
            let vm = Standing::new(&format!("goes-on-{arrives}-{paused}"), arrives, paused);
            *vm.lease.lock().expect("held") = [LeaseAnswer::Holder(None), LeaseAnswer::held(BASE + 1)];
            look_again(&vm.place.plane, &vm.running);
            assert!(vm.stands(), "a mend that found it damaged may be under way");
            // `assure` asks for the same epoch.
            vm.looks(LeaseAnswer::Holder(Some(host_b(BASE))), LeaseAnswer::held(BASE + 1));
            let after = if paused { VmState::Paused } else { VmState::Running };
            assert_eq!(vm.state(), Some(after), "arrives {arrives}: {:?}", vm.place.plane.vms.waiting_for(&web()));
            assert_eq!(*vm.resumes.lock().expect("held"), u32::from(!paused));
            assert_eq!(vm.running.epoch(), BASE + 1);
            assert_eq!(vm.place.plane.vms.undecided(&web()), None, "it is like any other now");
        }
    }

    #[test]
    fn a_vm_that_stands_still_ends_when_another_host_holds_its_lease_in_whatever_epoch() {
        // Epochs begin again at 1 with a new lease.
        for (epoch, arrives) in [(1, false), (1, true), (BASE + 1, false), (BASE + 1, true)] {
            let vm = Standing::new(&format!("another-{epoch}-{arrives}"), arrives, false);
            vm.looks(LeaseAnswer::Holder(Some(host_b(epoch))), LeaseAnswer::HeldBy(host_b(epoch)));
            vm.place.wait("its monitor ends", || vm.running.monitor.is_gone());
            let plane = &vm.place.plane;
            assert_eq!((vm.state(), *vm.resumes.lock().expect("held")), (None, 0));
            assert_eq!(plane.vms.last_end(&web()), Some(format!("host-b took its lease (epoch {epoch})")));
            assert_eq!(plane.owed.all(), [], "what is another's is not given up");
        }
    }
}
