//! What a machine is made of, as plain data. Two machines of one specification can take over each other's state.

use model::cpu_report::Baseline;
use serde::{Deserialize, Serialize};

/// The shape of a machine. It travels with a migration: nothing here depends on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSpec {
    /// Number of vCPUs, 1 to 255.
    pub cpus: u8,
    /// Bytes of RAM: a multiple of 2 MiB.
    pub memory_bytes: u64,
    /// What of the host's processor the guest sees.
    pub cpu_baseline: Baseline,
    /// Disks, in the order in which the guest finds them.
    pub disks: Vec<DiskSpec>,
    /// Network interfaces, in the order in which the guest finds them.
    pub nics: Vec<NicSpec>,
    /// Whether there is an entropy device.
    pub rng: bool,
}

/// A disk as the guest sees it. The file behind it may come later: on the destination of a move it is opened only
/// after the commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// Bytes that the guest sees, a multiple of 512.
    pub capacity_bytes: u64,
    /// Whether the guest's writes are refused.
    pub read_only: bool,
    /// Serial number, 20 bytes at most (virtio 1.2, section 5.2.6, VIRTIO_BLK_T_GET_ID).
    pub serial: String,
}

/// A network interface as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Largest packet the link carries, told to the guest; `None` leaves it at the guest's default.
    pub mtu: Option<u16>,
}
