//! What the registers of a disk show, and how a file is put behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use super::engine::BlkEngine;
use super::request::{DISCARD_SECTORS_MAX, Limits, WRITE_ZEROES_SECTORS_MAX};
use super::state;
use crate::disk::RawDisk;
use crate::disk::raw::SECTOR_BYTES;
use crate::machine::DiskSpec;
use crate::state::{ChunkKind, StateError};
use crate::virtio::device::{Kind, VirtioDevice};
use crate::virtio::transport::VirtioPci;

/// Entries of the queue, and requests in flight.
pub const QUEUE_SIZE: u16 = 256;
/// Data segments of a request: the queue without header and status.
const SEGMENTS_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Bytes of the serial number.
pub const ID_BYTES: usize = 20;
/// What file systems of the host like best, shown as the physical block.
const PHYSICAL_BLOCK_BYTES: u32 = 4096;
const CONFIG_BYTES: usize = 60;

/// Why a file cannot be put behind a disk.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The device has a disk, or its engine is at work.
    #[error("{name} has its disk already")]
    Attached {
        /// Name of the device.
        name: String,
    },
    /// Shorter than what the guest was shown.
    #[error("the file of {name} has {found} bytes; the guest knows it with {wanted}")]
    TooSmall {
        /// Name of the device.
        name: String,
        /// Whole sectors of the file, bytes.
        found: u64,
        /// What the guest sees, bytes.
        wanted: u64,
    },
    /// The file wants larger blocks than the guest was shown.
    #[error("the file of {name} wants I/O in blocks of {found} bytes; the guest knows it with {wanted}")]
    BlockSize {
        /// Name of the device.
        name: String,
        /// What the file wants, bytes.
        found: u32,
        /// What the guest sees, bytes.
        wanted: u32,
    },
    /// Open for reading, but the guest may write.
    #[error("the file of {name} is open for reading only")]
    ReadOnly {
        /// Name of the device.
        name: String,
    },
}

/// The front of a disk.
#[derive(Debug)]
pub struct Blk {
    pub(super) limits: Limits,
    /// Logical block, bytes. Fixed once a driver may have read it.
    pub(super) block_bytes: u32,
    pub(super) seen: bool,
    failures: Arc<AtomicU64>,
}

impl Blk {
    /// A disk of this specification, without a file yet.
    pub fn new(spec: &DiskSpec) -> (Self, BlkEngine) {
        let limits = Limits { sectors: spec.capacity_bytes / SECTOR_BYTES, read_only: spec.read_only };
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(spec.serial.bytes()) {
            *to = from;
        }
        let failures = Arc::new(AtomicU64::new(0));
        let engine = BlkEngine { disk: None, limits, id, writeback: false, failures: Arc::clone(&failures) };
        (Self { limits, block_bytes: SECTOR_BYTES as u32, seen: false, failures }, engine)
    }

    /// Requests that the storage failed since the device was made.
    pub fn failed_requests(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Whether the guest's writes are refused.
    pub fn read_only(&self) -> bool {
        self.limits.read_only
    }

    fn config(&self) -> [u8; CONFIG_BYTES] {
        let mut config = [0; CONFIG_BYTES];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.limits.sectors.to_le_bytes());
        put(12, &SEGMENTS_MAX.to_le_bytes());
        put(20, &self.block_bytes.to_le_bytes());
        let blocks = (PHYSICAL_BLOCK_BYTES / self.block_bytes).max(1);
        put(24, &[blocks.trailing_zeros() as u8]);
        put(26, &(blocks as u16).to_le_bytes());
        put(34, &1u16.to_le_bytes());
        put(36, &DISCARD_SECTORS_MAX.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &(PHYSICAL_BLOCK_BYTES / SECTOR_BYTES as u32).to_le_bytes());
        put(48, &WRITE_ZEROES_SECTORS_MAX.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        config
    }
}

impl VirtioDevice for Blk {
    type Engine = BlkEngine;

    const KIND: Kind = Kind {
        id: VIRTIO_ID_BLOCK as u16,
        class: 0x01_0000,
        noun: "disk",
        chunk: ChunkKind::DEVICES_FROM + 0x10,
        version: 1,
        queue_sizes: &[QUEUE_SIZE],
    };

    fn features(&self) -> u64 {
        let common = 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_TOPOLOGY;
        let writes = 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES;
        common | if self.limits.read_only { 1 << VIRTIO_BLK_F_RO } else { writes }
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let config = self.config();
        for (at, byte) in (offset..).zip(data.iter_mut()) {
            *byte = config.get(at).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, _: usize, _: &[u8]) {}

    fn activate(&mut self, engine: &mut BlkEngine, features: u64) {
        self.seen = true;
        engine.writeback = features & 1 << VIRTIO_BLK_F_FLUSH != 0;
    }

    fn reset(&mut self, engine: &mut BlkEngine) {
        engine.writeback = false;
    }

    fn export_state(&self, _: &BlkEngine) -> Result<Vec<u8>, StateError> {
        state::export(self)
    }

    fn import_state(&mut self, engine: &mut BlkEngine, bytes: &[u8]) -> Result<(), StateError> {
        state::import(self, bytes)?;
        match &engine.disk {
            Some(disk) if disk.guest_block_bytes() > self.block_bytes => {
                Err(StateError::invalid("disk", "its file wants larger blocks than the guest knows"))
            }
            _ => Ok(()),
        }
    }
}

impl VirtioPci<Blk> {
    /// Puts a file behind the disk; requests that waited for it are served as soon as the machine runs.
    ///
    /// # Errors
    /// [`AttachError`]; the disk stays without.
    pub fn attach_disk(&mut self, disk: RawDisk) -> Result<(), AttachError> {
        let name = self.label();
        let front = self.front();
        let (found, wanted) = (disk.sectors(), front.limits.sectors);
        if found < wanted {
            return Err(AttachError::TooSmall { name, found: found * SECTOR_BYTES, wanted: wanted * SECTOR_BYTES });
        }
        let (found, wanted) = (disk.guest_block_bytes(), front.block_bytes);
        if found > wanted && front.seen {
            return Err(AttachError::BlockSize { name, found, wanted });
        }
        if disk.read_only() && !front.limits.read_only {
            return Err(AttachError::ReadOnly { name });
        }
        let attach = |front: &mut Blk, engine: &mut BlkEngine| {
            if engine.disk.is_some() {
                return false;
            }
            front.block_bytes = front.block_bytes.max(found);
            engine.disk = Some(disk);
            true
        };
        match self.with_engine(attach) {
            Some(true) => Ok(()),
            _ => Err(AttachError::Attached { name }),
        }
    }

    /// Whether there is a file behind the disk. One at work has.
    pub fn has_disk(&mut self) -> bool {
        self.with_engine(|_, engine| engine.disk.is_some()).unwrap_or(true)
    }

    /// Changes the file behind a device at rest. None if it has none or is at work.
    pub fn with_disk<R>(&mut self, change: impl FnOnce(&mut RawDisk) -> R) -> Option<R> {
        self.with_engine(|_, engine| engine.disk.as_mut().map(change)).flatten()
    }

    /// Takes the file away from a device at rest, so that another host may open it. None if it has none or is at work.
    pub fn detach_disk(&mut self) -> Option<RawDisk> {
        self.with_engine(|_, engine| engine.disk.take()).flatten()
    }
}
