//! VMs that run here and are another host's by their lease: a move was finished while no control plane ran, or somebody broke
//! the lease by force. They end here.
//!
//! No fence depends on this: it is there so that nobody has to look after a VM that runs in two places, in one of which it
//! cannot write any more.

use std::sync::Arc;
use std::time::Duration;

use model::names::VmName;

use crate::api::host::VmState;
use crate::api::lease::Holder;
use crate::datastore::Datastore;
use crate::host::control_plane::ControlPlane;
use crate::host::lease_view;
use crate::host::leases::LeaseFailure;
use crate::host::running::Running;
use crate::host::settling::{hold_in, release};
use crate::journal;

/// Pause between two looks at the leases of the VMs that run here.
const LOOK: Duration = Duration::from_secs(2);
/// The states in which nothing is being done with a VM. What is done with another is settled by who does it.
const IDLE: [VmState; 2] = [VmState::Running, VmState::Paused];

/// Looks at the leases of the VMs that run here from a datastore, for ever.
pub fn keep(plane: &Arc<ControlPlane>, datastore: &Datastore) {
    loop {
        std::thread::sleep(LOOK);
        let mut here = plane.vms.all_running();
        here.retain(|(running, state)| running.vm.datastore == *datastore.name() && IDLE.contains(state));
        if here.is_empty() || !datastore.available() {
            continue;
        }
        let names: Vec<VmName> = here.iter().map(|(running, _)| running.vm.vm.clone()).collect();
        // A datastore that does not tell ends nothing: the fence of the host lease stands behind this.
        let Ok(holders) = lease_view::holders(plane, datastore, &names) else { continue };
        for (running, _) in here {
            let holder = holders.iter().find(|(vm, _)| *vm == running.vm.vm).map(|(_, holder)| holder);
            if !holder.is_some_and(|holder| holder.own && holder.epoch == running.epoch()) {
                settle(plane, &running, holder);
            }
        }
    }
}

/// Settles a VM whose lease, a moment ago, was not this host's in the epoch that is known here.
fn settle(plane: &ControlPlane, running: &Running, holder: Option<&Holder>) {
    let Ok(held) = plane.vms.hold(&running.vm.vm, &IDLE, VmState::Releasing, "") else { return };
    if held.running().monitor.pid() != running.monitor.pid() {
        return;
    }
    let paused = *held.before() == VmState::Paused;
    match holder {
        Some(holder) if holder.own && holder.epoch > running.epoch() => hold_in(plane, running, holder.epoch, paused),
        Some(holder) if !holder.own && holder.epoch > running.epoch() => end(plane, running, holder),
        // It is older than what is known here, or what was decided for this host was not made known yet.
        _ => match plane.leases.assure(&running.vm, running.epoch()) {
            Ok(epoch) => hold_in(plane, running, epoch, paused),
            Err(LeaseFailure::HeldBy(holder)) => end(plane, running, &holder),
            Err(failure) => log::warn!("whether VM {} is still this host's is not known: {failure}", running.vm.vm),
        },
    }
}

/// The VM is another's, for good: epochs do not go back.
fn end(plane: &ControlPlane, running: &Running, holder: &Holder) {
    let (vm, Holder { name: by, epoch, .. }) = (&running.vm.vm, holder);
    log::warn!(target: journal::NEWS, "VM {vm} came to be {by}'s (lease epoch {epoch}) and ends here: lease show {vm}");
    release(plane, running, format!("it came to be {by}'s (lease epoch {epoch})"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::lease::{LeaseAnswer, LeaseRequest};
    use crate::host::control_plane::stand_in::Place;
    use crate::host::monitor::stand_in::StandIn;

    fn web() -> VmName {
        "web".parse().expect("valid")
    }

    fn host_b(epoch: u64) -> Holder {
        let name = "host-b".parse().expect("valid");
        Holder { host: [2; 16], name, generation: 1, epoch, alive: true, own: false, since_unix_s: None }
    }

    /// A control plane that runs `web` in epoch 1, and by whose lease host-b holds it in epoch 2.
    fn broken(
        test: &str,
        listed: impl Fn() -> Vec<(VmName, Holder)> + Send + 'static,
    ) -> (Place, StandIn, Arc<Running>) {
        let place = Place::without_datastore(test, move |request| match request {
            LeaseRequest::List { .. } => LeaseAnswer::Holders(listed()),
            LeaseRequest::Resolve { epoch: 0, .. } => LeaseAnswer::HeldBy(host_b(2)),
            _ => LeaseAnswer::Failed("it was not to be asked".to_owned()),
        });
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let monitor = StandIn::start(&web());
        let running = monitor.running();
        place.plane.vms.put(&web(), Arc::clone(&running), VmState::Running);
        (place, monitor, running)
    }

    #[test]
    fn a_vm_whose_lease_was_broken_ends_here_whether_another_holds_it_or_nobody() {
        for (test, listed) in [("taken", vec![(web(), host_b(2))]), ("broken", Vec::new())] {
            let (place, _monitor, running) = broken(test, move || listed.clone());
            let (plane, datastore) = (Arc::clone(&place.plane), place.plane.datastores.all()[0].clone());
            // Ends with the process of the test.
            std::thread::spawn(move || keep(&plane, &datastore));
            place.wait("its monitor ends", || running.monitor.is_gone());
            assert_eq!(place.plane.vms.state(&web()), None);
            let end = place.plane.vms.last_end(&web()).expect("told");
            assert!(end.contains("host-b") && end.contains("epoch 2"), "{end}");
            assert_eq!(place.plane.owed.all(), [], "what is another's is not given up");
        }
    }

    #[test]
    fn what_was_read_before_a_vm_came_back_ends_nothing() {
        let place = Place::without_datastore("came-back", |_| LeaseAnswer::held(5));
        let monitor = StandIn::start(&web());
        let running = monitor.running();
        running.set_epoch(5);
        place.plane.vms.put(&web(), Arc::clone(&running), VmState::Running);
        settle(&place.plane, &running, Some(&host_b(4)));
        assert!(!running.monitor.is_gone());
        assert_eq!(place.plane.vms.state(&web()), Some(VmState::Running));
    }

    #[test]
    fn nothing_is_ended_that_somebody_works_on_or_of_which_the_lease_does_not_tell() {
        let place = Place::without_datastore("does-not-tell", |_| LeaseAnswer::Failed("it is away".to_owned()));
        let monitor = StandIn::start(&web());
        let running = monitor.running();
        place.plane.vms.put(&web(), Arc::clone(&running), VmState::Running);
        settle(&place.plane, &running, None);
        let moving = place.plane.vms.hold(&web(), &[VmState::Running], VmState::MovingOut, "").expect("it runs");
        settle(&place.plane, &running, Some(&host_b(2)));
        assert!(!running.monitor.is_gone());
        drop(moving);
        settle(&place.plane, &running, Some(&host_b(2)));
        assert_eq!(place.plane.vms.state(&web()), None);
    }
}
