//! Registers that no code uses and that must keep their values across a move.
//!
//! The kernel is compiled without SSE, so the XMM registers belong to the check alone.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

static REGISTERS_BAD: AtomicU64 = AtomicU64::new(0);

/// How often a register did not hold what was put into it.
pub fn registers_bad() -> u64 {
    REGISTERS_BAD.load(Relaxed)
}

fn value(seed: u64, register: u64) -> u64 {
    seed.wrapping_add(register + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

macro_rules! xmm {
    ($seed:ident, $work:ident: $($number:literal)*) => { $( $work!($seed, $number); )* };
}

macro_rules! put {
    ($seed:ident, $number:literal) => {
        // The value in the lower half and, by unpacking the register with itself, in the upper.
        // SAFETY: no compiled code uses SSE registers.
        unsafe {
            asm!(
                concat!("movq xmm", $number, ", {value}"),
                concat!("punpcklqdq xmm", $number, ", xmm", $number),
                value = in(reg) value($seed, $number),
                options(nomem, nostack),
            );
        }
    };
}

macro_rules! check {
    ($seed:ident, $number:literal) => {
        let (low, high): (u64, u64);
        // SAFETY: reads a register; its halves are exchanged, which are equal if all is well.
        unsafe {
            asm!(
                concat!("movq {low}, xmm", $number),
                concat!("pshufd xmm", $number, ", xmm", $number, ", 0x4e"),
                concat!("movq {high}, xmm", $number),
                low = out(reg) low,
                high = out(reg) high,
                options(nomem, nostack),
            );
        }
        let due = value($seed, $number);
        if low != due || high != due {
            REGISTERS_BAD.fetch_add(1, Relaxed);
            put!($seed, $number);
        }
    };
}

/// Puts a value that follows from `seed` into each of this CPU's registers.
pub fn put_registers(seed: u64) {
    xmm!(seed, put: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

/// Counts the registers of this CPU that do not hold their value, and puts it there again.
pub fn check_registers(seed: u64) {
    xmm!(seed, check: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}
