//! What hosts left that died while they made a clone.

use std::sync::Arc;

use model::diagnosis::Reason;
use model::names::VmName;

use crate::api::host::{Check, VmState};
use crate::api::lease::VmOnDatastore;
use crate::datastore::Datastore;
use crate::datastore::unfinished::Leftover;
use crate::host::control_plane::ControlPlane;

/// Where the folders of VMs are.
pub(super) const VMS: &str = "vms";

/// Removes what is left of a clone of this name. To be called only by who holds the lease of the name: nobody is at work on it
/// then. What cannot be removed harms nobody, and stays.
pub(super) fn clear(datastore: &Datastore, new: &VmName) {
    let left = datastore.unfinished(VMS).unwrap_or_default();
    for leftover in left.iter().filter(|leftover| leftover.name == new.as_str()) {
        let (hidden, on) = (&leftover.hidden, datastore.name());
        match datastore.remove_unfinished(VMS, leftover) {
            Ok(()) => log::info!("vms/{hidden} on datastore {on}, left of a clone that did not end, was removed"),
            Err(error) => log::warn!("vms/{hidden} on datastore {on}, left of a clone, is not removed: {error}"),
        }
    }
}

/// Looks for clones that nobody makes any more. They take room, and harm nothing.
pub fn check(plane: &ControlPlane) -> Check {
    let mut warnings = Vec::new();
    // One that is known to be lost would be waited for.
    for datastore in plane.datastores.all().iter().filter(|datastore| datastore.available()) {
        let left = datastore.unfinished(VMS).unwrap_or_default();
        warnings
            .extend(left.iter().filter(|left| is_abandoned(plane, datastore, left)).map(|left| told(datastore, left)));
    }
    let found = if warnings.is_empty() { "none was left unfinished" } else { "not all were finished" };
    Check { warnings, ..Check::well("clones", found) }
}

fn told(datastore: &Datastore, Leftover { hidden, name }: &Leftover) -> Reason {
    let cause = format!("vms/{hidden} on datastore {} is left of a clone that did not end", datastore.name());
    Reason::new(
        cause,
        format!("vm clone VM {name} removes it and makes the clone; or remove that folder on the server"),
    )
}

/// Whether nobody makes the clone any more, as far as its lease tells.
fn is_abandoned(plane: &ControlPlane, datastore: &Arc<Datastore>, Leftover { name, .. }: &Leftover) -> bool {
    let Ok(name) = name.parse::<VmName>() else { return true };
    if plane.vms.state(&name) == Some(VmState::Making) {
        return false;
    }
    match plane.leases.holder_if_it_answers(&VmOnDatastore { datastore: datastore.name().clone(), vm: name }) {
        Ok(None) => true,
        Ok(Some(holder)) => holder.own || !holder.alive,
        Err(_) => false,
    }
}
