//! The end of this host in order. `init` asks for it by SIGTERM: moves are given up, guests get their power button and
//! their time, what is left is killed, the leases are given up, the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use model::diagnosis::Diagnosis;
use model::limits;
use model::names::VmName;

use crate::api::host::VmState;
use crate::api::init::{self, InitRequest};
use crate::api::lease::{LeaseRequest, VmOnDatastore};
use crate::api::migrate::ToMigrate;
use crate::host::caller::Caller;
use crate::host::control_plane::ControlPlane;
use crate::host::discovery;
use crate::host::lifecycle;
use crate::host::moves::shown;
use crate::sigterm;

/// Pause between two looks at how far the end is.
const LOOK: Duration = Duration::from_millis(200);
/// Pause before a VM, or the engine, that did not obey is told again.
const AGAIN: Duration = Duration::from_secs(1);
/// Pause before the power button of a guest that still runs is pressed once more: one that was booting did not hear it.
const PRESS_AGAIN: Duration = Duration::from_secs(10);
/// Pause between two lines that tell what is waited for.
const SHOW_WAITING: Duration = Duration::from_secs(5);
/// How long the leases of VMs that ended are waited for before the host's own are given up.
const RELEASES_BOUND: Duration = Duration::from_secs(10);
/// How long a lease that is being asked for is waited for before all are given up.
const ASKING_BOUND: Duration = Duration::from_secs(3);

impl ControlPlane {
    /// Ends this host in order: `init` stops the roles, and this one its VMs before. From now on nothing begins here.
    ///
    /// # Errors
    /// `init` does not answer.
    pub fn end_host(&self, order: InitRequest) -> Result<String, Diagnosis> {
        let what =
            if order == InitRequest::Reboot { "the host is not restarted" } else { "the host is not powered off" };
        self.ending.store(true, Ordering::Relaxed);
        let given = init::ask(&self.run_dir, order);
        given.map_err(|error| {
            self.ending.store(false, Ordering::Relaxed);
            Diagnosis::new(what, error.to_string(), "log show init")
        })?;
        Ok(announced(&moving(self)))
    }

    /// Refuses `what` while this host is being shut down.
    ///
    /// # Errors
    /// It is.
    pub fn refuse_if_ending(&self, what: &str) -> Result<(), Diagnosis> {
        if !self.ending.load(Ordering::Relaxed) {
            return Ok(());
        }
        let cause = format!("{} is being shut down", self.name());
        Err(Diagnosis::new(what, cause, "use another host: host list"))
    }
}

/// What the order to end the host says will happen.
fn announced(moving: &[VmName]) -> String {
    if moving.is_empty() {
        return "VMs are shut down first; then the host follows".to_owned();
    }
    let names: Vec<&str> = moving.iter().map(VmName::as_str).collect();
    format!(
        "moves are given up first ({}; what is committed already goes on), then VMs are shut down; then the host follows",
        names.join(", ")
    )
}

/// The VMs in the middle of a move.
fn moving(plane: &ControlPlane) -> Vec<VmName> {
    plane.vms.all_in(&[VmState::MovingOut, VmState::MovingIn])
}

/// Waits for SIGTERM, ends what runs here, and then the process.
pub fn on_sigterm(plane: &Arc<ControlPlane>) {
    while !sigterm::arrived() {
        std::thread::sleep(LOOK);
    }
    plane.ending.store(true, Ordering::Relaxed);
    log::info!("the host ends: {}", announced(&moving(plane)));
    give_moves_up(plane);
    wait_for_clones(plane);
    shut_guests_down(plane);
    kill_the_rest(plane);
    wait_for_releases(plane);
    give_leases_up(plane);
    std::process::exit(0);
}

/// Gives the leases of this host itself up. Only now, and not as soon as the host ends: as long as guests are being shut
/// down here, a lease role that is restarted has to be asked for them again.
fn give_leases_up(plane: &ControlPlane) {
    plane.leaving.store(true, Ordering::SeqCst);
    // One that is being asked for is answered at once where it is held, and must not come after the close.
    let deadline = Instant::now() + ASKING_BOUND;
    while plane.asking.try_write().is_err() && Instant::now() < deadline {
        std::thread::sleep(LOOK);
    }
    for datastore in plane.datastores.all() {
        let closed = plane.leases.ask(&LeaseRequest::Close(datastore.name().clone()), &[]);
        if let Err(failure) = closed {
            log::warn!("lease on datastore {}: {failure}", datastore.name());
        }
    }
    discovery::leave(plane);
}

/// Remembers when each was last told something, so that it is told again only after a while.
struct Told<T> {
    last: BTreeMap<T, Instant>,
}

impl<T: Ord + Clone> Told<T> {
    fn nobody() -> Self {
        Self { last: BTreeMap::new() }
    }

    /// Whether it is to be told now, and whether that is the first time.
    fn is_due(&mut self, whom: &T, now: Instant) -> Option<bool> {
        match self.last.insert(whom.clone(), now) {
            None => Some(true),
            Some(before) if now.duration_since(before) >= AGAIN => Some(false),
            Some(before) => {
                self.last.insert(whom.clone(), before);
                None
            }
        }
    }
}

/// Gives up every move that is under way. One that was committed before ends by itself: its VM runs elsewhere, or here.
fn give_moves_up(plane: &ControlPlane) {
    let deadline = Instant::now() + Duration::from_millis(limits::HOST_MOVES_END_MS);
    let mut told = Told::nobody();
    loop {
        let moving = moving(plane);
        if moving.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            for vm in moving {
                log::warn!("the move of VM {vm} did not end in time");
            }
            return;
        }
        for moving in plane.moves.under_way().iter().filter(|known| moving.contains(&known.vm)) {
            let Some(first) = told.is_due(&moving.id, Instant::now()) else { continue };
            if first {
                let (id, vm, destination) = (shown(moving.id), &moving.vm, &moving.destination);
                log::info!("migration {id} of VM {vm} to {destination} is given up, because this host ends");
            }
            // An engine that is away holds nothing up: the lease is being asked then.
            let _ = plane.engine.tell(&ToMigrate::Cancel(moving.id), &[]);
        }
        std::thread::sleep(LOOK);
    }
}

/// Waits until the clones that are being made have given themselves up, which they do as soon as they see that this host ends:
/// what they hold of leases and folders is to be gone before the host is.
fn wait_for_clones(plane: &ControlPlane) {
    let deadline = Instant::now() + Duration::from_millis(limits::HOST_MOVES_END_MS);
    loop {
        let cloning = plane.vms.all_in(&[VmState::Cloning]);
        if cloning.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            return log::warn!("the clones of these VMs were not given up in time: {cloning:?}");
        }
        std::thread::sleep(LOOK);
    }
}

/// Presses the power button of every guest, also of those that a command held at first, and gives them their time.
fn shut_guests_down(plane: &ControlPlane) {
    let deadline = Instant::now() + Duration::from_millis(limits::VM_POWER_BUTTON_MS);
    let (mut tried, mut pressed, mut shown) = (Told::nobody(), BTreeMap::<VmName, Instant>::new(), None);
    while Instant::now() < deadline {
        // No button reaches a guest that stands still because its lease does not tell whose it is.
        let (undecided, here): (Vec<_>, Vec<_>) =
            plane.vms.all_running().into_iter().partition(|(running, _)| plane.vms.undecided(&running.vm.vm).is_some());
        if here.is_empty() {
            for (running, _) in undecided {
                log::warn!("VM {} is killed as it stands: its lease does not tell which host it is on", running.vm.vm);
            }
            return;
        }
        let now = Instant::now();
        if shown.is_none_or(|shown| now.duration_since(shown) >= SHOW_WAITING) {
            log::info!("{}", waits_for(here.iter().map(|(running, _)| &running.vm.vm), deadline - now));
            shown = Some(now);
        }
        for (running, state) in here {
            let name = &running.vm.vm;
            let waits = pressed.get(name).is_some_and(|pressed| now.duration_since(*pressed) < PRESS_AGAIN);
            if waits || !matches!(state, VmState::Running | VmState::Paused) {
                continue;
            }
            let Some(first) = tried.is_due(name, Instant::now()) else { continue };
            match lifecycle::resume_if_paused(plane, name).and_then(|()| lifecycle::stop(plane, name)) {
                Ok(_) => drop(pressed.insert(name.clone(), now)),
                Err(refusal) if first => log::warn!("{refusal}"),
                Err(_) => {}
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// What the end of the host waits for.
fn waits_for<'a>(vms: impl Iterator<Item = &'a VmName>, at_most: Duration) -> String {
    let names: Vec<&str> = vms.map(VmName::as_str).collect();
    format!("waiting until these VMs are shut down, at most {} s: {}", at_most.as_secs(), names.join(", "))
}

/// Kills what did not shut down, all at once.
fn kill_the_rest(plane: &Arc<ControlPlane>) {
    std::thread::scope(|scope| {
        for (running, _) in plane.vms.all_running() {
            scope.spawn(move || {
                let name = &running.vm.vm;
                match lifecycle::kill(plane, name, &Caller::nobody()) {
                    Ok(_) => log::warn!("VM {name} did not shut down in time and was killed"),
                    Err(refusal) => {
                        log::error!("{refusal}");
                        // What is left of it, for instance the copy of a VM that moved, ends with the host.
                        running.monitor.kill();
                    }
                }
            });
        }
    });
}

/// Waits until the leases of the VMs that ended are given up: once the host's own are, these cannot be, and their VMs would count as lost with it. What
/// a datastore that does not answer keeps is not waited for.
fn wait_for_releases(plane: &ControlPlane) {
    let deadline = Instant::now() + RELEASES_BOUND;
    loop {
        let can_be =
            |vm: &VmOnDatastore| plane.datastores.get(&vm.datastore).is_some_and(|datastore| datastore.available());
        let (owed, away): (Vec<_>, Vec<_>) = plane.owed.all().into_iter().partition(can_be);
        let is_away = |vm: &VmName| away.iter().any(|away| away.vm == *vm);
        let releasing = plane.vms.all_in(&[VmState::Releasing]).into_iter().filter(|vm| !is_away(vm));
        let left: BTreeSet<VmName> = releasing.chain(owed.into_iter().map(|vm| vm.vm)).collect();
        if left.is_empty() {
            return;
        }
        if Instant::now() >= deadline {
            return log::warn!("the leases of these VMs were not given up in time: {left:?}");
        }
        std::thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::api::lease::LeaseAnswer;
    use crate::host::control_plane::stand_in::Place;
    use crate::host::host_lease;

    #[test]
    fn a_host_that_gave_its_lease_up_does_not_ask_for_it_again() {
        let (asked, asks) = channel();
        let place = Place::without_datastore("ending-leases", move |request| {
            // The test may be over.
            let _ = asked.send(request.clone());
            LeaseAnswer::Done
        });
        place.write("vms/web/vm.toml", "");
        let bound = Duration::from_secs(60);
        let (plane, (ended, ends)) = (Arc::clone(&place.plane), channel());
        std::thread::spawn(move || {
            host_lease::keep(&plane, &plane.datastores.all()[0]);
            ended.send(()).expect("heard");
        });
        assert!(matches!(asks.recv_timeout(bound), Ok(LeaseRequest::Open { .. })), "it is asked for at first");
        give_leases_up(&place.plane);
        ends.recv_timeout(bound).expect("nothing is kept any more");
        assert!(matches!(asks.try_iter().last(), Some(LeaseRequest::Close(_))), "the last word is that it is given up");
    }

    #[test]
    fn the_leases_of_vms_that_ended_are_given_up_before_the_hosts_own() {
        let place = Place::without_datastore("ending-releases", |_| LeaseAnswer::Done);
        let web: VmName = "web".parse().expect("valid");
        let claim = place.plane.vms.claim(&web, VmState::Releasing, "").expect("free");
        let (plane, (ended, ends)) = (Arc::clone(&place.plane), channel());
        std::thread::spawn(move || {
            wait_for_releases(&plane);
            ended.send(()).expect("heard");
        });
        assert!(ends.recv_timeout(LOOK * 5).is_err(), "a lease is being given up still");
        drop(claim);
        ends.recv_timeout(Duration::from_secs(60)).expect("nothing is waited for any more");
    }

    #[test]
    fn the_order_to_end_a_host_says_which_moves_are_given_up() {
        assert_eq!(announced(&[]), "VMs are shut down first; then the host follows");
        let web: VmName = "web".parse().expect("valid");
        assert!(announced(&[web]).starts_with("moves are given up first (web;"));
    }

    #[test]
    fn who_did_not_obey_is_told_again_only_after_a_while() {
        let mut told = Told::nobody();
        let now = Instant::now();
        assert_eq!(told.is_due(&1, now), Some(true));
        assert_eq!(told.is_due(&1, now + AGAIN / 2), None);
        assert_eq!(told.is_due(&1, now + AGAIN), Some(false));
        assert_eq!(told.is_due(&2, now), Some(true));
    }
}
