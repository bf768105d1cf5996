//! The fabric: makes of the kernel's links what the host's configuration says, as often as it is asked to, and plugs VMs in.
//!
//! A NIC that is missing, a kernel that refuses: each costs what depends on it and is told as a reason; the rest comes up.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::diagnosis::{Diagnosis, Reason};
use model::host_config::{AddressSource, HostConfig, Management, MigrationNic, NicSelector, PortGroup, Vswitch};
use model::names::{PortGroupName, VswitchName};

use super::bridge::{self, Passage};
use super::dhcp::client::{Client, Status};
use super::link;
use super::netlink::{Netlink, NetlinkError};
use super::nic::{self, Nic};
use super::tap::Tap;
use super::{address, nic::find};
use crate::api::host::{NicRow, PortGroupRow};

/// The networks of this host.
#[derive(Debug)]
pub struct Fabric {
    config: HostConfig,
    bridges: BTreeMap<VswitchName, Bridge>,
    clients: BTreeMap<u32, Client>,
    uses: BTreeMap<u32, String>,
    problems: Vec<Reason>,
}

/// What leads from a port group into the world.
#[derive(Clone, Debug)]
pub struct UplinkPort {
    /// The kernel's handle of the NIC.
    pub index: u32,
    /// The kernel's name of it.
    pub name: String,
    /// Its MAC address as it is now.
    pub mac: [u8; 6],
    /// The VLAN whose tag the port group's frames have there.
    pub vlan: Option<u16>,
}

#[derive(Clone, Copy, Debug)]
struct Bridge {
    index: u32,
    filters_vlans: bool,
    /// The VLAN on this bridge, never on the wire, that stands for "untagged".
    untagged: u16,
}

impl Fabric {
    /// The networks that `config` describes; nothing is done yet.
    pub fn new(config: HostConfig) -> Self {
        let (bridges, clients, uses) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { config, bridges, clients, uses, problems: Vec::new() }
    }

    /// Makes the kernel's links as they are configured and returns what is wrong. May be called again at any time: what is
    /// right already stays untouched, a NIC that has appeared since is taken in.
    pub fn apply(&mut self) -> &[Reason] {
        self.problems.clear();
        self.uses.clear();
        if let Err(error) = self.try_apply() {
            self.problem("the kernel's links cannot be read", &error, "host reboot");
        }
        &self.problems
    }

    fn try_apply(&mut self) -> Result<(), NetlinkError> {
        let mut netlink = Netlink::open()?;
        let nics = nic::inventory(&mut netlink)?;
        let config = self.config.clone();
        if let Some(migration) = &config.migration_nic {
            self.apply_migration_nic(&mut netlink, &nics, migration);
        }
        for vswitch in &config.vswitches {
            if let Err(error) = self.apply_vswitch(&mut netlink, &nics, vswitch) {
                let hint = format!("rename vswitch {} if a NIC has that name; else log show host", vswitch.name);
                self.problem(&format!("vswitch {} could not be made", vswitch.name), &error, &hint);
            }
        }
        for (what, management) in config
            .management
            .iter()
            .map(|m| ("management", m))
            .chain(config.storage_nics.iter().map(|m| ("storage", m)))
        {
            self.apply_address(&mut netlink, &nics, what, management);
        }
        Ok(())
    }

    fn problem(&mut self, what: &str, error: &NetlinkError, hint: &str) {
        let cause = error.errno().map_or_else(|| error.to_string(), |errno| format!("{error}: {errno}"));
        self.problems.push(Reason::new(format!("{what}: {cause}"), hint));
    }

    /// The NIC that is meant, unless it is missing or has another use: both are problems.
    fn take<'a>(&mut self, nics: &'a [Nic], selector: &NicSelector, purpose: &str) -> Option<&'a Nic> {
        let Some(nic) = find(nics, selector) else {
            let cause = format!("{purpose}: this host has no NIC {selector}");
            self.problems.push(Reason::new(cause, "network nics"));
            return None;
        };
        if let Some(other) = self.uses.get(&nic.link.index) {
            let cause = format!("{purpose}: NIC {} is already used: {other}", nic.link.name);
            self.problems.push(Reason::new(cause, "choose another one: network nics"));
            return None;
        }
        self.uses.insert(nic.link.index, purpose.to_owned());
        Some(nic)
    }

    /// The migration NIC is up and has no address: its stack is not the kernel's.
    fn apply_migration_nic(&mut self, netlink: &mut Netlink, nics: &[Nic], migration: &MigrationNic) {
        let Some(nic) = self.take(nics, &migration.nic, "migration") else { return };
        let index = nic.link.index;
        let mut make = || {
            let _ = link::keep_ipv6_off(&nic.link.name);
            for assigned in address::list(netlink)?.iter().filter(|assigned| assigned.index == index) {
                address::remove(netlink, index, assigned.cidr)?;
            }
            if let Some(mtu) = migration.mtu.map(u32::from).filter(|mtu| *mtu != nic.link.mtu) {
                link::set_mtu(netlink, index, mtu)?;
            }
            link::set_up(netlink, index, true)
        };
        if let Err(error) = make() {
            let hint = "see whether the NIC can carry the configured mtu: network nics";
            self.problem(&format!("migration NIC {} could not be set up", nic.link.name), &error, hint);
        }
    }

    fn apply_vswitch(&mut self, netlink: &mut Netlink, nics: &[Nic], vswitch: &Vswitch) -> Result<(), NetlinkError> {
        let name = vswitch.name.as_str();
        let bridge = bridge::ensure(netlink, name)?;
        let index = bridge.index;
        let groups: Vec<PortGroup> =
            self.config.port_groups.iter().filter(|group| group.vswitch == vswitch.name).cloned().collect();
        let made =
            Bridge { index, filters_vlans: bridge.filters_vlans == Some(true), untagged: untagged_vlan(&groups) };
        self.bridges.insert(vswitch.name.clone(), made);
        self.uses.insert(index, format!("vswitch {name}"));
        let _ = link::keep_ipv6_off(name);
        if !made.filters_vlans
            && let Some(group) = groups.iter().find(|group| group.vlan.is_some())
        {
            let cause = format!("port group {}: this kernel cannot keep VLANs apart on a bridge", group.name);
            self.problems.push(Reason::new(cause, "boot the kernel of the image, or leave its vlan out"));
        }
        let Some(selector) = &vswitch.uplink else { return Ok(()) };
        let Some(nic) = self.take(nics, selector, &format!("vswitch {name}")) else { return Ok(()) };
        let _ = link::keep_ipv6_off(&nic.link.name);
        if nic.link.mtu != u32::from(vswitch.mtu) {
            link::set_mtu(netlink, nic.link.index, vswitch.mtu.into())?;
        }
        if nic.link.master != Some(index) {
            link::set_master(netlink, nic.link.index, index)?;
        }
        // Without an address of its own a bridge takes the least of its ports', which changes with every VM.
        if let Some(mac) = nic.link.mac {
            link::set_mac(netlink, index, mac)?;
        }
        if made.filters_vlans {
            bridge::let_through(netlink, nic.link.index, made.untagged, Passage::Untagged, false)?;
            for vlan in groups.iter().filter_map(|group| group.vlan) {
                bridge::let_through(netlink, nic.link.index, vlan, Passage::Tagged, false)?;
            }
        }
        link::set_up(netlink, nic.link.index, true)
    }

    /// Gives the management or a storage network its address: on its NIC, or on the bridge if the NIC is an uplink.
    fn apply_address(&mut self, netlink: &mut Netlink, nics: &[Nic], what: &str, management: &Management) {
        let uplink_of = find(nics, &management.nic).and_then(|nic| {
            let of = |vswitch: &&Vswitch| vswitch.uplink.as_ref().and_then(|u| find(nics, u)) == Some(nic);
            self.config.vswitches.iter().find(of).map(|vswitch| vswitch.name.clone())
        });
        let outcome = match uplink_of.and_then(|vswitch| Some((self.bridges.get(&vswitch).copied()?, vswitch))) {
            Some((bridge, vswitch)) => {
                let shared = format!("vswitch {vswitch} and {what}");
                self.uses.insert(bridge.index, shared);
                let own = if bridge.filters_vlans {
                    bridge::let_through(netlink, bridge.index, bridge.untagged, Passage::Untagged, true)
                } else {
                    Ok(())
                };
                let mac = find(nics, &management.nic).and_then(|nic| nic.link.mac);
                own.and_then(|()| self.give_address(netlink, bridge.index, mac, what, management))
            }
            None => {
                let Some(nic) = self.take(nics, &management.nic, what) else { return };
                link::set_up(netlink, nic.link.index, true)
                    .and_then(|()| self.give_address(netlink, nic.link.index, nic.link.mac, what, management))
            }
        };
        if let Err(error) = outcome {
            self.problem(&format!("the {what} network has no address"), &error, "config show");
        }
    }

    fn give_address(
        &mut self,
        netlink: &mut Netlink,
        index: u32,
        mac: Option<[u8; 6]>,
        what: &str,
        management: &Management,
    ) -> Result<(), NetlinkError> {
        let cidr = match management.address {
            AddressSource::Static(cidr) => cidr,
            AddressSource::Dhcp => {
                let hostname = self.config.hostname.to_string();
                if let (None, Some(mac)) = (self.clients.get(&index), mac) {
                    match Client::start(index, mac, &hostname) {
                        Ok(client) => drop(self.clients.insert(index, client)),
                        Err(error) => {
                            let cause = format!("{what}: the DHCP client could not be started: {error}");
                            self.problems.push(Reason::new(cause, "host reboot"));
                        }
                    }
                }
                return Ok(());
            }
        };
        address::add(netlink, index, cidr)?;
        let Some(gateway) = management.gateway else { return Ok(()) };
        if !address::in_network(cidr, gateway) {
            let cause = format!("{what}: the gateway {gateway} is not in the network {cidr}");
            self.problems.push(Reason::new(cause, "correct gateway or address in host.toml"));
            return Ok(());
        }
        address::set_default_route(netlink, index, gateway)
    }

    /// What was wrong when the configuration was applied last, and what is wrong with DHCP now.
    pub fn problems(&self) -> Vec<Reason> {
        let waiting = self.clients.values().filter_map(|client| client.status().problem);
        let waiting = waiting.map(|problem| {
            Reason::new(format!("DHCP: {problem}"), "give management.address in host.toml, or start a DHCP server")
        });
        self.problems.iter().cloned().chain(waiting).collect()
    }

    /// Where the DHCP clients are.
    pub fn dhcp(&self) -> Vec<Status> {
        self.clients.values().map(Client::status).collect()
    }

    /// Makes a tap and plugs it into a port group. It is down: nothing passes until [`link::set_up`].
    ///
    /// # Errors
    /// The port group does not exist, its vswitch is not there, or the kernel refuses.
    pub fn plug(&self, port_group: &PortGroupName, tap_name: &str) -> Result<Tap, Diagnosis> {
        let what = format!("no NIC was plugged into port group {port_group}");
        let Some(group) = self.config.port_groups.iter().find(|group| group.name == *port_group) else {
            let cause = format!("this host has no port group with the label {port_group}");
            return Err(Diagnosis::new(what, cause, "network port-group list"));
        };
        let Some(bridge) = self.bridges.get(&group.vswitch) else {
            let cause = format!("its vswitch {} is not there", group.vswitch);
            return Err(Diagnosis::new(what, cause, "host check"));
        };
        if group.vlan.is_some() && !bridge.filters_vlans {
            let cause = "this kernel cannot keep VLANs apart on a bridge";
            return Err(Diagnosis::new(what, cause, "boot the kernel of the image, or leave its vlan out"));
        }
        let mtu = self.config.vswitches.iter().find(|v| v.name == group.vswitch).map_or(1500, |v| v.mtu);
        self.plug_into(*bridge, group, mtu.into(), tap_name).map_err(|error| {
            let cause = error.errno().map_or_else(|| error.to_string(), |errno| format!("{error}: {errno}"));
            Diagnosis::new(what, cause, "host check")
        })
    }

    fn plug_into(&self, bridge: Bridge, group: &PortGroup, mtu: u32, name: &str) -> Result<Tap, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let tap = Tap::create(&mut netlink, name)?;
        link::set_mtu(&mut netlink, tap.index, mtu)?;
        link::set_master(&mut netlink, tap.index, bridge.index)?;
        if bridge.filters_vlans {
            let vlan = group.vlan.unwrap_or(bridge.untagged);
            bridge::let_through(&mut netlink, tap.index, vlan, Passage::Untagged, false)?;
        }
        Ok(tap)
    }

    /// All NICs of this host and what uses them.
    ///
    /// # Errors
    /// The kernel does not list them.
    pub fn nics(&self) -> Result<Vec<NicRow>, NetlinkError> {
        rows(&self.uses)
    }

    /// The port groups of this host. Who is plugged in is for the caller to fill in.
    pub fn port_groups(&self) -> Vec<PortGroupRow> {
        let row = |group: &PortGroup| PortGroupRow {
            name: group.name.clone(),
            vswitch: group.vswitch.clone(),
            vlan: group.vlan,
            uplink: self.uplink(&group.vswitch),
            vms: Vec::new(),
        };
        self.config.port_groups.iter().map(row).collect()
    }

    /// What leads from the port group of this label into the world; none where it has no uplink, or there is no such port group.
    ///
    /// # Errors
    /// Why its uplink cannot be used now, for a person: `its uplink eth1 has no link`.
    pub fn uplink_port(&self, label: &PortGroupName) -> Result<Option<UplinkPort>, String> {
        let Some(group) = self.config.port_groups.iter().find(|group| group.name == *label) else { return Ok(None) };
        let vswitch = self.config.vswitches.iter().find(|vswitch| vswitch.name == group.vswitch);
        let Some(selector) = vswitch.and_then(|vswitch| vswitch.uplink.as_ref()) else { return Ok(None) };
        let nics = Netlink::open().and_then(|mut netlink| nic::inventory(&mut netlink));
        let nics = nics.map_err(|error| format!("the NICs cannot be listed: {error}"))?;
        let link = find(&nics, selector).map(|nic| &nic.link).filter(|link| link.master.is_some());
        let link = link.ok_or_else(|| format!("its uplink {selector} is not there"))?;
        if !link.carrier {
            return Err(format!("its uplink {} has no link", link.name));
        }
        let mac = link.mac.ok_or_else(|| format!("its uplink {} has no MAC address", link.name))?;
        Ok(Some(UplinkPort { index: link.index, name: link.name.clone(), mac, vlan: group.vlan }))
    }

    fn uplink(&self, vswitch: &VswitchName) -> Option<String> {
        let vswitch = self.config.vswitches.iter().find(|known| known.name == *vswitch)?;
        vswitch.uplink.as_ref().map(ToString::to_string)
    }

    /// The migration NIC as it is now, if it is configured and there.
    pub fn migration_nic(&self) -> Result<Option<(Nic, MigrationNic)>, NetlinkError> {
        let Some(migration) = &self.config.migration_nic else { return Ok(None) };
        let nics = nic::inventory(&mut Netlink::open()?)?;
        Ok(find(&nics, &migration.nic).cloned().map(|nic| (nic, migration.clone())))
    }

    /// Addresses of the management network, with their prefix.
    pub fn addresses(&self) -> Result<Vec<String>, NetlinkError> {
        let all = address::list(&mut Netlink::open()?)?;
        let ours = all.into_iter().filter(|assigned| assigned.global && self.uses.contains_key(&assigned.index));
        Ok(ours
            .filter(|assigned| !is_loopback(assigned.cidr.address))
            .map(|assigned| assigned.cidr.to_string())
            .collect())
    }
}

/// All NICs of a host whose configuration is bad: nothing uses them.
///
/// # Errors
/// The kernel does not list them.
pub fn unused_nics() -> Result<Vec<NicRow>, NetlinkError> {
    rows(&BTreeMap::new())
}

/// The NICs; `uses` says by a link's index what uses it.
fn rows(uses: &BTreeMap<u32, String>) -> Result<Vec<NicRow>, NetlinkError> {
    let is_used_as_nic = |nic: &Nic| uses.contains_key(&nic.link.index) && nic.link.kind.as_deref() != Some("bridge");
    let row = |nic: Nic| NicRow {
        used_by: uses.get(&nic.link.index).cloned(),
        name: nic.link.name,
        mac: nic.mac,
        pci: nic.pci,
        driver: nic.driver,
        link: nic.link.carrier,
        speed_mbits: nic.speed_mbits,
        mtu: nic.link.mtu,
    };
    let nics = nic::inventory(&mut Netlink::open()?)?;
    Ok(nics.into_iter().filter(|nic| nic.is_physical() || is_used_as_nic(nic)).map(row).collect())
}

fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback()
}

/// The least VLAN that no port group uses: it stands for "untagged" inside the bridge.
fn untagged_vlan(groups: &[PortGroup]) -> u16 {
    (1..4095).find(|vlan| groups.iter().all(|group| group.vlan != Some(*vlan))).unwrap_or(4094)
}
