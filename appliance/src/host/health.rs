//! What is wrong with this host, if anything is.

use model::diagnosis::Reason;
use protocol::lease::identity::Slot;
use protocol::lease::record::Watchdog;

use crate::api::host::{Check, MigrationNicDetail};
use crate::api::lease::{DatastoreLease, HostLease, Listed, damage_text};
use crate::host::checks::kvm_problem;
use crate::host::clashes;
use crate::host::clone::leftovers;
use crate::host::control_plane::ControlPlane;
use crate::host::host_lease::look_hint;
use crate::host::leases::{LeaseFailure, mend_hint};
use crate::host::located::vm_names;
use crate::host::{lease_view, maintenance};

/// VMs whose leases are damaged that are told by name: what is told has to fit into a message.
const DAMAGED_TOLD_MAX: usize = 20;

/// Looks at everything that can be wrong with this host.
pub fn checks(plane: &ControlPlane) -> Vec<Check> {
    let check = |subject: &str, found: &str, problems: Vec<Reason>| {
        let found = if problems.is_empty() { found } else { "not well" };
        Check { problems, ..Check::well(subject, found) }
    };
    let config = plane
        .configuration
        .errors
        .iter()
        .map(|error| Reason::new(error.to_string(), "mend it where it stands, then: host reboot"));
    let network = plane.with_fabric("", |fabric| fabric.problems()).unwrap_or_else(|refusal| refusal.reasons);
    // A host without a migration NIC is none that something is wrong with.
    let (stack, trouble) = if plane.configuration.config.is_some() && !plane.has_migration_nic() {
        ("none configured: no VM can be moved from or to this host", None)
    } else {
        ("up", plane.migration_trouble())
    };
    let nic = (trouble.is_none() && plane.has_migration_nic()).then(|| plane.engine.nic()).flatten();
    let stack_warnings = nic.map(|nic| nic.warnings).unwrap_or_default();
    let mut checks = vec![
        check("configuration", "read without errors", config.collect()),
        maintenance::check(plane),
        check("KVM", "usable", kvm_problem().into_iter().collect()),
        check("network", "as configured", network),
        Check { warnings: stack_warnings, ..check("migration stack", stack, trouble.into_iter().collect()) },
    ];
    for datastore in plane.datastores.all() {
        let subject = format!("datastore {}", datastore.name());
        let found = check(&subject, &datastore.row().state, datastore.problems());
        checks.push(Check { warnings: datastore.warnings(), ..found });
    }
    let leases = plane.leases.status();
    checks.push(check("leases", "renewed", lease_problems(plane, &leases)));
    checks.push(vm_leases(plane));
    let device = plane.configuration.config.as_ref().and_then(|config| config.watchdog.clone());
    let armed = leases.ok().and_then(|leases| Some(leases.iter().find(|lease| lease.held)?.watchdog));
    let (found, problem, warning) = watchdog(device.as_deref(), armed);
    let found = check("watchdog", &found, problem.into_iter().collect());
    checks.push(Check { warnings: warning.into_iter().collect(), ..found });
    checks.push(clashes::check(plane));
    checks.push(leftovers::check(plane));
    checks
}

/// What resets this host if its lease role hangs, what is wrong with that, and what the operator should know; `armed` is unknown before there
/// is a lease.
fn watchdog(device: Option<&str>, armed: Option<Watchdog>) -> (String, Option<Reason>, Option<Reason>) {
    let well = |found: String| (found, None, None);
    match (device, armed) {
        (None, _) => {
            let cause = "none is configured: should the lease role of this host stand still, its VMs end themselves in time, and nothing \
                         brings the host back; and should its kernel hang, the disks' locks alone stand behind the lease";
            let hint = "watchdog = \"/dev/watchdog0\" in host.toml resets the host then";
            ("none configured".to_owned(), None, Some(Reason::new(cause, hint)))
        }
        (Some(device), None) => well(format!("{device}, when there is a lease")),
        (Some(device), Some(Watchdog::Hardware)) => well(format!("{device}, in hardware")),
        (Some(device), Some(Watchdog::Software)) => well(format!("{device}, in software: it dies with the kernel")),
        (Some(device), Some(Watchdog::None)) => {
            let hint = "log show lease says why; name another device in watchdog, or leave it out";
            (String::new(), Some(Reason::new(format!("{device} cannot be used as watchdog"), hint)), None)
        }
    }
}

fn lease_problems(plane: &ControlPlane, leases: &Result<Vec<DatastoreLease>, LeaseFailure>) -> Vec<Reason> {
    if let Err(refusal) = plane.known_datastores("") {
        return refusal.reasons;
    }
    let leases = match leases {
        Ok(leases) => leases,
        Err(failure) => return vec![failure.reason()],
    };
    let mut problems = Vec::new();
    // The damage of an area in which one is held is told of its datastore.
    for lease in leases.iter().filter(|lease| !lease.held || !lease.trouble.is_empty() || lease.refusal.is_some()) {
        let refused = lease.refusal.and_then(|errno| Some(plane.datastores.get(&lease.datastore)?.refusal(errno)));
        let damaged = lease.damage.clone().map(|damage| LeaseFailure::AreaDamaged(damage).reason());
        let mend = || lease.mend.clone().unwrap_or_else(|| look_hint(&lease.datastore));
        let why = damaged.or(refused).unwrap_or_else(|| Reason::new(lease.trouble.clone(), mend()));
        let cause = format!("the host lease on datastore {} is not renewed: {}", lease.datastore, why.cause);
        problems.push(Reason::new(cause, why.hint));
    }
    for datastore in plane.datastores.all() {
        let name = datastore.name();
        if leases.iter().any(|lease| lease.datastore == *name) {
            continue;
        }
        let cause = if datastore.writable() {
            format!("the host lease on datastore {name} is not taken yet: it takes seconds")
        } else {
            format!("the host lease on datastore {name} cannot be taken while the datastore is not well")
        };
        problems.push(Reason::new(cause, look_hint(name)));
    }
    problems
}

/// The names of the hosts in these slots.
fn names_in<'a>(hosts: &'a [HostLease], slots: &[Slot]) -> Vec<&'a str> {
    hosts.iter().filter(|host| slots.contains(&host.slot)).map(|host| host.name.as_str()).collect()
}

/// Looks for leases of VMs about which nothing can be decided: [`DAMAGED_TOLD_MAX`] of them are told by name, and where that is not
/// known, that it is not.
fn vm_leases(plane: &ControlPlane) -> Check {
    let (mut damaged, mut is_area_damaged) = (Vec::new(), false);
    let (datastores, mut untold) = match plane.known_datastores("") {
        Ok(datastores) => (datastores, Vec::new()),
        Err(refusal) => (Vec::new(), refusal.reasons),
    };
    for datastore in datastores {
        let name = datastore.name();
        let mut unknown = |Reason { cause, hint }: Reason| {
            untold.push(Reason::new(format!("whether one on datastore {name} is damaged is not known: {cause}"), hint));
        };
        let names = match vm_names(&datastore) {
            Ok(names) => names,
            Err(reason) => {
                unknown(reason);
                continue;
            }
        };
        match lease_view::holders(plane, &datastore, &names) {
            Ok(listed) => {
                let of_here = listed.into_iter().filter_map(|(vm, listed)| match listed {
                    Listed::Damaged(slots) => Some((vm, slots)),
                    Listed::Held(_) => None,
                });
                let of_here: Vec<_> = of_here.collect();
                let hosts = if of_here.is_empty() { None } else { plane.leases.hosts(name).ok() };
                damaged.extend(of_here.iter().map(|(vm, slots)| {
                    let whose = hosts.as_ref().map(|hosts| names_in(hosts, slots));
                    Reason::new(damage_text(vm, slots, whose.as_deref()), mend_hint(vm))
                }));
            }
            // It is told of its datastore.
            Err(LeaseFailure::AreaDamaged(_)) if datastore.lease_damage().is_some() => is_area_damaged = true,
            Err(failure @ LeaseFailure::AreaDamaged(_)) => untold.push(failure.reason()),
            Err(failure) => unknown(failure.reason()),
        }
    }
    let found = match (damaged.is_empty(), untold.is_empty()) {
        (true, true) if is_area_damaged => "not known where the lease area is damaged",
        (true, true) => "none is damaged",
        (true, false) => "unknown",
        (false, _) => "not well",
    };
    let astray = plane.astray.problems(plane);
    let more = damaged.len().saturating_sub(DAMAGED_TOLD_MAX);
    damaged.truncate(DAMAGED_TOLD_MAX);
    if more > 0 {
        damaged.push(Reason::new(format!("the leases of {more} more VMs are damaged"), "lease list"));
    }
    let found = if astray.is_empty() { found } else { "not well" };
    damaged.extend(astray.into_iter().chain(untold));
    Check { problems: damaged, ..Check::well("VM leases", found) }
}

/// The migration NIC as its engine knows it, and why no VM can be moved over it, if none can.
pub fn migration_nic(plane: &ControlPlane) -> MigrationNicDetail {
    let mut nic = plane.engine.nic().map(|nic| *nic).unwrap_or_default();
    // What the engine itself says of its stack is in what the control plane knows of it.
    nic.problems = plane.migration_trouble().into_iter().collect();
    nic
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::lease::{LeaseAnswer, LeaseRequest};
    use crate::host::control_plane::stand_in::Place;

    /// The lease of a host, the last letter of whose name tells its slot.
    fn host_lease(name: &str) -> HostLease {
        let slot = Slot(u16::from(name.as_bytes().last().expect("a name") - b'a'));
        let name = name.parse().expect("valid");
        HostLease { slot, host: [0; 16], name, generation: 1, boot: 1, over: None, silent_ms: 0, changed: true }
    }

    /// What is told of damaged leases where there are 30 VMs and the lease role answers a list so.
    fn told_of_damage(test: &str, list: fn(&[model::names::VmName]) -> LeaseAnswer) -> Vec<Reason> {
        let place = Place::without_datastore(test, move |request| match request {
            LeaseRequest::List { vms, .. } => list(vms),
            LeaseRequest::Hosts(_) => LeaseAnswer::Hosts(["host-a", "host-b"].map(host_lease).to_vec()),
            _ => LeaseAnswer::Failed("it was not to be asked".to_owned()),
        });
        for n in 0..30 {
            place.write(&format!("vms/vm-{n}/vm.toml"), "");
        }
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        vm_leases(&place.plane).problems
    }

    #[test]
    fn damaged_leases_are_told_as_far_as_there_is_room_and_so_is_that_nobody_knows() {
        let told = told_of_damage("health-damaged", |vms| {
            LeaseAnswer::Holders(vms.iter().map(|vm| (vm.clone(), Listed::Damaged(vec![Slot(1)]))).collect())
        });
        assert_eq!(told.len(), DAMAGED_TOLD_MAX + 1);
        assert!(
            told[0].cause.contains("damaged: its records of slot 1 (those of host-b) are corrupt"),
            "{}",
            told[0].cause
        );
        assert!(told[0].hint.contains("lease break vm-"), "{}", told[0].hint);
        assert!(told[DAMAGED_TOLD_MAX].cause.contains("10 more VMs"), "{}", told[DAMAGED_TOLD_MAX].cause);
        let told = told_of_damage("health-untold", |_| LeaseAnswer::Unknown("it did not answer".to_owned()));
        assert_eq!(told.len(), 1);
        assert!(
            told[0].cause.contains("datastore lab is damaged is not known: it did not answer"),
            "{}",
            told[0].cause
        );
        assert!(told_of_damage("health-well", |_| LeaseAnswer::Holders(Vec::new())).is_empty());
    }

    #[test]
    fn a_watchdog_that_is_configured_and_cannot_be_used_is_a_problem() {
        let told = |device, armed| watchdog(device, armed).0;
        assert_eq!(told(None, Some(Watchdog::None)), "none configured");
        assert!(
            watchdog(None, None).2.is_some() && watchdog(Some("/dev/watchdog0"), None).2.is_none(),
            "it is warned of"
        );
        assert_eq!(told(Some("/dev/watchdog0"), Some(Watchdog::Hardware)), "/dev/watchdog0, in hardware");
        assert!(told(Some("/dev/watchdog0"), Some(Watchdog::Software)).contains("in software"));
        let (_, problem, _) = watchdog(Some("/dev/none"), Some(Watchdog::None));
        assert!(problem.is_some_and(|problem| problem.cause.contains("/dev/none cannot be used")));
    }
}
