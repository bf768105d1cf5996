//! Power off, reset, and the power button.

use crate::boot::acpi::{Button, Platform, PowerOff, Register};
use crate::ring0::{gate, port};
use crate::witness::clock::{Counter, Tsc};

/// Power button in the PM1 status and enable registers.
const POWER_BUTTON: u16 = 1 << 8;

/// How this machine is powered off and reset.
#[derive(Clone, Copy, Debug)]
pub struct Power {
    off: Option<PowerOff>,
    reset: Option<(Register, u8)>,
    button: Option<Button>,
}

fn write_byte(register: Register, value: u8) {
    match register {
        // SAFETY: a register of the platform that ends the kernel or does nothing.
        Register::Port(port) => unsafe { port::write_byte(port, value) },
        // SAFETY: as above, in device memory, which is mapped.
        Register::Memory(address) => unsafe { (address as *mut u8).write_volatile(value) },
    }
}

fn write_word(register: Register, value: u16) {
    match register {
        // SAFETY: a register of the platform that ends the kernel or does nothing.
        Register::Port(port) => unsafe { port::write_word(port, value) },
        // SAFETY: as above, in device memory, which is mapped.
        Register::Memory(address) => unsafe { (address as *mut u16).write_volatile(value) },
    }
}

impl Power {
    /// What the tables say, or instead of it a port and value for power off. The power button is let show.
    pub fn new(platform: &Platform, s5: Option<(u16, u16)>) -> Self {
        let off = s5.map(|(port, value)| PowerOff::Control(Register::Port(port), value)).or(platform.power_off);
        if let Some(button) = platform.button {
            // SAFETY: registers of the power management; the interrupt that goes with them is masked in the I/O APIC.
            unsafe {
                port::write_word(button.status, POWER_BUTTON);
                port::write_word(button.enable, POWER_BUTTON);
            }
        }
        Self { off, reset: platform.reset, button: platform.button }
    }

    /// True once for each press of the power button.
    pub fn pressed(&self) -> bool {
        let Some(button) = self.button else { return false };
        // SAFETY: registers of the power management; a status bit is cleared by writing it.
        unsafe {
            let pressed = port::read_word(button.status) & POWER_BUTTON != 0;
            if pressed {
                port::write_word(button.status, POWER_BUTTON);
            }
            pressed
        }
    }

    /// Powers off; returns if that had no effect.
    pub fn off(&self) {
        match self.off {
            Some(PowerOff::Control(register, value)) => write_word(register, value),
            Some(PowerOff::Sleep(register, value)) => write_byte(register, value),
            None => return,
        }
        wait();
    }

    /// Resets as the tables say, by the chipset, by the keyboard controller, by a triple fault: whatever works first.
    pub fn reset(&self) -> ! {
        if let Some((register, value)) = self.reset {
            write_byte(register, value);
            wait();
        }
        for (port, value) in [(0xcf9, 6), (0x64, 0xfe)] {
            write_byte(Register::Port(port), value);
            wait();
        }
        gate::triple_fault()
    }
}

/// A while, for a machine that does not stop within the instruction.
fn wait() {
    let begin = Tsc.read();
    while Tsc.read().wrapping_sub(begin) < 500_000_000 {}
}
