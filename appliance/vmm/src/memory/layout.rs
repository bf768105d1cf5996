//! The guest-physical address map.
//!
//! ```text
//!   0            RAM, up to 3 GiB                        memfd offset = address
//!   0xc000_0000  32-bit window for PCI BARs              512 MiB
//!   0xe000_0000  PCI configuration space (ECAM), bus 0   1 MiB
//!   0xfec0_0000  I/O APIC
//!   0xfee0_0000  local APICs
//!   0xfffb_c000  identity map page and TSS that KVM wants on Intel
//!   4 GiB        the rest of RAM                         memfd offset = address - 1 GiB
//!   behind RAM   64-bit window for PCI BARs, on a GiB    4 GiB
//! ```

/// Bytes of a page, the unit of dirty tracking and of a move.
pub const PAGE_BYTES: u64 = 4096;

/// End of RAM below 4 GiB.
pub const LOW_RAM_END: u64 = 3 << 30;
/// Start of RAM above the hole.
pub const HIGH_RAM_START: u64 = 4 << 30;

/// Start of the 32-bit window for PCI BARs.
pub const PCI_WINDOW_32_START: u64 = LOW_RAM_END;
/// Length in bytes of the 32-bit window.
pub const PCI_WINDOW_32_BYTES: u64 = 512 << 20;
/// Length in bytes of the 64-bit window.
pub const PCI_WINDOW_64_BYTES: u64 = 4 << 30;

/// Start of PCI configuration space (PCI Express Base Specification, "Enhanced Configuration Access Mechanism").
pub const ECAM_START: u64 = 0xe000_0000;
/// Length in bytes: one bus of 32 devices with 8 functions of 4 KiB.
pub const ECAM_BYTES: u64 = 1 << 20;

/// Registers of the I/O APIC.
pub const IOAPIC_START: u64 = 0xfec0_0000;
/// Registers of the local APIC.
pub const LAPIC_START: u64 = 0xfee0_0000;
/// Page that KVM uses for its identity map on Intel hosts without unrestricted guest.
pub const IDENTITY_MAP_START: u64 = 0xfffb_c000;
/// Three pages that KVM uses for a TSS on such hosts.
pub const TSS_START: u64 = 0xfffb_d000;

/// Least RAM of a machine in bytes.
pub const MEMORY_BYTES_MIN: u64 = 16 << 20;
/// Most RAM of a machine in bytes.
pub const MEMORY_BYTES_MAX: u64 = 4 << 40;

/// One stretch of RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamRange {
    /// Guest-physical address of its first byte.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Offset of its first byte in the memfd.
    pub offset: u64,
}

/// Where the RAM of a machine of a given size lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    ranges: Vec<RamRange>,
}

/// A size of RAM that a machine cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a machine cannot have {0} bytes of memory: it must be a multiple of 2 MiB, from {MEMORY_BYTES_MIN} to {MEMORY_BYTES_MAX}"
)]
pub struct InvalidSize(pub u64);

impl Layout {
    /// The layout for `memory_bytes` of RAM.
    ///
    /// # Errors
    /// [`InvalidSize`] unless it is a multiple of 2 MiB within [`MEMORY_BYTES_MIN`] and [`MEMORY_BYTES_MAX`].
    pub fn new(memory_bytes: u64) -> Result<Self, InvalidSize> {
        if !(MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX).contains(&memory_bytes) || !memory_bytes.is_multiple_of(2 << 20) {
            return Err(InvalidSize(memory_bytes));
        }
        let low = memory_bytes.min(LOW_RAM_END);
        let mut ranges = vec![RamRange { start: 0, bytes: low, offset: 0 }];
        if memory_bytes > low {
            ranges.push(RamRange { start: HIGH_RAM_START, bytes: memory_bytes - low, offset: low });
        }
        Ok(Self { ranges })
    }

    /// The stretches of RAM, by address.
    pub fn ranges(&self) -> &[RamRange] {
        &self.ranges
    }

    /// Bytes of RAM altogether: the length of the memfd.
    pub fn memory_bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.bytes).sum()
    }

    /// Pages of RAM altogether.
    pub fn pages(&self) -> u64 {
        self.memory_bytes() / PAGE_BYTES
    }

    /// Offset in the memfd of the byte at a guest-physical address, if RAM is there.
    pub fn offset_of(&self, address: u64) -> Option<u64> {
        let range = self.ranges.iter().find(|range| address >= range.start && address - range.start < range.bytes)?;
        Some(address - range.start + range.offset)
    }

    /// Guest-physical address of the byte at an offset of the memfd.
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        let range = self.ranges.iter().find(|range| offset >= range.offset && offset - range.offset < range.bytes)?;
        Some(offset - range.offset + range.start)
    }

    /// Start of the 64-bit window for PCI BARs: the first GiB boundary behind RAM, at 4 GiB at least.
    pub fn pci_window_64_start(&self) -> u64 {
        let end = self.ranges.last().map_or(0, |range| range.start + range.bytes);
        end.max(HIGH_RAM_START).next_multiple_of(1 << 30)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_up_to_three_gib_is_one_stretch_and_more_goes_behind_the_hole() {
        let small = Layout::new(512 << 20).unwrap();
        assert_eq!(small.ranges(), [RamRange { start: 0, bytes: 512 << 20, offset: 0 }]);
        assert_eq!(small.pci_window_64_start(), 4 << 30);
        let exact = Layout::new(3 << 30).unwrap();
        assert_eq!(exact.ranges().len(), 1);
        let large = Layout::new((3 << 30) + (2 << 20)).unwrap();
        assert_eq!(large.ranges()[1], RamRange { start: 4 << 30, bytes: 2 << 20, offset: 3 << 30 });
        assert_eq!(large.pci_window_64_start(), 5 << 30);
    }

    #[test]
    fn address_and_offset_are_each_others_inverse_and_holes_have_none() {
        let layout = Layout::new(5 << 30).unwrap();
        for offset in [0, 4096, (3 << 30) - 1, 3 << 30, (5 << 30) - 1] {
            assert_eq!(layout.offset_of(layout.address_of(offset).unwrap()), Some(offset));
        }
        assert_eq!(layout.offset_of(3 << 30), None);
        assert_eq!(layout.offset_of((4 << 30) - 1), None);
        assert_eq!(layout.offset_of(6 << 30), None);
        assert_eq!(layout.address_of(5 << 30), None);
    }

    #[test]
    fn sizes_that_make_no_sense_are_refused() {
        for bytes in [0, 1 << 20, (64 << 20) + 4096, u64::MAX, 8 << 40] {
            assert_eq!(Layout::new(bytes), Err(InvalidSize(bytes)));
        }
    }

    #[test]
    fn the_map_has_no_overlaps() {
        const { assert!(PCI_WINDOW_32_START + PCI_WINDOW_32_BYTES <= ECAM_START) };
        const { assert!(ECAM_START + ECAM_BYTES <= IOAPIC_START) };
        const { assert!(IDENTITY_MAP_START + 4096 <= TSS_START) };
        const { assert!(TSS_START + 3 * 4096 <= HIGH_RAM_START) };
    }
}
