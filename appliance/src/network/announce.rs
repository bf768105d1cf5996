//! The announcement of a VM's new place: a reverse ARP request from its MAC address (RFC 903), which no host answers and
//! every switch learns from.

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
