//! The facts that the conditions judge. They travel in an offer, and are bounded.

use std::fmt;

use model::cpu_report::{Baseline, CpuReport};
use model::names::{DatastoreName, HostName, PortGroupName, VmName};
use model::units::Bytes;
use model::vm_config::{self, VmConfig};
use serde::{Deserialize, Serialize};

use crate::wire::WireError;
use crate::wire::error::bound;

/// What a VM needs of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmFacts {
    /// Its name.
    pub name: VmName,
    /// Its memory.
    pub memory: Bytes,
    /// Its vCPUs.
    pub cpus: u8,
    /// What of the processor it sees.
    pub baseline: Baseline,
    /// Host CPUs that it is pinned to.
    pub affinity: Option<Vec<u32>>,
    /// The datastore that holds its folder and lease.
    pub datastore: DatastoreName,
    /// Its disks and other media.
    pub media: Vec<Medium>,
    /// The label of each NIC's port group.
    pub nics: Vec<PortGroupName>,
}

/// Something that a VM reads or writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Medium {
    /// What it is to the VM: `disk 0`.
    pub what: String,
    /// The file behind it.
    pub file: String,
    /// Where that lies.
    pub place: Place,
}

/// Where a medium lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// On a datastore.
    Datastore(DatastoreName),
    /// On the host itself, where no other host can read it.
    HostLocal,
}

impl VmFacts {
    /// What the VM of this configuration, whose folder lies on `datastore`, needs.
    pub fn of(config: &VmConfig, datastore: &DatastoreName) -> Self {
        let disks = config.disks.iter().enumerate().map(|(index, disk)| Medium {
            what: format!("disk {index}"),
            file: disk.medium.to_string(),
            place: match disk.medium {
                vm_config::Medium::File(_) | vm_config::Medium::Iso(_) => Place::Datastore(datastore.clone()),
                vm_config::Medium::Device(_) => Place::HostLocal,
            },
        });
        Self {
            name: config.name.clone(),
            memory: config.memory,
            cpus: config.cpus,
            baseline: config.cpu_baseline,
            affinity: config.cpu_affinity.clone(),
            datastore: datastore.clone(),
            media: disks.collect(),
            nics: config.nics.iter().map(|nic| nic.port_group.clone()).collect(),
        }
    }

    /// Judges what came from outside.
    ///
    /// # Errors
    /// The part that is too long.
    pub fn within_bounds(&self) -> Result<(), WireError> {
        bound("the list of media", self.media.len() as u64, 64)?;
        bound("the list of NICs", self.nics.len() as u64, 64)?;
        bound("the CPU affinity", self.affinity.as_ref().map_or(0, Vec::len) as u64, 4096)?;
        self.media.iter().try_for_each(|medium| bound("a medium", (medium.what.len() + medium.file.len()) as u64, 1024))
    }
}

/// What a host has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// Its name.
    pub host: HostName,
    /// Its processor.
    pub cpu: CpuReport,
    /// Memory that a VM could get now.
    pub memory_free: Bytes,
    /// Its datastores.
    pub datastores: Vec<DatastoreFacts>,
    /// Its port groups.
    pub port_groups: Vec<PortGroupFacts>,
    /// It takes no VM in.
    pub maintenance: bool,
    /// Its migration NIC, as the kernel tells.
    pub nic: NicFacts,
    /// Migration slots that are free.
    pub slots_free: u16,
    /// VMs that run here or are about to arrive.
    pub vms: Vec<VmName>,
}

/// A datastore as one host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreFacts {
    /// What it is called.
    pub name: DatastoreName,
    /// Where it lies: `nfs 10.0.0.1:/vms`.
    pub identity: String,
    /// What it is: the identity of its lease area, 32 hex digits, which a copy of it has too. Absent where the host has not opened
    /// the area yet.
    pub area: Option<String>,
    /// The host read and wrote it a moment ago.
    pub writable: bool,
    /// What it said, where it did not work.
    pub trouble: String,
}

impl DatastoreFacts {
    /// Whether it is the same datastore, as far as that is known: at one place, with one lease area. At another place the same area may
    /// be that of a copy, in whose disks a VM that moved there would find the past.
    pub fn is(&self, other: &Self) -> bool {
        let areas_differ = self.area.as_ref().zip(other.area.as_ref()).is_some_and(|(area, other)| area != other);
        self.identity == other.identity && !areas_differ
    }
}

impl fmt::Display for DatastoreFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.identity)?;
        // So many digits tell two apart.
        let shown = self.area.as_ref().map(|area| area.chars().take(8).collect::<String>());
        shown.map_or(Ok(()), |area| write!(f, " (lease area {area})"))
    }
}

/// A port group of one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortGroupFacts {
    /// Its label.
    pub label: PortGroupName,
    /// Its VLAN.
    pub vlan: Option<u16>,
    /// The vswitch has an uplink whose link is up.
    pub uplink: Uplink,
}

/// What connects a vswitch with the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Uplink {
    /// A NIC with a link.
    Up,
    /// A NIC without a link.
    Down,
    /// None: an internal vswitch.
    None,
}

impl HostFacts {
    /// The datastore of this name.
    pub fn datastore(&self, name: &DatastoreName) -> Option<&DatastoreFacts> {
        self.datastores.iter().find(|datastore| datastore.name == *name)
    }

    /// The port group of exactly this label.
    pub fn port_group(&self, label: &PortGroupName) -> Option<&PortGroupFacts> {
        self.port_groups.iter().find(|group| group.label == *label)
    }

    /// Judges what came from outside.
    ///
    /// # Errors
    /// The part that is too long.
    pub fn within_bounds(&self) -> Result<(), WireError> {
        bound("the CPU report", self.cpu.leaves.len() as u64, 512)?;
        bound("the CPU's name", (self.cpu.brand.len() + self.cpu.vendor.len()) as u64, 256)?;
        bound("the list of datastores", self.datastores.len() as u64, 64)?;
        bound("the list of port groups", self.port_groups.len() as u64, 4096)?;
        bound("the list of VMs", self.vms.len() as u64, 4096)?;
        let area = |store: &DatastoreFacts| store.area.as_ref().map_or(0, String::len);
        let texts = self.datastores.iter().map(|store| store.identity.len() + store.trouble.len() + area(store));
        texts.into_iter().try_for_each(|length| bound("a datastore's identity", length as u64, 2048))
    }
}

/// The migration NIC of a host, as its kernel tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicFacts {
    /// The speed of its link, where it tells one.
    pub speed_mbits: Option<u32>,
    /// Both directions at once, where it tells.
    pub full_duplex: Option<bool>,
    /// The MTU that it is set to.
    pub mtu: u16,
}

/// The path between two migration NICs, as a probe measured it before the offer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFacts {
    /// The least round-trip time, microseconds.
    pub rtt_us: u64,
    /// What arrived, bytes a second; none where it was not measured.
    pub bandwidth_bytes_per_s: Option<u64>,
    /// The largest IP packet that arrived; none where it was not measured.
    pub mtu: Option<u16>,
}

/// Two hosts between which a VM can move; tests take something away.
#[cfg(test)]
pub(crate) mod example {
    use model::cpu_report::CpuidLeaf;
    use model::vm_config::Verify;

    use super::*;
    use crate::wire::message::{Offer, RunState};

    /// A VM of host-a is offered, which bears 300 ms of stun.
    pub(crate) fn offer() -> Offer {
        Offer {
            vm: vm(),
            config_text: String::new(),
            machine: Vec::new(),
            source: host("host-a"),
            link: link(),
            run_state: RunState::Running,
            epoch: 1,
            state_bytes: 1,
            stun_us_max: 300_000,
            verify: Verify::Transfer,
            check_only: false,
            force_link: false,
            probe: Vec::new(),
        }
    }

    pub(crate) fn vm() -> VmFacts {
        let datastore: DatastoreName = "nfs1".parse().unwrap();
        let medium = |index, file: &str| Medium {
            what: format!("disk {index}"),
            file: file.to_owned(),
            place: Place::Datastore(datastore.clone()),
        };
        VmFacts {
            name: "web".parse().unwrap(),
            memory: Bytes::mib(512),
            cpus: 2,
            baseline: Baseline::V2,
            affinity: None,
            media: vec![medium(0, "root.raw")],
            datastore,
            nics: vec!["lab".parse().unwrap()],
        }
    }

    pub(crate) fn host(name: &str) -> HostFacts {
        let leaf = |function| CpuidLeaf {
            function,
            eax: u32::MAX,
            ebx: u32::MAX,
            ecx: u32::MAX,
            edx: u32::MAX,
            ..CpuidLeaf::default()
        };
        HostFacts {
            host: name.parse().unwrap(),
            cpu: CpuReport {
                brand: "EPYC".to_owned(),
                vendor: "AuthenticAMD".to_owned(),
                signature: [25, 1, 1],
                tsc_khz: 2_000_000,
                leaves: [1, 7, 0xd, 0x8000_0001, 0x8000_0007, 0x8000_0008].map(leaf).to_vec(),
            },
            memory_free: Bytes::mib(4096),
            datastores: vec![DatastoreFacts {
                name: "nfs1".parse().unwrap(),
                identity: "nfs 10.0.0.1:/vms".to_owned(),
                area: Some("1f".repeat(16)),
                writable: true,
                trouble: String::new(),
            }],
            port_groups: vec![PortGroupFacts { label: "lab".parse().unwrap(), vlan: Some(10), uplink: Uplink::Up }],
            maintenance: false,
            nic: NicFacts { speed_mbits: Some(10_000), full_duplex: Some(true), mtu: 9000 },
            slots_free: 4,
            vms: Vec::new(),
        }
    }

    pub(crate) fn link() -> LinkFacts {
        LinkFacts { rtt_us: 200, bandwidth_bytes_per_s: Some(1_100_000_000), mtu: Some(9000) }
    }

    /// What `check` finds when `change` changed something.
    pub(crate) fn causes(
        check: fn(&super::super::Conditions<'_>) -> Vec<super::super::Finding>,
        change: impl FnOnce(&mut VmFacts, &mut HostFacts, &mut HostFacts, &mut LinkFacts),
    ) -> Vec<String> {
        let (mut vm, mut source, mut destination, mut link) = (vm(), host("host-a"), host("host-b"), link());
        change(&mut vm, &mut source, &mut destination, &mut link);
        let conditions = super::super::Conditions {
            vm: &vm,
            source: &source,
            destination: &destination,
            link: &link,
            force_link: false,
        };
        let findings = check(&conditions);
        assert!(findings.iter().all(|finding| !finding.reason.hint.is_empty()), "every finding names its mend");
        findings.into_iter().map(|finding| finding.reason.cause).collect()
    }
}
