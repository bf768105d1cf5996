//! The announcement of a NIC's new place: a reverse ARP request from its MAC address (RFC 903), which no host answers and every
//! switch learns from. It goes out through the guest's own tap, as a frame of the guest's would: so it gets the VLAN of
//! its port group, and every bridge on the way learns from it.
//!
//! Whether it is needed any more, the guest's own traffic tells ([`Heard`]): a frame from the guest has taught the switches the same, and
//! one that was sent to it and came shows that they know.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use libc::iovec;

use super::tap::{HEADER_BYTES, Tap};

/// Bytes of the frame: the least of Ethernet without its checksum.
pub const FRAME_BYTES: usize = 60;

/// The frame, untagged.
pub fn rarp(mac: [u8; 6]) -> [u8; FRAME_BYTES] {
    let mut frame = [0; FRAME_BYTES];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&0x8035_u16.to_be_bytes());
    frame[14..16].copy_from_slice(&1_u16.to_be_bytes());
    frame[16..18].copy_from_slice(&0x0800_u16.to_be_bytes());
    frame[18] = 6;
    frame[19] = 4;
    // Operation 3, "request reverse": who knows the protocol address of this hardware address?
    frame[20..22].copy_from_slice(&3_u16.to_be_bytes());
    frame[22..28].copy_from_slice(&mac);
    frame[32..38].copy_from_slice(&mac);
    frame
}

/// Sends it.
///
/// # Errors
/// Those of writev(2): the tap is down, or has no room.
pub(super) fn send(tap: &Tap, mac: [u8; 6]) -> io::Result<()> {
    let (mut header, mut frame) = ([0u8; HEADER_BYTES], rarp(mac));
    let part = |bytes: &mut [u8]| iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let buffers = [part(&mut header), part(&mut frame)];
    // SAFETY: both are buffers of our own that live until the call returns.
    unsafe { tap.write(&buffers) }
}

/// Whether the guest's own traffic has shown the networks where it is, since the machine was built.
#[derive(Debug)]
pub struct Heard {
    mac: [u8; 6],
    heard: AtomicBool,
}

impl Heard {
    pub(super) fn new(mac: [u8; 6]) -> Self {
        Self { mac, heard: AtomicBool::new(false) }
    }

    /// Whether it has.
    pub fn is_set(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }

    /// A frame of the guest's has left.
    pub(super) fn sent(&self) {
        if !self.is_set() {
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    /// A frame has come for this address; that it was flooded everywhere cannot be told.
    pub(super) fn received(&self, destination: impl FnOnce() -> Option<[u8; 6]>) {
        if !self.is_set() && destination() == Some(self.mac) {
            self.heard.store(true, Ordering::Relaxed);
        }
    }
}
