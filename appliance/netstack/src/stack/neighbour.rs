//! What ARP (RFC 826) and neighbour discovery (RFC 4861) say on the wire of who has which address, and what we say of ours.
//!
//! smoltcp keeps its own table and answers by it, but shows it to nobody and looks for no conflict: what is kept here is
//! for people, and for [`super::claim`].

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpHardware, ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};

/// Neighbours that are remembered: as many as smoltcp does.
const NEIGHBOURS_MAX: usize = 64;
/// Hop limit of neighbour discovery: what came through a router is none (RFC 4861 section 7.1).
const HOP_LIMIT: u8 = 255;

/// What one frame says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Said {
    /// Who says it.
    pub(crate) mac: [u8; 6],
    /// The address that it says it has; none of one that only asks whether somebody has one.
    pub(crate) has: Option<IpAddr>,
    /// The address that it asks for, or answers to.
    pub(crate) about: IpAddr,
}

/// What is said of our address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    /// Does anybody have it? (RFC 5227 section 1.1, ARP Probe; RFC 4862 section 5.4.2.)
    Probe,
    /// We have it. (RFC 5227 section 1.1, ARP Announcement; RFC 4861 section 7.2.6.)
    Announcement,
}

/// What a received frame says; nothing where it is neither ARP nor neighbour discovery.
pub(crate) fn said(frame: &[u8]) -> Option<Said> {
    match frame.get(12..14)? {
        [0x08, 0x06] => arp(frame),
        // Next header ICMPv6, neighbour solicitation or advertisement: nearly every frame of a move ends here.
        [0x86, 0xdd] if frame.get(20) == Some(&58) && matches!(frame.get(54), Some(135 | 136)) => ndisc(frame),
        _ => None,
    }
}

fn arp(frame: &[u8]) -> Option<Said> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let ArpRepr::EthernetIpv4 { source_hardware_addr, source_protocol_addr, target_protocol_addr, .. } =
        ArpRepr::parse(&ArpPacket::new_checked(ethernet.payload()).ok()?).ok()?
    else {
        return None;
    };
    if !source_hardware_addr.is_unicast() {
        return None;
    }
    let has = (!source_protocol_addr.is_unspecified()).then_some(IpAddr::V4(source_protocol_addr));
    Some(Said { mac: source_hardware_addr.0, has, about: IpAddr::V4(target_protocol_addr) })
}

fn ndisc(frame: &[u8]) -> Option<Said> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
    if ip.hop_limit() != HOP_LIMIT || !ethernet.src_addr().is_unicast() {
        return None;
    }
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    let packet = Icmpv6Packet::new_checked(ip.payload()).ok()?;
    let Icmpv6Repr::Ndisc(repr) = Icmpv6Repr::parse(&from, &to, &packet, &ChecksumCapabilities::default()).ok()? else {
        return None;
    };
    let mac = ethernet.src_addr().0;
    match repr {
        NdiscRepr::NeighborSolicit { target_addr, .. } => {
            let has = (!from.is_unspecified()).then_some(IpAddr::V6(from));
            Some(Said { mac, has, about: IpAddr::V6(target_addr) })
        }
        NdiscRepr::NeighborAdvert { target_addr, .. } => {
            Some(Said { mac, has: Some(IpAddr::V6(target_addr)), about: IpAddr::V6(to) })
        }
        _ => None,
    }
}

/// The frame of a word about `address`, from `mac`.
pub(crate) fn frame(word: Word, mac: [u8; 6], address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp_frame(word, mac, address),
        IpAddr::V6(address) => ndisc_frame(word, mac, address),
    }
}

fn ethernet(from: [u8; 6], to: EthernetAddress, protocol: EthernetProtocol, payload: usize) -> Vec<u8> {
    let repr = EthernetRepr { src_addr: EthernetAddress(from), dst_addr: to, ethertype: protocol };
    let mut bytes = vec![0; repr.buffer_len() + payload];
    repr.emit(&mut EthernetFrame::new_unchecked(&mut bytes[..]));
    bytes
}

fn arp_frame(word: Word, mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let sender = if word == Word::Probe { Ipv4Addr::UNSPECIFIED } else { address };
    let repr = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: sender,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    };
    let mut bytes = ethernet(mac, EthernetAddress::BROADCAST, EthernetProtocol::Arp, repr.buffer_len());
    let mut packet = ArpPacket::new_unchecked(&mut bytes[14..]);
    repr.emit(&mut packet);
    packet.set_hardware_type(ArpHardware::Ethernet);
    bytes
}

fn ndisc_frame(word: Word, mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let last = address.octets();
    let (from, to, repr) = match word {
        Word::Probe => {
            // Solicited-node multicast, RFC 4291 section 2.7.1.
            let to = Ipv6Addr::new(
                0xff02,
                0,
                0,
                0,
                0,
                1,
                0xff00 | u16::from(last[13]),
                u16::from_be_bytes([last[14], last[15]]),
            );
            (Ipv6Addr::UNSPECIFIED, to, NdiscRepr::NeighborSolicit { target_addr: address, lladdr: None })
        }
        Word::Announcement => {
            let flags = NdiscNeighborFlags::OVERRIDE;
            let lladdr = Some(EthernetAddress(mac).into());
            let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
            (address, to, NdiscRepr::NeighborAdvert { flags, target_addr: address, lladdr })
        }
    };
    let icmp = Icmpv6Repr::Ndisc(repr);
    let ip = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: icmp.buffer_len(),
        hop_limit: HOP_LIMIT,
    };
    let [.., a, b, c, d] = to.octets();
    // RFC 2464 section 7.
    let group = EthernetAddress([0x33, 0x33, a, b, c, d]);
    let mut bytes = ethernet(mac, group, EthernetProtocol::Ipv6, ip.buffer_len() + icmp.buffer_len());
    let mut packet = Ipv6Packet::new_unchecked(&mut bytes[14..]);
    ip.emit(&mut packet);
    let mut body = Icmpv6Packet::new_unchecked(packet.payload_mut());
    icmp.emit(&from, &to, &mut body, &ChecksumCapabilities::default());
    bytes
}

/// A neighbour whom ARP or neighbour discovery showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its NIC.
    pub mac: [u8; 6],
    /// How long ago it said so.
    pub age: Duration,
}

/// Neighbours who spoke to us.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    known: HashMap<IpAddr, ([u8; 6], Instant)>,
}

impl Neighbours {
    /// Takes note of what was said to us, and of what a neighbour who is known says to anybody: an announcement is for all (RFC 826,
    /// "merge_flag"). True where an announcement shows one at another NIC: smoltcp takes what is said to us, but no announcement, and
    /// believes what it heard before for up to a minute.
    pub(crate) fn hear(&mut self, now: Instant, said: &Said, own: IpAddr) -> bool {
        let Some(address) = said.has.filter(|address| *address != own) else { return false };
        let before = self.known.get(&address).map(|(mac, _)| *mac);
        let is_announced = said.about != own;
        if is_announced && before.is_none() {
            return false;
        }
        if self.known.len() == NEIGHBOURS_MAX
            && before.is_none()
            && let Some(oldest) = self.known.iter().min_by_key(|(_, (_, at))| *at).map(|(address, _)| *address)
        {
            self.known.remove(&oldest);
        }
        self.known.insert(address, (said.mac, now));
        is_announced && before.is_some_and(|mac| mac != said.mac)
    }

    /// All of them, by address.
    pub(crate) fn all(&self, now: Instant) -> Vec<Neighbour> {
        let neighbour = |(address, (mac, at)): (&IpAddr, &([u8; 6], Instant))| Neighbour {
            address: *address,
            mac: *mac,
            age: now.saturating_duration_since(*at),
        };
        let mut all: Vec<Neighbour> = self.known.iter().map(neighbour).collect();
        all.sort_by_key(|neighbour| neighbour.address);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    #[test]
    fn what_is_said_of_an_address_is_understood_by_who_hears_it() {
        for address in ["10.74.0.1", "fd00:7474::1"] {
            let address: IpAddr = address.parse().unwrap();
            let probe = said(&frame(Word::Probe, MAC, address)).unwrap();
            assert_eq!(probe, Said { mac: MAC, has: None, about: address });
            let announced = said(&frame(Word::Announcement, MAC, address)).unwrap();
            assert_eq!((announced.mac, announced.has), (MAC, Some(address)));
        }
    }

    #[test]
    fn a_neighbour_that_announces_itself_from_another_nic_is_known_there() {
        let (now, own, other) = (Instant::now(), "10.74.0.1".parse().unwrap(), "10.74.0.2".parse().unwrap());
        let said = |mac, about| Said { mac, has: Some(other), about };
        let mut neighbours = Neighbours::default();
        assert!(!neighbours.hear(now, &said(MAC, other), own), "nobody asked for it yet");
        assert!(!neighbours.hear(now, &said(MAC, own), own));
        assert!(!neighbours.hear(now, &said(MAC, other), own), "it is there");
        let elsewhere = [2, 0, 0, 0, 0, 9];
        assert!(neighbours.hear(now, &said(elsewhere, other), own));
        assert_eq!(neighbours.all(now)[0].mac, elsewhere);
        assert!(!neighbours.hear(now, &said(MAC, own), own), "of two that answer us, smoltcp takes the last");
        assert!(!neighbours.hear(now, &Said { mac: MAC, has: Some(own), about: own }, own), "that is our own address");
    }

    #[test]
    fn a_neighbour_is_known_by_what_it_said_to_us_and_not_by_what_it_said_to_others() {
        let (now, own, other) = (Instant::now(), "10.74.0.1".parse().unwrap(), "10.74.0.2".parse().unwrap());
        let mut neighbours = Neighbours::default();
        neighbours.hear(now, &Said { mac: MAC, has: Some(other), about: other }, own);
        neighbours.hear(now, &Said { mac: MAC, has: None, about: own }, own);
        assert_eq!(neighbours.all(now), []);
        neighbours.hear(now, &Said { mac: MAC, has: Some(other), about: own }, own);
        let age = Duration::from_secs(3);
        assert_eq!(neighbours.all(now + age), [Neighbour { address: other, mac: MAC, age }]);
        let many = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number));
        for number in 0..1000 {
            neighbours.hear(now + age, &Said { mac: MAC, has: Some(many(number)), about: own }, own);
        }
        assert_eq!(neighbours.all(now).len(), NEIGHBOURS_MAX, "a network full of liars takes no more memory");
    }

    proptest::proptest! {
        #[test]
        fn no_frame_is_too_strange_to_be_looked_at(
            mut frame in proptest::collection::vec(proptest::num::u8::ANY, 0..120),
            kind in proptest::sample::select(vec![[0x08, 0x06], [0x86, 0xdd]]),
            icmp in 134_u8..138,
        ) {
            if frame.len() > 54 {
                frame[12..14].copy_from_slice(&kind);
                (frame[20], frame[54]) = (58, icmp);
            }
            // Understood or not.
            let _ = said(&frame);
        }
    }
}
