//! Frames as a TAP with offloads gives and takes them: behind a `struct virtio_net_hdr` (linux/virtio_net.h) that says how many
//! frames one stands for. A sender's kernel leaves the cutting of TCP segments and UDP datagrams to its NIC; here is told what the
//! pieces are, and any that follow each other are put together again, as a receiver's NIC does it.

use std::ops::Range;

/// Bytes of the header before each frame.
pub const VNET_HEADER: usize = 10;

const GSO_NONE: u8 = 0;
const GSO_UDP_L4: u8 = 5;
const ETHERNET: usize = 14;
const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// One frame, or several in one.
pub struct SuperFrame<'a> {
    vnet: &'a [u8],
    frame: &'a [u8],
    cut: Option<Cut>,
}

/// Where it is to be cut.
struct Cut {
    is_udp: bool,
    /// Where the TCP or UDP header begins, and where what follows it does.
    transport: usize,
    body: usize,
    /// Bytes of each piece of the body but the last.
    segment: usize,
}

impl<'a> SuperFrame<'a> {
    /// Understands what a TAP gave; nothing of less than an Ethernet header.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (vnet, frame) = bytes.split_at_checked(VNET_HEADER)?;
        (frame.len() >= ETHERNET).then(|| Self { vnet, frame, cut: Cut::read(vnet, frame) })
    }

    /// Bytes of each frame that it stands for.
    pub fn lengths(&self) -> Vec<usize> {
        let Some(cut) = &self.cut else { return vec![self.frame.len()] };
        self.frame[cut.body..].chunks(cut.segment).map(|piece| cut.body + piece.len()).collect()
    }

    /// Puts some of its frames that follow each other into `into`, as one for a TAP to take.
    pub fn pieces(&self, pieces: Range<usize>, into: &mut Vec<u8>) {
        let Some(cut) = &self.cut else {
            into.extend_from_slice(self.vnet);
            into.extend_from_slice(self.frame);
            return;
        };
        let body = &self.frame[cut.body..];
        let part = pieces.start * cut.segment..(pieces.end * cut.segment).min(body.len());
        let is_last = part.end == body.len();
        let mut vnet = [0; VNET_HEADER];
        vnet.copy_from_slice(self.vnet);
        if part.len() <= cut.segment {
            vnet[1..6].fill(0);
        } else {
            // What the sender says here may be more than the headers, and more than these pieces have.
            vnet[2..4].copy_from_slice(&(cut.body as u16).to_le_bytes());
        }
        into.extend_from_slice(&vnet);
        let start = into.len();
        into.extend_from_slice(&self.frame[..cut.body]);
        cut.set_header(&mut into[start..], &pieces, part.len(), is_last);
        into.extend_from_slice(&body[part]);
    }
}

impl Cut {
    fn read(vnet: &[u8], frame: &[u8]) -> Option<Self> {
        let number = |at: usize| usize::from(u16::from_le_bytes([vnet[at], vnet[at + 1]]));
        // Without the bit that tells of ECN.
        let kind = vnet[1] & 0x7f;
        // A frame that is to be cut has a checksum that is to be made, and so it is told where its TCP or UDP begins.
        let (segment, transport) = (number(4), number(6));
        if kind == GSO_NONE || segment == 0 {
            return None;
        }
        let is_udp = kind == GSO_UDP_L4;
        let header = if is_udp { 8 } else { usize::from(*frame.get(transport + 12)? >> 4) * 4 };
        let body = transport + header;
        (transport > ETHERNET && frame.len() > body).then_some(Self { is_udp, transport, body, segment })
    }

    /// Makes the header of the whole that of these pieces, of which the body has so many bytes. The checksum of TCP or UDP
    /// stays to be made; that of IPv4 is made.
    fn set_header(&self, header: &mut [u8], pieces: &Range<usize>, bytes: usize, is_last: bool) {
        let behind_ip = self.body - self.transport + bytes;
        let be = |length: usize| (length as u16).to_be_bytes();
        if header[12..14] == [0x08, 0x00] {
            let ip = &mut header[ETHERNET..self.transport];
            let length = be(ip.len() + behind_ip);
            ip[2..4].copy_from_slice(&length);
            let id = u16::from_be_bytes([ip[4], ip[5]]).wrapping_add(pieces.start as u16);
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            ip[10..12].fill(0);
            let checksum = !folded_sum(ip);
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        } else {
            header[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&be(behind_ip));
        }
        let transport = &mut header[self.transport..];
        if self.is_udp {
            transport[4..6].copy_from_slice(&be(behind_ip));
            return;
        }
        let before = (pieces.start * self.segment) as u32;
        let sequence =
            u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]).wrapping_add(before);
        transport[4..8].copy_from_slice(&sequence.to_be_bytes());
        if !is_last {
            transport[13] &= !TCP_FIN_PSH;
        }
        if pieces.start > 0 {
            transport[13] &= !TCP_CWR;
        }
    }
}

/// The sum of the Internet checksum (RFC 1071).
fn folded_sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
