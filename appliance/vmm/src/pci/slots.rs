//! Who sits in which slot of bus 0, and where its BAR lies before the guest moves it.
//!
//! Each kind of device has slots of its own, so that a disk more or less never renames a network interface in the guest
//! (`enp0s2`), and a machine of one specification looks the same on every host.

use crate::memory::layout::PCI_WINDOW_32_START;

/// Entropy device.
pub const RNG_SLOT: u8 = 1;
/// First network interface.
pub const NIC_SLOT: u8 = 2;
/// Network interfaces at most.
pub const NICS_MAX: usize = 8;
/// First disk.
pub const DISK_SLOT: u8 = 10;
/// Disks at most.
pub const DISKS_MAX: usize = 22;

/// Bytes of the one BAR that every function has: registers, doorbells, MSI-X.
pub const BAR_BYTES: u64 = 0x8000;

/// Where the BAR of the function in `slot` lies when the machine starts.
pub const fn bar_start(slot: u8) -> u64 {
    PCI_WINDOW_32_START + slot as u64 * BAR_BYTES
}

/// The slot of the NIC with this index.
pub const fn nic(index: usize) -> Option<u8> {
    if index < NICS_MAX { Some(NIC_SLOT + index as u8) } else { None }
}

/// The slot of the disk with this index.
pub const fn disk(index: usize) -> Option<u8> {
    if index < DISKS_MAX { Some(DISK_SLOT + index as u8) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_do_not_overlap_and_fit_the_bus() {
        const { assert!(NIC_SLOT as usize + NICS_MAX <= DISK_SLOT as usize) };
        const { assert!(DISK_SLOT as usize + DISKS_MAX <= 32) };
        assert_eq!(disk(DISKS_MAX), None);
        assert_eq!(nic(NICS_MAX), None);
    }
}
