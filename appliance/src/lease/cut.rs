//! Ends the I/O that fenced VMs have in flight: their processes die at SIGKILL, but what they handed to the kernel's NFS
//! client would go on being sent until the server answers. MNT_FORCE kills those requests (umount2(2)); the mount itself
//! is busy, because this role has the lease area open, and stays. What of them was handed to TCP already would be sent again
//! when the server can be reached again, for as long as the client's TCP user timeout lasts: the connections to the server end too,
//! and with them what they had queued. The client makes new ones, for the other mounts of that server as well.
//!
//! It is done once, while the processes stand still: what they send when they end, the unlock and the close of their disks, is
//! to reach the server as soon as that answers. Ended too, it would leave the locks there for as long as this host lives.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};

use crate::network::connections::end_connections;

/// The port of an NFS server unless told otherwise (RFC 8881, 2.9).
const NFS_PORT: u16 = 2049;

/// How long it is waited for: the kernel asks no server for it, and the VMs must die all the same.
const BOUND: Duration = Duration::from_millis(500);

/// Kills the requests of the NFS mount that `area` lies in, on a thread of its own. Nothing happens if it is no NFS.
pub fn end_requests(area: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(mount) = nfs_mount_of(area, &mounts) else { return };
    let (done, ended) = channel();
    match std::thread::Builder::new().name("cut".to_owned()).spawn(move || cut(&mount, &done)) {
        Ok(_) if ended.recv_timeout(BOUND).is_ok() => {}
        Ok(_) => log::error!("the requests to the server are not ended yet"),
        Err(error) => log::error!("no thread to end the requests to the server: {error}"),
    }
}

fn cut(NfsMount { root, server }: &NfsMount, done: &Sender<()>) {
    match unmount(root, UnmountFlags::FORCE | UnmountFlags::NOFOLLOW) {
        // The mount is in use, as it should be; its requests are dead.
        Err(rustix::io::Errno::BUSY) => log::info!("{}: the requests to the server were ended", root.display()),
        // The control plane sees it and mounts it again.
        Ok(()) => log::warn!("{}: unmounted, nobody used it", root.display()),
        Err(error) => log::error!("{}: the requests to the server were not ended: {error}", root.display()),
    }
    match server.map(end_connections) {
        Some(Ok(count)) => log::info!("{}: {count} connections to the server were ended", root.display()),
        Some(Err(error)) => log::error!("{}: the connections to the server were not ended: {error}", root.display()),
        None => log::error!("{}: its server is not known, and connections to it were not ended", root.display()),
    }
    // Who asked may not wait any more.
    let _ = done.send(());
}

/// An NFS mount.
#[derive(Debug, PartialEq, Eq)]
struct NfsMount {
    root: PathBuf,
    server: Option<SocketAddr>,
}

/// The innermost NFS mount that holds `path`, of those that `mountinfo` lists (proc_pid_mountinfo(5): field 5 is the mount
/// point; after `-` come the type, the source and the options of the file system, among them `addr` and, unless it is the usual
/// one, `port`).
fn nfs_mount_of(path: &Path, mountinfo: &str) -> Option<NfsMount> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        Some((Path::new(mount.split(' ').nth(4)?), filesystem))
    });
    let holding = mounts.filter(|(point, _)| path.starts_with(point));
    let (point, filesystem) = holding.max_by_key(|(point, _)| point.components().count())?;
    let mut words = filesystem.split(' ');
    let is_nfs = matches!(words.next(), Some("nfs" | "nfs4"));
    let options = words.nth(1).unwrap_or_default();
    let option = |name: &str| options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    let port = option("port").map_or(Some(NFS_PORT), |port| port.parse().ok());
    let address: Option<IpAddr> = option("addr").and_then(|address| address.parse().ok());
    let server = address.zip(port).map(SocketAddr::from);
    is_nfs.then(|| NfsMount { root: point.to_owned(), server })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "22 1 0:21 / / rw shared:1 - ext4 /dev/vda rw\n\
        31 22 0:40 / /run/godwit/datastore/lab rw,nosuid shared:9 - nfs4 10.0.0.1:/lab rw,vers=4.1\n\
        32 31 0:41 / /run/godwit/datastore/lab/vms rw - tmpfs tmpfs rw\n";

    #[test]
    fn only_the_nfs_mount_that_holds_the_area_is_cut() {
        let of = |path: &str| nfs_mount_of(Path::new(path), MOUNTS).map(|mount| mount.root);
        assert_eq!(of("/run/godwit/datastore/lab/godwit/lease"), Some(PathBuf::from("/run/godwit/datastore/lab")));
        assert_eq!(of("/run/godwit/datastore/lab/vms/lease"), None);
        assert_eq!(of("/run/godwit/datastore/labor/lease"), None);
        assert_eq!(of("/tmp/lease"), None);
    }

    #[test]
    fn the_server_of_a_mount_is_known_by_its_address_and_port() {
        let server = |options: &str| {
            let line = format!("31 22 0:40 / /data rw - nfs4 10.0.0.1:/lab {options}");
            nfs_mount_of(Path::new("/data/lease"), &line).expect("it is NFS").server.map(|server| server.to_string())
        };
        assert_eq!(server("rw,vers=4.1,proto=tcp,clientaddr=10.0.0.7,addr=10.0.0.1"), Some("10.0.0.1:2049".to_owned()));
        assert_eq!(server("rw,vers=4.2,port=2050,addr=fd00::1"), Some("[fd00::1]:2050".to_owned()));
        assert_eq!(server("rw,vers=4.1"), None);
    }
}
