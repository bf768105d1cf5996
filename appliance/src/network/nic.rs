//! Physical NICs: what there is, and which one a configuration means.

use std::fs;
use std::path::Path;

use model::host_config::NicSelector;
use model::names::MacAddress;

use super::link::{self, Link};
use super::netlink::{Netlink, NetlinkError};

/// Links that software makes on top of others, which share a MAC address with them and never are what somebody means.
const DERIVED: [&str; 5] = ["bridge", "tun", "vlan", "bond", "macvtap"];

/// A NIC.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Nic {
    /// What the kernel says of it.
    pub link: Link,
    /// Its MAC address, as the hardware has it.
    pub mac: Option<MacAddress>,
    /// Its PCI address, `0000:00:03.0`.
    pub pci: Option<String>,
    /// Its driver.
    pub driver: Option<String>,
    /// Mbit/s, where the driver tells.
    pub speed_mbits: Option<u32>,
    /// Full duplex, where the driver tells.
    pub full_duplex: Option<bool>,
}

impl Nic {
    fn of(link: Link) -> Self {
        let folder = Path::new("/sys/class/net").join(&link.name);
        let device = folder.join("device");
        let target = |path: &Path| Some(fs::canonicalize(path).ok()?.file_name()?.to_string_lossy().into_owned());
        // A virtio NIC hangs on a virtio bus of its own, one below the PCI device.
        let pci = fs::canonicalize(&device).ok().and_then(|path| {
            path.iter().rev().filter_map(|part| part.to_str()).find(|part| is_pci_address(part)).map(str::to_owned)
        });
        let attribute = |name: &str| Some(fs::read_to_string(folder.join(name)).ok()?.trim().to_owned());
        // A link that is down answers EINVAL or -1.
        let speed = attribute("speed").and_then(|text| text.parse::<u32>().ok()).filter(|speed| *speed > 0);
        let duplex = attribute("duplex").filter(|text| text != "unknown").map(|text| text == "full");
        let mac = link.permanent_mac.or(link.mac).and_then(|mac| MacAddress::new(mac).ok());
        Self { mac, pci, driver: target(&device.join("driver")), speed_mbits: speed, full_duplex: duplex, link }
    }

    /// True for hardware (or what a hypervisor shows as hardware).
    pub fn is_physical(&self) -> bool {
        self.driver.is_some()
    }

    fn is(&self, selector: &NicSelector) -> bool {
        let derived = self.link.kind.as_deref().is_some_and(|kind| DERIVED.contains(&kind));
        match selector {
            NicSelector::Mac(mac) => !derived && self.mac == Some(*mac),
            NicSelector::Pci(address) => self.pci.as_ref() == Some(address),
            NicSelector::Name(name) => !derived && self.link.name == *name,
        }
    }
}

fn is_pci_address(text: &str) -> bool {
    matches!(text.parse::<NicSelector>(), Ok(NicSelector::Pci(_)))
}

/// Every link that could be meant by a configuration, physical ones first, by name.
pub fn inventory(netlink: &mut Netlink) -> Result<Vec<Nic>, NetlinkError> {
    let mut nics: Vec<Nic> = link::list(netlink)?.into_iter().map(Nic::of).collect();
    nics.sort_by(|a, b| b.is_physical().cmp(&a.is_physical()).then_with(|| a.link.name.cmp(&b.link.name)));
    Ok(nics)
}

/// The NIC that `selector` means.
pub fn find<'a>(nics: &'a [Nic], selector: &NicSelector) -> Option<&'a Nic> {
    nics.iter().find(|nic| nic.is(selector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nic_is_found_by_each_of_its_names_and_a_bridge_with_its_address_is_not_taken_for_it() {
        let mac = [0x52, 0x54, 0, 0, 0, 1];
        let nic = |name: &str, kind: Option<&str>, pci: Option<&str>| Nic {
            link: Link { name: name.into(), kind: kind.map(str::to_owned), mac: Some(mac), ..Link::default() },
            mac: MacAddress::new(mac).ok(),
            pci: pci.map(str::to_owned),
            driver: None,
            speed_mbits: None,
            full_duplex: None,
        };
        let nics = [nic("vs0", Some("bridge"), None), nic("eth0", None, Some("0000:00:03.0"))];
        for selector in ["52:54:00:00:00:01", "0000:00:03.0", "eth0"] {
            let found = find(&nics, &selector.parse().unwrap());
            assert_eq!(found.map(|nic| nic.link.name.as_str()), Some("eth0"), "{selector}");
        }
        assert_eq!(find(&nics, &"vs0".parse().unwrap()), None);
    }
}
