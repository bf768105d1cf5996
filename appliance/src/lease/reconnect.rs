//! Helps the kernel's NFS client back to a server that can be reached again. TCP doubles its pause after each retransmission that was
//! not answered (RFC 6298, 5.5): after an outage of five seconds it may send nothing for another eight, and a host lease does not bear
//! that. So while a connection to the server is stalled, another is tried; once the server takes that one, the stalled one is ended, and
//! the client makes a new one at once and sends on it whatever it has no answer to (RFC 8881, 2.9.2). A server that is only slow acknowledges what it is sent, and keeps its connections.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use crate::lease::nfs_mount;
use crate::network::connections::{end_stalled, has_stalled};
use crate::network::netlink::NetlinkError;

/// Time between two looks, and the longest wait for the server to take a connection.
const LOOK: Duration = Duration::from_millis(250);

/// What is told to the thread that looks after connections. It ends when this is dropped.
#[derive(Debug)]
pub struct LookedAfter {
    unanswered: Arc<AtomicBool>,
    _until: Sender<()>,
}

impl LookedAfter {
    /// Whether some I/O has not been answered for a while: only then the kernel is asked for its connections, which costs it a walk over all of
    /// them.
    pub fn tell(&self, unanswered: bool) {
        self.unanswered.store(unanswered, Ordering::Relaxed);
    }
}

/// Looks after the connections to the server of the NFS mount that `area` lies in, on a thread of its own. Nothing happens while it is no
/// NFS.
///
/// # Errors
/// No thread is to be had.
pub fn look_after(area: PathBuf) -> std::io::Result<LookedAfter> {
    let (until, dropped) = channel();
    let unanswered = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&unanswered);
    std::thread::Builder::new().name("reconnect".to_owned()).spawn(move || run(&area, &told, &dropped))?;
    Ok(LookedAfter { unanswered, _until: until })
}

fn run(area: &Path, unanswered: &AtomicBool, dropped: &Receiver<()>) {
    let mut failed = false;
    let mut again = Again::default();
    while dropped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
        if !unanswered.load(Ordering::Relaxed) || !again.is_due(Instant::now()) {
            continue;
        }
        let Some(server) = nfs_mount::holding(area).and_then(|mount| mount.server) else { continue };
        let outcome = mend(server);
        match &outcome {
            Ok(0) => {}
            Ok(count) => {
                log::info!("{server} can be reached again: {count} stalled connections to it are made anew");
                if again.ended(Instant::now()) {
                    log::warn!(
                        "connections to {server} stall again and again, although it can be reached: look whether large frames get \
                         through (MTU), and for losses: network nics"
                    );
                }
            }
            Err(error) if failed => log::debug!("{server}: {error}"),
            Err(error) => log::warn!("stalled connections to {server} are not made anew: {error}"),
        }
        failed = outcome.is_err();
    }
}

/// How soon connections are ended again: those that stall although the server takes new ones are not helped by it.
#[derive(Debug, Default)]
struct Again {
    last: Option<Instant>,
    /// How many times in a row they stalled soon after they had been made.
    times: u32,
}

impl Again {
    /// The first pause; each that follows is twice as long.
    const PAUSE: Duration = Duration::from_secs(2);
    /// Times after which a person is told, and no pause is longer.
    const OFTEN: u32 = 5;

    fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now.duration_since(last) >= Self::PAUSE * (1 << self.times))
    }

    /// Takes note of an end; whether a person is to be told.
    fn ended(&mut self, now: Instant) -> bool {
        let soon = self.last.is_some_and(|last| now.duration_since(last) < Self::PAUSE * (4 << self.times));
        let times = if soon { (self.times + 1).min(Self::OFTEN) } else { 0 };
        let tell = times == Self::OFTEN && self.times < Self::OFTEN;
        *self = Self { last: Some(now), times };
        tell
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_stall_again_and_again_are_ended_ever_more_seldom_and_that_is_told_once() {
        let (mut again, mut now) = (Again::default(), Instant::now());
        let (mut ends, mut told) = (Vec::new(), 0);
        let began = now;
        while now < began + Duration::from_secs(600) {
            if again.is_due(now) {
                ends.push(now.duration_since(began).as_secs());
                told += u32::from(again.ended(now));
            }
            now += LOOK;
        }
        assert_eq!(ends[..6], [0, 2, 6, 14, 30, 62]);
        assert_eq!((ends.len(), told), (14, 1));
        // Well for a while: the next outage is helped at once.
        now += Duration::from_secs(600);
        assert!(again.is_due(now) && !again.ended(now) && again.is_due(now + Again::PAUSE));
    }
}
