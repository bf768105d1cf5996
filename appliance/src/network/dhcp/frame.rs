//! The Ethernet, IPv4 and UDP headers around a DHCP message (RFC 791, RFC 768): the client has no address yet, so the
//! kernel's own stack cannot send for it.

use std::net::Ipv4Addr;

const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
const PROTOCOL_UDP: u8 = 17;
/// EtherType of IPv4.
pub(super) const ETHER_TYPE: u16 = 0x0800;

/// A broadcast frame from the client with this MAC and IP address.
pub(super) fn from_client(mac: [u8; 6], source: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let udp_bytes = UDP_BYTES + message.len();
    let mut frame = Vec::with_capacity(ETHERNET_BYTES + IPV4_BYTES + udp_bytes);
    frame.extend([0xff; 6]);
    frame.extend(mac);
    frame.extend(ETHER_TYPE.to_be_bytes());
    let mut header = [0_u8; IPV4_BYTES];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((IPV4_BYTES + udp_bytes) as u16).to_be_bytes());
    header[8] = 64;
    header[9] = PROTOCOL_UDP;
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].fill(0xff);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend(CLIENT_PORT.to_be_bytes());
    frame.extend(SERVER_PORT.to_be_bytes());
    frame.extend((udp_bytes as u16).to_be_bytes());
    // RFC 768: zero is "no checksum", which every server accepts.
    frame.extend([0, 0]);
    frame.extend(message);
    frame
}

/// The DHCP message in a frame to the client's port, `None` for any other frame.
pub(super) fn to_client(frame: &[u8]) -> Option<&[u8]> {
    let packet = frame.get(ETHERNET_BYTES..)?;
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
    let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff;
    if packet[0] >> 4 != 4 || header_bytes < IPV4_BYTES || *packet.get(9)? != PROTOCOL_UDP || fragment != 0 {
        return None;
    }
    let datagram = packet.get(header_bytes..total.min(packet.len()))?;
    let port = u16::from_be_bytes([*datagram.get(2)?, *datagram.get(3)?]);
    let length = usize::from(u16::from_be_bytes([*datagram.get(4)?, *datagram.get(5)?]));
    if port == CLIENT_PORT { datagram.get(UDP_BYTES..length.min(datagram.len())) } else { None }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_nothing() {
        let frame = from_client([2, 0, 0, 0, 0, 1], Ipv4Addr::UNSPECIFIED, &[7; 300]);
        assert_eq!(checksum(&frame[ETHERNET_BYTES..ETHERNET_BYTES + IPV4_BYTES]), 0);
    }

    #[test]
    fn a_message_is_found_in_its_frame_and_nothing_else_is() {
        let mut frame = from_client([2, 0, 0, 0, 0, 1], Ipv4Addr::UNSPECIFIED, &[7; 300]);
        assert_eq!(to_client(&frame), None, "it is for the server");
        frame[ETHERNET_BYTES + IPV4_BYTES + 2..][..2].copy_from_slice(&CLIENT_PORT.to_be_bytes());
        frame.extend([0; 6]);
        assert_eq!(to_client(&frame), Some(&[7_u8; 300][..]), "without the padding");
        for length in 0..frame.len() {
            let _ = to_client(&frame[..length]);
        }
    }
}
