//! What hosts left that died while they made a clone.

use model::diagnosis::Reason;
use model::names::VmName;

use crate::api::host::{Check, VmState};
use crate::api::lease::VmOnDatastore;
use crate::datastore::Datastore;
use crate::datastore::unfinished::Leftover;
use crate::host::control_plane::ControlPlane;
use crate::host::located::away;

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
    let (datastores, mut unknown) = match plane.known_datastores("") {
        Ok(datastores) => (datastores, Vec::new()),
        Err(refusal) => (Vec::new(), refusal.reasons),
    };
    for datastore in datastores {
        match unfinished(&datastore) {
            Ok(left) => {
                for left in left {
                    match is_abandoned(plane, &datastore, &left) {
                        Ok(true) => warnings.push(told(&datastore, &left)),
                        Ok(false) => {}
                        Err(reason) => unknown.push(reason),
                    }
                }
            }
            Err(Reason { cause, hint }) => {
                let what = format!("whether one was left on datastore {} is not known", datastore.name());
                unknown.push(Reason::new(format!("{what}: {cause}"), hint));
            }
        }
    }
    let found = match (warnings.is_empty(), unknown.is_empty()) {
        (true, true) => "none was left unfinished",
        (true, false) => "unknown",
        (false, _) => "not all were finished",
    };
    warnings.extend(unknown);
    Check { warnings, ..Check::well("clones", found) }
}

/// What is unfinished there. One that is known to be lost would be waited for.
fn unfinished(datastore: &Datastore) -> Result<Vec<Leftover>, Reason> {
    if let Some(away) = away(datastore) {
        return Err(away);
    }
    let name = datastore.name();
    let unread = |error| Reason::new(format!("datastore {name}: {error}"), format!("datastore show {name}"));
    datastore.unfinished(VMS).map_err(unread)
}

fn told(datastore: &Datastore, Leftover { hidden, name }: &Leftover) -> Reason {
    let cause = format!("vms/{hidden} on datastore {} is left of a clone that did not end", datastore.name());
    Reason::new(
        cause,
        format!("vm clone VM {name} removes it and makes the clone; or remove that folder on the server"),
    )
}

/// Whether nobody makes the clone any more.
///
/// # Errors
/// Its lease does not tell.
fn is_abandoned(plane: &ControlPlane, datastore: &Datastore, left: &Leftover) -> Result<bool, Reason> {
    let Ok(name) = left.name.parse::<VmName>() else { return Ok(true) };
    if plane.vms.state(&name) == Some(VmState::Making) {
        return Ok(false);
    }
    match plane.leases.holder_if_it_answers(&VmOnDatastore { datastore: datastore.name().clone(), vm: name }) {
        Ok(None) => Ok(true),
        Ok(Some(holder)) => Ok(holder.own || !holder.alive),
        Err(failure) => {
            let Reason { cause, hint } = failure.reason();
            let what = format!("whether a host still makes vms/{} on datastore {}", left.hidden, datastore.name());
            Err(Reason::new(format!("{what} is not known: {cause}"), hint))
        }
    }
}
