//! What is shown of hosts.

use std::net::IpAddr;

use model::config_tree::ConfigError;
use model::diagnosis::Reason;
use model::names::{DatastoreName, HostName, VmName};
use model::units::Bytes;
use serde::{Deserialize, Serialize};

/// This host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDetail {
    /// Its name.
    pub name: HostName,
    /// Its random identity, 32 hex digits.
    pub identity: String,
    /// Godwit's version.
    pub version: String,
    /// The kernel's version.
    pub kernel: String,
    /// Seconds since it booted.
    pub uptime_s: u64,
    /// The processor.
    pub cpu: String,
    /// Logical processors.
    pub cpus: u32,
    /// All memory.
    pub memory: Bytes,
    /// Memory that is free for VMs.
    pub memory_free: Bytes,
    /// VMs that run here.
    pub vms: u32,
    /// Addresses of the management network.
    pub addresses: Vec<String>,
    /// Whether KVM can be used.
    pub kvm: bool,
    /// It is in maintenance: no VM starts here or moves to here.
    pub maintenance: bool,
    /// Errors in the configuration that it came up with.
    pub config_errors: Vec<ConfigError>,
}

/// A host that shares a datastore with this one, or this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// Its name.
    pub name: HostName,
    /// Whether it lives.
    pub state: HostState,
    /// Two living hosts have this name: the rest is what the one said that spoke last.
    pub named_twice: bool,
    /// It is in maintenance: no VM starts there or moves to there.
    pub maintenance: bool,
    /// Seconds since its last sign of life, as this host's clock saw it, or the datastore's before this host looked. A second or two of a
    /// host that lives.
    pub seen_s: u64,
    /// VMs that run there.
    pub vms: u32,
    /// Its logical processors; absent where an older build does not tell.
    pub cpus: Option<u32>,
    /// The share of the last seconds in which they were busy, all together, thousandths; absent where it does not tell.
    pub busy_permille: Option<u16>,
    /// All its memory.
    pub memory: Bytes,
    /// Memory that is free there.
    pub memory_free: Bytes,
    /// Its migration address, where it has one.
    pub migration_address: Option<IpAddr>,
    /// Godwit's version there.
    pub version: String,
    /// Why this host does not see what the other does; of this host, why it does not see others on all its datastores.
    pub unseen: Option<Reason>,
}

/// What another host tells of itself on the datastores that it shares with this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSeen {
    /// What a list shows of it.
    pub row: HostRow,
    /// Its random identity, 32 hex digits.
    pub identity: String,
    /// Its boot; absent where an older build does not tell.
    pub boot: Option<String>,
    /// The version of its kernel; absent where an older build does not tell.
    pub kernel: Option<String>,
    /// Addresses of its management network; none where an older build does not tell.
    pub addresses: Vec<String>,
    /// Its processor; `host cpu --compare HOST` tells more.
    pub cpu: Option<String>,
    /// The UDP port of its migration stack.
    pub migration_port: Option<u16>,
    /// The public key of its migration stack, hex.
    pub public_key: Option<String>,
    /// Its datastores, and whether they answered it.
    pub datastores: Vec<(DatastoreName, bool)>,
    /// Its port groups with their VLANs; 0 is untagged.
    pub port_groups: Vec<(String, u16)>,
    /// VMs that run there, the first by name.
    pub running: Vec<VmName>,
}

/// Whether a host shows signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// The host that answers.
    ThisHost,
    /// It renews its lease, or where this host sees none, its record.
    Alive,
    /// It missed a few renewals: it may come back.
    Silent,
    /// Its lease has expired: it runs nothing any more, and what it held is free.
    Dead,
    /// It was shut down.
    Off,
    /// Nothing is known of it: it is this host that reaches no datastore which the two share.
    Unseen,
}

impl HostState {
    /// Whether it runs, as far as is known.
    pub fn runs(self) -> bool {
        matches!(self, Self::ThisHost | Self::Alive)
    }
}
