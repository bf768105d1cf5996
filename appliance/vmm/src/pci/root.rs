//! The root bus: which function sits in which slot, and the two ways by which a guest reaches configuration space.
//!
//! ECAM (PCI Express Base Specification, section 7.2.2) and the older pair of ports 0xcf8 and 0xcfc (PCI Local Bus
//! Specification 3.0, section 3.2.2.3.2) show the same registers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};

use serde::{Deserialize, Serialize};

use super::config_space::{ConfigSpace, ConfigSpaceState, Identity};
use crate::bus::{BusDevice, Shared, enter};
use crate::device::{Device, DeviceError};
use crate::state::{ChunkKind, StateError, decode, encode};

/// First port of the pair.
pub const CONFIG_PORTS_START: u64 = 0xcf8;
/// Both registers of the pair.
pub const CONFIG_PORTS_BYTES: u64 = 8;
/// The chunk of the root in a machine's state.
pub const PCI_ROOT_CHUNK: u16 = ChunkKind::DEVICES_FROM;

const STATE_VERSION: u16 = 1;
const ADDRESS_ENABLE: u32 = 1 << 31;
/// The generic PCI Express host bridge; drivers need nothing of it but its class.
const HOST_BRIDGE: Identity = Identity {
    vendor: 0x1b36,
    device: 0x0008,
    revision: 0,
    class: 0x06_0000,
    subsystem_vendor: 0x1af4,
    subsystem: 0x1100,
};

/// A function in a slot. Offsets are 0 to 4095; accesses of 1, 2 or 4 bytes, hostile input.
pub trait PciFunction: Send {
    /// The guest reads configuration space.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);

    /// The guest writes configuration space.
    fn write_config(&mut self, offset: usize, data: &[u8]);

    /// Some function's registers changed: a BAR that found its place taken may find it free now.
    fn place_bar(&mut self);
}

/// Bus 0.
pub struct PciRoot {
    bridge: ConfigSpace,
    slots: BTreeMap<u8, Weak<Mutex<dyn PciFunction>>>,
    config_address: u32,
}

#[derive(Serialize, Deserialize)]
struct RootState {
    bridge: ConfigSpaceState,
    config_address: u32,
}

impl std::fmt::Debug for PciRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PciRoot").field("slots", &self.slots.keys()).finish_non_exhaustive()
    }
}

impl Default for PciRoot {
    fn default() -> Self {
        Self { bridge: ConfigSpace::new(HOST_BRIDGE), slots: BTreeMap::new(), config_address: 0 }
    }
}

impl PciRoot {
    /// A bus with a host bridge in slot 0 and nothing else.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a function into a slot. The machine owns the function; the bus only knows it, or bus and functions would keep
    /// each other alive for ever.
    ///
    /// # Panics
    /// If the slot is 0, above 31, or taken: a mistake in the VMM (see `slots`).
    pub fn insert(&mut self, slot: u8, function: &Arc<Mutex<dyn PciFunction>>) {
        assert!((1..32).contains(&slot));
        assert!(self.slots.insert(slot, Arc::downgrade(function)).is_none(), "PCI slot {slot} is taken");
    }

    /// Reads from a function's registers; where there is none, all ones stay.
    fn read(&mut self, slot: u8, function: u8, offset: usize, data: &mut [u8]) {
        match (slot, function) {
            (0, 0) => self.bridge.read(offset, data),
            (slot, 0) => {
                if let Some(function) = self.slots.get(&slot).and_then(Weak::upgrade) {
                    enter(&function).read_config(offset, data);
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, slot: u8, function: u8, offset: usize, data: &[u8]) {
        match (slot, function) {
            (0, 0) => self.bridge.write(offset, data),
            (slot, 0) => {
                let Some(function) = self.slots.get(&slot).and_then(Weak::upgrade) else { return };
                enter(&function).write_config(offset, data);
                for other in self.slots.values().filter_map(Weak::upgrade) {
                    enter(&other).place_bar();
                }
            }
            _ => {}
        }
    }
}

impl Device for PciRoot {
    fn name(&self) -> String {
        "PCI root".into()
    }

    fn chunk(&self) -> ChunkKind {
        ChunkKind::new(PCI_ROOT_CHUNK, 0, STATE_VERSION)
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&mut self) {
        self.bridge.reset();
        self.config_address = 0;
    }

    fn export_state(&self) -> Result<Vec<u8>, StateError> {
        encode("PCI root", &RootState { bridge: self.bridge.state(), config_address: self.config_address })
    }

    fn import_state(&mut self, version: u16, bytes: &[u8]) -> Result<(), StateError> {
        if version != STATE_VERSION {
            return Err(StateError::Version { kind: PCI_ROOT_CHUNK, instance: 0, version });
        }
        let state: RootState = decode("PCI root", bytes)?;
        self.bridge.restore(&state.bridge)?;
        self.config_address = state.config_address;
        Ok(())
    }
}

/// Configuration space as memory: register at `ECAM_START` for `ECAM_BYTES`.
#[derive(Debug)]
pub struct Ecam(pub Shared<PciRoot>);

impl Ecam {
    fn split(offset: u64) -> (u8, u8, usize) {
        ((offset >> 15 & 0x1f) as u8, (offset >> 12 & 7) as u8, (offset & 0xfff) as usize)
    }
}

impl BusDevice for Ecam {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let (slot, function, offset) = Self::split(offset);
        enter(&self.0).read(slot, function, offset, data);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (slot, function, offset) = Self::split(offset);
        enter(&self.0).write(slot, function, offset, data);
    }
}

/// Configuration space by ports: register at [`CONFIG_PORTS_START`] for [`CONFIG_PORTS_BYTES`].
#[derive(Debug)]
pub struct ConfigPorts(pub Shared<PciRoot>);

impl ConfigPorts {
    /// What the data port at `offset` (4 to 7) shows: slot, function, register.
    fn target(address: u32, offset: u64) -> Option<(u8, u8, usize)> {
        let bus_0 = address & ADDRESS_ENABLE != 0 && address >> 16 & 0xff == 0;
        let register = (address & 0xfc) as usize + (offset - 4) as usize;
        bus_0.then_some(((address >> 11 & 0x1f) as u8, (address >> 8 & 7) as u8, register))
    }
}

impl BusDevice for ConfigPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut root = enter(&self.0);
        if offset == 0 && data.len() == 4 {
            data.copy_from_slice(&root.config_address.to_le_bytes());
        } else if offset >= 4
            && let Some((slot, function, register)) = Self::target(root.config_address, offset)
        {
            root.read(slot, function, register, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut root = enter(&self.0);
        if let (0, &[a, b, c, d]) = (offset, data) {
            root.config_address = u32::from_le_bytes([a, b, c, d]) & (ADDRESS_ENABLE | 0x00ff_fffc);
        } else if offset >= 4
            && let Some((slot, function, register)) = Self::target(root.config_address, offset)
        {
            root.write(slot, function, register, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    struct Registers(ConfigSpace);

    impl PciFunction for Registers {
        fn read_config(&mut self, offset: usize, data: &mut [u8]) {
            self.0.read(offset, data);
        }
        fn write_config(&mut self, offset: usize, data: &[u8]) {
            self.0.write(offset, data);
        }
        fn place_bar(&mut self) {}
    }

    fn root() -> (Shared<PciRoot>, Arc<Mutex<dyn PciFunction>>) {
        let mut root = PciRoot::new();
        let identity = Identity { vendor: 0x1af4, device: 0x1041, ..HOST_BRIDGE };
        let function: Arc<Mutex<dyn PciFunction>> = Arc::new(Mutex::new(Registers(ConfigSpace::new(identity))));
        root.insert(3, &function);
        (Arc::new(Mutex::new(root)), function)
    }

    #[test]
    fn ecam_and_ports_show_the_same_registers() {
        let (root, _function) = root();
        let (mut ecam, mut ports) = (Ecam(root.clone()), ConfigPorts(root));
        for (slot, id) in [(0u64, 0x0008_1b36u32), (3, 0x1041_1af4), (4, u32::MAX)] {
            let mut data = [0xff; 4];
            ecam.read(slot << 15, &mut data);
            assert_eq!(u32::from_le_bytes(data), id);
            ports.write(0, &(0x8000_0000 | (slot as u32) << 11).to_le_bytes());
            let mut data = [0xff; 4];
            ports.read(4, &mut data);
            assert_eq!(u32::from_le_bytes(data), id);
            let mut half = [0xff; 2];
            ports.read(6, &mut half);
            assert_eq!(u16::from_le_bytes(half), (id >> 16) as u16);
        }
    }

    #[test]
    fn other_buses_and_a_disabled_address_show_nobody() {
        let (root, _function) = root();
        let mut ports = ConfigPorts(root);
        for address in [0x8001_1800u32, 0x0000_1800] {
            ports.write(0, &address.to_le_bytes());
            let mut data = [0xff; 4];
            ports.read(4, &mut data);
            assert_eq!(data, [0xff; 4]);
        }
    }

    #[test]
    fn the_address_register_travels() {
        let (source, _) = root();
        ConfigPorts(source.clone()).write(0, &0x8000_1804u32.to_le_bytes());
        let (target, _) = root();
        let bytes = enter(&source).export_state().unwrap();
        enter(&target).import_state(STATE_VERSION, &bytes).unwrap();
        let mut data = [0; 4];
        ConfigPorts(target).read(0, &mut data);
        assert_eq!(u32::from_le_bytes(data), 0x8000_1804);
    }

    proptest! {
        #[test]
        fn a_hostile_state_is_refused_or_every_register_is_still_where_it_was(
            address in any::<u32>(), changes in proptest::collection::vec((0usize..256, any::<u8>()), 0..4),
            bytes in prop_oneof![4 => Just(256), 1 => 0usize..600], cut in 0usize..4,
        ) {
            let (root, _function) = root();
            let mut bridge = enter(&root).bridge.state();
            changes.iter().for_each(|(at, value)| bridge.bytes[*at] = *value);
            bridge.bytes.resize(bytes, 0xff);
            let state = encode("PCI root", &RootState { bridge, config_address: address }).unwrap();
            let taken = enter(&root).import_state(STATE_VERSION, &state[..state.len() - cut]);
            prop_assert!(taken.is_err() || (cut, bytes) == (0, 256));
            let (mut ecam, mut ports) = (Ecam(root.clone()), ConfigPorts(root));
            // Where the address points, whatever it is.
            for (offset, length) in [(0, 4), (4, 1), (4, 4), (5, 2), (6, 2), (7, 1), (7, 4)] {
                ports.read(offset, &mut [0xff; 4][..length]);
                ports.write(offset, &[0xff; 4][..length]);
            }
            for (slot, id) in [(0u64, 0x0008_1b36u32), (3, 0x1041_1af4), (4, u32::MAX)] {
                let mut data = [0xff; 4];
                ecam.read(slot << 15, &mut data);
                prop_assert_eq!(u32::from_le_bytes(data), id);
            }
        }
    }
}
