//! Who holds which VM, for whoever has to understand why one cannot be started.

use model::diagnosis::{Diagnosis, Reason};
use model::limits;
use model::names::VmName;

use crate::api::host::{HeldLease, HolderLife, LeaseDetail, LeaseHolder, LeaseRow, LeaseState, RunsHere, VmState};
use crate::api::lease::{Holder, HostLease, LISTED_MAX, Listed};
use crate::datastore::Datastore;
use crate::host::control_plane::ControlPlane;
use crate::host::discovery::{hex_of, renews};
use crate::host::leases::LeaseFailure;
use crate::host::located::{locate, vm_names};
use crate::host::whereabouts::where_is;

/// What the leases of these VMs tell; those that nobody holds are left out.
///
/// # Errors
/// The leases of the datastore do not tell.
pub fn holders(
    plane: &ControlPlane,
    datastore: &Datastore,
    names: &[VmName],
) -> Result<Vec<(VmName, Listed)>, LeaseFailure> {
    let mut all = Vec::new();
    for vms in names.chunks(LISTED_MAX) {
        all.extend(plane.leases.list(datastore.name(), vms)?);
    }
    Ok(all)
}

/// The VMs of all datastores that somebody holds; while the lease role, a datastore or its leases do not tell, all of its VMs, as far as
/// they are known without that.
///
/// # Errors
/// Which datastores there are is not known.
pub fn list(plane: &ControlPlane) -> Result<Vec<LeaseRow>, Diagnosis> {
    let mut rows = Vec::new();
    for datastore in plane.known_datastores("the leases are not listed")? {
        let names = match vm_names(&datastore) {
            Ok(names) => names,
            Err(reason) => {
                rows.extend(unread_rows(plane, &datastore, &reason));
                continue;
            }
        };
        let told =
            holders(plane, &datastore, &names).and_then(|holders| Ok((holders, plane.leases.hosts(datastore.name())?)));
        match told {
            Ok((holders, hosts)) => rows.extend(holders.into_iter().map(|(name, listed)| {
                let state = match listed {
                    Listed::Held(holder) => LeaseState::Held(held(&holder, &hosts)),
                    Listed::Damaged(_) => LeaseState::Damaged,
                };
                LeaseRow { vm: Some(name), datastore: datastore.name().clone(), state }
            })),
            Err(failure) if failure.is_silence() => {
                rows.extend(untold_rows(plane, &datastore, names, LeaseState::Unheard));
            }
            Err(failure) => {
                let why = untold(&datastore, failure.reason());
                rows.extend(untold_rows(plane, &datastore, names, |runs| LeaseState::Unknown {
                    runs,
                    why: why.clone(),
                }));
            }
        }
    }
    Ok(rows)
}

/// The VMs of a datastore that does not answer. Of those that it had when it did, new ones may have come.
fn unread_rows(plane: &ControlPlane, datastore: &Datastore, reason: &Reason) -> Vec<LeaseRow> {
    let why = untold(datastore, reason.clone());
    let state = |runs| LeaseState::Unknown { runs, why: why.clone() };
    let listed = plane.listed(datastore);
    let names = listed.iter().flatten().filter_map(|row| row.name.parse().ok()).collect();
    let mut rows = untold_rows(plane, datastore, names, state);
    if listed.is_none() || rows.is_empty() {
        rows.push(LeaseRow { vm: None, datastore: datastore.name().clone(), state: state(None) });
    }
    rows
}

/// Why of the VMs of a datastore no more is known than what this host itself does with them.
pub(super) fn untold(datastore: &Datastore, Reason { cause, hint }: Reason) -> Reason {
    let name = datastore.name();
    Reason::new(
        format!("of the VMs on datastore {name} only what this host itself does with them is known: {cause}"),
        hint,
    )
}

/// The VMs of a datastore whose leases nobody tells of: what runs here, this host itself knows.
fn untold_rows(
    plane: &ControlPlane,
    datastore: &Datastore,
    mut names: Vec<VmName>,
    state: impl Fn(Option<RunsHere>) -> LeaseState,
) -> Vec<LeaseRow> {
    let mut here = plane.vms.all_running();
    // One that is on its way to here is held by its source.
    here.retain(|(running, _)| running.vm.datastore == *datastore.name() && running.epoch() > 0);
    names.retain(|name| !here.iter().any(|(running, _)| running.vm.vm == *name));
    let row = |vm: VmName, runs| LeaseRow { vm: Some(vm), datastore: datastore.name().clone(), state: state(runs) };
    let run = here.iter().map(|(running, state)| {
        // Whose one is that ended here, and waits for its last I/O, is not known any more than of the others.
        let runs =
            (*state != VmState::Ending).then(|| RunsHere { holder: plane.name().clone(), epoch: running.epoch() });
        row(running.vm.vm.clone(), runs)
    });
    run.chain(names.into_iter().map(|vm| row(vm, None))).collect()
}

/// All that is known of the lease of a VM, and what follows from it.
///
/// # Errors
/// There is no such VM, or the leases of its datastore do not tell.
pub fn show(plane: &ControlPlane, name: &VmName) -> Result<LeaseDetail, Diagnosis> {
    let what = format!("the lease of VM {name} is not shown");
    let located = locate(plane, name, &what)?;
    let refused = |failure: LeaseFailure| Diagnosis::of(&what, vec![failure.reason()]);
    let vm = located.vm();
    let holder = plane.leases.holder_if_it_answers(&vm).map_err(refused)?;
    let hosts = plane.leases.hosts(&vm.datastore).map_err(refused)?;
    let next = next(name, holder.as_ref(), plane.vms.state(name).is_some());
    let holder = holder.map(|holder| LeaseHolder {
        identity: hex_of(&holder.host),
        generation: holder.generation,
        own: holder.own,
        held: held(&holder, &hosts),
    });
    Ok(LeaseDetail { vm: vm.vm, datastore: vm.datastore, holder, place: where_is(plane, name), next })
}

fn held(holder: &Holder, hosts: &[HostLease]) -> HeldLease {
    let life = hosts.iter().find(|host| (host.host, host.generation) == (holder.host, holder.generation));
    let life = match life {
        _ if !holder.alive => HolderLife::Over,
        Some(HostLease { over: Some(_), .. }) => HolderLife::Over,
        Some(host) if renews(host) => HolderLife::Renews { silent_ms: host.silent_ms },
        Some(host) => HolderLife::Silent { silent_ms: host.silent_ms },
        None => HolderLife::Renews { silent_ms: 0 },
    };
    HeldLease { holder: holder.name.clone(), epoch: holder.epoch, life, since_unix_s: holder.since_unix_s }
}

/// What a person can do with a VM that is held so; `known` says whether anything of it goes on on this host.
fn next(name: &VmName, holder: Option<&Holder>, known: bool) -> String {
    match holder {
        None => format!("nobody holds it: vm start {name}, on any host"),
        Some(holder) if holder.own && known => format!("this host holds it and works on it: vm show {name}"),
        Some(holder) if holder.own => {
            format!(
                "this host holds it and runs nothing of it: vm start {name}, here; lease break {name} leaves it to any host"
            )
        }
        Some(Holder { name: host, alive: true, .. }) => format!(
            "only {host} may run it; it is free when {host} gives it up, or has not renewed its host lease for {} s; lease break {name} \
             tells what else there is",
            limits::LEASE_EXPIRY_MS / 1000
        ),
        Some(Holder { name: host, .. }) => {
            format!("{host} may not run it any more: vm start {name}, on any host, takes it over")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(alive: bool, own: bool) -> Holder {
        Holder {
            host: [7; 16],
            name: "host-b".parse().expect("valid"),
            generation: 3,
            epoch: 5,
            alive,
            own,
            since_unix_s: None,
        }
    }

    #[test]
    fn what_a_person_can_do_follows_from_who_holds_the_vm() {
        let web: VmName = "web".parse().expect("valid");
        assert!(next(&web, None, false).contains("on any host"));
        assert!(next(&web, Some(&holder(true, true)), true).contains("vm show web"));
        assert!(next(&web, Some(&holder(true, true)), false).contains("vm start web, here"));
        assert!(next(&web, Some(&holder(true, false)), false).contains("only host-b may run it"));
        assert!(next(&web, Some(&holder(false, false)), false).contains("takes it over"));
    }

    #[test]
    fn a_holder_is_told_by_its_own_life_and_not_by_a_later_one_of_the_same_host() {
        let lease = |generation, silent_ms| HostLease {
            slot: protocol::lease::identity::Slot(0),
            host: [7; 16],
            name: "host-b".parse().expect("valid"),
            generation,
            boot: 1,
            over: None,
            silent_ms,
            changed: true,
        };
        let life_of = |holder: &Holder, generation, silent_ms| held(holder, &[lease(generation, silent_ms)]).life;
        let life = |holder: &Holder, generation| life_of(holder, generation, 700);
        assert_eq!(life_of(&holder(true, false), 3, 6_000), HolderLife::Silent { silent_ms: 6_000 });
        assert_eq!(life(&holder(true, false), 3), HolderLife::Renews { silent_ms: 700 });
        assert_eq!(life(&holder(true, false), 4), HolderLife::Renews { silent_ms: 0 }, "that is not its silence");
        assert_eq!(life(&holder(false, false), 4), HolderLife::Over);
    }
}
