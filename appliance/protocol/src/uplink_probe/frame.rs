//! How a token travels: a broadcast frame of the least length, of an EtherType for experiments within one organization.
//!
//! ```text
//!   destination  source   802.1Q tag      EtherType   protocol   version    token      zeros
//!   ff:ff:...    uplink   8100, VLAN      88b5        "GWup"     1          16 bytes   up to 60 bytes
//!   6            6        4, if it has    2           4          1          16         (64 with a tag)
//! ```
//! Sources: IEEE Std 802-2014, 9.2.4 (local experimental EtherTypes, which want a protocol and a version behind them); IEEE Std
//! 802.1Q-2018, 9.6 (the tag); IEEE Std 802.3-2018, 3.2.8 (the least length, here without the check sequence, which the NIC adds).

use super::tokens::Token;

/// Local Experimental EtherType 1.
pub const ETHER_TYPE: u16 = 0x88B5;
/// Bytes of a frame as it is received: without its tag, which the kernel takes off, and without its check sequence.
pub const BYTES: usize = 60;

const TAG_PROTOCOL: u16 = 0x8100;
const PROTOCOL: [u8; 4] = *b"GWup";
const VERSION: u8 = 1;
/// Where the EtherType of a frame without a tag is.
const ETHER_TYPE_AT: usize = 12;

/// The frame that says `token` on a VLAN, or on none, from the NIC with this address.
pub fn write(mac: [u8; 6], vlan: Option<u16>, token: Token) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac);
    if let Some(vlan) = vlan {
        frame.extend(TAG_PROTOCOL.to_be_bytes());
        frame.extend((vlan & 0x0fff).to_be_bytes());
    }
    let tag = frame.len() - ETHER_TYPE_AT;
    frame.extend(ETHER_TYPE.to_be_bytes());
    frame.extend(PROTOCOL);
    frame.push(VERSION);
    frame.extend(token.0);
    frame.resize(BYTES + tag, 0);
    frame
}

/// What a frame says whose tag, if it had one, was taken off; none if it is not one of these.
pub fn read(frame: &[u8]) -> Option<Token> {
    let rest = frame.get(ETHER_TYPE_AT..)?.strip_prefix(&ETHER_TYPE.to_be_bytes())?;
    let rest = rest.strip_prefix(&PROTOCOL)?.strip_prefix(&[VERSION])?;
    rest.first_chunk().copied().map(Token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    #[test]
    fn a_frame_is_a_broadcast_of_the_uplinks_own_address_and_carries_the_vlans_tag() {
        let plain = write(MAC, None, Token([5; 16]));
        assert_eq!(plain[..14], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 7, 0x88, 0xb5]);
        assert_eq!(plain.len(), BYTES);
        let tagged = write(MAC, Some(10), Token([5; 16]));
        assert_eq!(tagged[12..18], [0x81, 0, 0, 10, 0x88, 0xb5]);
        assert_eq!((&tagged[..12], &tagged[16..]), (&plain[..12], &plain[12..]));
    }

    #[test]
    fn a_frame_of_another_protocol_or_version_says_nothing() {
        for at in 12..19 {
            let mut frame = write(MAC, None, Token([5; 16]));
            frame[at] ^= 1;
            assert_eq!(read(&frame), None, "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn a_token_survives_the_journey(token in any::<[u8; 16]>(), mac in any::<[u8; 6]>(), vlan in prop::option::of(1u16..4095)) {
            let mut frame = write(mac, vlan, Token(token));
            // The kernel takes it off.
            vlan.is_some().then(|| frame.drain(12..16));
            prop_assert_eq!(read(&frame), Some(Token(token)));
        }

        #[test]
        fn any_bytes_are_a_token_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80), cut in 0usize..64) {
            let _ = read(&bytes);
            let frame = write(MAC, None, Token([5; 16]));
            let _ = read(&frame[..cut.min(frame.len())]);
        }
    }
}
