//! Addresses and routes in the kernel's stack.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use model::host_config::Cidr;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::netlink::{Netlink, NetlinkError};

/// An address on a link.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Assigned {
    /// The link's index.
    pub index: u32,
    /// The address and its network.
    pub cidr: Cidr,
    /// True for one that means something beyond its link.
    pub global: bool,
}

/// All addresses of this network namespace.
pub fn list(netlink: &mut Netlink) -> Result<Vec<Assigned>, NetlinkError> {
    let answers = netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let assigned = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(message) => assigned(message),
        _ => None,
    });
    Ok(assigned.collect())
}

fn assigned(message: &AddressMessage) -> Option<Assigned> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) if local => Some(*address),
            AddressAttribute::Address(address) if !local => Some(*address),
            _ => None,
        })
    };
    let cidr = Cidr { address: find(true).or_else(|| find(false))?, prefix: message.header.prefix_len };
    Some(Assigned { index: message.header.index, cidr, global: message.header.scope == AddressScope::Universe })
}

/// Gives a link an address; having it already is fine.
pub fn add(netlink: &mut Netlink, index: u32, cidr: Cidr) -> Result<(), NetlinkError> {
    netlink.request(RouteNetlinkMessage::NewAddress(message(index, cidr)), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Takes an address from a link; not having it is fine.
pub fn remove(netlink: &mut Netlink, index: u32, cidr: Cidr) -> Result<(), NetlinkError> {
    match netlink.request(RouteNetlinkMessage::DelAddress(message(index, cidr)), 0) {
        Err(NetlinkError::Refused(Errno::ADDRNOTAVAIL)) => Ok(()),
        outcome => outcome,
    }
}

fn message(index: u32, cidr: Cidr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = cidr.prefix;
    message.header.family = family(cidr.address);
    message.attributes.push(AddressAttribute::Local(cidr.address));
    message.attributes.push(AddressAttribute::Address(cidr.address));
    if let (IpAddr::V4(address), 0..=30) = (cidr.address, cidr.prefix) {
        let hosts = u32::MAX >> cidr.prefix;
        message.attributes.push(AddressAttribute::Broadcast(Ipv4Addr::from_bits(address.to_bits() | hosts)));
    }
    message
}

/// Sends what has no better route through `gateway` on this link, in the place of the route before.
pub fn set_default_route(netlink: &mut Netlink, index: u32, gateway: IpAddr) -> Result<(), NetlinkError> {
    let route = RouteNetlinkMessage::NewRoute(default_route(index, gateway));
    netlink.request(route, NLM_F_CREATE | NLM_F_REPLACE)
}

/// Takes the default route through `gateway` back; not having it is fine.
pub fn remove_default_route(netlink: &mut Netlink, index: u32, gateway: IpAddr) -> Result<(), NetlinkError> {
    match netlink.request(RouteNetlinkMessage::DelRoute(default_route(index, gateway)), 0) {
        Err(NetlinkError::Refused(Errno::SRCH)) => Ok(()),
        outcome => outcome,
    }
}

fn default_route(index: u32, gateway: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Gateway(match gateway {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// True if both addresses lie in the network of `cidr`.
pub fn in_network(cidr: Cidr, other: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(cidr.prefix)).unwrap_or(0);
    cidr.address.is_ipv4() == other.is_ipv4() && (bits(cidr.address) ^ bits(other)) & mask == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_outside_the_network_is_told_from_one_inside() {
        let cidr = |text: &str| text.parse::<Cidr>().unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(in_network(cidr("10.0.1.5/24"), ip("10.0.1.254")));
        assert!(!in_network(cidr("10.0.1.5/24"), ip("10.0.2.1")));
        assert!(in_network(cidr("fd00::5/64"), ip("fd00::1")));
        assert!(!in_network(cidr("fd00::5/64"), ip("10.0.1.1")));
    }
}
