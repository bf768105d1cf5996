//! Port and memory-mapped I/O: which device answers at which address.
//!
//! A [`Bus`] maps ranges of addresses to devices. Ranges may be taken away and put elsewhere while vCPUs run
//! (a guest moves a PCI BAR by writing to configuration space, which is itself a device on a bus): the map is
//! never held while a device is called, so a device may change the bus from inside its own `write`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

/// What a guest reaches by port or memory-mapped I/O.
///
/// `offset` counts from the start of the range that was registered, so a device does not know where it lies.
/// `data` has 1, 2, 4 or 8 bytes, little-endian. Accesses never reach beyond the registered range. Nothing the
/// guest sends may panic: it is hostile input.
pub trait BusDevice: Send {
    /// The guest reads `data.len()` bytes at `offset`. Every byte of `data` is 0xff when called; bytes that the
    /// device leaves alone are read as such, as on a bus that nobody drives.
    fn read(&mut self, offset: u64, data: &mut [u8]);

    /// The guest writes `data` at `offset`.
    fn write(&mut self, offset: u64, data: &[u8]);
}

/// A device that several parts of the machine share: the bus, the state walk, worker threads.
pub type Shared<T> = Arc<Mutex<T>>;

/// Takes the mutex of a shared device. A panic of another thread inside the device does not take the machine's
/// other threads with it: what it protects is guest-visible state, wrong at worst.
pub fn enter<T: ?Sized>(device: &Mutex<T>) -> MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why a range could not be put on a bus or moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The range overlaps one that is taken.
    #[error("the range {start:#x}+{length:#x} overlaps a device that is there already")]
    Overlap {
        /// First address of the refused range.
        start: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// The range is empty or wraps round the end of the address space.
    #[error("the range {start:#x}+{length:#x} is empty or wraps")]
    Invalid {
        /// First address of the refused range.
        start: u64,
        /// Its length in bytes.
        length: u64,
    },
    /// No device is registered at that address.
    #[error("no device starts at {start:#x}")]
    Missing {
        /// The address that was given.
        start: u64,
    },
}

#[derive(Clone)]
struct Entry {
    length: u64,
    device: Arc<Mutex<dyn BusDevice>>,
}

/// One address space (ports, or guest-physical memory that is not RAM). Cheap to clone: clones share the map.
#[derive(Clone, Default)]
pub struct Bus {
    ranges: Arc<RwLock<BTreeMap<u64, Entry>>>,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_map().entries(ranges.iter().map(|(start, entry)| (start, entry.length))).finish()
    }
}

impl Bus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers `device` for `length` bytes from `start`.
    ///
    /// # Errors
    /// [`BusError::Overlap`] and [`BusError::Invalid`]; the bus is as before.
    pub fn insert(&self, start: u64, length: u64, device: Arc<Mutex<dyn BusDevice>>) -> Result<(), BusError> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        Self::check_free(&ranges, start, length)?;
        ranges.insert(start, Entry { length, device });
        Ok(())
    }

    /// Takes away the range that starts at `start`.
    ///
    /// # Errors
    /// [`BusError::Missing`] if no range starts exactly there.
    pub fn remove(&self, start: u64) -> Result<(), BusError> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        ranges.remove(&start).map(|_| ()).ok_or(BusError::Missing { start })
    }

    /// Moves the range that starts at `from` so that it starts at `to`, in one step: no vCPU sees it nowhere.
    ///
    /// # Errors
    /// [`BusError::Missing`], [`BusError::Overlap`], [`BusError::Invalid`]; the bus is as before.
    pub fn relocate(&self, from: u64, to: u64) -> Result<(), BusError> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let entry = ranges.remove(&from).ok_or(BusError::Missing { start: from })?;
        match Self::check_free(&ranges, to, entry.length) {
            Ok(()) => {
                ranges.insert(to, entry);
                Ok(())
            }
            Err(error) => {
                ranges.insert(from, entry);
                Err(error)
            }
        }
    }

    /// Carries a guest's read to the device that covers all of it. False if there is none: `data` is all ones.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        data.fill(0xff);
        match self.find(address, data.len()) {
            Some((offset, device)) => {
                enter(&device).read(offset, data);
                true
            }
            None => false,
        }
    }

    /// Carries a guest's write to the device that covers all of it. False if there is none.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.find(address, data.len()) {
            Some((offset, device)) => {
                enter(&device).write(offset, data);
                true
            }
            None => false,
        }
    }

    fn find(&self, address: u64, length: usize) -> Option<(u64, Arc<Mutex<dyn BusDevice>>)> {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let (start, entry) = ranges.range(..=address).next_back()?;
        let offset = address - start;
        let end = offset.checked_add(length as u64)?;
        (end <= entry.length).then(|| (offset, Arc::clone(&entry.device)))
    }

    fn check_free(ranges: &BTreeMap<u64, Entry>, start: u64, length: u64) -> Result<(), BusError> {
        let last = length.checked_sub(1).and_then(|rest| start.checked_add(rest));
        let last = last.ok_or(BusError::Invalid { start, length })?;
        let before = ranges.range(..=last).next_back();
        match before {
            Some((other, entry)) if other + (entry.length - 1) >= start => Err(BusError::Overlap { start, length }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers the last write; reads give the offset.
    #[derive(Default)]
    struct Recorder {
        last: Option<(u64, Vec<u8>)>,
    }

    impl BusDevice for Recorder {
        fn read(&mut self, offset: u64, data: &mut [u8]) {
            data[0] = offset as u8;
        }
        fn write(&mut self, offset: u64, data: &[u8]) {
            self.last = Some((offset, data.to_vec()));
        }
    }

    fn recorder() -> Shared<Recorder> {
        Arc::default()
    }

    #[test]
    fn an_access_reaches_the_device_that_covers_all_of_it() {
        let bus = Bus::new();
        let device = recorder();
        bus.insert(0x100, 8, device.clone()).unwrap();
        assert!(bus.write(0x104, &[1, 2, 3, 4]));
        assert_eq!(enter(&device).last, Some((4, vec![1, 2, 3, 4])));
        assert!(!bus.write(0x105, &[1, 2, 3, 4]), "reaches beyond the end");
        assert!(!bus.write(0xff, &[1]));
        assert!(!bus.write(0x108, &[1]));
    }

    #[test]
    fn a_read_that_nobody_answers_is_all_ones() {
        let bus = Bus::new();
        bus.insert(0x100, 8, recorder()).unwrap();
        let mut data = [0; 4];
        assert!(!bus.read(0x200, &mut data));
        assert_eq!(data, [0xff; 4]);
        assert!(bus.read(0x103, &mut data));
        assert_eq!(data, [3, 0xff, 0xff, 0xff], "bytes the device leaves alone are ones too");
    }

    #[test]
    fn overlapping_empty_and_wrapping_ranges_are_refused() {
        let bus = Bus::new();
        bus.insert(0x100, 0x10, recorder()).unwrap();
        for start in [0xf1, 0x100, 0x108, 0x10f] {
            assert!(matches!(bus.insert(start, 0x10, recorder()), Err(BusError::Overlap { .. })), "{start:#x}");
        }
        assert!(matches!(bus.insert(0x80, 0x1000, recorder()), Err(BusError::Overlap { .. })), "surrounds");
        bus.insert(0xf0, 0x10, recorder()).unwrap();
        bus.insert(0x110, 0x10, recorder()).unwrap();
        assert!(matches!(bus.insert(0x500, 0, recorder()), Err(BusError::Invalid { .. })));
        assert!(matches!(bus.insert(u64::MAX, 2, recorder()), Err(BusError::Invalid { .. })));
        bus.insert(u64::MAX, 1, recorder()).unwrap();
    }

    #[test]
    fn a_moved_range_answers_only_at_its_new_place_and_a_refused_move_changes_nothing() {
        let bus = Bus::new();
        let device = recorder();
        bus.insert(0x100, 0x10, device.clone()).unwrap();
        bus.insert(0x200, 0x10, recorder()).unwrap();
        assert!(matches!(bus.relocate(0x100, 0x1f8), Err(BusError::Overlap { .. })));
        assert!(bus.write(0x100, &[1]));
        bus.relocate(0x100, 0x108).unwrap();
        assert!(!bus.write(0x100, &[1]));
        assert!(bus.write(0x10a, &[7]));
        assert_eq!(enter(&device).last, Some((2, vec![7])));
        assert_eq!(bus.relocate(0x100, 0x300), Err(BusError::Missing { start: 0x100 }));
        bus.remove(0x108).unwrap();
        assert!(!bus.write(0x108, &[1]));
    }

    /// Moves itself when written to, as a BAR does.
    struct Mover {
        bus: Bus,
        at: u64,
    }

    impl BusDevice for Mover {
        fn read(&mut self, _: u64, _: &mut [u8]) {}
        fn write(&mut self, _: u64, data: &[u8]) {
            let to = u64::from(data[0]) << 8;
            self.bus.relocate(self.at, to).unwrap();
            self.at = to;
        }
    }

    #[test]
    fn a_device_may_change_the_bus_from_inside_its_own_write() {
        let bus = Bus::new();
        let mover = Arc::new(Mutex::new(Mover { bus: bus.clone(), at: 0x100 }));
        bus.insert(0x100, 4, mover).unwrap();
        assert!(bus.write(0x100, &[5]));
        assert!(bus.write(0x500, &[6]));
        assert!(bus.write(0x600, &[7]));
        assert!(!bus.write(0x500, &[6]));
    }
}
