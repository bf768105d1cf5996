//! What the stack sees of a NIC: whole frames in batches. Tests put a lossy wire in its place.

use std::io;
use std::num::NonZeroU16;
use std::os::fd::BorrowedFd;

use super::link::{Counters, LinkState};

/// Bytes of the largest frame: an Ethernet header, a VLAN tag and the largest IPv6 packet.
pub const FRAME_MAX: usize = 14 + 4 + 40 + 65_535;

/// One received frame.
#[derive(Debug)]
pub struct FrameBuffer {
    /// The memory, [`FRAME_MAX`] bytes.
    pub bytes: Box<[u8]>,
    /// How much of it is the frame; 0: nothing usable.
    pub length: usize,
    /// For a super-frame, the payload bytes of each datagram in it but the last.
    pub segment: Option<NonZeroU16>,
    /// The VLAN whose tag the frame carried.
    pub vlan: Option<u16>,
}

/// Received frames that wait to be looked at, in memory that is used again and again.
#[derive(Debug)]
pub struct FrameBatch {
    buffers: Vec<FrameBuffer>,
    next: usize,
    filled: usize,
}

impl FrameBatch {
    /// Room for `count` frames.
    pub fn new(count: usize) -> Self {
        let buffer =
            || FrameBuffer { bytes: vec![0; FRAME_MAX].into_boxed_slice(), length: 0, segment: None, vlan: None };
        Self { buffers: (0..count).map(|_| buffer()).collect(), next: 0, filled: 0 }
    }

    /// Whether every frame was taken.
    pub fn is_empty(&self) -> bool {
        self.next == self.filled
    }

    /// Refills an empty batch: `fill` gets all buffers and returns how many it filled.
    pub fn refill(&mut self, fill: impl FnOnce(&mut [FrameBuffer]) -> io::Result<usize>) -> io::Result<usize> {
        debug_assert!(self.is_empty(), "frames that were not taken would be lost");
        self.next = 0;
        self.filled = 0;
        self.filled = fill(&mut self.buffers)?.min(self.buffers.len());
        Ok(self.filled)
    }

    /// The next frame that was not taken yet.
    pub fn take(&mut self) -> Option<&mut FrameBuffer> {
        if self.is_empty() {
            return None;
        }
        self.next += 1;
        self.buffers.get_mut(self.next - 1)
    }
}

/// A frame to send: headers that are complete but for what the NIC is to compute, and a body.
#[derive(Debug, Clone, Copy)]
pub struct OutgoingFrame<'a> {
    /// Ethernet, IP and UDP headers; or, without offload, the whole frame.
    pub header: &'a [u8],
    /// The UDP payload: one datagram, or several of `segment` bytes of which the last may be shorter.
    pub body: &'a [u8],
    /// Where the UDP header starts in `header`, when the NIC is to compute the UDP checksum.
    pub udp_start: Option<usize>,
    /// Bytes of each datagram, when the body holds several.
    pub segment: Option<NonZeroU16>,
}

/// Something that carries Ethernet frames. Nothing here blocks.
pub trait Port {
    /// Refills an empty batch with what has arrived; 0 when nothing has.
    fn receive(&mut self, batch: &mut FrameBatch) -> io::Result<usize>;

    /// Sends one frame. `WouldBlock`: the queue is full, try the same frame again later. Any other error loses it.
    fn send(&mut self, frame: &OutgoingFrame<'_>) -> io::Result<()>;

    /// Becomes readable when frames arrive.
    fn readiness(&self) -> Option<BorrowedFd<'_>>;

    /// Our hardware address.
    fn mac(&self) -> [u8; 6];

    /// Bytes of the largest IP packet.
    fn mtu(&self) -> u16;

    /// A name for messages.
    fn name(&self) -> &str;

    /// Whether the link is up, and how fast.
    fn link(&mut self) -> LinkState;

    /// Whether the device is there no more: it was unplugged. One that comes again is another port.
    fn is_gone(&mut self) -> bool;

    /// What was carried and lost.
    fn counters(&mut self) -> Counters;

    /// Asks to receive frames for a multicast address.
    fn join_multicast(&mut self, mac: [u8; 6]) -> io::Result<()>;
}
