//! Bridges: one for each vswitch, with VLAN filtering, so that a port group is a VLAN on the bridge and a port that no
//! port group names carries nothing.

use netlink_packet_route::link::{
    AfSpecBridge, BridgeStpState, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge, InfoData, InfoKind, LinkAttribute,
    LinkInfo, LinkMessage,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

use super::link::{self, Link};
use super::netlink::{Netlink, NetlinkError};

/// How a VLAN passes through a port.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Passage {
    /// With its tag.
    Tagged,
    /// Without a tag: what comes in untagged belongs to it.
    Untagged,
}

/// Makes the bridge unless it is there, and returns it. It is up, forwards at once (no spanning tree, no delay), and does
/// not prune multicast: a snooping bridge forgets the groups of a VM that has just arrived.
pub fn ensure(netlink: &mut Netlink, name: &str) -> Result<Link, NetlinkError> {
    let known = link::by_name(netlink, name)?;
    let found = match known {
        Some(found) => found,
        None => {
            match link::create(netlink, name, InfoKind::Bridge, vec![settings(true)]) {
                // A kernel without VLAN filtering: port groups without a VLAN still work.
                Err(NetlinkError::Refused(Errno::OPNOTSUPP)) => {
                    link::create(netlink, name, InfoKind::Bridge, vec![settings(false)])?;
                }
                outcome => outcome?,
            }
            link::by_name(netlink, name)?.ok_or(NetlinkError::Refused(Errno::NODEV))?
        }
    };
    if found.kind.as_deref() != Some("bridge") {
        return Err(NetlinkError::Refused(Errno::EXIST));
    }
    link::set_up(netlink, found.index, true)?;
    Ok(found)
}

fn settings(vlans: bool) -> LinkInfo {
    let mut settings = vec![
        InfoBridge::StpState(BridgeStpState::Disabled),
        InfoBridge::ForwardDelay(0),
        InfoBridge::MulticastSnooping(false),
    ];
    if vlans {
        // First the default, or the kernel gives every port VLAN 1.
        settings.extend([InfoBridge::VlanDefaultPvid(0), InfoBridge::VlanFiltering(true)]);
    }
    LinkInfo::Data(InfoData::Bridge(settings))
}

/// Lets a VLAN through a port of a bridge, or, with `own`, through the bridge's own interface.
pub fn let_through(
    netlink: &mut Netlink,
    index: u32,
    vlan: u16,
    passage: Passage,
    own: bool,
) -> Result<(), NetlinkError> {
    let flags = match passage {
        Passage::Tagged => BridgeVlanInfoFlags::empty(),
        Passage::Untagged => BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged,
    };
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    let mut specification = Vec::new();
    if own {
        specification.push(AfSpecBridge::Flags(netlink_packet_route::link::BridgeFlag::LowerDev));
    }
    specification.push(AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid: vlan }));
    message.attributes.push(LinkAttribute::AfSpecBridge(specification));
    netlink.request(RouteNetlinkMessage::SetLink(message), 0)
}
