//! The leases of this host itself, one on each datastore: asked for as soon as a datastore is there, waited for by a VM
//! that is to start, and heard of when they are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::diagnosis::Reason;
use model::names::{DatastoreName, VmName};

use crate::api::lease::{HELD_BOUND, LeaseEvent, LeaseRequest};
use crate::datastore::Datastore;
use crate::host::caller::Caller;
use crate::host::control_plane::ControlPlane;
use crate::host::disk_locks::LeftLocks;
use crate::host::leases::LeaseFailure;
use crate::host::{ends, located};
use crate::journal;

/// Pause between two looks at what has to be kept true.
const KEEP: Duration = Duration::from_secs(1);
/// Name of the lease area of a datastore, from its root.
const LEASE_AREA: &str = "godwit/lease";
/// Pause between two questions whether a host lease is held.
const ASK: Duration = Duration::from_millis(500);

/// Since when this host does not hold its leases, as far as this control plane has seen.
#[derive(Debug, Default)]
pub struct Unheld {
    since: Mutex<BTreeMap<DatastoreName, Instant>>,
}

impl Unheld {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DatastoreName, Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, datastore: &DatastoreName, is_held: bool) {
        if is_held {
            self.lock().remove(datastore);
        } else {
            self.lock().entry(datastore.clone()).or_insert_with(Instant::now);
        }
    }

    /// How long that of this datastore has not been held; nothing where it is, or was a moment ago.
    fn lasts(&self, datastore: &DatastoreName) -> Duration {
        self.lock().get(datastore).map_or(Duration::ZERO, Instant::elapsed)
    }
}

/// Lets the lease role hold a host lease on a datastore whenever it is there, until this host gives its leases up: one
/// that was given up and asked for again would have to expire before the next boot of this host gets it.
pub fn keep(plane: &ControlPlane, datastore: &Datastore) {
    let mut told = None;
    let (mut was_held, mut is_held) = (false, false);
    loop {
        // From when a datastore is back on, its lease takes its time again.
        plane.unheld.note(datastore.name(), is_held || !datastore.available());
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
/// a crash up to the expiry. Where it was waited for long enough, the VM's lease is refused and says why.
///
/// # Errors
/// A person waits, and does so in vain for all that is known at once; or pressed Ctrl-C. `again` is what to type then.
pub fn wait(
    plane: &ControlPlane,
    datastore: &Datastore,
    vm: &VmName,
    caller: &Caller<'_>,
    again: &str,
) -> Result<(), Reason> {
    let (began, name) = (Instant::now(), datastore.name());
    let waited = loop {
        let Err(trouble) = held(plane, name) else { break Ok(()) };
        let passed = began.elapsed();
        if passed >= HELD_BOUND {
            break Ok(());
        }
        // What this host does by itself has nobody who would try again.
        if caller.is_a_person()
            && let Some(reason) = in_vain(plane, datastore, &trouble)
        {
            break Err(reason);
        }
        let (passed, most) = (passed.as_secs(), HELD_BOUND.as_secs());
        let what = format!("the host lease on datastore {name}, {passed} of at most {most} s: {trouble}");
        caller.progress(&format!("waiting for {what}"), None);
        plane.vms.waits_for(vm, Some(what));
        if caller.cancelled_within(ASK) {
            let cause = format!("it was cancelled while the host lease on datastore {name} was waited for");
            break Err(Reason::new(cause, format!("{again} starts it again")));
        }
    };
    plane.vms.waits_for(vm, None);
    waited
}

/// Why a host lease that is not held will not be soon either, if that is known.
fn in_vain(plane: &ControlPlane, datastore: &Datastore, trouble: &LeaseFailure) -> Option<Reason> {
    if matches!(trouble, LeaseFailure::StandsStill) {
        return Some(trouble.reason());
    }
    if let Some(away) = located::away(datastore) {
        return Some(away);
    }
    let (lasts, name) = (plane.unheld.lasts(datastore.name()), datastore.name());
    (lasts >= HELD_BOUND).then(|| {
        let cause =
            format!("this host has not held its lease on datastore {name} for {} s: {trouble}", lasts.as_secs());
        Reason::new(cause, format!("datastore show {name}; log show lease"))
    })
}

/// Whether this host holds its lease on a datastore.
pub fn is_held(plane: &ControlPlane, datastore: &DatastoreName) -> bool {
    held(plane, datastore).is_ok()
}

/// That this host holds its lease on a datastore.
///
/// # Errors
/// Why it does not, or why that is not known.
fn held(plane: &ControlPlane, datastore: &DatastoreName) -> Result<(), LeaseFailure> {
    match plane.leases.status()?.into_iter().find(|lease| lease.datastore == *datastore) {
        Some(lease) if lease.held => Ok(()),
        Some(lease) if !lease.trouble.is_empty() => Err(LeaseFailure::Failed(lease.trouble)),
        _ => Err(LeaseFailure::Failed("it was not asked for yet".to_owned())),
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use protocol::lease::record::Watchdog;

    use super::*;
    use crate::api::channel::Channel;
    use crate::api::host::{HostAnswer, HostRequest};
    use crate::api::lease::{DatastoreLease, LeaseAnswer};
    use crate::host::control_plane::stand_in::Place;

    /// A control plane whose host lease is held when it was asked for so many times.
    fn held_after(test: &str, questions: usize) -> Place {
        let asked = AtomicUsize::new(0);
        Place::without_datastore(test, move |request| match request {
            LeaseRequest::Status => LeaseAnswer::Status(vec![DatastoreLease {
                datastore: "lab".parse().expect("valid"),
                held: asked.fetch_add(1, Ordering::SeqCst) >= questions,
                renewed_ms: 0,
                trouble: "it is being claimed".to_owned(),
                refusal: None,
                watchdog: Watchdog::None,
                area: None,
            }]),
            _ => LeaseAnswer::Failed("it is not asked".to_owned()),
        })
    }

    fn waits(place: &Place, caller: &Caller<'_>) -> Result<(), Reason> {
        let (datastore, web) = (place.plane.datastores.all().remove(0), "web".parse().expect("valid"));
        wait(&place.plane, &datastore, &web, caller, "vm start web")
    }

    #[test]
    fn a_person_is_told_at_once_of_what_will_not_come_soon_and_waits_for_what_may() {
        let (channel, _console) = Channel::<HostAnswer, HostRequest>::pair().expect("sockets");
        let person = Caller::console(&channel);
        let place = held_after("in-vain", 3);
        let lost = waits(&place, &person).expect_err("there is no datastore");
        assert!(lost.cause.contains("datastore lab does not answer"), "{lost:?}");
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let lab = place.plane.datastores.all()[0].name().clone();
        let long = Instant::now().checked_sub(HELD_BOUND).expect("this machine is up for longer");
        place.plane.unheld.lock().insert(lab.clone(), long);
        let unheld = waits(&place, &person).expect_err("it has not come for so long");
        assert!(unheld.cause.contains("has not held its lease on datastore lab for"), "{unheld:?}");
        assert!(unheld.cause.contains("it is being claimed"), "{unheld:?}");
        place.plane.unheld.note(&lab, true);
        place.plane.unheld.note(&lab, false);
        assert_eq!(waits(&place, &person), Ok(()), "it may come any moment, and does");
    }

    #[test]
    fn what_this_host_starts_by_itself_waits_where_a_person_is_told_at_once() {
        let place = held_after("patient", 1);
        assert_eq!(waits(&place, &Caller::nobody()), Ok(()), "nobody would start it again");
    }
}
