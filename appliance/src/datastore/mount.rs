//! What the kernel is asked when a datastore is mounted, and what its refusals mean.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use model::diagnosis::Reason;
use model::host_config::{DatastoreKind, NfsVersion};
use model::names::DatastoreName;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::bounded::plain;
use super::nfs_client::owner;
use super::trouble;

/// How long a server may take to accept a connection before a mount.
const CONNECT: Duration = Duration::from_secs(5);

/// Mounts an NFS export with the kernel's client. Blocks for as long as the kernel tries.
///
/// Options (nfs(5)): `hard`, because a guest's disk must wait for a server that is away and not fail (the lease ends the
/// wait); close-to-open consistency with short attribute caches, because hosts watch each other's files; an address and a
/// port in numbers, because no helper program resolves them.
///
/// # Errors
/// As mount(2).
pub fn mount_nfs(kind: &DatastoreKind, target: &Path) -> io::Result<()> {
    let DatastoreKind::Nfs { server, port, export, version } = kind else { return Ok(()) };
    let host = if server.is_ipv6() { format!("[{server}]") } else { server.to_string() };
    let source = format!("{host}:{export}");
    let common = format!("addr={server},hard,timeo=50,retrans=2,actimeo=1,lookupcache=none,noresvport");
    let (filesystem, options) = match version {
        NfsVersion::V4_1 => ("nfs4", format!("vers=4.1,port={port},proto=tcp,{common}")),
        NfsVersion::V4_2 => ("nfs4", format!("vers=4.2,port={port},proto=tcp,{common}")),
        NfsVersion::V3 => {
            ("nfs", format!("vers=3,port={port},nolock,proto=tcp,mountproto=tcp,mountaddr={server},{common}"))
        }
    };
    let options = std::ffi::CString::new(options)?;
    if let Err(error) = owner::establish() {
        log::warn!("what this host leaves on {server} when it dies cannot be given up by others at once: {error}");
    }
    // mount(2) tries a server that is away for minutes, and nobody would know why. A connection tells at once.
    connect(*server, *port)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::NOATIME;
    Ok(mount(source, target, filesystem, flags, options.as_c_str())?)
}

/// Whether a server accepts connections.
fn connect(server: IpAddr, port: u16) -> io::Result<()> {
    match TcpStream::connect_timeout(&SocketAddr::new(server, port), CONNECT) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Err(rustix::io::Errno::TIMEDOUT.into()),
        outcome => outcome.map(drop),
    }
}

/// Ends a mount whatever hangs in it: its requests to the server are killed.
pub fn force_unmount(target: &Path) {
    if let Err(error) = unmount(target, UnmountFlags::FORCE | UnmountFlags::DETACH) {
        log::warn!("{}: {error}", target.display());
    }
}

/// What a refused mount means and what mends it.
pub fn refusal(name: &DatastoreName, kind: &DatastoreKind, error: &io::Error) -> Reason {
    let DatastoreKind::Nfs { server, port, export, version } = kind else {
        return Reason::new(
            error.to_string(),
            format!("datastore.{name}.path in the host's configuration: config show"),
        );
    };
    let errno = rustix::io::Errno::from_io_error(error);
    let (cause, hint) = match errno {
        Some(rustix::io::Errno::NOENT) => (
            format!("{server} has no export {export}"),
            format!(
                "correct datastore.{name}.export, or export it on the server, to this host too (NFS 4 hides what it does not export to a host)"
            ),
        ),
        Some(rustix::io::Errno::CONNREFUSED) => (
            format!("nothing listens on {server} port {port}"),
            format!("start the NFS server, or correct datastore.{name}.server and port"),
        ),
        Some(rustix::io::Errno::TIMEDOUT | rustix::io::Errno::HOSTUNREACH | rustix::io::Errno::NETUNREACH) => (
            format!("{server} does not answer"),
            "look at the cable and the addresses: network nics, host show".to_owned(),
        ),
        // To whom it exports nothing there, a server of NFS 3 may say the same of what it has and of what it has not.
        Some(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) if *version == NfsVersion::V3 => (
            format!("{server} does not let this host mount {export}, or has no such export"),
            format!("permit this host's address in the server's exports, or correct datastore.{name}.export"),
        ),
        Some(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => (
            format!("{server} does not let this host mount {export}"),
            "permit this host's address in the server's exports".to_owned(),
        ),
        Some(rustix::io::Errno::PROTONOSUPPORT | rustix::io::Errno::INVAL) => (
            format!("{server} does not speak NFS version {version}: {error}"),
            format!("choose another datastore.{name}.version: 4.1, 4.2 or 3"),
        ),
        Some(rustix::io::Errno::IO | rustix::io::Errno::CONNRESET | rustix::io::Errno::PIPE) => (
            format!("{server} port {port} accepts connections, but does not answer as an NFS server"),
            format!("correct datastore.{name}.server and port, or look at what lies between: network nics, host show"),
        ),
        Some(rustix::io::Errno::STALE) => return trouble::replaced(&format!("{server}:{export}")),
        Some(rustix::io::Errno::NODEV) => {
            ("this kernel has no NFS client".to_owned(), "boot the image's own kernel".to_owned())
        }
        _ => (format!("{server}:{export} cannot be mounted: {}", plain(error)), "log show host".to_owned()),
    };
    Reason::new(cause, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_on_which_nothing_listens_is_told_at_once() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let export = "/lab".to_owned();
        let server = IpAddr::from([127, 0, 0, 1]);
        let kind = DatastoreKind::Nfs { server, port, export, version: NfsVersion::V4_1 };
        let error = mount_nfs(&kind, Path::new("/nowhere")).expect_err("nothing listens");
        let name = "lab".parse().expect("valid");
        assert_eq!(refusal(&name, &kind, &error).cause, format!("nothing listens on 127.0.0.1 port {port}"));
    }

    #[test]
    fn an_export_that_was_replaced_is_told_with_what_brings_it_back_and_the_same_by_who_mounts_and_who_looks() {
        let export = "/srv/vms".to_owned();
        let kind =
            DatastoreKind::Nfs { server: IpAddr::from([10, 0, 0, 1]), port: 2049, export, version: NfsVersion::V4_2 };
        let stale = || io::Error::from(rustix::io::Errno::STALE);
        let told = refusal(&"lab".parse().expect("valid"), &kind, &stale());
        assert!(told.cause.contains("10.0.0.1:/srv/vms was removed or replaced"), "{told:?}");
        assert!(told.hint.contains("exportfs -r") && told.hint.contains("host reboot"), "{told:?}");
        assert_eq!(told, trouble::reason("10.0.0.1:/srv/vms", &stale().into()));
    }

    #[test]
    fn what_nfs_3_refuses_may_be_missing_or_forbidden_and_the_hint_names_the_datastore() {
        let server = IpAddr::from([127, 0, 0, 1]);
        let of = |version| {
            let kind = DatastoreKind::Nfs { server, port: 2049, export: "/srv/typo".to_owned(), version };
            refusal(&"lab".parse().expect("valid"), &kind, &io::Error::from_raw_os_error(libc::EACCES))
        };
        assert!(of(NfsVersion::V3).cause.ends_with("/srv/typo, or has no such export"));
        assert!(of(NfsVersion::V3).hint.ends_with("or correct datastore.lab.export"));
        assert!(of(NfsVersion::V4_2).cause.ends_with("does not let this host mount /srv/typo"));
    }
}
