//! VMs that are to run whenever they can: each boot of a host starts those of a datastore once, as soon as the datastore and
//! the host lease on it are there. Of several hosts that boot at once, the lease lets one have each VM.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use model::limits;
use model::names::VmName;

use crate::api::lease::Holder;
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
        let datastores = plane.datastores.all();
        let is_there = datastore.available() && host_lease::is_held(plane, datastore.name());
        let is_known = plane.maintenance.is_known(datastores.iter().map(|datastore| datastore.name()));
        let is_ready = is_there && is_known && !plane.maintenance.is_on();
        let folders = is_ready.then(|| vm_folders(datastore)).and_then(Result::ok);
        if !folders.is_some_and(|folders| start_all(plane, datastore, &folders)) {
            std::thread::sleep(LOOK);
            continue;
        }
        // Where this cannot be noted, a control plane after this one starts what was stopped meanwhile.
        if let Err(error) = File::create(&done) {
            return log::warn!("that the VMs of datastore {} were started cannot be noted: {error}", datastore.name());
        }
    }
}

/// A VM of which it is not known yet whether it is to be started here.
struct Open {
    vm: VmName,
    /// The host that held it when it was looked at last, and the epoch.
    holder: Option<([u8; 16], u64)>,
}

/// Starts those of the VMs in these folders that want it, each as soon as the host that holds it is known to be dead, if that comes about soon.
/// False if some are to be looked at again.
fn start_all(plane: &Arc<ControlPlane>, datastore: &Arc<Datastore>, folders: &[String]) -> bool {
    let vms = folders.iter().filter_map(|folder| folder.parse().ok());
    let mut open: Vec<Open> = vms.map(|vm| Open { vm, holder: None }).collect();
    let deadline = Instant::now() + TO_BE_FREE;
    loop {
        open.retain_mut(|one| !start_if_wanted(plane, datastore, one));
        if open.is_empty() || Instant::now() >= deadline {
            // A holder that was seen for so long lives.
            return open.iter().all(|one| one.holder.is_some());
        }
        if plane.ending.load(Ordering::Relaxed) || plane.maintenance.is_on() {
            return false;
        }
        std::thread::sleep(LOOK);
    }
}

/// Starts a VM if it wants it and can be had; whether nothing more is to be done for it.
fn start_if_wanted(plane: &Arc<ControlPlane>, datastore: &Arc<Datastore>, open: &mut Open) -> bool {
    let vm = &open.vm;
    let located = match Located::read(datastore, vm) {
        Ok(located) => located,
        // What else is wrong with a vm.toml, `vm list` tells.
        Err(error) => return !error.is_away(),
    };
    let wanted = located.draft().config.is_ok_and(|config| config.autostart);
    if !wanted || plane.vms.state(vm).is_some() {
        return true;
    }
    match plane.leases.holder(&located.vm()) {
        Ok(Some(holder)) | Err(LeaseFailure::HeldBy(holder)) if lives_elsewhere(&holder) => {
            let is = (holder.host, holder.epoch);
            // It came to be another's meanwhile.
            return open.holder.replace(is).is_some_and(|was| was != is);
        }
        // Its host gave it up in order: somebody stopped it there.
        Ok(None) if open.holder.is_some() => return true,
        Ok(_) | Err(LeaseFailure::HeldBy(_)) => {}
        Err(_) if open.holder.is_some() => return false,
        // What hinders it, the start says.
        Err(_) => {}
    }
    match start::start(plane, vm, &Caller::nobody()) {
        Ok(started) => log::info!(target: journal::NEWS, "autostart: {started}"),
        Err(_) if plane.maintenance.is_on() => return false,
        // Another host was faster.
        Err(_) if matches!(plane.leases.holder(&located.vm()), Ok(Some(holder)) if lives_elsewhere(&holder)) => {}
        Err(refusal) => log::warn!("autostart: {refusal}"),
    }
    true
}

fn lives_elsewhere(holder: &Holder) -> bool {
    holder.alive && !holder.own
}
