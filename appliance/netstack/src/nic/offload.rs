//! Arithmetic of frames that carry several datagrams: the vnet header, and cutting a batch into single frames.
//!
//! A super-frame is one Ethernet/IP/UDP header before a body of datagrams of one size. The NIC, or the kernel for it,
//! cuts it: each piece gets the header with its own lengths and checksums (virtio 1.3 section 5.1.6.2,
//! VIRTIO_NET_HDR_GSO_UDP_L4).

use super::port::OutgoingFrame;

const ETHERNET: usize = 14;
const UDP: usize = 8;
const FLAG_NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;
/// Bytes of the longest header: Ethernet, VLAN tag, IPv6, UDP.
pub const HEADER_MAX: usize = ETHERNET + 4 + 40 + UDP;

/// IPv4 and IPv6 headers as far as this file writes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IpHeader {
    V4,
    V6,
}

/// Finds the UDP header of a frame without IP options: what kind of IP, and where UDP starts.
pub(crate) fn find_udp(frame: &[u8]) -> Option<(IpHeader, usize)> {
    let (ip, protocol, start) = match frame.get(12..14)? {
        [0x08, 0x00] if *frame.get(ETHERNET)? == 0x45 => (IpHeader::V4, 23, ETHERNET + 20),
        [0x86, 0xdd] => (IpHeader::V6, 20, ETHERNET + 40),
        _ => return None,
    };
    (*frame.get(protocol)? == 17 && frame.len() >= start + UDP).then_some((ip, start))
}

/// Writes the lengths that a body of `body` bytes gives an Ethernet/IP/UDP header, the IPv4 checksum, and the sum of
/// the pseudo-header into the UDP checksum, where whoever completes it starts from.
pub(crate) fn set_lengths(header: &mut [u8], ip: IpHeader, udp_start: usize, body: usize) {
    let udp_length = UDP + body;
    header[udp_start + 4..udp_start + 6].copy_from_slice(&(udp_length as u16).to_be_bytes());
    let addresses = match ip {
        IpHeader::V4 => {
            header[16..18].copy_from_slice(&((20 + udp_length) as u16).to_be_bytes());
            header[24..26].fill(0);
            let checksum = !fold(sum(&header[ETHERNET..ETHERNET + 20]));
            header[24..26].copy_from_slice(&checksum.to_be_bytes());
            26..34
        }
        IpHeader::V6 => {
            header[18..20].copy_from_slice(&(udp_length as u16).to_be_bytes());
            22..54
        }
    };
    let pseudo = fold(sum(&header[addresses]) + 17 + udp_length as u32);
    header[udp_start + 6..udp_start + 8].copy_from_slice(&pseudo.to_be_bytes());
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// `struct virtio_net_hdr` for a frame whose headers start `shift` bytes later than told, because a tag was put in.
pub(crate) fn vnet_header(frame: &OutgoingFrame<'_>, shift: usize) -> [u8; 10] {
    let mut vnet = [0; 10];
    let Some(udp_start) = frame.udp_start else { return vnet };
    vnet[0] = FLAG_NEEDS_CSUM;
    vnet[6..8].copy_from_slice(&((udp_start + shift) as u16).to_le_bytes());
    vnet[8..10].copy_from_slice(&6u16.to_le_bytes());
    if let Some(segment) = frame.segment.filter(|segment| usize::from(segment.get()) < frame.body.len()) {
        vnet[1] = GSO_UDP_L4;
        vnet[2..4].copy_from_slice(&((udp_start + shift + UDP) as u16).to_le_bytes());
        vnet[4..6].copy_from_slice(&segment.get().to_le_bytes());
    }
    vnet
}

/// Cuts a super-frame into frames of one datagram, each handed to `each` as header and body with lengths in order.
/// Stops at the first error. For NICs and kernels that cannot cut, and for wires that lose single datagrams.
pub fn cut<E>(frame: &OutgoingFrame<'_>, mut each: impl FnMut(&OutgoingFrame<'_>) -> Result<(), E>) -> Result<(), E> {
    let Some((ip, udp_start)) = find_udp(frame.header) else { return each(frame) };
    let mut header = [0; HEADER_MAX];
    let length = frame.header.len().min(HEADER_MAX);
    header[..length].copy_from_slice(&frame.header[..length]);
    let segment = frame.segment.map_or(frame.body.len().max(1), |segment| usize::from(segment.get()));
    for body in frame.body.chunks(segment) {
        set_lengths(&mut header[..length], ip, udp_start, body.len());
        each(&OutgoingFrame { header: &header[..length], body, udp_start: Some(udp_start), segment: None })?;
    }
    Ok(())
}

/// Takes datagrams out of a received super-frame: those for which `keep` says false, by their position. Returns the
/// frame's new length; 0 when nothing is left.
pub fn drop_segments(frame: &mut [u8], segment: Option<usize>, mut keep: impl FnMut(usize) -> bool) -> usize {
    let Some((ip, udp_start)) = find_udp(frame) else { return if keep(0) { frame.len() } else { 0 } };
    let body_start = udp_start + UDP;
    let segment = segment.unwrap_or(frame.len() - body_start).max(1);
    let (mut from, mut to, mut position) = (body_start, body_start, 0);
    while from < frame.len() {
        let end = (from + segment).min(frame.len());
        if keep(position) {
            frame.copy_within(from..end, to);
            to += end - from;
        }
        (from, position) = (end, position + 1);
    }
    if to == body_start {
        return 0;
    }
    set_lengths(&mut frame[..body_start], ip, udp_start, to - body_start);
    to
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;

    fn header_v4() -> Vec<u8> {
        let mut header = vec![2; 12];
        header.extend([0x08, 0x00, 0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        header.extend([0x11, 0x51, 0x11, 0x51, 0, 0, 0, 0]);
        header
    }

    #[test]
    fn a_cut_frame_is_the_same_datagrams_with_right_lengths() {
        let header = header_v4();
        let body: Vec<u8> = (0..2500u32).map(|n| n as u8).collect();
        let frame = OutgoingFrame { header: &header, body: &body, udp_start: Some(34), segment: NonZeroU16::new(1000) };
        let mut seen = Vec::new();
        cut(&frame, |piece| {
            let ip_length = u16::from_be_bytes([piece.header[16], piece.header[17]]);
            assert_eq!(usize::from(ip_length), 28 + piece.body.len());
            assert_eq!(fold(sum(&piece.header[14..34])), 0xffff, "the IPv4 checksum does not hold");
            seen.push(piece.body.to_vec());
            Ok::<(), ()>(())
        })
        .unwrap();
        assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1000, 500]);
        assert_eq!(seen.concat(), body);
    }

    #[test]
    fn dropped_segments_leave_the_others_whole() {
        let mut frame = header_v4();
        frame.extend([1u8; 10].iter().chain(&[2u8; 10]).chain(&[3u8; 4]));
        let length = drop_segments(&mut frame, Some(10), |position| position != 1);
        assert_eq!(length, 42 + 14);
        assert_eq!(&frame[42..52], [1; 10]);
        assert_eq!(&frame[52..56], [3; 4]);
        assert_eq!(drop_segments(&mut frame[..length], Some(10), |_| false), 0);
    }

    #[test]
    fn a_vnet_header_asks_for_segmentation_only_where_there_is_something_to_cut() {
        let header = header_v4();
        let mut frame =
            OutgoingFrame { header: &header, body: &[0; 100], udp_start: Some(34), segment: NonZeroU16::new(100) };
        assert_eq!(vnet_header(&frame, 0), [1, 0, 0, 0, 0, 0, 34, 0, 6, 0]);
        frame.segment = NonZeroU16::new(60);
        assert_eq!(vnet_header(&frame, 4), [1, 5, 46, 0, 60, 0, 38, 0, 6, 0]);
    }
}
