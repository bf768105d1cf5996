//! What an error of a mounted datastore means for a person, and what mends it.

use std::io;

use model::diagnosis::Reason;

use super::bounded::DatastoreError;

/// What mends a datastore that does not answer, or nobody knows what it has.
pub(super) const LOOK_AT_IT: &str =
    "look at the server, the cable and the addresses: network nics; the datastore comes back by itself";

/// Why `place` (`10.0.0.1:/vms`) cannot be used, and what mends it.
pub fn reason(place: &str, error: &DatastoreError) -> Reason {
    let DatastoreError::Io(error) = error else { return Reason::new(error.to_string(), LOOK_AT_IT) };
    let (cause, hint) = match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem => (
            format!("{place} is exported for reading only"),
            "export it to this host for writing too (rw); VMs can be started half a minute later",
        ),
        io::ErrorKind::PermissionDenied => (
            format!(
                "{place} is exported to this host, but its root user may not use it: root squash, or another owner"
            ),
            "export it with no_root_squash, or make its folder the squashed user's own",
        ),
        io::ErrorKind::StorageFull => (
            format!("{place} is full: its VMs get errors where they write what has no room yet"),
            "make room on the server; datastore list tells how much there is",
        ),
        io::ErrorKind::QuotaExceeded => {
            (format!("this host has used its quota of {place} up"), "raise the quota on the server, or make room there")
        }
        io::ErrorKind::StaleNetworkFileHandle => return replaced(place),
        _ => (super::bounded::plain(error), LOOK_AT_IT),
    };
    Reason::new(cause, hint)
}

/// That what a server exported as `place` is not what it has there now, and what mends it. The leases of what was there live on in what
/// is mounted again only where it is that again: one that came instead has none of them, and only a host that boots takes it.
pub fn replaced(place: &str) -> Reason {
    Reason::new(
        format!("what the server exported as {place} was removed or replaced there (stale handle)"),
        "put the folder back on the server and export it anew (exportfs -r): the datastore then comes back by itself; \
         where another folder is to be used from now on: host reboot, of every host that uses it",
    )
}

/// What a datastore that refuses to be written is called in a list.
pub fn state(error: &DatastoreError) -> &'static str {
    match error {
        DatastoreError::Io(error) if error.kind() == io::ErrorKind::StorageFull => "full",
        DatastoreError::Io(error) if error.kind() == io::ErrorKind::QuotaExceeded => "quota used up",
        _ => "cannot be written",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_a_server_has_its_own_mend() {
        let of = |errno: rustix::io::Errno| reason("10.0.0.1:/vms", &DatastoreError::Io(errno.into()));
        for (errno, cause, hint) in [
            (rustix::io::Errno::ROFS, "10.0.0.1:/vms is exported for reading only", "(rw)"),
            (rustix::io::Errno::ACCESS, "root squash", "no_root_squash"),
            (rustix::io::Errno::PERM, "root squash", "no_root_squash"),
            (rustix::io::Errno::NOSPC, "10.0.0.1:/vms is full", "make room"),
            (rustix::io::Errno::DQUOT, "quota", "raise the quota"),
            (rustix::io::Errno::STALE, "removed or replaced there (stale handle)", "exportfs -r"),
            (rustix::io::Errno::IO, "Input/output error", "look at the server"),
        ] {
            let told = of(errno);
            assert!(told.cause.contains(cause) && told.hint.contains(hint), "{errno:?}: {told:?}");
        }
    }
}
