//! smoltcp's device: frames in from a batch, frames out at once, and batches of datagrams put in the place of their
//! stand-ins.
//!
//! smoltcp's UDP socket would copy each batch twice, and its IPv6 drops whatever exceeds the MTU. So the socket sends
//! a stand-in of 8 bytes that names a [`Batch`]; it passes through routing, ARP or ND like any datagram, and when its
//! frame comes out here, the headers get the batch's lengths and the NIC gets header and batch side by side.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;

use crate::nic::offload::{self, HEADER_MAX};
use crate::nic::port::{FRAME_MAX, FrameBatch, FrameBuffer, OutgoingFrame, Port};
use crate::stack::neighbour::{self, Said};

/// Batches under way between the transport and the NIC.
pub(crate) const BATCHES: usize = 16;
/// Frames taken from the NIC at a time.
const RECEIVE_FRAMES: usize = 16;
/// Bytes of a stand-in: the number of its batch.
pub(crate) const STAND_IN: usize = 8;

/// Datagrams of one size for one peer.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// The datagrams, end to end; the memory stays when the batch was sent.
    pub(crate) body: Vec<u8>,
    /// Bytes of each but the last; None for a single datagram.
    pub(crate) segment: Option<NonZeroU16>,
    /// Which sender it was given to, while it is under way.
    pub(crate) owner: Option<usize>,
}

/// Headers whose batch waits because the NIC's queue was full.
#[derive(Debug)]
struct Blocked {
    header: [u8; HEADER_MAX],
    length: usize,
    udp_start: usize,
    batch: usize,
}

/// What carries frames between smoltcp and a port.
#[derive(Debug)]
pub(crate) struct FrameDevice<P> {
    pub(crate) port: P,
    received: FrameBatch,
    sender: Sender,
    refused: Option<SocketAddr>,
    said: Option<Said>,
}

/// The sending half, apart so that a received frame can be looked at while its answer is sent.
#[derive(Debug)]
struct Sender {
    batches: Vec<Batch>,
    blocked: VecDeque<Blocked>,
    frame: Box<[u8]>,
    udp_port: u16,
    failed: u64,
}

impl<P: Port> FrameDevice<P> {
    /// `udp_port`: datagrams from this port are stand-ins.
    pub(crate) fn new(port: P, udp_port: u16) -> Self {
        let sender = Sender {
            batches: (0..BATCHES).map(|_| Batch::default()).collect(),
            blocked: VecDeque::with_capacity(BATCHES),
            frame: vec![0; FRAME_MAX].into_boxed_slice(),
            udp_port,
            failed: 0,
        };
        Self { port, received: FrameBatch::new(RECEIVE_FRAMES), sender, refused: None, said: None }
    }

    /// The number of a batch that is not under way.
    pub(crate) fn free_batch(&self) -> Option<usize> {
        self.sender.batches.iter().position(|batch| batch.owner.is_none())
    }

    /// A batch by number.
    pub(crate) fn batch_mut(&mut self, number: usize) -> Option<&mut Batch> {
        self.sender.batches.get_mut(number)
    }

    /// Gives up the batches of a sender whose stand-ins were thrown away.
    pub(crate) fn forget_batches(&mut self, owner: usize) {
        self.sender.blocked.retain(|blocked| self.sender.batches[blocked.batch].owner != Some(owner));
        for batch in self.sender.batches.iter_mut().filter(|batch| batch.owner == Some(owner)) {
            batch.owner = None;
        }
    }

    /// Whether a frame waits for room in the NIC's queue.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.sender.blocked.is_empty()
    }

    /// Frames that the port refused for another reason than a full queue.
    pub(crate) fn failed_frames(&self) -> u64 {
        self.sender.failed
    }

    /// Sends what had to wait, as far as the NIC takes it.
    pub(crate) fn flush(&mut self) {
        while let Some(blocked) = self.sender.blocked.pop_front() {
            if let Err(blocked) = self.sender.send_batch(&mut self.port, blocked) {
                self.sender.blocked.push_front(blocked);
                return;
            }
        }
    }

    /// To whom we sent something that came back as "port unreachable", since the last call.
    pub(crate) fn take_refused(&mut self) -> Option<SocketAddr> {
        self.refused.take()
    }

    /// What ARP or neighbour discovery said in the frame that was received last.
    pub(crate) fn take_said(&mut self) -> Option<Said> {
        self.said.take()
    }

    /// Sends a frame that nothing waits for.
    pub(crate) fn send_alone(&mut self, frame: &[u8]) {
        let frame = OutgoingFrame { header: frame, body: &[], udp_start: None, segment: None };
        if self.port.send(&frame).is_err() {
            self.sender.failed += 1;
        }
    }

    /// Whether frames were taken from the NIC and not looked at yet.
    pub(crate) fn has_received(&self) -> bool {
        !self.received.is_empty()
    }

    fn fetch(&mut self) -> bool {
        if !self.received.is_empty() {
            return true;
        }
        match self.port.receive(&mut self.received) {
            Ok(count) => count > 0,
            Err(error) => {
                log::warn!("{}: receiving failed: {error}", self.port.name());
                false
            }
        }
    }
}

impl Sender {
    fn send<P: Port>(&mut self, port: &mut P, length: usize) {
        match self.stand_in(length) {
            Some(blocked) => {
                if let Err(blocked) = self.send_batch(port, blocked) {
                    self.blocked.push_back(blocked);
                }
            }
            None => {
                let frame = OutgoingFrame { header: &self.frame[..length], body: &[], udp_start: None, segment: None };
                // ARP, ND and ICMP are asked for again; nothing waits for them.
                if port.send(&frame).is_err() {
                    self.failed += 1;
                }
            }
        }
    }

    /// If the frame is a stand-in of a batch under way, its headers with the batch's lengths.
    fn stand_in(&self, length: usize) -> Option<Blocked> {
        let frame = &self.frame[..length];
        let (ip, udp_start) = offload::find_udp(frame)?;
        let body_start = udp_start + 8;
        let from_us = frame[udp_start..udp_start + 2] == self.udp_port.to_be_bytes();
        if !from_us || length != body_start + STAND_IN {
            return None;
        }
        let number = u64::from_le_bytes(frame[body_start..].try_into().ok()?);
        let batch = usize::try_from(number).ok()?;
        let body = self.batches.get(batch).filter(|batch| batch.owner.is_some())?.body.len();
        let mut header = [0; HEADER_MAX];
        header[..body_start].copy_from_slice(&frame[..body_start]);
        offload::set_lengths(&mut header[..body_start], ip, udp_start, body);
        Some(Blocked { header, length: body_start, udp_start, batch })
    }

    fn send_batch<P: Port>(&mut self, port: &mut P, blocked: Blocked) -> Result<(), Blocked> {
        let batch = &mut self.batches[blocked.batch];
        let frame = OutgoingFrame {
            header: &blocked.header[..blocked.length],
            body: &batch.body,
            udp_start: Some(blocked.udp_start),
            segment: batch.segment,
        };
        match port.send(&frame) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(blocked),
            Err(error) => {
                // A link that went down, or a frame beyond the MTU: lost, like a frame on the wire.
                log::debug!("{}: a batch was not sent: {error}", port.name());
                self.failed += 1;
            }
            Ok(()) => {}
        }
        batch.owner = None;
        Ok(())
    }
}

/// If the frame is an ICMP "port unreachable" (type 3 code 3 of RFC 792, type 1 code 4 of RFC 4443) about a datagram
/// from our port: where that datagram went. smoltcp wants the whole datagram in it, and what comes is its beginning.
fn refused_by(frame: &[u8], udp_port: u16) -> Option<SocketAddr> {
    let packet = frame.get(14..)?;
    let (quoted, udp, to): (&[u8], usize, IpAddr) = match frame.get(12..14)? {
        [0x08, 0x00] if packet.first()? == &0x45 && packet.get(9)? == &1 && packet.get(20..22)? == [3, 3] => {
            let quoted = packet.get(28..)?;
            (quoted, 20, IpAddr::from(*quoted.get(16..)?.first_chunk::<4>()?))
        }
        [0x86, 0xdd] if packet.get(6)? == &58 && packet.get(40..42)? == [1, 4] => {
            let quoted = packet.get(48..)?;
            (quoted, 40, IpAddr::from(*quoted.get(24..)?.first_chunk::<16>()?))
        }
        _ => return None,
    };
    let is_udp = if udp == 20 { quoted[..1] == [0x45] && quoted[9] == 17 } else { quoted[6] == 17 };
    let ports = quoted.get(udp..udp + 4)?;
    let ours = ports[..2] == udp_port.to_be_bytes();
    (is_udp && ours).then(|| SocketAddr::new(to, u16::from_be_bytes([ports[2], ports[3]])))
}

/// A received frame.
pub(crate) struct ReceivedFrame<'a>(&'a mut FrameBuffer);

impl phy::RxToken for ReceivedFrame<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(&self.0.bytes[..self.0.length])
    }

    fn meta(&self) -> PacketMeta {
        let mut meta = PacketMeta::default();
        meta.segmentation_offload_size = self.0.segment;
        meta
    }
}

/// Leave to send one frame.
pub(crate) struct Leave<'a, P> {
    sender: &'a mut Sender,
    port: &'a mut P,
}

impl<P: Port> phy::TxToken for Leave<'_, P> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let result = fill(&mut self.sender.frame[..length]);
        self.sender.send(self.port, length);
        result
    }
}

impl<P: Port> phy::Device for FrameDevice<P> {
    type RxToken<'a>
        = ReceivedFrame<'a>
    where
        P: 'a;
    type TxToken<'a>
        = Leave<'a, P>
    where
        P: 'a;

    fn receive(&mut self, _now: Instant) -> Option<(ReceivedFrame<'_>, Leave<'_, P>)> {
        if !self.fetch() {
            return None;
        }
        let frame = self.received.take()?;
        self.said = neighbour::said(&frame.bytes[..frame.length]);
        self.refused = self.refused.or_else(|| refused_by(&frame.bytes[..frame.length], self.sender.udp_port));
        Some((ReceivedFrame(frame), Leave { sender: &mut self.sender, port: &mut self.port }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Leave<'_, P>> {
        // With the queue full smoltcp keeps its datagrams; they are safe there.
        if self.is_blocked() {
            return None;
        }
        Some(Leave { sender: &mut self.sender, port: &mut self.port })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.port.mtu()) + 14;
        // The NIC completes it on the way out; on the way in QUIC's own authentication is stronger.
        capabilities.checksum.udp = Checksum::None;
        capabilities
    }
}
