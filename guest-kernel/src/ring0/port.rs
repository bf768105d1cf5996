//! Port I/O from ring 3, which IOPL or the task's I/O bitmap allows.

use core::arch::asm;

/// Reads a byte.
///
/// # Safety
/// The device behind `port` must not write memory that Rust owns.
pub unsafe fn read_byte(port: u16) -> u8 {
    let value;
    // SAFETY: the caller answers for the device.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack)) };
    value
}

/// Writes a byte.
///
/// # Safety
/// As [`read_byte`].
pub unsafe fn write_byte(port: u16, value: u8) {
    // SAFETY: the caller answers for the device.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
}

/// Reads a 16-bit word.
///
/// # Safety
/// As [`read_byte`].
pub unsafe fn read_word(port: u16) -> u16 {
    let value;
    // SAFETY: the caller answers for the device.
    unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack)) };
    value
}

/// Writes a 16-bit word.
///
/// # Safety
/// As [`read_byte`].
pub unsafe fn write_word(port: u16, value: u16) {
    // SAFETY: the caller answers for the device.
    unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack)) };
}
