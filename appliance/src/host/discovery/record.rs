//! What a host says of itself on each datastore that it has.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::cpu_report::CpuReport;
use model::names::{DatastoreName, HostName, VmName};
use model::units::Bytes;
use serde::{Deserialize, Serialize};

use crate::host::maintenance::Decision;

/// Identities that a host remembers to have had.
pub(super) const EARLIER_MAX: usize = 32;
/// VMs that a host tells to run there: with names as long as can be, the record stays far below what is read of one.
pub(in crate::host) const RUNNING_MAX: usize = 256;

/// What a host says of itself: `hosts/<hostname>/record.toml`. What later builds added may be missing in the record of an
/// older one, and what they will add is passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Its name.
    pub name: HostName,
    /// Its random identity, hex.
    pub identity: String,
    /// The identities that it had before, hex, the last one last: a host whose boot medium keeps none has a new one after each
    /// boot, and its VMs are held by an earlier one until they are started again.
    #[serde(default)]
    pub earlier: Vec<String>,
    /// The identity of another living host that writes this record too, hex: the name is used twice.
    pub twin: Option<String>,
    /// Godwit's version.
    pub version: String,
    /// The version of its kernel; an older build does not tell.
    pub kernel: Option<String>,
    /// Addresses of its management network; none are told by an older build.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Counts up with each heartbeat.
    pub beat: u64,
    /// The boot that wrote it (random(4), boot_id); none is told by an older build.
    pub boot: Option<String>,
    /// The host was shut down: this is its last word.
    #[serde(default)]
    pub left: bool,
    /// VMs that run there.
    pub vms: u32,
    /// Which they are, the first [`RUNNING_MAX`] by name.
    #[serde(default)]
    pub running: Vec<VmName>,
    /// Its logical processors.
    pub cpus: Option<u32>,
    /// How much of the time since the last heartbeat they were busy, all together, thousandths.
    pub busy_permille: Option<u16>,
    /// All its memory.
    pub memory: Bytes,
    /// Memory that is free for VMs.
    pub memory_free: Bytes,
    /// Whether it is in maintenance.
    #[serde(default)]
    pub maintenance: Decision,
    /// How its migration stack is reached, if it has one.
    pub migration: Option<MigrationRecord>,
    /// Its datastores; none are told by an older build.
    #[serde(default)]
    pub datastores: BTreeMap<DatastoreName, DatastoreRecord>,
    /// The labels of its port groups with their VLANs, 0 for untagged.
    pub port_groups: BTreeMap<String, u16>,
    /// What its processor can show.
    pub cpu: Option<CpuReport>,
}

/// How a migration stack is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationRecord {
    /// Its address.
    pub address: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// Its public key, hex.
    pub public_key: String,
}

/// A datastore that a host has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreRecord {
    /// What it is, the same on every host whatever it is called there: the identity of its lease area, 32 hex digits. Absent
    /// while the host has not opened the area.
    pub area: Option<String>,
    /// It answered when it was last looked at.
    pub available: bool,
}

impl HostRecord {
    /// Whether it has a datastore, under the name that another host gives it or under another.
    pub(in crate::host) fn has(&self, name: &DatastoreName, there: &DatastoreRecord) -> bool {
        let same = |own: &DatastoreRecord| own.area.is_some() && own.area == there.area;
        self.datastores.contains_key(name) || self.datastores.values().any(same)
    }

    /// What this host was before it came to be `now`, as far as this record, its own, tells.
    pub(super) fn identities_before(self, now: &str) -> Vec<String> {
        let mut before: Vec<String> = self.earlier.into_iter().chain([self.identity]).collect();
        before.retain(|identity| identity != now);
        before.dedup();
        before.split_off(before.len().saturating_sub(EARLIER_MAX))
    }
}

/// A host in a test.
#[cfg(test)]
pub(crate) fn example(name: &str, beat: u64) -> HostRecord {
    HostRecord {
        name: name.parse().expect("valid"),
        identity: "00".repeat(16),
        earlier: Vec::new(),
        twin: None,
        version: "0.1.0".to_owned(),
        kernel: Some("6.12.0".to_owned()),
        addresses: vec!["192.168.0.2/24".to_owned()],
        beat,
        boot: None,
        left: false,
        maintenance: Decision::default(),
        vms: 0,
        running: Vec::new(),
        cpus: Some(8),
        busy_permille: Some(125),
        memory: Bytes(0),
        memory_free: Bytes(0),
        migration: Some(MigrationRecord {
            address: "10.0.0.2".parse().expect("valid"),
            port: 7780,
            public_key: "0aff".to_owned(),
        }),
        datastores: BTreeMap::from([(
            "lab".parse().expect("valid"),
            DatastoreRecord { area: Some("1f".repeat(16)), available: true },
        )]),
        port_groups: BTreeMap::from([("lab net".to_owned(), 10)]),
        cpu: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_writing_and_reading() {
        let text = toml::to_string(&example("host-b", 7)).expect("written");
        assert_eq!(toml::from_str::<HostRecord>(&text).expect("read"), example("host-b", 7));
    }

    #[test]
    fn the_record_of_an_older_build_is_read_and_so_is_that_of_a_later_one() {
        let older = "name = \"host-b\"\nidentity = \"00\"\nversion = \"0.0.9\"\nbeat = 1\nvms = 0\nmemory = 1\n\
                     memory_free = 1\n[port_groups]\n";
        let read: HostRecord = toml::from_str(older).expect("read");
        assert_eq!((read.cpus, read.busy_permille, read.twin, read.cpu, read.kernel), (None, None, None, None, None));
        assert!(read.datastores.is_empty() && read.earlier.is_empty() && read.addresses.is_empty());
        let later = older.replace("vms = 0", "vms = 0\ntemperature = 41");
        assert!(toml::from_str::<HostRecord>(&later).is_ok());
    }

    #[test]
    fn a_host_that_boots_ever_so_often_remembers_its_last_identities() {
        let earlier: Vec<String> = (0..EARLIER_MAX).map(|n| format!("{n:032x}")).collect();
        let left = HostRecord { earlier, identity: "ff".repeat(16), ..example("host-b", 1) };
        let before = left.identities_before(&"ee".repeat(16));
        assert_eq!((before.len(), before[0].as_str()), (EARLIER_MAX, format!("{:032x}", 1).as_str()));
        assert_eq!(before[EARLIER_MAX - 1], "ff".repeat(16));
    }
}
