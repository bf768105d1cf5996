//! Frames from and to a virtio network interface (virtio 1.2, section 5.1), for smoltcp.

use core::cell::UnsafeCell;

use heapless::Vec;
use smoltcp::phy::{Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use virtio_drivers::Result;
use virtio_drivers::transport::Transport;
use virtio_drivers::transport::pci::PciTransport;

use crate::virtio::channel::{self, Queue};

const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// VIRTIO_NET_F_MAC.
const FEATURE_MAC: u64 = 1 << 5;
/// `struct virtio_net_hdr`, with its count of buffers (section 5.1.6).
const HEADER_BYTES: usize = 12;
/// The largest Ethernet frame, without its check sequence.
const FRAME_BYTES: usize = 1514;
/// Buffers of each direction: few, so that one that a move loses is soon missed.
const BUFFERS: usize = 4;

type Buffer = [u8; HEADER_BYTES + FRAME_BYTES];

struct Buffers(UnsafeCell<[[Buffer; BUFFERS]; 2]>);

// SAFETY: the NIC alone uses them, of which there is one.
unsafe impl Sync for Buffers {}

static FRAMES: Buffers = Buffers(UnsafeCell::new([[[0; HEADER_BYTES + FRAME_BYTES]; BUFFERS]; 2]));

/// One of the buffers of a queue.
///
/// # Safety
/// The device does not have it, and nobody else refers to it as long as this reference lives.
unsafe fn buffer(queue: u16, index: usize) -> &'static mut Buffer {
    assert!(index < BUFFERS);
    let buffer = FRAMES.0.get().cast::<Buffer>().wrapping_add(usize::from(queue) * BUFFERS + index);
    // SAFETY: within the static; the caller's for the rest.
    unsafe { &mut *buffer }
}

/// A network interface.
pub struct Nic {
    transport: PciTransport,
    receive: Queue,
    transmit: Queue,
    /// The buffer that each token of a queue belongs to, while the device has it.
    lent: [[Option<u16>; BUFFERS]; 2],
    /// Bytes of what is sent from each buffer.
    sent: [usize; BUFFERS],
    /// Whether the device was not told yet of what was added to a queue.
    untold: [bool; 2],
}

impl Nic {
    /// Brings the device up, all buffers waiting for frames; with its address.
    ///
    /// # Errors
    /// Those of virtio-drivers: it is no such device, or has no address.
    pub fn new(mut transport: PciTransport) -> Result<(Self, [u8; 6])> {
        let features = channel::introduce(&mut transport, FEATURE_MAC)?;
        if features & FEATURE_MAC == 0 {
            return Err(virtio_drivers::Error::Unsupported);
        }
        let mac = transport.read_config_space::<[u8; 6]>(0)?;
        let (receive, transmit) = (channel::queue(&mut transport, RECEIVE)?, channel::queue(&mut transport, TRANSMIT)?);
        transport.finish_init();
        let (lent, sent, untold) = ([[None; BUFFERS]; 2], [0; BUFFERS], [false; 2]);
        let mut nic = Self { transport, receive, transmit, lent, sent, untold };
        (0..BUFFERS).for_each(|index| nic.lend(index));
        nic.tell();
        Ok((nic, mac))
    }

    /// Lets the device fill a buffer.
    fn lend(&mut self, index: usize) {
        // SAFETY: a static buffer, which is left alone until the device has given it back.
        let added = unsafe { self.receive.add(&[], &mut [buffer(RECEIVE, index)]) };
        self.lent[usize::from(RECEIVE)][index] = added.ok();
        self.untold[usize::from(RECEIVE)] = true;
    }

    /// Whether a frame came in.
    pub fn has_received(&self) -> bool {
        self.receive.can_pop()
    }

    /// Tells the device of what was added since the last call.
    pub fn tell(&mut self) {
        if core::mem::take(&mut self.untold[usize::from(RECEIVE)]) {
            channel::tell(&mut self.transport, &self.receive, RECEIVE);
        }
        if core::mem::take(&mut self.untold[usize::from(TRANSMIT)]) {
            channel::tell(&mut self.transport, &self.transmit, TRANSMIT);
        }
    }

    /// The next frame, its buffer lent again.
    fn take(&mut self) -> Option<Frame> {
        let token = self.receive.peek_used()?;
        let index = self.lent[usize::from(RECEIVE)].iter().position(|lent| *lent == Some(token))?;
        // SAFETY: the buffer that was added with this token.
        let bytes = unsafe { self.receive.pop_used(token, &[], &mut [buffer(RECEIVE, index)]) };
        let bytes = (bytes.ok()? as usize).clamp(HEADER_BYTES, HEADER_BYTES + FRAME_BYTES);
        // SAFETY: the device has given it back.
        let frame = unsafe { buffer(RECEIVE, index) };
        let frame = Vec::from_slice(&frame[HEADER_BYTES..bytes]).ok().map(Frame);
        self.lend(index);
        frame
    }

    /// A buffer to send from, if the device has not all of them.
    fn free(&mut self) -> Option<usize> {
        while let Some(token) = self.transmit.peek_used() {
            let lent = &mut self.lent[usize::from(TRANSMIT)];
            let index = lent.iter().position(|lent| *lent == Some(token))?;
            lent[index] = None;
            let bytes = self.sent[index];
            // SAFETY: the bytes that were added with this token.
            let popped = unsafe { self.transmit.pop_used(token, &[&buffer(TRANSMIT, index)[..bytes]], &mut []) };
            popped.ok()?;
        }
        self.lent[usize::from(TRANSMIT)].iter().position(Option::is_none)
    }
}

/// A frame that was received.
pub struct Frame(Vec<u8, FRAME_BYTES>);

/// Room for a frame to be sent.
pub struct Room<'a> {
    nic: &'a mut Nic,
    index: usize,
}

impl smoltcp::phy::RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, work: F) -> R {
        work(&self.0)
    }
}

impl smoltcp::phy::TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, work: F) -> R {
        let Self { nic, index } = self;
        let bytes = HEADER_BYTES + length;
        // SAFETY: a buffer that the device does not have. Its header stays as it is: zeros, no offload.
        let frame = unsafe { &mut buffer(TRANSMIT, index)[..bytes] };
        let result = work(&mut frame[HEADER_BYTES..]);
        // SAFETY: a static buffer, which is left alone until the device has given it back.
        let added = unsafe { nic.transmit.add(&[frame], &mut []) };
        nic.lent[usize::from(TRANSMIT)][index] = added.ok();
        nic.sent[index] = bytes;
        nic.untold[usize::from(TRANSMIT)] = true;
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Frame, Room<'_>)> {
        // A frame waits where there is no room for what it may be answered with.
        let index = self.free()?;
        let frame = self.take()?;
        Some((frame, Room { nic: self, index }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        let index = self.free()?;
        Some(Room { nic: self, index })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        (capabilities.medium, capabilities.max_transmission_unit) = (Medium::Ethernet, FRAME_BYTES);
        capabilities
    }
}
