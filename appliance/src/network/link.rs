//! Links: what the kernel calls a network interface, by its index.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkFlags, LinkMessage};

use super::netlink::{Netlink, NetlinkError};

/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

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
