//! VMs that are to run whenever they can: each boot of a host starts those of a datastore once, as soon as the datastore and
//! the host lease on it are there. Of several hosts that boot at once, the lease lets one have each VM.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use model::names::VmName;

use crate::datastore::Datastore;
use crate::host::caller::Caller;
use crate::host::control_plane::ControlPlane;
use crate::host::leases::LeaseFailure;
use crate::host::located::{Located, vm_names};
use crate::host::{host_lease, start};
use crate::journal;

/// Pause between two looks whether the datastore is ready.
const LOOK: Duration = Duration::from_secs(1);

/// Starts the VMs of a datastore that want it, once in a boot of this host.
pub fn once(plane: &Arc<ControlPlane>, datastore: &Arc<Datastore>) {
    let done = plane.run_dir.path().join(format!("autostarted-{}", datastore.name()));
    while !done.exists() {
        if plane.ending.load(Ordering::Relaxed) {
            return;
        }
        if !datastore.available() || !host_lease::is_held(plane, datastore.name()) {
            std::thread::sleep(LOOK);
            continue;
        }
        vm_names(datastore).iter().for_each(|vm| start_if_wanted(plane, datastore, vm));
        // Where this cannot be noted, a control plane after this one starts what was stopped meanwhile.
        if let Err(error) = File::create(&done) {
            return log::warn!("that the VMs of datastore {} were started cannot be noted: {error}", datastore.name());
        }
    }
}

fn start_if_wanted(plane: &Arc<ControlPlane>, datastore: &Arc<Datastore>, vm: &VmName) {
    // What is wrong with a vm.toml, `vm list` tells.
    let Ok(located) = Located::read(datastore, vm) else { return };
    let wanted = located.draft().config.is_ok_and(|config| config.autostart);
    if !wanted || plane.vms.state(vm).is_some() || runs_elsewhere(plane, &located) {
        return;
    }
    match start::start(plane, vm, &Caller::nobody()) {
        Ok(started) => log::info!(target: journal::NEWS, "autostart: {started}"),
        // Another host was faster.
        Err(_) if runs_elsewhere(plane, &located) => {}
        Err(refusal) => log::warn!("autostart: {refusal}"),
    }
}

fn runs_elsewhere(plane: &ControlPlane, located: &Located) -> bool {
    let holder = plane.leases.holder(&located.vm());
    matches!(holder, Ok(Some(holder)) | Err(LeaseFailure::HeldBy(holder)) if holder.alive && !holder.own)
}
