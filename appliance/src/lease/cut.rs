//! Ends the I/O that fenced VMs have in flight: their processes die at SIGKILL, but what they handed to the kernel's NFS
//! client would go on being sent until the server answers. MNT_FORCE kills those requests (umount2(2)); the mount itself
//! is busy, because this role has the lease area open, and stays. What of them was handed to TCP already would be sent again
//! when the server can be reached again, for as long as the client's TCP user timeout lasts: the connections to the server end too,
//! and with them what they had queued. The client makes new ones, for the other mounts of that server as well.
//!
//! It is done once, while the processes stand still: what they send when they end, the unlock and the close of their disks, is
//! to reach the server as soon as that answers. Ended too, it would leave the locks there for as long as this host lives.

use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};

use crate::lease::nfs_mount::{self, NfsMount};
use crate::network::connections::end_connections;

/// How long it is waited for: the kernel asks no server for it, and the VMs must die all the same.
const BOUND: Duration = Duration::from_millis(500);

/// Kills the requests of the NFS mount that `area` lies in, on a thread of its own. Nothing happens if it is no NFS.
pub fn end_requests(area: &Path) {
    let Some(mount) = nfs_mount::holding(area) else { return };
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
