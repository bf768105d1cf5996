//! The NFS mount that a lease area lies in, and the server behind it, as the kernel lists them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// The port of an NFS server unless told otherwise (RFC 8881, 2.9).
const NFS_PORT: u16 = 2049;

/// An NFS mount.
#[derive(Debug, PartialEq, Eq)]
pub struct NfsMount {
    /// Where it is mounted.
    pub root: PathBuf,
    /// Where its server listens, if the mount tells.
    pub server: Option<SocketAddr>,
}

/// The NFS mount that `path` lies in, in the mount namespace of this process; none if it is no NFS. No server is asked.
pub fn holding(path: &Path) -> Option<NfsMount> {
    nfs_mount_of(path, &std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
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
    fn only_the_nfs_mount_that_holds_the_area_is_found() {
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
