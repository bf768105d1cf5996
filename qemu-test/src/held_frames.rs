//! Frames that the network holds back: a host's cable whose frames are kept, and delivered when everybody has forgotten them.
//!
//! The host's tap is taken off its bridge and its frames are read there, with the header that says which checksums and segments
//! are still to be made (PACKET_VNET_HDR, packet(7)); they are delivered through a veth pair, as if they came from the host.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

use crate::error::{Doing, Result};
use crate::wire::{Wire, Wires, tap_name};

/// A frame with all its segments, and its header.
const FRAME_BYTES_MAX: usize = 128 * 1024;
/// Time between two looks whether enough was held.
const LOOK: Duration = Duration::from_millis(100);
/// The pair of links through which frames are delivered: ours, and the one at the bridge.
const PAIR: [&str; 2] = ["held-in", "held-out"];

/// A cable whose frames towards the bridge are kept. Nothing comes from the bridge meanwhile.
pub struct HeldFrames {
    wires: Wires,
    host: String,
    wire: Wire,
    enough: Arc<AtomicBool>,
    keeper: Option<JoinHandle<Result<Vec<Vec<u8>>>>>,
}

impl HeldFrames {
    /// Begins to keep what a host sends on a wire.
    pub fn of(wires: &Wires, host: &str, wire: Wire) -> Result<Self> {
        let tap = tap_name(host, wire);
        let socket = wires.enter(|| open(&tap))??;
        set_socket_timeout(&socket, Timeout::Recv, Some(LOOK)).doing("bounding the wait for a frame")?;
        wires.take_off(host, wire)?;
        let enough = Arc::new(AtomicBool::new(false));
        let is_enough = Arc::clone(&enough);
        let keeper = std::thread::spawn(move || keep(&socket, &is_enough));
        Ok(Self { wires: wires.clone(), host: host.to_owned(), wire, enough, keeper: Some(keeper) })
    }

    /// Delivers what was kept, in order, and plugs the cable in again. Gives the frames, each behind its header.
    pub fn deliver(mut self) -> Result<Vec<Vec<u8>>> {
        let frames = self.end()?;
        self.wires.pair(PAIR, self.wire)?;
        let delivered = self.wires.enter(|| {
            let socket = open(PAIR[0])?;
            frames
                .iter()
                .try_for_each(|frame| send(&socket, frame, SendFlags::empty()).map(drop))
                .doing("delivering a frame")
        });
        self.wires.unpair(PAIR)?;
        self.wires.put_on(&self.host, self.wire)?;
        delivered??;
        Ok(frames)
    }

    /// Ends the keeping; gives what was kept.
    fn end(&mut self) -> Result<Vec<Vec<u8>>> {
        self.enough.store(true, Ordering::SeqCst);
        match self.keeper.take() {
            Some(keeper) => keeper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            None => Ok(Vec::new()),
        }
    }
}

impl Drop for HeldFrames {
    /// A test that ended early leaves the cable whole; what was kept is lost.
    fn drop(&mut self) {
        if self.keeper.is_some() {
            let put_on = self.end().and_then(|_| self.wires.put_on(&self.host, self.wire));
            if let Err(error) = put_on {
                eprintln!("{}: {error}", self.host);
            }
        }
    }
}

fn keep(socket: &OwnedFd, enough: &AtomicBool) -> Result<Vec<Vec<u8>>> {
    let (mut frames, mut buffer) = (Vec::new(), vec![0; FRAME_BYTES_MAX]);
    while !enough.load(Ordering::SeqCst) {
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => frames.push(buffer[..length].to_vec()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).doing("reading a frame"),
        }
    }
    Ok(frames)
}

/// A socket for whole frames of a link, in the network namespace of this thread.
fn open(link: &str) -> Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None).doing("a raw socket")?;
    let index = name_to_index(&socket, link).doing("finding a link")?;
    for option in [libc::PACKET_VNET_HDR, libc::PACKET_IGNORE_OUTGOING] {
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(0);
        // SAFETY: the kernel reads the one int that `on` is.
        let set =
            unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), length) };
        if set < 0 {
            return Err(std::io::Error::last_os_error()).doing("preparing a raw socket");
        }
    }
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or(0);
    // SAFETY: the kernel reads the `sockaddr_ll` that `address` is.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    if bound < 0 {
        return Err(std::io::Error::last_os_error()).doing("binding a raw socket");
    }
    Ok(socket)
}
