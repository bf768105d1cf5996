//! What is wrong with this host, if anything is.

use model::diagnosis::Reason;
use model::names::DatastoreName;

use crate::api::host::{Check, MigrationNicDetail};
use crate::host::checks::kvm_problem;
use crate::host::clone::leftovers;
use crate::host::control_plane::ControlPlane;

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
    let mut checks = vec![
        check("configuration", "read without errors", config.collect()),
        check("KVM", "usable", kvm_problem().into_iter().collect()),
        check("network", "as configured", network),
        check("migration stack", stack, trouble.into_iter().collect()),
    ];
    for datastore in plane.datastores.all() {
        checks.push(check(&format!("datastore {}", datastore.name()), &datastore.row().state, datastore.problems()));
    }
    checks.push(check("leases", "renewed", lease_problems(plane)));
    checks.push(leftovers::check(plane));
    checks
}

fn lease_problems(plane: &ControlPlane) -> Vec<Reason> {
    if let Err(refusal) = plane.known_datastores("") {
        return refusal.reasons;
    }
    let leases = match plane.leases.status() {
        Ok(leases) => leases,
        Err(failure) => return vec![failure.reason()],
    };
    let hint = |datastore: &DatastoreName| format!("datastore show {datastore}; log show lease");
    let mut problems = Vec::new();
    for lease in leases.iter().filter(|lease| !lease.held || !lease.trouble.is_empty()) {
        let cause = format!("the host lease on datastore {} is not renewed: {}", lease.datastore, lease.trouble);
        problems.push(Reason::new(cause, hint(&lease.datastore)));
    }
    for datastore in plane.datastores.all() {
        let name = datastore.name();
        if leases.iter().all(|lease| lease.datastore != *name) {
            let cause = format!("the host lease on datastore {name} is not taken yet: it takes seconds");
            problems.push(Reason::new(cause, hint(name)));
        }
    }
    problems
}

/// The migration NIC as its engine knows it, and why no VM can be moved over it, if none can.
pub fn migration_nic(plane: &ControlPlane) -> MigrationNicDetail {
    let mut nic = plane.engine.nic().map(|nic| *nic).unwrap_or_default();
    // What the engine itself says of its stack is in what the control plane knows of it.
    nic.problems = plane.migration_trouble().into_iter().collect();
    nic
}
