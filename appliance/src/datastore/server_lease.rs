//! How long an NFS server keeps the locks of a host that it does not hear of: its lease time (RFC 8881, 2.4.3 and 8.4). A VM whose host is
//! cut off for longer loses its disks.

use std::path::Path;

use model::diagnosis::Reason;
use model::limits;
use model::names::DatastoreName;

/// How long a host may run VMs after it reached its datastore for the last time.
const RUNS_ON_MS: u64 = limits::LEASE_RENEWAL_MS + limits::LEASE_IO_BOUND_MS + limits::LEASE_KILL_MS;

/// Seconds of the lease of the server that is mounted at `root`; unknown where nothing is mounted that has one (NFSv3, a directory).
/// The kernel's own table tells, and no server is asked.
pub fn server_lease_s(root: &Path) -> Option<u64> {
    told(&std::fs::read_to_string("/proc/self/mountstats").ok()?, root)
}

/// What `mountstats` says of `root`: `device SOURCE mounted on PLACE with fstype TYPE`, and then, for NFSv4, a line of its own that
/// starts with `nfsv4:` (`fs/nfs/super.c`, nfs_show_stats).
fn told(mountstats: &str, root: &Path) -> Option<u64> {
    let mut at_root = false;
    for line in mountstats.lines() {
        if let Some(device) = line.strip_prefix("device ") {
            let (_, rest) = device.split_once(" mounted on ")?;
            let (place, _) = rest.split_once(" with fstype ")?;
            at_root = Path::new(place) == root;
        } else if at_root && let Some(of_nfs4) = line.trim_start().strip_prefix("nfsv4:") {
            return of_nfs4.split(',').find_map(|word| word.trim().strip_prefix("lease_time=")?.parse().ok());
        }
    }
    None
}

/// What is wrong with a lease of so many seconds: one that a host outlives costs its VMs their disks.
pub fn too_short(seconds: u64) -> Option<Reason> {
    (seconds * 1000 <= RUNS_ON_MS).then(|| {
        let cause = format!(
            "its server takes a host's locks away after {seconds} s of silence, and the host may run its VMs for {} s: they could \
             lose their disks in an outage that the host bears",
            RUNS_ON_MS.div_ceil(1000)
        );
        Reason::new(cause, format!("set the lease time of the NFS server to {} s or more", recommended()))
    })
}

/// What is to be known of a server without leases.
pub fn none(name: &DatastoreName) -> Reason {
    let cause = "by NFS 3 the server keeps no locks: a host that was frozen, and goes on after its VMs were started elsewhere, can still \
                 write to their disks for a moment";
    Reason::new(cause, format!("datastore.{name}.version = 4.1 or 4.2, where the server has it"))
}

/// The shortest lease time, in seconds, that leaves a host its locks for as long as it may run VMs, with a margin.
const fn recommended() -> u64 {
    limits::LEASE_EXPIRY_MS.div_ceil(1000) + 2
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTSTATS: &str = "device proc mounted on /proc with fstype proc\n\
        device 10.0.0.1:/lab mounted on /run/godwit/datastore/lab with fstype nfs4 statvers=1.1\n\
        \topts:\trw,vers=4.1,addr=10.0.0.1\n\
        \tcaps:\tcaps=0x1,wtmult=512\n\
        \tnfsv4:\tbm0=0xfdffbfff,bm1=0x40f9be3e,acl=0x3,sessions,pnfs=not configured,lease_time=90,lease_expired=0\n\
        device 10.0.0.2:/old mounted on /run/godwit/datastore/old with fstype nfs statvers=1.1\n\
        \topts:\trw,vers=3\n";

    #[test]
    fn the_lease_of_the_server_that_is_mounted_there_is_told() {
        let of = |place: &str| told(MOUNTSTATS, Path::new(place));
        assert_eq!(of("/run/godwit/datastore/lab"), Some(90));
        assert_eq!(of("/run/godwit/datastore/old"), None);
        assert_eq!(of("/run/godwit/datastore"), None);
    }

    #[test]
    fn a_server_that_takes_locks_from_a_host_that_may_still_run_vms_is_a_problem() {
        assert!(too_short(RUNS_ON_MS / 1000).is_some_and(|problem| problem.cause.contains("lose their disks")));
        assert!(too_short(recommended()).is_none());
    }
}
