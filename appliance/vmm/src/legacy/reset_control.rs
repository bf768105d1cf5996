//! The ports by which a guest resets its machine: the keyboard controller's (command 0xfe to port 0x64) and the chipset's
//! (port 0xcf9, which is ACPI's reset register too).

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::bus::{BusDevice, Shared, enter};
use crate::device::{Device, DeviceError};
use crate::machine::events::{Event, Events};
use crate::state::{ChunkKind, StateError, decode, encode};

/// Command and status port of the keyboard controller. Its data port, 0x60, is nobody's.
pub const KEYBOARD_PORT: u64 = 0x64;
/// The chipset's reset control register (Intel ICH9 datasheet, section 13.7.5).
pub const CHIPSET_PORT: u64 = 0xcf9;
/// What a guest writes there for a full reset: reset CPU, and reset the system.
pub const CHIPSET_RESET: u8 = 0x06;

const COMMAND_PULSE_RESET: u8 = 0xfe;
const RESET_CPU: u8 = 1 << 2;

/// A keyboard controller without a keyboard: it is always ready for a command and knows one.
pub struct KeyboardController {
    events: Events,
}

impl KeyboardController {
    /// A controller that reports resets to `events`.
    pub fn new(events: Events) -> Self {
        Self { events }
    }
}

impl BusDevice for KeyboardController {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        // Status: no data for the guest, ready for a command.
        data.fill(0);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if data == [COMMAND_PULSE_RESET] {
            self.events.post(Event::Reset);
        }
    }
}

/// The chipset's reset control register.
pub struct ResetControl {
    events: Events,
    value: u8,
}

/// The ports 0xcf8 to 0xcff: PCI's configuration address, with the reset control register in its second byte.
///
/// The address is only ever reached by accesses of four bytes, the register only by those of one.
pub struct ChipsetPorts {
    /// Configuration space by ports.
    pub pci: Arc<Mutex<dyn BusDevice>>,
    /// The reset control register.
    pub reset: Shared<ResetControl>,
}

impl ChipsetPorts {
    const RESET_OFFSET: u64 = 1;
}

impl BusDevice for ChipsetPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if offset == Self::RESET_OFFSET && data.len() == 1 {
            enter(&self.reset).read(0, data);
        } else {
            enter(&self.pci).read(offset, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == Self::RESET_OFFSET && data.len() == 1 {
            enter(&self.reset).write(0, data);
        } else {
            enter(&self.pci).write(offset, data);
        }
    }
}

#[derive(Serialize, Deserialize)]
struct State {
    value: u8,
}

const SUBJECT: &str = "reset control";

impl ResetControl {
    /// A register that reports resets to `events`.
    pub fn new(events: Events) -> Self {
        Self { events, value: 0 }
    }
}

impl BusDevice for ResetControl {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        data[0] = self.value;
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        let rises = data[0] & RESET_CPU != 0 && self.value & RESET_CPU == 0;
        self.value = data[0];
        if rises {
            self.events.post(Event::Reset);
        }
    }
}

impl Device for ResetControl {
    fn name(&self) -> String {
        SUBJECT.into()
    }

    fn chunk(&self) -> ChunkKind {
        ChunkKind::new(ChunkKind::RESET_CONTROL, 0, 1)
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn reset(&mut self) {
        self.value = 0;
    }

    fn export_state(&self) -> Result<Vec<u8>, StateError> {
        encode(SUBJECT, &State { value: self.value })
    }

    fn import_state(&mut self, version: u16, bytes: &[u8]) -> Result<(), StateError> {
        self.chunk().check_version(version)?;
        let State { value } = decode(SUBJECT, bytes)?;
        self.value = value;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_port_resets_and_nothing_else_does() {
        let events = Events::new().unwrap();
        let mut keyboard = KeyboardController::new(events.clone());
        keyboard.write(0, &[0xaa]);
        let mut chipset = ResetControl::new(events.clone());
        chipset.write(0, &[0x02]);
        assert_eq!(events.take(), None);
        chipset.write(0, &[CHIPSET_RESET]);
        assert_eq!(events.take(), Some(Event::Reset));
        events.reset();
        keyboard.write(0, &[0xfe]);
        assert_eq!(events.take(), Some(Event::Reset));
    }

    #[test]
    fn the_register_reads_back_and_moves() {
        let events = Events::new().unwrap();
        let mut chipset = ResetControl::new(events.clone());
        chipset.write(0, &[0x02]);
        let mut other = ResetControl::new(events);
        other.import_state(1, &chipset.export_state().unwrap()).unwrap();
        let mut value = [0xff];
        other.read(0, &mut value);
        assert_eq!(value, [0x02]);
    }
}
