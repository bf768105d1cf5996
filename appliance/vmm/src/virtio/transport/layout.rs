//! What lies where in the BAR, and the PCI capabilities that say so (virtio 1.2, 4.1.4).

use crate::pci::config_space::{ConfigSpace, Identity};
use crate::pci::msix::ENTRY_BYTES;
use crate::pci::slots::BAR_BYTES;
use crate::virtio::device::Kind;

/// Common configuration.
pub const COMMON: u64 = 0x0000;
/// Its length in bytes.
pub const COMMON_BYTES: u64 = 0x40;
/// ISR status.
pub const ISR: u64 = 0x1000;
/// Device configuration.
pub const DEVICE: u64 = 0x2000;
/// Its length in bytes.
pub const DEVICE_BYTES: u64 = 0x100;
/// Doorbells, one for each queue.
pub const NOTIFY: u64 = 0x3000;
/// Length of all doorbells in bytes.
pub const NOTIFY_BYTES: u64 = 0x1000;
/// Bytes from one doorbell to the next.
pub const NOTIFY_STEP: u64 = 4;
/// MSI-X table.
pub const MSIX_TABLE: u64 = 0x4000;
/// Its greatest length in bytes.
pub const MSIX_TABLE_BYTES: u64 = crate::pci::msix::VECTORS_MAX as u64 * ENTRY_BYTES;
/// MSI-X pending bits.
pub const MSIX_PENDING: u64 = 0x5000;
/// Their length in bytes.
pub const MSIX_PENDING_BYTES: u64 = 8;

const CAPABILITY_VENDOR: u8 = 0x09;
const CAPABILITY_MSIX: u8 = 0x11;
const TYPE_COMMON: u8 = 1;
const TYPE_NOTIFY: u8 = 2;
const TYPE_ISR: u8 = 3;
const TYPE_DEVICE: u8 = 4;
const TYPE_PCI: u8 = 5;

const VENDOR: u16 = 0x1af4;
/// Device numbers of modern virtio devices start here (4.1.2.1).
const DEVICE_FROM: u16 = 0x1040;

/// Where the capabilities are that have registers of their own.
#[derive(Debug, Clone, Copy)]
pub struct Capabilities {
    /// MSI-X.
    pub msix: usize,
    /// The window onto the BAR (4.1.4.9).
    pub window: usize,
}

/// Offset in the window's capability of its fields.
pub mod window {
    /// Which BAR: u8.
    pub const BAR: usize = 4;
    /// Where in the BAR: u32.
    pub const OFFSET: usize = 8;
    /// How many bytes: u32; 1, 2 or 4.
    pub const LENGTH: usize = 12;
    /// The bytes themselves.
    pub const DATA: usize = 16;
    /// Bytes of the capability.
    pub const END: usize = 20;
}

/// Configuration space of a device of this kind, its BAR at `bar_start`, with `vectors` MSI-X vectors.
pub fn config_space(kind: &Kind, bar_start: u64, vectors: usize) -> (ConfigSpace, Capabilities) {
    let mut space = ConfigSpace::new(Identity {
        vendor: VENDOR,
        device: DEVICE_FROM + kind.id,
        revision: 1,
        class: kind.class,
        subsystem_vendor: VENDOR,
        subsystem: DEVICE_FROM + kind.id,
    });
    space.add_bar(bar_start, BAR_BYTES);
    let mut msix = Vec::from((vectors as u16 - 1).to_le_bytes());
    msix.extend((MSIX_TABLE as u32).to_le_bytes());
    msix.extend((MSIX_PENDING as u32).to_le_bytes());
    let msix = space.add_capability(CAPABILITY_MSIX, &msix, &[0, 0xc0]);
    space.add_capability(CAPABILITY_VENDOR, &structure(TYPE_COMMON, COMMON, COMMON_BYTES, &[]), &[]);
    let step = (NOTIFY_STEP as u32).to_le_bytes();
    space.add_capability(CAPABILITY_VENDOR, &structure(TYPE_NOTIFY, NOTIFY, NOTIFY_BYTES, &step), &[]);
    space.add_capability(CAPABILITY_VENDOR, &structure(TYPE_ISR, ISR, 1, &[]), &[]);
    space.add_capability(CAPABILITY_VENDOR, &structure(TYPE_DEVICE, DEVICE, DEVICE_BYTES, &[]), &[]);
    let mut writable = [0; window::END - 2];
    writable[window::BAR - 2] = 0xff;
    writable[window::OFFSET - 2..].fill(0xff);
    let window = space.add_capability(CAPABILITY_VENDOR, &structure(TYPE_PCI, 0, 0, &[0; 4]), &writable);
    (space, Capabilities { msix, window })
}

/// struct virtio_pci_cap behind its id and next pointer: length, type, BAR, id, padding, offset, length.
fn structure(kind: u8, offset: u64, length: u64, tail: &[u8]) -> Vec<u8> {
    let mut body = vec![16 + tail.len() as u8, kind, 0, 0, 0, 0];
    body.extend((offset as u32).to_le_bytes());
    body.extend((length as u32).to_le_bytes());
    body.extend(tail);
    body
}
