//! Frames that come by a link of the lab, read as they are.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with};

use crate::error::{Doing, Result};
use crate::wire::Wires;

/// A frame with all its segments, and its header.
const FRAME_BYTES_MAX: usize = 128 * 1024;
/// Bytes of the header before each frame (`struct virtio_net_hdr` of linux/virtio_net.h).
const HEADER_BYTES: usize = 10;
/// Time between two looks whether enough was read.
const LOOK: Duration = Duration::from_millis(100);

type Kept = Arc<Mutex<Vec<Vec<u8>>>>;

/// Keeps what comes by a link until it is ended.
pub struct Frames {
    kept: Kept,
    enough: Arc<AtomicBool>,
    reader: JoinHandle<Result<()>>,
}

impl Frames {
    /// Begins to keep the frames of a link in the lab's namespace: each behind its header. Of a bridge these are the frames for the bridge
    /// itself, broadcasts among them.
    pub fn of(wires: &Wires, link: &str) -> Result<Self> {
        let socket = wires.enter(|| open(link))??;
        set_socket_timeout(&socket, Timeout::Recv, Some(LOOK)).doing("bounding the wait for a frame")?;
        let (kept, enough) = (Kept::default(), Arc::new(AtomicBool::new(false)));
        let (into, is_enough) = (Arc::clone(&kept), Arc::clone(&enough));
        let reader = std::thread::spawn(move || read(&socket, &into, &is_enough));
        Ok(Self { kept, enough, reader })
    }

    /// Whether a frame has come, without its header, of which this is so.
    pub fn any(&self, mut is: impl FnMut(&[u8]) -> bool) -> bool {
        lock(&self.kept).iter().any(|frame| frame.get(HEADER_BYTES..).is_some_and(&mut is))
    }

    /// Ends; gives what was kept.
    pub fn end(self) -> Result<Vec<Vec<u8>>> {
        self.enough.store(true, Ordering::SeqCst);
        self.reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(std::mem::take(&mut lock(&self.kept)))
    }
}

fn lock(kept: &Kept) -> MutexGuard<'_, Vec<Vec<u8>>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(socket: &OwnedFd, kept: &Kept, enough: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; FRAME_BYTES_MAX];
    while !enough.load(Ordering::SeqCst) {
        match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Ok((length, _)) => lock(kept).push(buffer[..length].to_vec()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).doing("reading a frame"),
        }
    }
    Ok(())
}

/// A socket for whole frames of a link, in the network namespace of this thread.
pub fn open(link: &str) -> Result<OwnedFd> {
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
