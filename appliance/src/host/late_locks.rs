//! VMs that run without the locks of their disks, because a dead host has them on the server still: that host was reset by its
//! watchdog and writes nothing any more. The locks are taken as soon as the server gives it up; until then a VM does not move,
//! because its destination could not take them (`docs/decisions/the-disk-locks.md`).

use std::sync::Arc;
use std::time::Duration;

use model::diagnosis::Reason;

use crate::api::host::VmState;
use crate::api::vmm::{VmmAnswer, VmmRequest};
use crate::host::control_plane::ControlPlane;
use crate::host::record;
use crate::host::running::Running;

/// Pause between two tries.
const AGAIN: Duration = Duration::from_secs(1);
/// What such a VM waits for, for people.
const WAITS_FOR: &str = "the locks of its disks, which a dead host has on the server still; it runs without them";

/// Takes the locks that are late, for ever.
pub fn keep(plane: &Arc<ControlPlane>) {
    loop {
        std::thread::sleep(AGAIN);
        for (running, state) in plane.vms.all_running() {
            if running.has_late_locks() && matches!(state, VmState::Running | VmState::Paused) {
                take(plane, &running, state == VmState::Paused);
            }
        }
    }
}

fn take(plane: &ControlPlane, running: &Running, paused: bool) {
    let vm = &running.vm.vm;
    match running.monitor.ask(&VmmRequest::TakeDisks, &[]) {
        Ok(VmmAnswer::Done) => {
            running.set_late_locks(false);
            record::update(&plane.run_dir, running, paused);
            plane.vms.waits_for(vm, None);
            log::info!("VM {vm} has the locks of its disks now");
        }
        Ok(_) => plane.vms.waits_for(vm, Some(WAITS_FOR.to_owned())),
        // The next try tells, or the VM ends.
        Err(error) => log::debug!("the locks of VM {vm}: {error}"),
    }
}

/// Why a VM does not move yet, if it has not all of its locks.
pub fn hinders(running: &Running) -> Option<Reason> {
    running.has_late_locks().then(|| {
        Reason::new(
            "a dead host has the locks of its disks on the server still, so the destination could not take them",
            format!("try again when the server has given that host up, within minutes: vm show {}", running.vm.vm),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::api::lease::LeaseAnswer;
    use crate::host::control_plane::stand_in::Place;
    use crate::host::monitor::stand_in::StandIn;

    #[test]
    fn a_vm_without_all_its_locks_does_not_move_until_the_server_has_given_the_dead_host_up() {
        let place = Place::without_datastore("late-locks", |_| LeaseAnswer::Done);
        let web = "web".parse().expect("valid");
        let monitor = StandIn::start(&web);
        let free = Arc::new(AtomicBool::new(false));
        let is_free = Arc::clone(&free);
        monitor.answers(move |request| match request {
            VmmRequest::TakeDisks if is_free.load(Ordering::SeqCst) => Some(VmmAnswer::Done),
            VmmRequest::TakeDisks => Some(VmmAnswer::DiskLocked),
            _ => None,
        });
        let running = monitor.running();
        assert!(hinders(&running).is_none());
        running.set_late_locks(true);
        place.plane.vms.put(&web, Arc::clone(&running), VmState::Running);
        take(&place.plane, &running, false);
        assert!(hinders(&running).is_some_and(|reason| reason.hint.contains("vm show web")));
        assert_eq!(place.plane.vms.waiting_for(&web).as_deref(), Some(WAITS_FOR));
        free.store(true, Ordering::SeqCst);
        take(&place.plane, &running, false);
        assert!(hinders(&running).is_none());
        assert_eq!(place.plane.vms.waiting_for(&web), None);
    }
}
