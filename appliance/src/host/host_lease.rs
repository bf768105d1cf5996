//! The leases of this host itself, one on each datastore: asked for as soon as a datastore is there, waited for by a VM
//! that is to start, and heard of when they are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use model::names::{DatastoreName, VmName};

use crate::api::lease::{HELD_BOUND, LeaseEvent, LeaseRequest};
use crate::datastore::Datastore;
use crate::host::caller::Caller;
use crate::host::control_plane::ControlPlane;
use crate::host::disk_locks::LeftLocks;
use crate::host::ends;
use crate::journal;

/// Pause between two looks at what has to be kept true.
const KEEP: Duration = Duration::from_secs(1);
/// Name of the lease area of a datastore, from its root.
const LEASE_AREA: &str = "godwit/lease";
/// Pause between two questions whether a host lease is held.
const ASK: Duration = Duration::from_millis(500);

/// How waiting for a host lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// It is held.
    Held,
    /// It is not held, and was waited for long enough.
    Over,
    /// Ctrl-C.
    GivenUp,
}

/// Lets the lease role hold a host lease on a datastore whenever it is there, until this host gives its leases up: one
/// that was given up and asked for again would have to expire before the next boot of this host gets it.
pub fn keep(plane: &ControlPlane, datastore: &Datastore) {
    let mut told = None;
    let (mut was_held, mut is_held) = (false, false);
    loop {
        let asking = plane.asking.read().unwrap_or_else(PoisonError::into_inner);
        if plane.leaving.load(Ordering::SeqCst) {
            return;
        }
        if datastore.available() {
            let trouble = open(plane, datastore).err();
            if let Some(trouble) = trouble.as_ref().filter(|trouble| told.as_ref() != Some(*trouble)) {
                log::error!("lease on datastore {}: {trouble}", datastore.name());
            }
            told = trouble;
            is_held = told.is_none();
            datastore.lease_refused(refusal(plane, datastore));
        }
        drop(asking);
        if is_held && !was_held {
            // What this host was before a reset left locks of its own there, and it may be the first to want them. What is not given up now
            // is asked for again by who meets it.
            let _ = LeftLocks::default().give_up(plane, datastore);
        }
        was_held = is_held;
        std::thread::sleep(KEEP);
    }
}

fn open(plane: &ControlPlane, datastore: &Datastore) -> Result<(), String> {
    datastore.make_folder("godwit").map_err(|error| error.to_string())?;
    let request = LeaseRequest::Open {
        datastore: datastore.name().clone(),
        area: datastore.root().join(LEASE_AREA).to_string_lossy().into_owned(),
        host: plane.identity,
        name: plane.name().clone(),
        watchdog: plane.configuration.config.as_ref().and_then(|config| config.watchdog.clone()),
    };
    plane.leases.ask(&request, &[]).map(|_| ()).map_err(|failure| failure.to_string())
}

/// Waits until this host holds its lease on a datastore, because a VM is to start: after a boot that takes seconds, after
/// a crash up to the expiry.
pub fn wait(plane: &ControlPlane, datastore: &DatastoreName, vm: &VmName, caller: &Caller<'_>) -> Waited {
    let began = Instant::now();
    let waited = loop {
        let Some(trouble) = trouble(plane, datastore) else { break Waited::Held };
        let passed = began.elapsed();
        if passed >= HELD_BOUND {
            break Waited::Over;
        }
        let (passed, most) = (passed.as_secs(), HELD_BOUND.as_secs());
        let what = format!("the host lease on datastore {datastore}, {passed} of at most {most} s: {trouble}");
        caller.progress(&format!("waiting for {what}"), None);
        plane.vms.waits_for(vm, Some(what));
        if caller.cancelled_within(ASK) {
            break Waited::GivenUp;
        }
    };
    plane.vms.waits_for(vm, None);
    waited
}

/// Whether this host holds its lease on a datastore.
pub fn is_held(plane: &ControlPlane, datastore: &DatastoreName) -> bool {
    trouble(plane, datastore).is_none()
}

/// Why this host does not hold its lease on a datastore; none if it does.
fn trouble(plane: &ControlPlane, datastore: &DatastoreName) -> Option<String> {
    match plane.leases.status() {
        Ok(leases) => match leases.into_iter().find(|lease| lease.datastore == *datastore) {
            Some(lease) if lease.held => None,
            Some(lease) if !lease.trouble.is_empty() => Some(lease.trouble),
            _ => Some("it was not asked for yet".to_owned()),
        },
        Err(failure) => Some(failure.to_string()),
    }
}

/// The error number with which the storage refuses the lease area of a datastore, if it does.
fn refusal(plane: &ControlPlane, datastore: &Datastore) -> Option<i32> {
    let leases = plane.leases.status().ok()?;
    leases.into_iter().find(|lease| lease.datastore == *datastore.name())?.refusal
}

/// Lets the lease role guard every VM that runs here, for ever: it may have been restarted. And has each of them watched.
pub fn keep_guards(plane: &Arc<ControlPlane>) {
    let mut told = BTreeMap::new();
    loop {
        ends::watch_again(plane);
        let mut troubles = BTreeMap::new();
        for (running, _) in plane.vms.all_running() {
            if let Err(failure) = plane.leases.guard(&running.vm, running.monitor.pidfd()) {
                troubles.insert(running.vm.vm.clone(), failure.to_string());
            }
        }
        for (vm, trouble) in troubles.iter().filter(|(vm, trouble)| told.get(*vm) != Some(*trouble)) {
            log::error!("VM {vm} is not guarded: {trouble}");
        }
        told = troubles;
        std::thread::sleep(KEEP);
    }
}

/// Hears of VMs that the lease role killed, so that people are told why they ended.
pub fn hear_fences(plane: &Arc<ControlPlane>) {
    let mut fenced = BTreeSet::new();
    loop {
        if let Err(error) = plane.leases.watch(|event| match event {
            LeaseEvent::Fencing { datastore, vms } => {
                log::error!("the host lease on datastore {datastore} was lost: {}", killed(&vms));
                fenced.insert(datastore.clone());
                for vm in vms {
                    plane.vms.note_end(&vm, why_killed(&datastore));
                    let what = format!("its last I/O on datastore {datastore} to end, after it was killed");
                    if let Some(running) = plane.vms.running(&vm) {
                        plane.vms.ending(&vm, running.monitor.pid());
                        plane.vms.waits_for(&vm, Some(what));
                    }
                }
            }
            LeaseEvent::Fenced { datastore, vms } => {
                vms.iter().for_each(|vm| plane.vms.note_end(vm, why_killed(&datastore)));
            }
            LeaseEvent::Held(datastore) if fenced.remove(&datastore) => {
                log::info!(target: journal::NEWS, "the host lease on datastore {datastore} is held again: VMs can be started");
            }
            LeaseEvent::Held(datastore) => log::info!("the host lease on datastore {datastore} is held"),
        }) {
            log::debug!("the lease role is not heard: {error}");
        }
        std::thread::sleep(KEEP);
    }
}

/// How a VM ended that the fence killed.
pub(super) fn why_killed(datastore: &DatastoreName) -> String {
    format!(
        "it was killed here because this host could not renew its lease on datastore {datastore}; another host may run it \
         now"
    )
}

/// What the fence does, for a person.
fn killed(vms: &[VmName]) -> String {
    if vms.is_empty() {
        return "no VM ran from it here".to_owned();
    }
    let names: Vec<&str> = vms.iter().map(VmName::as_str).collect();
    format!("its VMs here are killed, and another host may run them: {}", names.join(", "))
}
