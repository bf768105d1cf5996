//! Links: what the kernel calls a network interface, known by its index.

use std::fs;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{InfoBridge, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use super::netlink::{Netlink, NetlinkError};

/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

/// A network interface as the kernel describes it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Link {
    /// The kernel's handle, greater than 0.
    pub index: u32,
    /// The kernel's name.
    pub name: String,
    /// What made it, for one that software made: `bridge`, `tun`, `veth`, `vlan`...
    pub kind: Option<String>,
    /// Its present MAC address.
    pub mac: Option<[u8; 6]>,
    /// The MAC address that the hardware has, where it tells.
    pub permanent_mac: Option<[u8; 6]>,
    /// Bytes of payload in a frame.
    pub mtu: u32,
    /// Whether it was brought up.
    pub up: bool,
    /// Whether it has a link to the other side.
    pub carrier: bool,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// For a bridge, whether it keeps VLANs apart; absent where the kernel cannot.
    pub filters_vlans: Option<bool>,
    /// What went through it.
    pub counters: Counters,
}

/// What went through a link since it exists.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Frames received.
    pub frames_in: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Frames sent.
    pub frames_out: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Frames dropped in either direction.
    pub drops: u64,
    /// Frames with errors in either direction.
    pub errors: u64,
}

impl Link {
    fn of(message: &LinkMessage) -> Self {
        let mut link = Self { index: message.header.index, ..Self::default() };
        link.up = message.header.flags.contains(LinkFlags::Up);
        link.carrier = message.header.flags.contains(LinkFlags::LowerUp);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
                LinkAttribute::PermAddress(bytes) => link.permanent_mac = bytes.as_slice().try_into().ok(),
                LinkAttribute::Controller(index) => link.master = Some(*index),
                LinkAttribute::LinkInfo(infos) => {
                    link.kind = infos.iter().find_map(kind);
                    link.filters_vlans = infos.iter().find_map(vlan_filtering);
                }
                LinkAttribute::Stats64(stats) => {
                    link.counters = Counters {
                        frames_in: stats.rx_packets,
                        bytes_in: stats.rx_bytes,
                        frames_out: stats.tx_packets,
                        bytes_out: stats.tx_bytes,
                        drops: stats.rx_dropped + stats.tx_dropped + stats.rx_missed_errors,
                        errors: stats.rx_errors + stats.tx_errors,
                    };
                }
                _ => {}
            }
        }
        link
    }
}

fn kind(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn vlan_filtering(info: &LinkInfo) -> Option<bool> {
    let LinkInfo::Data(InfoData::Bridge(settings)) = info else { return None };
    settings.iter().find_map(|setting| match setting {
        InfoBridge::VlanFiltering(on) => Some(*on),
        _ => None,
    })
}

/// All links of this network namespace.
pub fn list(netlink: &mut Netlink) -> Result<Vec<Link>, NetlinkError> {
    let answers = netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
    let links = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(Link::of(message)),
        _ => None,
    });
    Ok(links.collect())
}

/// The link of this name.
pub fn by_name(netlink: &mut Netlink, name: &str) -> Result<Option<Link>, NetlinkError> {
    Ok(list(netlink)?.into_iter().find(|link| link.name == name))
}

/// Brings the loopback interface up. The kernel gives it 127.0.0.1 and ::1 by itself.
pub fn loopback_up() -> Result<(), NetlinkError> {
    set_up(&mut Netlink::open()?, LOOPBACK, true)
}

/// Brings a link up or down.
pub fn set_up(netlink: &mut Netlink, index: u32, up: bool) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.change_mask = LinkFlags::Up;
    message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    netlink.request(RouteNetlinkMessage::SetLink(message), 0)
}

/// Sets bytes of payload in a frame.
pub fn set_mtu(netlink: &mut Netlink, index: u32, mtu: u32) -> Result<(), NetlinkError> {
    set(netlink, index, LinkAttribute::Mtu(mtu))
}

/// Sets the MAC address.
pub fn set_mac(netlink: &mut Netlink, index: u32, mac: [u8; 6]) -> Result<(), NetlinkError> {
    set(netlink, index, LinkAttribute::Address(mac.to_vec()))
}

/// Makes a link a port of the bridge `master`, or of none (0).
pub fn set_master(netlink: &mut Netlink, index: u32, master: u32) -> Result<(), NetlinkError> {
    set(netlink, index, LinkAttribute::Controller(master))
}

fn set(netlink: &mut Netlink, index: u32, attribute: LinkAttribute) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.push(attribute);
    netlink.request(RouteNetlinkMessage::SetLink(message), 0)
}

/// Makes a link that software implements.
pub fn create(netlink: &mut Netlink, name: &str, kind: InfoKind, more: Vec<LinkInfo>) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let mut infos = vec![LinkInfo::Kind(kind)];
    infos.extend(more);
    message.attributes.push(LinkAttribute::LinkInfo(infos));
    netlink.request(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Removes a link that software implements.
pub fn delete(netlink: &mut Netlink, index: u32) -> Result<(), NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    netlink.request(RouteNetlinkMessage::DelLink(message), 0)
}

/// Keeps the kernel's IPv6 off a link that carries only the frames of others. A kernel without IPv6 has nothing to turn off.
pub fn keep_ipv6_off(name: &str) -> std::io::Result<()> {
    match fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1") {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}
