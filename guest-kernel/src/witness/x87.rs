//! The data registers of x87, which no code uses and which must keep their values across a move: all 80 bits of each, the
//! tags that say that they are in use, and the place of the top of their stack.
//! Source: Intel SDM, volume 1, sections 8.1.2 (data registers) and 10.5.1 (the area of FXSAVE).

use core::arch::asm;

use crate::witness::cpu::{bad, value};

/// First number of [`crate::witness::cpu::register_last`] that is one of these; 8 more is their status.
const X87: u64 = 0x4_0000_0000;
const REGISTERS: usize = 8;
/// Numbers from which values follow, behind those of the other registers.
const VALUES: u64 = 300;
/// The integer bit, without which a number would be none.
const INTEGER_BIT: u64 = 1 << 63;
/// Offsets in the area of FXSAVE, in 64-bit words: the control, status and tag words; the first register.
const STATUS: usize = 0;
const FIRST: usize = 4;
/// Top of the stack (bits 27 to 29 of the word) at 0, and all registers in use (bits 32 to 39).
const STATUS_MASK: u64 = 0xff << 32 | 7 << 27;
const STATUS_DUE: u64 = 0xff << 32;

#[repr(C, align(16))]
struct Area([u64; 64]);

/// The registers of one CPU.
#[derive(Debug)]
pub(super) struct DataRegisters {
    seed: u64,
}

impl DataRegisters {
    /// Puts a value into each register. What else x87 has is as after reset.
    pub(super) fn put(seed: u64) -> Self {
        let registers = Self { seed };
        registers.load();
        registers
    }

    fn load(&self) {
        // SAFETY: no compiled code uses x87.
        unsafe { asm!("fninit", options(nomem, nostack)) };
        // The last that is loaded is the top.
        for index in (0..REGISTERS).rev() {
            let number = self.number(index);
            // SAFETY: as above; ten bytes of the number are read.
            unsafe { asm!("fld tbyte ptr [{0}]", in(reg) &raw const number, options(nostack, readonly)) };
        }
    }

    /// Mantissa, and sign and exponent, of the register `index` behind the top: a finite number.
    fn number(&self, index: usize) -> [u64; 2] {
        let mantissa = value(self.seed, VALUES + index as u64) | INTEGER_BIT;
        [mantissa, (0x3fff + index as u64) | (index as u64 & 1) << 15]
    }

    /// Checks all of them; afterwards they are right. True if they had to be put anew, with the control word at its default.
    pub(super) fn check(&self) -> bool {
        let mut area = Area([0; 64]);
        // SAFETY: 512 bytes, aligned to 16, that are ours.
        unsafe { asm!("fxsave64 [{0}]", in(reg) &raw mut area, options(nostack)) };
        let words = &area.0;
        let mut wrong = false;
        let mut complain = |index: usize| {
            bad(X87 + index as u64);
            wrong = true;
        };
        for index in 0..REGISTERS {
            let at = FIRST + 2 * index;
            if [words[at], words[at + 1] & 0xffff] != self.number(index) {
                complain(index);
            }
        }
        if words[STATUS] & STATUS_MASK != STATUS_DUE {
            complain(REGISTERS);
        }
        if wrong {
            self.load();
        }
        wrong
    }
}
