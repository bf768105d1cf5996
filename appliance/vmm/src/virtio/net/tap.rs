//! The host's side of a NIC: an open tap whose frames carry a virtio header.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use libc::iovec;

/// Bytes of struct virtio_net_hdr_v1 (virtio 1.2, 5.1.6), in front of every frame.
pub const HEADER_BYTES: usize = 12;
/// The largest frame with its header: a 64 KiB segment, Ethernet header and VLAN tag.
pub const FRAME_BYTES_MAX: usize = HEADER_BYTES + 18 + 65535;
/// Frames thrown away at once at most: what a tap's queue holds (1,000 by default), and some that come meanwhile.
const STALE_FRAMES_MAX: usize = 2048;

/// Why a descriptor cannot serve as a NIC's tap.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// A control call failed.
    #[error("{call} on the tap failed")]
    Call {
        /// The call.
        call: &'static str,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// Not a tap, or one without virtio headers.
    #[error("the tap must be opened with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR; its flags are {flags:#x}")]
    Flags {
        /// Flags of the interface.
        flags: i16,
    },
}

/// What the guest lets the kernel leave undone in frames to it. Bits as in <linux/if_tun.h>.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Partial checksums.
    pub checksum: bool,
    /// Large TCP segments, IPv4.
    pub tso4: bool,
    /// Large TCP segments, IPv6.
    pub tso6: bool,
    /// Large TCP segments with ECN.
    pub ecn: bool,
}

impl Offloads {
    /// Whether frames larger than the MTU may come.
    pub fn large(self) -> bool {
        self.tso4 || self.tso6
    }

    fn bits(self) -> libc::c_uint {
        let bit = |on: bool, bit: libc::c_uint| if on { bit } else { 0 };
        // Segmentation without checksums is refused by the kernel.
        let segments = bit(self.tso4, libc::TUN_F_TSO4)
            | bit(self.tso6, libc::TUN_F_TSO6)
            | bit(self.ecn && self.large(), libc::TUN_F_TSO_ECN);
        if self.checksum { libc::TUN_F_CSUM | segments } else { 0 }
    }
}

/// An open tap.
#[derive(Debug)]
pub struct Tap {
    descriptor: OwnedFd,
}

impl Tap {
    /// Takes a tap that is attached to its interface already, and makes it non-blocking with headers of 12 bytes.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn new(descriptor: OwnedFd) -> Result<Self, TapError> {
        let fd = descriptor.as_raw_fd();
        // SAFETY: an all-zero ifreq is valid.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: TUNGETIFF fills an ifreq, which `request` is.
        check("TUNGETIFF", unsafe { libc::ioctl(fd, libc::TUNGETIFF as _, &mut request) })?;
        // SAFETY: TUNGETIFF sets the flags member of the union.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        let wanted = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        if flags & wanted != wanted {
            return Err(TapError::Flags { flags });
        }
        let bytes = HEADER_BYTES as libc::c_int;
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        check("TUNSETVNETHDRSZ", unsafe { libc::ioctl(fd, libc::TUNSETVNETHDRSZ as _, &bytes) })?;
        rustix::fs::fcntl_setfl(&descriptor, rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK)
            .map_err(|error| TapError::Call { call: "fcntl(F_SETFL)", source: error.into() })?;
        Ok(Self { descriptor })
    }

    /// Tells the kernel what it may leave undone.
    ///
    /// # Errors
    /// [`TapError::Call`].
    pub fn set_offloads(&self, offloads: Offloads) -> Result<(), TapError> {
        // SAFETY: TUNSETOFFLOAD takes its bits as the argument itself.
        check("TUNSETOFFLOAD", unsafe {
            libc::ioctl(self.descriptor(), libc::TUNSETOFFLOAD as _, libc::c_ulong::from(offloads.bits()))
        })
    }

    /// The descriptor, to wait on.
    pub fn descriptor(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }

    /// Reads a frame with its header; what does not fit is lost.
    ///
    /// # Errors
    /// Those of readv(2); WouldBlock if there is none.
    ///
    /// # Safety
    /// The buffers must be valid for writes.
    pub unsafe fn read(&self, buffers: &[iovec]) -> io::Result<usize> {
        // SAFETY: the caller's buffers.
        let got = unsafe { libc::readv(self.descriptor(), buffers.as_ptr(), buffers.len() as libc::c_int) };
        if got < 0 { Err(io::Error::last_os_error()) } else { Ok(got as usize) }
    }

    /// Sends a frame with its header.
    ///
    /// # Errors
    /// Those of writev(2); WouldBlock if the kernel has no room.
    ///
    /// # Safety
    /// The buffers must be valid for reads.
    pub unsafe fn write(&self, buffers: &[iovec]) -> io::Result<()> {
        // SAFETY: the caller's buffers.
        let put = unsafe { libc::writev(self.descriptor(), buffers.as_ptr(), buffers.len() as libc::c_int) };
        if put < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Throws away what waits to be read.
    pub fn discard(&self) {
        let mut byte = [0u8; 1];
        let buffer = [iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 }];
        for _ in 0..STALE_FRAMES_MAX {
            // SAFETY: one byte of our own; the rest of the frame is dropped. Too short for the header, the kernel answers
            // EINVAL, having taken the frame off its queue all the same.
            match unsafe { self.read(&buffer) } {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
    }
}

fn check(call: &'static str, result: libc::c_int) -> Result<(), TapError> {
    if result < 0 { Err(TapError::Call { call, source: io::Error::last_os_error() }) } else { Ok(()) }
}
