//! Leases that this host may hold although it does not run the VM: an answer of the lease role was lost, or a lease could
//! not be given up when its VM ended. They are given up as soon as that is possible, so that other hosts may have the VM.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::api::host::VmState;
use crate::api::lease::VmOnDatastore;
use crate::host::control_plane::ControlPlane;

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

    /// The lease of this VM is to be given up.
    pub fn add(&self, vm: &VmOnDatastore) {
        self.lock().entry(vm.clone()).or_default();
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

/// Gives the lease of a VM up that does not run here any more; if that cannot be done now, it is done later. To be called
/// only by who has claimed the VM: a start that takes the lease anew must not overlap it.
pub fn give_up(plane: &ControlPlane, vm: &VmOnDatastore) {
    match plane.leases.give_up(vm) {
        Ok(()) => plane.owed.settled(vm),
        Err(failure) => {
            log::warn!("the lease of VM {} is not given up yet: {failure}", vm.vm);
            plane.owed.add(vm);
            plane.owed.is_news(vm, &failure.to_string());
        }
    }
}

/// Gives up what is owed, again and again, for ever.
pub fn keep(plane: &ControlPlane) {
    loop {
        for vm in plane.owed.all() {
            // While somebody works on the VM here, or it runs here, it may be held for good reason.
            let Ok(_claim) = plane.vms.claim(&vm.vm, VmState::Releasing, "") else { continue };
            match plane.leases.give_up(&vm) {
                Ok(()) => {
                    plane.owed.settled(&vm);
                    log::info!("the lease of VM {} is given up: other hosts may start it", vm.vm);
                }
                Err(failure) => {
                    if plane.owed.is_news(&vm, &failure.to_string()) {
                        log::warn!("the lease of VM {} is not given up yet: {failure}", vm.vm);
                    }
                }
            }
        }
        std::thread::sleep(RETRY);
    }
}
