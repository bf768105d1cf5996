//! The table of the directory: a name and a tenancy for each place of the area.

use model::names::VmName;
use xxhash_rust::xxh3::xxh3_128;

use super::identity::Tenancy;
use super::layout::{Extent, Place, TABLE_ENTRY_BYTES};
use super::sector::{Reader, Writer};

/// A place and the use of it.
pub type Home = (Place, Tenancy);

/// Which place belongs to which VM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    entries: Vec<Option<(VmName, Tenancy)>>,
}

impl Table {
    /// A table of `places` free places.
    pub fn empty(places: u16) -> Self {
        Self { entries: vec![None; usize::from(places)] }
    }

    /// Where a VM's lease is.
    pub fn find(&self, vm: &VmName) -> Option<Home> {
        let at = self.entries.iter().position(|entry| entry.as_ref().is_some_and(|(name, _)| name == vm))?;
        let (_, tenancy) = self.entries[at].as_ref()?;
        Some((Place(at as u16), *tenancy))
    }

    /// The VMs that have a place.
    pub fn names(&self) -> impl Iterator<Item = &VmName> {
        self.entries.iter().flatten().map(|(name, _)| name)
    }

    /// Gives a VM the first free place; false if there is none.
    pub fn add(&mut self, vm: &VmName, tenancy: Tenancy) -> bool {
        let free = self.entries.iter_mut().find(|entry| entry.is_none());
        free.map(|entry| *entry = Some((vm.clone(), tenancy))).is_some()
    }

    /// Gives a VM the last free place instead of its own, which nobody gets any more: its blocks are damaged, and those beside it may be.
    /// False if there is none free, or it has none.
    pub fn replace(&mut self, vm: &VmName, tenancy: Tenancy) -> bool {
        let (Some((Place(old), lost)), Some(free)) = (self.find(vm), self.entries.iter().rposition(Option::is_none))
        else {
            return false;
        };
        // A name like any other, so that a host of an earlier build reads the table too.
        let Ok(worn) = format!("godwit.damaged.{old}.{lost}").parse() else { return false };
        self.entries[usize::from(old)] = Some((worn, lost));
        self.entries[free] = Some((vm.clone(), tenancy));
        true
    }

    /// Takes a VM's place away.
    pub fn remove(&mut self, vm: &VmName) {
        for entry in &mut self.entries {
            entry.take_if(|(name, _)| name == vm);
        }
    }

    /// The bytes of the table.
    pub fn encode(&self, extent: Extent) -> Vec<u8> {
        let mut bytes = vec![0; extent.bytes];
        for (entry, field) in self.entries.iter().zip(bytes.chunks_exact_mut(TABLE_ENTRY_BYTES)) {
            if let Some((name, tenancy)) = entry {
                let mut writer = Writer::new(field);
                writer.text(name.as_str());
                writer.u64(tenancy.0);
            }
        }
        bytes
    }

    /// The table of `places` places in `bytes`, if they have this digest.
    pub fn decode(bytes: &[u8], digest: u128, places: u16) -> Option<Self> {
        if xxh3_128(bytes) != digest {
            return None;
        }
        let mut table = Self::empty(places);
        for (entry, field) in table.entries.iter_mut().zip(bytes.chunks_exact(TABLE_ENTRY_BYTES)) {
            let mut reader = Reader::new(field);
            let (name, tenancy) = (reader.text()?, Tenancy(reader.u64()?));
            if !name.is_empty() {
                *entry = Some((name.parse().ok()?, tenancy));
            }
        }
        Some(table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> VmName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_table_survives_its_bytes_and_nothing_else_does() {
        let mut table = Table::empty(64);
        assert!(table.add(&name("web"), Tenancy(3)) && table.add(&name("db"), Tenancy(4)));
        let extent = Extent { offset: 0, bytes: 4_096 };
        let mut bytes = table.encode(extent);
        let digest = xxh3_128(&bytes);
        assert_eq!(Table::decode(&bytes, digest, 64), Some(table));
        bytes[70] ^= 1;
        assert_eq!(Table::decode(&bytes, digest, 64), None);
    }

    #[test]
    fn a_vm_whose_place_is_damaged_gets_another_and_nobody_gets_the_old_one() {
        let mut table = Table::empty(4);
        assert!(table.add(&name("web"), Tenancy(1)) && table.add(&name("db"), Tenancy(2)));
        assert!(table.replace(&name("web"), Tenancy(3)));
        assert_eq!(table.find(&name("web")), Some((Place(3), Tenancy(3))), "far from what was damaged");
        assert_eq!(table.find(&name("db")), Some((Place(1), Tenancy(2))));
        let bytes = table.encode(Extent { offset: 0, bytes: 4_096 });
        assert_eq!(Table::decode(&bytes, xxh3_128(&bytes), 4), Some(table.clone()), "its bytes are read by all");
        assert!(table.add(&name("new"), Tenancy(4)) && table.find(&name("new")) == Some((Place(2), Tenancy(4))));
        assert!(!table.add(&name("last"), Tenancy(5)), "the damaged place is not free");
        assert!(!table.replace(&name("db"), Tenancy(5)) && table.find(&name("db")).is_some(), "there is no other");
    }

    #[test]
    fn a_full_table_gives_out_no_place_and_a_removed_vm_frees_its_own() {
        let mut table = Table::empty(1);
        assert!(table.add(&name("web"), Tenancy(1)));
        assert!(!table.add(&name("db"), Tenancy(2)));
        table.remove(&name("web"));
        assert!(table.add(&name("db"), Tenancy(3)));
        assert_eq!(table.find(&name("db")), Some((Place(0), Tenancy(3))));
    }
}
