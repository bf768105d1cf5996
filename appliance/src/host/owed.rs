//! Leases that this host may hold although it does not run the VM: an answer of the lease role was lost, or a lease could
//! not be given up when its VM ended. They are given up as soon as that is possible, so that other hosts may have the VM.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::names::VmName;

use crate::api::host::VmState;
use crate::api::lease::VmOnDatastore;
use crate::host::control_plane::ControlPlane;
use crate::host::leases::LeaseFailure;
use crate::host::located::locate;
use crate::host::record;

/// Pause between two tries.
const RETRY: Duration = Duration::from_secs(2);

/// The VMs whose leases are to be given up, and why that did not succeed yet, as far as the log has told it.
#[derive(Debug, Default)]
pub struct Owed {
    leases: Mutex<BTreeMap<VmOnDatastore, Option<String>>>,
}

impl Owed {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmOnDatastore, Option<String>>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, vm: &VmOnDatastore) {
        self.lock().entry(vm.clone()).or_default();
    }

    /// Whether the lease of this VM is to be given up.
    pub fn has(&self, vm: &VmOnDatastore) -> bool {
        self.lock().contains_key(vm)
    }

    /// It is given up, or the VM runs here under it.
    pub fn settled(&self, vm: &VmOnDatastore) {
        self.lock().remove(vm);
    }

    pub(super) fn all(&self) -> Vec<VmOnDatastore> {
        self.lock().keys().cloned().collect()
    }

    /// Whether this is news of why a lease could not be given up.
    fn is_news(&self, vm: &VmOnDatastore, why: &str) -> bool {
        let mut leases = self.lock();
        let Some(told) = leases.get_mut(vm) else { return false };
        let news = told.as_deref() != Some(why);
        *told = Some(why.to_owned());
        news
    }
}

/// The lease of a VM is to be given up that does not run here. A note of it stays for a control plane after this one.
pub fn owe(plane: &ControlPlane, vm: &VmOnDatastore) {
    if let Err(error) = record::begin(&plane.run_dir, vm) {
        log::warn!("that the lease of VM {} is to be given up cannot be noted: {error}", vm.vm);
    }
    plane.owed.add(vm);
}

/// As [`owe`], of a VM that lies where a datastore tells, unless it runs here, or somebody works on it: on a thread of its own, because that may
/// take its time.
pub fn owe_what_does_not_run(plane: &Arc<ControlPlane>, vm: &VmName) {
    let (plane, vm) = (Arc::clone(plane), vm.clone());
    let owing = std::thread::Builder::new().name("owing".to_owned()).spawn(move || {
        let datastore = match locate(&plane, &vm, "its lease is not given up") {
            Ok(located) => located.datastore.name().clone(),
            Err(refusal) => return log::error!("VM {vm} does not run here, and may have its lease here: {refusal}"),
        };
        if plane.vms.state(&vm).is_none() {
            owe(&plane, &VmOnDatastore { datastore, vm });
        }
    });
    if let Err(error) = owing {
        log::error!("the lease of a VM that does not run here is not given up: {error}");
    }
}

/// A lease that was asked for, and noted before ([`record::begin`]), was not got for all that is known: it is owed where that is not
/// certain, and the note is gone where it is.
pub fn not_got(plane: &ControlPlane, vm: &VmOnDatastore, failure: &LeaseFailure) {
    if failure.leaves_doubt() {
        owe(plane, vm);
    } else if !plane.owed.has(vm) {
        record::remove(&plane.run_dir, &vm.vm);
    }
}

/// Gives the lease of a VM up that does not run here any more, and then removes its record; if that cannot be done now, it is
/// done later. To be called only by who has claimed the VM: a start that takes the lease anew must not overlap it.
///
/// # Errors
/// Why it cannot be done now.
pub fn give_up(plane: &ControlPlane, vm: &VmOnDatastore) -> Result<(), LeaseFailure> {
    // A role that stands still would be waited for as long as a take-over may last.
    let looked = plane.leases.status().err().filter(LeaseFailure::is_silence);
    match looked.map_or_else(|| plane.leases.give_up(vm), Err) {
        Ok(()) => {
            record::remove(&plane.run_dir, &vm.vm);
            plane.owed.settled(vm);
            Ok(())
        }
        Err(failure) => {
            owe(plane, vm);
            if plane.owed.is_news(vm, &failure.to_string()) {
                log::warn!("the lease of VM {} is not given up yet: {failure}", vm.vm);
            }
            Err(failure)
        }
    }
}

/// Gives up what is owed, again and again, for ever.
pub fn keep(plane: &ControlPlane) {
    loop {
        for vm in plane.owed.all() {
            // While somebody works on the VM here, or it runs here, it may be held for good reason.
            let Ok(_claim) = plane.vms.claim(&vm.vm, VmState::Releasing, "") else { continue };
            if give_up(plane, &vm).is_ok() {
                log::info!("the lease of VM {} is not this host's any more", vm.vm);
            }
        }
        std::thread::sleep(RETRY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::control_plane::stand_in::Place;

    #[test]
    fn a_lease_role_that_stands_still_is_not_waited_for_and_the_lease_stays_owed() {
        // It never answers anybody.
        let place = Place::without_datastore("owed-silent", |_| {
            loop {
                std::thread::park();
            }
        });
        let vm = VmOnDatastore { vm: "web".parse().expect("valid"), datastore: "lab".parse().expect("valid") };
        let failure = give_up(&place.plane, &vm).expect_err("nobody answers");
        assert!(matches!(failure, LeaseFailure::StandsStill), "it was waited for: {failure:?}");
        assert!(place.plane.owed.has(&vm));
    }
}
