//! VMs that are to run whenever they can: each boot of a host starts those of a datastore once, as soon as the datastore and
//! the host lease on it are there. Of several hosts that boot at once, the lease lets one have each VM.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use model::limits;
use model::names::VmName;

use crate::datastore::Datastore;
use crate::host::caller::Caller;
use crate::host::control_plane::ControlPlane;
use crate::host::leases::LeaseFailure;
use crate::host::located::{Located, vm_folders};
use crate::host::{host_lease, start};
use crate::journal;

/// Pause between two looks whether the datastore is ready, or a VM free.
const LOOK: Duration = Duration::from_secs(1);
/// How long a VM is looked at that another host holds: after a power failure of several hosts that may be a dead one, which is known to be
/// dead when it was watched for the expiry.
const TO_BE_FREE: Duration = Duration::from_millis(2 * limits::LEASE_EXPIRY_MS);

/// Starts the VMs of a datastore that want it, once in a boot of this host.
pub fn once(plane: &Arc<ControlPlane>, datastore: &Arc<Datastore>) {
    let done = plane.run_dir.path().join(format!("autostarted-{}", datastore.name()));
    while !done.exists() {
        if plane.ending.load(Ordering::Relaxed) {
            return;
        }
        let is_there = datastore.available() && host_lease::is_held(plane, datastore.name());
        // What this host left there has been read, and so whether it is in maintenance is known.
        let is_known = plane.hosts.record_on(datastore.name(), plane.name()).is_some();
        let is_ready = is_there && is_known && !plane.maintenance.is_on();
        let Some(folders) = is_ready.then(|| vm_folders(datastore)).flatten() else {
            std::thread::sleep(LOOK);
            continue;
        };
        start_all(plane, datastore, folders.iter().filter_map(|folder| folder.parse().ok()).collect());
        // Where this cannot be noted, a control plane after this one starts what was stopped meanwhile.
        if let Err(error) = File::create(&done) {
            return log::warn!("that the VMs of datastore {} were started cannot be noted: {error}", datastore.name());
        }
    }
}

/// Starts those of these VMs that want it, each as soon as no other host holds it, if that comes about soon.
fn start_all(plane: &Arc<ControlPlane>, datastore: &Arc<Datastore>, mut vms: Vec<VmName>) {
    let deadline = Instant::now() + TO_BE_FREE;
    loop {
        vms.retain(|vm| start_if_wanted(plane, datastore, vm) == Came::NotYet);
        if vms.is_empty() || Instant::now() >= deadline || plane.ending.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(LOOK);
    }
}

/// What came of a VM.
#[derive(PartialEq, Eq)]
enum Came {
    /// Nothing more is to be done for it.
    ToAnEnd,
    /// Another host holds it, and may be dead.
    NotYet,
}

fn start_if_wanted(plane: &Arc<ControlPlane>, datastore: &Arc<Datastore>, vm: &VmName) -> Came {
    // What is wrong with a vm.toml, `vm list` tells.
    let Ok(located) = Located::read(datastore, vm) else { return Came::ToAnEnd };
    let wanted = located.draft().config.is_ok_and(|config| config.autostart);
    if !wanted || plane.vms.state(vm).is_some() {
        return Came::ToAnEnd;
    }
    if is_held_elsewhere(plane, &located) {
        return Came::NotYet;
    }
    match start::start(plane, vm, &Caller::nobody()) {
        Ok(started) => log::info!(target: journal::NEWS, "autostart: {started}"),
        // Another host was faster.
        Err(_) if is_held_elsewhere(plane, &located) => return Came::NotYet,
        Err(refusal) => log::warn!("autostart: {refusal}"),
    }
    Came::ToAnEnd
}

fn is_held_elsewhere(plane: &ControlPlane, located: &Located) -> bool {
    let holder = plane.leases.holder(&located.vm());
    matches!(holder, Ok(Some(holder)) | Err(LeaseFailure::HeldBy(holder)) if holder.alive && !holder.own)
}
