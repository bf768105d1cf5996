//! Ends the I/O that fenced VMs have in flight: their processes die at SIGKILL, but what they handed to the kernel's NFS
//! client would go on being sent until the server answers. MNT_FORCE kills those requests (umount2(2)); the mount itself
//! is busy, because this role has the lease area open, and stays.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};

/// Pause before requests are ended that came after the ones before: a process that was killed closes its files.
const AGAIN: Duration = Duration::from_secs(1);

/// Kills the requests of the NFS mount that `area` lies in, on a thread of its own, again and again until the other end of
/// `until` is dropped. Nothing happens if it is no NFS.
pub fn end_requests(area: &Path, until: Receiver<()>) {
    let Some(root) = nfs_mount_of(area, &std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()) else {
        return;
    };
    let started = std::thread::Builder::new().name("cut".to_owned()).spawn(move || end_until(&root, &until));
    if let Err(error) = started {
        log::error!("no thread to end the requests to the server: {error}");
    }
}

fn end_until(root: &Path, until: &Receiver<()>) {
    let mut told = false;
    loop {
        match unmount(root, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
            // The mount is in use, as it should be; its requests are dead.
            Err(rustix::io::Errno::BUSY) if told => {}
            Err(rustix::io::Errno::BUSY) => log::info!("{}: the requests to the server were ended", root.display()),
            // The control plane sees it and mounts it again.
            Ok(()) => return log::warn!("{}: unmounted, nobody used it", root.display()),
            Err(error) => {
                return log::error!("{}: the requests to the server were not ended: {error}", root.display());
            }
        }
        told = true;
        if until.recv_timeout(AGAIN) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

/// The innermost NFS mount that holds `path`, of those that `mountinfo` lists (proc_pid_mountinfo(5): field 5 is the mount
/// point, the field after `-` the type).
fn nfs_mount_of(path: &Path, mountinfo: &str) -> Option<PathBuf> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        Some((Path::new(mount.split(' ').nth(4)?), filesystem.split(' ').next()?))
    });
    let holding = mounts.filter(|(point, _)| path.starts_with(point));
    let (point, kind) = holding.max_by_key(|(point, _)| point.components().count())?;
    matches!(kind, "nfs" | "nfs4").then(|| point.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 0:21 / / rw shared:1 - ext4 /dev/vda rw\n\
        31 22 0:40 / /run/godwit/datastore/lab rw,nosuid shared:9 - nfs4 10.0.0.1:/lab rw,vers=4.1\n\
        32 31 0:41 / /run/godwit/datastore/lab/vms rw - tmpfs tmpfs rw\n";

    #[test]
    fn only_the_nfs_mount_that_holds_the_area_is_cut() {
        let of = |path: &str| nfs_mount_of(Path::new(path), MOUNTS);
        assert_eq!(of("/run/godwit/datastore/lab/godwit/lease"), Some(PathBuf::from("/run/godwit/datastore/lab")));
        assert_eq!(of("/run/godwit/datastore/lab/vms/lease"), None);
        assert_eq!(of("/run/godwit/datastore/labor/lease"), None);
        assert_eq!(of("/tmp/lease"), None);
    }
}
