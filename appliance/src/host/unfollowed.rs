//! Moves to here that the control plane does not follow, because the one before it did: the lease tells it whose the VM is, and the engine, which
//! lives on, is told when it asks. For the disks it asks again for as long as it is not answered; that it let the guest run it says once.

use std::sync::Arc;

use model::names::VmName;

use crate::api::host::VmState;
use crate::api::migrate::{MigrationId, ToMigrate};
use crate::host::announcing;
use crate::host::control_plane::ControlPlane;

/// The engine wants the disks of a VM: one that is this host's has them. Of one that stands still or still comes here it asks again.
pub(super) fn disks_wanted(plane: &ControlPlane, id: MigrationId, vm: &VmName) {
    let is_here = matches!(plane.vms.state(vm), Some(VmState::Running | VmState::Paused));
    if is_here && plane.vms.undecided(vm).is_none() {
        has_disks(plane, id);
    }
}

/// The VM of this move has its disks, and goes on as this host found right. An engine that is not reached asks again.
pub(super) fn has_disks(plane: &ControlPlane, id: MigrationId) {
    let _ = plane.engine.tell(&ToMigrate::DisksOpen(id, Ok(())), &[]);
}

/// The engine knows that the VM runs, and waits to hear that it was announced. That was done when it was settled whose the VM is; it is done once
/// more, for the receipt counts the frames, on a thread of its own: the monitor is asked.
pub(super) fn resumed(plane: &Arc<ControlPlane>, id: MigrationId, vm: &VmName) {
    let Some(running) = plane.vms.running(vm) else { return };
    let plane = Arc::clone(plane);
    let told = std::thread::Builder::new().name("announced".to_owned()).spawn(move || {
        let frames = announcing::by_monitor(&running);
        // If the engine is away, the receipt does without.
        let _ = plane.engine.tell(&ToMigrate::Announced { id, frames }, &[]);
    });
    if let Err(error) = told {
        log::warn!("VM {vm} is not announced once more: {error}");
    }
}
