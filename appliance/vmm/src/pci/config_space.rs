//! Configuration space of one function: a type 0 header, capabilities, one 64-bit memory BAR.
//!
//! PCI Local Bus Specification 3.0, chapter 6. A write changes exactly the bits that the function declared writable;
//! whatever else the guest writes is dropped.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::memory::layout::{Layout, PCI_WINDOW_32_BYTES, PCI_WINDOW_32_START, PCI_WINDOW_64_BYTES};
use crate::state::StateError;

/// Bytes of conventional configuration space. What lies behind it in ECAM reads as zero: no extended capabilities.
pub const CONFIG_BYTES: usize = 256;

const COMMAND: usize = 0x04;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND_NO_INTX: u16 = 1 << 10;
const STATUS: usize = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const BAR0: usize = 0x10;
const BAR_MEMORY_64: u32 = 0b100;
const BAR_PREFETCHABLE: u32 = 1 << 3;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const FIRST_CAPABILITY: usize = 0x40;

/// Who a function says it is.
#[derive(Debug, Clone, Copy)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass and programming interface, as in `0x010000`.
    pub class: u32,
    /// Subsystem's vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
}

/// Where BARs may lie; anywhere else they answer nobody.
#[derive(Debug, Clone)]
pub struct BarWindows {
    /// Below 4 GiB.
    pub low: Range<u64>,
    /// Behind RAM.
    pub high: Range<u64>,
}

impl BarWindows {
    /// The windows of a machine, the same that ACPI's _CRS names.
    pub fn of(layout: &Layout) -> Self {
        let high = layout.pci_window_64_start();
        Self {
            low: PCI_WINDOW_32_START..PCI_WINDOW_32_START + PCI_WINDOW_32_BYTES,
            high: high..high + PCI_WINDOW_64_BYTES,
        }
    }

    fn hold(&self, start: u64, bytes: u64) -> bool {
        let within = |window: &Range<u64>| start >= window.start && start < window.end && window.end - start >= bytes;
        within(&self.low) || within(&self.high)
    }
}

/// The registers of one function.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_BYTES],
    writable: [u8; CONFIG_BYTES],
    after_reset: [u8; CONFIG_BYTES],
    last_capability: usize,
    free: usize,
    bar_bytes: u64,
}

/// What of it travels: the value of every byte. The rest follows from how the function was built.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConfigSpaceState {
    pub(crate) bytes: Vec<u8>,
}

impl ConfigSpace {
    /// A header without BAR and capabilities.
    pub fn new(identity: Identity) -> Self {
        let mut space = Self {
            bytes: [0; CONFIG_BYTES],
            writable: [0; CONFIG_BYTES],
            after_reset: [0; CONFIG_BYTES],
            last_capability: CAPABILITIES,
            free: FIRST_CAPABILITY,
            bar_bytes: 0,
        };
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        space.put(0x08, &[identity.revision]);
        space.put(0x09, &identity.class.to_le_bytes()[..3]);
        space.put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.put(0x2e, &identity.subsystem.to_le_bytes());
        let command = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_NO_INTX;
        space.writable[COMMAND..COMMAND + 2].copy_from_slice(&command.to_le_bytes());
        space.writable[INTERRUPT_LINE] = 0xff;
        space
    }

    /// Adds the 64-bit memory BAR 0, at `start` with decoding on, as firmware would have left it.
    ///
    /// # Panics
    /// Unless `bytes` is a power of two of at least 4 KiB and `start` a multiple of it: a mistake in the VMM.
    pub fn add_bar(&mut self, start: u64, bytes: u64) {
        assert!(bytes.is_power_of_two() && bytes >= 4096 && start.is_multiple_of(bytes));
        self.bar_bytes = bytes;
        self.put(BAR0, &(start as u32 | BAR_MEMORY_64).to_le_bytes());
        self.put(BAR0 + 4, &((start >> 32) as u32).to_le_bytes());
        self.writable[BAR0..BAR0 + 8].copy_from_slice(&(!(bytes - 1)).to_le_bytes());
        self.put(COMMAND, &COMMAND_MEMORY.to_le_bytes());
    }

    /// Adds a capability: `body` is what follows its id and next pointer; set bits of `writable` (same layout) are the
    /// guest's to change. Gives the offset of its id.
    ///
    /// # Panics
    /// If configuration space is full: a mistake in the VMM.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.free;
        assert!(at + 2 + body.len() <= CONFIG_BYTES && writable.len() <= body.len());
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.writable[at + 2..at + 2 + writable.len()].copy_from_slice(writable);
        let link = if self.last_capability == CAPABILITIES { CAPABILITIES } else { self.last_capability + 1 };
        self.put(link, &[at as u8]);
        self.put(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        self.last_capability = at;
        self.free = (at + 2 + body.len()).next_multiple_of(4);
        at
    }

    /// Builds a register: its value now and after each reset.
    fn put(&mut self, at: usize, value: &[u8]) {
        self.bytes[at..at + value.len()].copy_from_slice(value);
        self.after_reset[at..at + value.len()].copy_from_slice(value);
    }

    /// The guest reads. Beyond the end there are zeroes.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data.iter_mut()) {
            *byte = self.bytes.get(at).copied().unwrap_or(0);
        }
    }

    /// The guest writes.
    pub fn write(&mut self, offset: usize, data: &[u8]) {
        for (at, new) in (offset..CONFIG_BYTES).zip(data) {
            self.bytes[at] = (self.bytes[at] & !self.writable[at]) | (new & self.writable[at]);
        }
    }

    /// A 16-bit register.
    pub fn u16_at(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// A 32-bit register.
    pub fn u32_at(&self, at: usize) -> u32 {
        u32::from(self.u16_at(at)) | u32::from(self.u16_at(at + 2)) << 16
    }

    /// Where the BAR answers now: None while decoding is off or its place is in no window.
    pub fn bar_start(&self, windows: &BarWindows) -> Option<u64> {
        let flags = u64::from(BAR_MEMORY_64 | BAR_PREFETCHABLE | 0b11);
        let start = (u64::from(self.u32_at(BAR0)) | u64::from(self.u32_at(BAR0 + 4)) << 32) & !flags;
        let on = self.bar_bytes != 0 && self.u16_at(COMMAND) & COMMAND_MEMORY != 0;
        (on && windows.hold(start, self.bar_bytes)).then_some(start)
    }

    /// Length of the BAR in bytes; 0 if there is none.
    pub fn bar_bytes(&self) -> u64 {
        self.bar_bytes
    }

    /// As it was built.
    pub fn reset(&mut self) {
        self.bytes = self.after_reset;
    }

    /// What travels.
    pub fn state(&self) -> ConfigSpaceState {
        ConfigSpaceState { bytes: self.bytes.to_vec() }
    }

    /// Takes over the guest's bits of a state.
    ///
    /// # Errors
    /// [`StateError::Invalid`] if a bit differs that no guest can change: the other function is of another kind.
    pub fn restore(&mut self, state: &ConfigSpaceState) -> Result<(), StateError> {
        let mine = self.after_reset;
        let same = |(at, byte): (usize, &u8)| (byte ^ mine[at]) & !self.writable[at] == 0;
        if state.bytes.len() != CONFIG_BYTES || !state.bytes.iter().enumerate().all(same) {
            return Err(StateError::invalid("PCI configuration space", "it belongs to another kind of function"));
        }
        self.bytes.copy_from_slice(&state.bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn space() -> ConfigSpace {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 2,
        };
        let mut space = ConfigSpace::new(identity);
        space.add_bar(0xc000_8000, 0x8000);
        space
    }

    fn windows() -> BarWindows {
        BarWindows::of(&Layout::new(64 << 20).unwrap())
    }

    #[test]
    fn a_bar_tells_its_size_the_way_drivers_ask() {
        let mut space = space();
        let mut low = [0; 4];
        space.write(BAR0, &[0xff; 4]);
        space.read(BAR0, &mut low);
        let mut high = [0; 4];
        space.write(BAR0 + 4, &[0xff; 4]);
        space.read(BAR0 + 4, &mut high);
        let mask = u64::from(u32::from_le_bytes(low) & !0xf) | u64::from(u32::from_le_bytes(high)) << 32;
        assert_eq!(!mask + 1, 0x8000);
        assert_eq!(space.bar_start(&windows()), None, "a BAR being sized answers nobody");
    }

    #[test]
    fn a_bar_answers_only_inside_a_window_and_with_decoding_on() {
        let mut space = space();
        assert_eq!(space.bar_start(&windows()), Some(0xc000_8000));
        space.write(COMMAND, &[0, 0]);
        assert_eq!(space.bar_start(&windows()), None);
        space.write(COMMAND, &[2, 0]);
        for (start, answers) in [
            (0x0010_0000u64, false),
            (0xfee0_0000, false),
            (0xdfff_8000, true),
            (0xe000_0000, false),
            (0x1_0000_0000, true),
            (0x1_ffff_8000, true),
            (0xffff_ffff_ffff_8000, false),
        ] {
            space.write(BAR0, &start.to_le_bytes());
            assert_eq!(space.bar_start(&windows()).is_some(), answers, "{start:#x}");
        }
    }

    #[test]
    fn capabilities_are_a_list_that_ends() {
        let mut space = space();
        let first = space.add_capability(0x09, &[1, 2, 3], &[]);
        let second = space.add_capability(0x11, &[0; 10], &[0, 0xc0]);
        assert_eq!(space.u16_at(STATUS) & STATUS_CAPABILITIES, STATUS_CAPABILITIES);
        assert_eq!(usize::from(space.bytes[CAPABILITIES]), first);
        assert_eq!(usize::from(space.bytes[first + 1]), second);
        assert_eq!(space.bytes[second + 1], 0);
        space.write(second, &[0xff; 12]);
        assert_eq!(space.bytes[second..second + 5], [0x11, 0, 0, 0xc0, 0], "only the declared bits change");
    }

    #[test]
    fn a_state_of_another_kind_of_function_is_refused() {
        let mut other = space();
        other.add_capability(0x09, &[0; 8], &[]);
        assert!(space().restore(&other.state()).is_err());
        let mut moved = space();
        moved.write(BAR0, &0xc010_0000u32.to_le_bytes());
        let mut target = space();
        target.restore(&moved.state()).unwrap();
        assert_eq!(target.bar_start(&windows()), Some(0xc010_0000));
    }

    #[test]
    fn accesses_anywhere_and_of_any_length_are_harmless() {
        let mut space = space();
        for offset in [0, 1, 253, 255, 256, 4095] {
            space.write(offset, &[0xff; 8]);
            space.read(offset, &mut [0; 8]);
        }
        assert_eq!(space.u16_at(0), 0x1af4);
    }

    proptest! {
        #[test]
        fn a_hostile_state_changes_only_what_a_guest_can_and_no_bar_answers_outside_its_windows(
            changes in proptest::collection::vec((0..CONFIG_BYTES, any::<u8>()), 0..12), bar in any::<[u8; 8]>(),
            bytes in prop_oneof![9 => Just(CONFIG_BYTES), 1 => 0usize..600], guests in any::<bool>(),
        ) {
            let mut target = space();
            target.add_capability(0x11, &[0; 10], &[0, 0xc0]);
            let before = target.clone();
            let mut state = target.state();
            changes.iter().for_each(|(at, value)| state.bytes[*at] = *value);
            state.bytes[BAR0..BAR0 + 8].copy_from_slice(&bar);
            if guests {
                // As far as a guest could have brought it about.
                for at in 0..CONFIG_BYTES {
                    let writable = before.writable[at];
                    state.bytes[at] = before.bytes[at] & !writable | state.bytes[at] & writable;
                }
            }
            state.bytes.resize(bytes, 0);
            let taken = target.restore(&state).is_ok();
            prop_assert!(taken || !guests || bytes != CONFIG_BYTES, "what a guest can do is taken over");
            for at in 0..CONFIG_BYTES {
                prop_assert_eq!((target.bytes[at] ^ before.bytes[at]) & !before.writable[at], 0, "byte {}", at);
            }
            let windows = windows();
            if let Some(start) = target.bar_start(&windows) {
                let end = start + target.bar_bytes();
                let inside = |window: &Range<u64>| start >= window.start && end <= window.end;
                prop_assert!(inside(&windows.low) || inside(&windows.high), "{start:#x}");
            }
        }
    }
}
