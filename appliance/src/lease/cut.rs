//! Ends the I/O that fenced VMs have in flight: their processes die at SIGKILL, but what they handed to the kernel's NFS
//! client would go on being sent until the server answers. MNT_FORCE kills those requests (umount2(2)); the mount itself
//! is busy, because this role has the lease area open, and stays.
//!
//! It is done once, while the processes stand still: what they send when they end, the unlock and the close of their disks, is
//! to reach the server as soon as that answers. Ended too, it would leave the locks there for as long as this host lives.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};

/// How long it is waited for: the kernel asks no server for it, and the VMs must die all the same.
const BOUND: Duration = Duration::from_millis(500);

/// Kills the requests of the NFS mount that `area` lies in, on a thread of its own. Nothing happens if it is no NFS.
pub fn end_requests(area: &Path) {
    let Some(root) = nfs_mount_of(area, &std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()) else {
        return;
    };
    let (done, ended) = channel();
    match std::thread::Builder::new().name("cut".to_owned()).spawn(move || cut(&root, &done)) {
        Ok(_) if ended.recv_timeout(BOUND).is_ok() => {}
        Ok(_) => log::error!("the requests to the server are not ended yet"),
        Err(error) => log::error!("no thread to end the requests to the server: {error}"),
    }
}

fn cut(root: &Path, done: &Sender<()>) {
    match unmount(root, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
        // The mount is in use, as it should be; its requests are dead.
        Err(rustix::io::Errno::BUSY) => log::info!("{}: the requests to the server were ended", root.display()),
        // The control plane sees it and mounts it again.
        Ok(()) => log::warn!("{}: unmounted, nobody used it", root.display()),
        Err(error) => log::error!("{}: the requests to the server were not ended: {error}", root.display()),
    }
    // Who asked may not wait any more.
    let _ = done.send(());
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
