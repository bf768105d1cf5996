//! Where a VM is, for a person: what this host itself has to do with it, and else what its lease says.

use model::names::VmName;

use crate::api::host::VmState;
use crate::api::lease::Holder;
use crate::host::control_plane::ControlPlane;
use crate::host::located::{Located, locate};

/// Where a VM is, for a person, as far as that is known at once.
pub fn where_is(plane: &ControlPlane, name: &VmName) -> Option<String> {
    if let Some(here) = told_here(plane, name) {
        return Some(here);
    }
    // A datastore that is away would be waited for.
    if !plane.datastores.all().iter().all(|datastore| datastore.available()) {
        return None;
    }
    told_by_lease(plane, &locate(plane, name, "").ok()?)
}

/// What this host itself has to do with a VM, if it is more than that one comes.
pub fn told_here(plane: &ControlPlane, name: &VmName) -> Option<String> {
    let here = plane.name();
    match plane.vms.state(name)? {
        VmState::Running => Some(format!("it is running on {here}")),
        VmState::Paused => Some(format!("it is paused on {here}")),
        // What gives up, or breaks, its lease runs nothing of it.
        VmState::MovingIn | VmState::Making | VmState::Releasing => None,
        VmState::Ending => Some(format!("it ended on {here}, where its monitor still waits for its last I/O")),
        VmState::Cloning => Some(format!("it is stopped, and is being cloned on {here}")),
        _ => Some(format!("it is on {here}")),
    }
}

/// Where a VM is by its lease, of which nothing is here that [`told_here`] tells; `None` where that does not tell it, as one of
/// this host's own does not of a VM that is on its way.
pub fn told_by_lease(plane: &ControlPlane, located: &Located) -> Option<String> {
    match plane.leases.holder_if_it_answers(&located.vm()).ok()? {
        None => Some("it is stopped".to_owned()),
        Some(holder) if is_idle(plane, &located.name, &holder) => {
            Some(format!("it is held by {}, which runs nothing of it", holder.name))
        }
        Some(holder) if holder.own => None,
        Some(holder) if holder.alive => Some(format!("it is on {}", holder.name)),
        Some(holder) => Some(format!("it was on {}, which is dead or cut off", holder.name)),
    }
}

/// Whether this host holds a VM that it does nothing with.
pub fn is_idle(plane: &ControlPlane, name: &VmName, holder: &Holder) -> bool {
    holder.own && plane.vms.state(name).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::lease::LeaseAnswer;
    use crate::host::control_plane::stand_in::Place;
    use crate::host::monitor::stand_in::StandIn;

    #[test]
    fn a_vm_that_ended_and_waits_for_its_last_io_is_not_told_to_be_here() {
        let web: VmName = "web".parse().expect("valid");
        let place = Place::without_datastore("ending", |_| LeaseAnswer::Failed("it is not asked".to_owned()));
        let monitor = StandIn::start(&web);
        place.plane.vms.put(&web, monitor.running(), VmState::Running);
        assert_eq!(where_is(&place.plane, &web).as_deref(), Some("it is running on host-a"));
        place.plane.vms.put(&web, monitor.running(), VmState::Ending);
        let told = where_is(&place.plane, &web).expect("told");
        assert!(told.starts_with("it ended on host-a"), "{told}");
    }
}
