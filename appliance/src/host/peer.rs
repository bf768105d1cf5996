//! Whether another host can be talked to over the migration NIC, as far as this host knows by itself.

use model::diagnosis::Reason;
use model::names::HostName;

use crate::host::control_plane::ControlPlane;

/// Judges a host that somebody named.
///
/// # Errors
/// Why it cannot be talked to.
pub fn check(plane: &ControlPlane, host: &HostName) -> Result<(), Reason> {
    if *host == *plane.name() {
        return Err(Reason::new(format!("{host} is this host"), "host list"));
    }
    if plane.hosts.twins(host).is_some() {
        let cause = format!("two living hosts have the name {host}: which of them is meant is not known");
        return Err(Reason::new(cause, "host check tells which two; give one of them another hostname"));
    }
    if let Some(trouble) = plane.migration_trouble() {
        return Err(trouble);
    }
    if plane.hosts.is_off(host) {
        return Err(Reason::new(format!("{host} was shut down"), "switch it on; host list tells when it is back"));
    }
    if !plane.hosts.knows(host) {
        let cause = format!("no host {host} with a migration NIC shares a datastore with this one");
        return Err(Reason::new(cause, "host list"));
    }
    Ok(())
}
