//! The memory map that a kernel is told: what PC firmware answers to INT 15h, AX=E820h (ACPI 6.5, section 15).

use crate::acpi;
use crate::memory::layout::{ECAM_BYTES, ECAM_START};
use crate::memory::{Layout, PAGE_BYTES};

/// End of the memory below 640 KiB that a kernel may use; behind it, firmware's own.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
/// Start of the memory above the PC's hole.
pub const ONE_MIB: u64 = 1 << 20;

/// What a stretch of addresses is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Memory that a kernel may use.
    Ram = 1,
    /// Anything that it must leave alone.
    Reserved = 2,
}

/// A stretch of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
    /// What is there.
    pub kind: Kind,
}

/// The map of a machine, by address.
pub fn memory_map(layout: &Layout) -> Vec<Stretch> {
    let mut map = vec![
        Stretch { start: 0, bytes: LOW_MEMORY_END, kind: Kind::Ram },
        Stretch { start: LOW_MEMORY_END, bytes: 0xa_0000 - LOW_MEMORY_END, kind: Kind::Reserved },
        Stretch { start: acpi::TABLES_START, bytes: ONE_MIB - acpi::TABLES_START, kind: Kind::Reserved },
    ];
    for range in layout.ranges() {
        let start = range.start.max(ONE_MIB);
        let bytes = (range.start + range.bytes - start) / PAGE_BYTES * PAGE_BYTES;
        map.push(Stretch { start, bytes, kind: Kind::Ram });
    }
    map.push(Stretch { start: ECAM_START, bytes: ECAM_BYTES, kind: Kind::Reserved });
    map.sort_by_key(|stretch| stretch.start);
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_in_order_without_overlaps_and_holds_all_ram_above_one_mib() {
        for bytes in [16 << 20, 3 << 30, 8 << 30] {
            let map = memory_map(&Layout::new(bytes).unwrap());
            assert!(map.windows(2).all(|pair| pair[0].start + pair[0].bytes <= pair[1].start), "{map:x?}");
            let high: u64 = map.iter().filter(|s| s.kind == Kind::Ram && s.start >= ONE_MIB).map(|s| s.bytes).sum();
            assert_eq!(high, bytes - ONE_MIB);
        }
    }
}
