//! ACPI's fixed hardware: the PM1 event and control registers, and the power management timer (ACPI 6.5, section 4.8).
//!
//! ```text
//!   0x600  PM1 status  (16 bits, write 1 to clear)   0x604  PM1 control (16 bits)
//!   0x602  PM1 enable  (16 bits)                     0x608  timer (32 bits, 3.579545 MHz)
//! ```
//!
//! The ports and the value of the S5 sleep type are those of QEMU's q35, so a small guest that knows one knows the other.
//! The timer never interrupts: its enable bit is kept but its status bit is never set.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::bus::BusDevice;
use crate::device::{Device, DeviceError};
use crate::interrupt::IrqLine;
use crate::machine::events::{Event, Events};
use crate::state::{ChunkKind, StateError, decode, encode};

/// First port.
pub const PORT: u64 = 0x600;
/// Number of ports.
pub const PORTS: u64 = 16;
/// The system control interrupt: level-triggered, active high.
pub const SCI: u32 = 9;
/// The sleep type of S5, as `\_S5` tells the guest.
pub const SLEEP_TYPE_S5: u16 = 0;

/// Offset of the control register.
pub const CONTROL_OFFSET: u64 = 4;
/// Offset of the timer.
pub const TIMER_OFFSET: u64 = 8;

const STATUS_POWER_BUTTON: u16 = 1 << 8;
const CONTROL_SCI_ENABLE: u16 = 1;
const CONTROL_SLEEP_ENABLE: u16 = 1 << 13;
const TIMER_HZ: u128 = 3_579_545;

const SUBJECT: &str = "ACPI power management";

/// The registers.
pub struct PowerManagement {
    events: Events,
    line: Arc<dyn IrqLine>,
    status: u16,
    enable: u16,
    control: u16,
    timer_base: u32,
    timer_since: Instant,
}

#[derive(Serialize, Deserialize)]
struct State {
    status: u16,
    enable: u16,
    control: u16,
    timer: u32,
}

impl PowerManagement {
    /// Registers that interrupt by `line` and report S5 to `events`.
    pub fn new(events: Events, line: Arc<dyn IrqLine>) -> Self {
        let timer_since = Instant::now();
        Self { events, line, status: 0, enable: 0, control: 0, timer_base: 0, timer_since }
    }

    /// Presses the power button: a guest that listens shuts itself down.
    pub fn press_power_button(&mut self) {
        self.status |= STATUS_POWER_BUTTON;
        self.update_line();
    }

    fn update_line(&self) {
        self.line.set(self.status & self.enable != 0);
    }

    /// Sets the timer forward: guests that watch one clock by another compare it with the TSC.
    pub fn forward(&mut self, by: Duration) {
        self.timer_base = self.timer_base.wrapping_add(timer_ticks(by));
    }

    fn timer(&self) -> u32 {
        self.timer_base.wrapping_add(timer_ticks(self.timer_since.elapsed()))
    }

    fn image(&self) -> [u8; PORTS as usize] {
        let mut image = [0; PORTS as usize];
        image[0..2].copy_from_slice(&self.status.to_le_bytes());
        image[2..4].copy_from_slice(&self.enable.to_le_bytes());
        // There is no legacy mode to leave, so ACPI mode is always on; the sleep enable bit always reads 0.
        image[4..6].copy_from_slice(&(self.control | CONTROL_SCI_ENABLE).to_le_bytes());
        image[8..12].copy_from_slice(&self.timer().to_le_bytes());
        image
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let (shift, value) = (offset % 2 * 8, u16::from(value));
        let replace = |register: u16| register & !(0xff << shift) | value << shift;
        match offset {
            0 | 1 => self.status &= !(value << shift),
            2 | 3 => self.enable = replace(self.enable),
            4 | 5 => self.control = replace(self.control),
            _ => {}
        }
    }
}

/// Ticks of the timer in that time; it wraps.
fn timer_ticks(time: Duration) -> u32 {
    (time.as_nanos() * TIMER_HZ / 1_000_000_000) as u32
}

impl BusDevice for PowerManagement {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let from = offset as usize;
        data.copy_from_slice(&self.image()[from..from + data.len()]);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        for (index, byte) in data.iter().enumerate() {
            self.write_byte(offset + index as u64, *byte);
        }
        self.update_line();
        if self.control & CONTROL_SLEEP_ENABLE != 0 {
            self.control &= !CONTROL_SLEEP_ENABLE;
            match self.control >> 10 & 7 {
                SLEEP_TYPE_S5 => self.events.post(Event::Shutdown),
                other => log::warn!("the guest asked for a sleep that is not offered (type {other})"),
            }
        }
    }
}

impl Device for PowerManagement {
    fn name(&self) -> String {
        SUBJECT.into()
    }

    fn chunk(&self) -> ChunkKind {
        ChunkKind::new(ChunkKind::ACPI_PM, 0, 1)
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        // KVM's state of the I/O APIC does not hold who asserts a line.
        self.update_line();
        Ok(())
    }

    fn reset(&mut self) {
        (self.status, self.enable, self.control) = (0, 0, 0);
        self.update_line();
    }

    fn export_state(&self) -> Result<Vec<u8>, StateError> {
        let state = State { status: self.status, enable: self.enable, control: self.control, timer: self.timer() };
        encode(SUBJECT, &state)
    }

    fn import_state(&mut self, version: u16, bytes: &[u8]) -> Result<(), StateError> {
        self.chunk().check_version(version)?;
        let state: State = decode(SUBJECT, bytes)?;
        self.status = state.status;
        self.enable = state.enable;
        self.control = state.control & !CONTROL_SLEEP_ENABLE;
        (self.timer_base, self.timer_since) = (state.timer, Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Wire(AtomicBool);

    impl IrqLine for Wire {
        fn set(&self, asserted: bool) {
            self.0.store(asserted, Ordering::Relaxed);
        }
    }

    fn registers() -> (PowerManagement, Arc<Wire>, Events) {
        let (wire, events) = (Arc::new(Wire::default()), Events::new().unwrap());
        (PowerManagement::new(events.clone(), wire.clone()), wire, events)
    }

    fn word(pm: &mut PowerManagement, offset: u64) -> u16 {
        let mut data = [0xff; 2];
        pm.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    #[test]
    fn the_power_button_interrupts_until_the_guest_clears_it_and_across_a_move() {
        let (mut pm, wire, _) = registers();
        pm.press_power_button();
        assert!(!wire.0.load(Ordering::Relaxed), "the guest does not listen");
        pm.write(2, &STATUS_POWER_BUTTON.to_le_bytes());
        assert!(wire.0.load(Ordering::Relaxed));

        let (mut other, other_wire, _) = registers();
        other.import_state(1, &pm.export_state().unwrap()).unwrap();
        other.resume().unwrap();
        assert!(other_wire.0.load(Ordering::Relaxed));
        assert_eq!(word(&mut other, 0), STATUS_POWER_BUTTON);
        other.write(0, &STATUS_POWER_BUTTON.to_le_bytes());
        assert!(!other_wire.0.load(Ordering::Relaxed));
        assert_eq!(word(&mut other, 0), 0);
    }

    #[test]
    fn only_s5_with_its_enable_bit_ends_the_run() {
        let (mut pm, _, events) = registers();
        pm.write(CONTROL_OFFSET, &0x0001u16.to_le_bytes());
        pm.write(CONTROL_OFFSET, &(CONTROL_SLEEP_ENABLE | 5 << 10).to_le_bytes());
        assert_eq!(events.take(), None);
        assert_eq!(word(&mut pm, CONTROL_OFFSET) & CONTROL_SLEEP_ENABLE, 0);
        pm.write(CONTROL_OFFSET, &0x2000u16.to_le_bytes());
        assert_eq!(events.take(), Some(Event::Shutdown));
    }

    #[test]
    fn the_timer_goes_on_where_it_was_and_by_what_it_missed() {
        let (pm, ..) = registers();
        let (mut other, ..) = registers();
        let before = pm.timer();
        other
            .import_state(1, &encode(SUBJECT, &State { status: 0, enable: 0, control: 0, timer: before }).unwrap())
            .unwrap();
        let mut data = [0; 4];
        other.read(TIMER_OFFSET, &mut data);
        assert!(u32::from_le_bytes(data).wrapping_sub(before) < TIMER_HZ as u32 * 60);
        other.forward(Duration::from_secs(1_000));
        let missed = other.timer().wrapping_sub(before).wrapping_sub(TIMER_HZ as u32 * 1_000);
        assert!(missed < TIMER_HZ as u32 * 60, "set forward by a time in which it does not wrap: {missed}");
    }

    proptest! {
        #[test]
        fn any_state_and_any_access_is_taken_or_refused_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..20),
            accesses in proptest::collection::vec((any::<bool>(), 0u64..16, prop::sample::select(vec![1usize, 2, 4, 8]), any::<u8>()), 0..60),
        ) {
            let (mut pm, ..) = registers();
            let _ = pm.import_state(1, &bytes);
            for (write, offset, length, value) in accesses {
                let length = length.min((PORTS - offset) as usize);
                if write { pm.write(offset, &vec![value; length]) } else { pm.read(offset, &mut vec![0xff; length]) }
            }
        }
    }
}
