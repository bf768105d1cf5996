//! Where things stand in a lease area, the same on an NFS file and on a LUN's metadata partition.
//!
//! ```text
//!   0      header
//!   8 KiB  hosts       slots x register        a host's sign of life
//!          directory   slots x register        Disk Paxos over the directory's tables
//!          tables      slots x 2 x table       who owns which VM place (copy on write)
//!          VMs         vms x slots x register  Disk Paxos over each VM's holder
//! ```
//! A register is two sectors written in turn, so that a torn write leaves the value before it. All registers of one
//! kind lie side by side, so that one contiguous read sees all hosts.

use model::limits;

use super::identity::{AreaId, Slot};
use super::sector::SECTOR_BYTES;

const HOSTS_AT: u64 = 8_192;
/// Bytes of one entry of the directory's table.
pub const TABLE_ENTRY_BYTES: usize = 64;

/// How an area is laid out; fixed when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    stride: u32,
    slots: u16,
    vms: u16,
}

/// The place of a VM's lease in an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(pub u16);

/// An area that exists: its identity seeds every checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// From the header.
    pub id: AreaId,
    /// From the header.
    pub geometry: Geometry,
}

/// A range of bytes in an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub bytes: usize,
}

impl Geometry {
    /// A layout with sectors at strides of 512 or 4096 bytes, so many hosts and so many VMs; none beyond the limits.
    pub fn new(stride: u32, slots: u16, vms: u16) -> Option<Self> {
        let valid = matches!(stride, 512 | 4_096)
            && (1..=limits::LEASE_HOSTS_MAX).contains(&u64::from(slots))
            && (1..=limits::LEASE_VMS_MAX).contains(&u64::from(vms));
        valid.then_some(Self { stride, slots, vms })
    }

    /// The layout of a new datastore whose storage has logical blocks of at most `block_bytes`; none if they are
    /// larger than 4096.
    pub fn for_blocks_of(block_bytes: u32) -> Option<Self> {
        let stride = if block_bytes <= SECTOR_BYTES as u32 { 512 } else { 4_096 };
        let fits = block_bytes <= stride;
        fits.then(|| Self::new(stride, limits::LEASE_HOSTS_MAX as u16, limits::LEASE_VMS_MAX as u16)).flatten()
    }

    /// Bytes from one sector to the next.
    pub const fn stride(&self) -> u32 {
        self.stride
    }

    /// How many hosts have a place.
    pub const fn slots(&self) -> u16 {
        self.slots
    }

    /// How many VMs have a place.
    pub const fn vms(&self) -> u16 {
        self.vms
    }

    /// The size of the whole area. What was never written may be a hole.
    pub fn area_bytes(&self) -> u64 {
        self.vms_at() + u64::from(self.vms) * self.bank_bytes()
    }

    /// The first sector.
    pub fn header(&self) -> Extent {
        Extent { offset: 0, bytes: 4_096 }
    }

    /// The host registers.
    pub fn hosts(&self) -> Bank {
        self.bank(HOSTS_AT)
    }

    /// The directory's Paxos blocks.
    pub fn directory(&self) -> Bank {
        self.bank(HOSTS_AT + self.bank_bytes())
    }

    /// One of the two tables of `author`.
    pub fn table(&self, author: Slot, copy: u8) -> Extent {
        let index = u64::from(author.0) * 2 + u64::from(copy);
        Extent { offset: self.tables_at() + index * self.table_bytes(), bytes: self.table_bytes() as usize }
    }

    /// The Paxos blocks of the VM at `place`.
    pub fn vm(&self, place: Place) -> Bank {
        self.bank(self.vms_at() + u64::from(place.0) * self.bank_bytes())
    }

    fn bank(&self, offset: u64) -> Bank {
        Bank { offset, stride: self.stride, slots: self.slots }
    }

    fn bank_bytes(&self) -> u64 {
        (u64::from(self.slots) * 2 * u64::from(self.stride)).next_multiple_of(4_096)
    }

    fn table_bytes(&self) -> u64 {
        (u64::from(self.vms) * TABLE_ENTRY_BYTES as u64).next_multiple_of(4_096)
    }

    fn tables_at(&self) -> u64 {
        HOSTS_AT + 2 * self.bank_bytes()
    }

    fn vms_at(&self) -> u64 {
        self.tables_at() + u64::from(self.slots) * 2 * self.table_bytes()
    }
}

/// The registers of all hosts for one purpose, side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bank {
    offset: u64,
    stride: u32,
    slots: u16,
}

impl Bank {
    /// All of it: one contiguous read.
    pub fn extent(&self) -> Extent {
        Extent { offset: self.offset, bytes: usize::from(self.slots) * 2 * self.stride as usize }
    }

    /// How many registers it has.
    pub fn slots(&self) -> u16 {
        self.slots
    }

    /// Bytes from one sector to the next.
    pub fn stride(&self) -> usize {
        self.stride as usize
    }

    /// The sector that write number `sequence` of `slot` goes to.
    pub fn sector(&self, slot: Slot, sequence: u64) -> Extent {
        let index = u64::from(slot.0) * 2 + sequence % 2;
        Extent { offset: self.offset + index * u64::from(self.stride), bytes: self.stride as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_an_area_overlaps_and_everything_is_aligned() {
        for geometry in [Geometry::for_blocks_of(512), Geometry::for_blocks_of(4_096), Geometry::new(512, 5, 3)] {
            let geometry = geometry.expect("a valid geometry");
            let mut extents = vec![geometry.header(), geometry.hosts().extent(), geometry.directory().extent()];
            for slot in (0..geometry.slots()).map(Slot) {
                extents.extend([geometry.table(slot, 0), geometry.table(slot, 1)]);
            }
            extents.extend((0..geometry.vms()).map(|place| geometry.vm(Place(place)).extent()));
            assert!(extents.iter().all(|extent| extent.offset % 4_096 == 0));
            for pair in extents.windows(2) {
                assert!(pair[0].offset + pair[0].bytes as u64 <= pair[1].offset, "{pair:?}");
            }
            let last = extents.last().expect("there is a last");
            assert!(last.offset + last.bytes as u64 <= geometry.area_bytes());
        }
    }

    #[test]
    fn storage_with_blocks_that_no_sector_fits_is_refused() {
        assert_eq!(Geometry::for_blocks_of(8_192), None);
        assert_eq!(Geometry::new(1_024, 1, 1), None);
        assert_eq!(Geometry::new(512, 0, 1), None);
    }
}
