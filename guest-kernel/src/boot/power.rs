//! Power off and reset.

use crate::ring0::{gate, port};
use crate::witness::clock::{Counter, Tsc};

/// How this machine is powered off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Power {
    /// Port and 16-bit value that mean S5.
    pub s5: Option<(u16, u16)>,
}

impl Power {
    /// Powers off; returns if that had no effect.
    pub fn off(&self) {
        if let Some((port, value)) = self.s5 {
            // SAFETY: the machine's power management register; nothing runs afterwards.
            unsafe { port::write_word(port, value) };
            wait();
        }
    }

    /// Resets by the chipset, by the keyboard controller, by a triple fault.
    pub fn reset(&self) -> ! {
        // SAFETY: reset registers; nothing runs afterwards.
        unsafe {
            port::write_byte(0xcf9, 6);
            wait();
            port::write_byte(0x64, 0xfe);
        }
        wait();
        gate::triple_fault()
    }
}

/// A while, for a machine that does not stop within the instruction.
fn wait() {
    let begin = Tsc.read();
    while Tsc.read().wrapping_sub(begin) < 500_000_000 {}
}
