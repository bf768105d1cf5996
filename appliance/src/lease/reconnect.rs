//! Helps the kernel's NFS client back to a server that can be reached again. TCP doubles its pause after each retransmission that was
//! not answered (RFC 6298, 5.5): after an outage of five seconds it may send nothing for another eight, and a host lease does not bear
//! that. So while a connection to the server is stalled, another is tried; once the server takes that one, the stalled one is ended, and
//! the client makes a new one at once and sends on it whatever it has no answer to (RFC 8881, 2.9.2 and 2.10.6: what the server has done
//! already it does not do twice). A server that is only slow acknowledges what it is sent, and keeps its connections.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::lease::nfs_mount;
use crate::network::connections::{end_stalled, has_stalled};
use crate::network::netlink::NetlinkError;

/// Time between two looks, and the longest wait for the server to take a connection.
const LOOK: Duration = Duration::from_millis(250);

/// Looks after the connections to the server of the NFS mount that `area` lies in, on a thread of its own, until what is given is
/// dropped. Nothing happens while it is no NFS.
///
/// # Errors
/// No thread is to be had.
pub fn look_after(area: PathBuf) -> std::io::Result<Sender<()>> {
    let (until, dropped) = channel();
    std::thread::Builder::new().name("reconnect".to_owned()).spawn(move || run(&area, &dropped))?;
    Ok(until)
}

fn run(area: &Path, dropped: &Receiver<()>) {
    let mut failed = false;
    while dropped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        let Some(server) = nfs_mount::holding(area).and_then(|mount| mount.server) else { continue };
        let outcome = mend(server);
        match &outcome {
            Ok(0) => {}
            Ok(count) => log::info!("{server} can be reached again: {count} stalled connections to it are made anew"),
            Err(error) if failed => log::debug!("{server}: {error}"),
            Err(error) => log::warn!("stalled connections to {server} are not made anew: {error}"),
        }
        failed = outcome.is_err();
    }
}

/// Ends the stalled connections to a server that takes new ones; gives how many. Takes up to a quarter of a second.
///
/// # Errors
/// The kernel does not list the connections, or does not end one.
pub fn mend(server: SocketAddr) -> Result<usize, NetlinkError> {
    if !has_stalled(server, LOOK)? || TcpStream::connect_timeout(&server, LOOK).is_err() {
        return Ok(0);
    }
    end_stalled(server, LOOK)
}
