//! What is shown of networks and of the migration NIC.

use std::net::IpAddr;

use model::diagnosis::Reason;
use model::names::{HostName, MacAddress, PortGroupName, VmName, VswitchName};
use serde::{Deserialize, Serialize};

/// A physical NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicRow {
    /// The kernel's name.
    pub name: String,
    /// Its MAC address, as the hardware has it.
    pub mac: Option<MacAddress>,
    /// Its PCI address.
    pub pci: Option<String>,
    /// Its driver.
    pub driver: Option<String>,
    /// Whether it has a link.
    pub link: bool,
    /// Mbit/s, where the driver tells.
    pub speed_mbits: Option<u32>,
    /// Bytes of payload in a frame.
    pub mtu: u32,
    /// What uses it: `management`, `migration`, `vswitch vs0`.
    pub used_by: Option<String>,
}

/// A port group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortGroupRow {
    /// Its label.
    pub name: PortGroupName,
    /// Its vswitch.
    pub vswitch: VswitchName,
    /// Its VLAN.
    pub vlan: Option<u16>,
    /// The vswitch's uplink, where it has one.
    pub uplink: Option<String>,
    /// VMs plugged in here.
    pub vms: Vec<VmName>,
}

/// The migration NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationNicDetail {
    /// The kernel's name, or what the configuration calls it where it is not there; empty where none is configured.
    pub nic: String,
    /// Its MAC address.
    pub mac: Option<MacAddress>,
    /// Its address in the migration stack, with its prefix.
    pub address: String,
    /// The gateway to other networks.
    pub gateway: Option<IpAddr>,
    /// The VLAN; untagged if absent.
    pub vlan: Option<u16>,
    /// UDP port.
    pub port: u16,
    /// Whether it has a link.
    pub link: bool,
    /// Mbit/s, where the driver tells.
    pub speed_mbits: Option<u32>,
    /// Bytes of IP packet in a frame.
    pub mtu: u32,
    /// The public key by which other hosts know this one, hex.
    pub public_key: String,
    /// Frames sent since the stack came up; a batch that the NIC cuts counts once.
    pub frames_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Frames received; a batch that the NIC put together counts once.
    pub frames_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Frames that were dropped on their way in: by the device, or because they were not taken in time.
    pub drops: u64,
    /// Frames that did not leave: the NIC refused them, or its link was down.
    pub drops_out: u64,
    /// Connections to other hosts: moves and measurements under way.
    pub connections: u32,
    /// The hosts that it may talk to, by what they said of themselves on the datastores.
    pub peers: Vec<MigrationPeer>,
    /// Who spoke to it by ARP or neighbour discovery: peers and gateways of its own network.
    pub neighbours: Vec<MigrationNeighbour>,
    /// What is wrong with it.
    pub problems: Vec<Reason>,
    /// What a person should know although VMs can be moved.
    pub warnings: Vec<Reason>,
}

/// A host that the migration stack may talk to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationPeer {
    /// Its name.
    pub host: HostName,
    /// The address of its migration stack.
    pub address: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// The neighbour that it is reached by: itself, or the gateway; absent where neither was asked for yet.
    pub mac: Option<MacAddress>,
    /// Whether it lies behind the gateway.
    pub routed: bool,
}

/// Whom ARP or neighbour discovery resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationNeighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its NIC's MAC address.
    pub mac: MacAddress,
    /// How long ago it said so, seconds.
    pub age_s: u64,
}

/// The path to another host over the migration NIC, as it was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingDetail {
    /// The host.
    pub host: HostName,
    /// The address and port of its migration stack.
    pub address: String,
    /// The least round-trip time, microseconds.
    pub rtt_us: u64,
    /// What arrived, bytes a second.
    pub bandwidth_bytes_per_s: u64,
    /// The part of what was sent to measure the bandwidth that was lost, thousandths.
    pub loss_permille: u16,
    /// The largest IP packet that arrived, bytes; absent where the search for it did not end in time.
    pub path_mtu: Option<u16>,
    /// The MTU of this host's migration NIC.
    pub mtu_here: u16,
    /// The MTU of the other's.
    pub mtu_there: u16,
    /// What stands in the way of a move.
    pub problems: Vec<Reason>,
    /// What a person should know although nothing is wrong.
    pub warnings: Vec<Reason>,
}
