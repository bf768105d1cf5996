//! Registers that no code uses and that must keep their values across a move.
//!
//! The kernel is compiled without SSE, AVX and x87, so these registers belong to the check alone. Of the model-specific and debug
//! registers those are taken that have no effect here: nothing uses segment bases, `syscall`, `sysenter` or breakpoints.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::ring0::gate;
use crate::witness::x87::DataRegisters;

static REGISTERS_BAD: AtomicU64 = AtomicU64::new(0);
/// The one that was found last: the number of a model-specific register, or one of the numbers below, which none of them has.
static REGISTER_LAST: AtomicU64 = AtomicU64::new(0);
/// SSE and AVX registers, by their number from here on.
const XMM: u64 = 0x1_0000_0000;
/// MXCSR and the control word of x87.
const CONTROLS: u64 = 0x2_0000_0000;
/// DR0 to DR3.
const DEBUG: u64 = 0x3_0000_0000;

/// How often a register did not hold what was put into it.
pub fn registers_bad() -> u64 {
    REGISTERS_BAD.load(Relaxed)
}

/// Which register that was the last time: the number of a model-specific register; 0x1_0000_0000 and a number: SSE or AVX; 0x2_0000_0000: MXCSR or the
/// control word of x87; 0x3_0000_0000: a debug register; 0x4_0000_0000 and a number: a data register of x87, by its distance from the top, or with 8 their
/// tags and the top; 0: none yet.
pub fn register_last() -> u64 {
    REGISTER_LAST.load(Relaxed)
}

pub(super) fn bad(register: u64) {
    REGISTERS_BAD.fetch_add(1, Relaxed);
    REGISTER_LAST.store(register, Relaxed);
}

pub(super) fn value(seed: u64, register: u64) -> u64 {
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

/// Copies the lower 128 bits of a register to the upper.
macro_rules! widen {
    ($seed:ident, $number:literal) => {
        // SAFETY: the caller has turned AVX on; no compiled code uses it.
        unsafe {
            asm!(
                concat!("vinsertf128 ymm", $number, ", ymm", $number, ", xmm", $number, ", 1"),
                options(nomem, nostack),
            );
        }
    };
}

/// Exchanges the lower and the upper 128 bits of a register.
macro_rules! exchange {
    ($seed:ident, $number:literal) => {
        // SAFETY: the caller has turned AVX on; no compiled code uses it.
        unsafe {
            asm!(
                concat!("vperm2f128 ymm", $number, ", ymm", $number, ", ymm", $number, ", 1"),
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
            bad(XMM + $number);
            put!($seed, $number);
        }
    };
}

/// Model-specific registers, and the bits of a value that each can hold.
const MSRS: [(u32, u64); 11] = [
    (0x174, 0xfffc),                      // IA32_SYSENTER_CS
    (0x175, LOWER_HALF),                  // IA32_SYSENTER_ESP
    (0x176, LOWER_HALF),                  // IA32_SYSENTER_EIP
    (0xc000_0081, 0xffff_ffff_0000_0000), // STAR
    (0xc000_0082, LOWER_HALF),            // LSTAR
    (0xc000_0083, LOWER_HALF),            // CSTAR
    (0xc000_0084, 0x003f_7fd5),           // SFMASK
    (0xc000_0100, LOWER_HALF),            // FS base
    (0xc000_0101, LOWER_HALF),            // GS base
    (0xc000_0102, LOWER_HALF),            // KERNEL_GS base
    (0xc000_0103, 0xffff_ffff),           // TSC_AUX
];
/// Addresses that are canonical whatever the number of paging levels.
const LOWER_HALF: u64 = 0x0000_7fff_ffff_ffff;
/// Exceptions masked; the rounding mode and the sticky flags tell the value from the one after reset.
const MXCSR: u32 = 0x7fa5;
const X87_CONTROL: u16 = 0x0f7f;

/// The registers of one CPU that are watched, and the seed that their values follow from.
#[derive(Debug)]
pub struct Registers {
    seed: u64,
    /// One bit for each of [`MSRS`] that this machine holds faithfully at all.
    msrs: u32,
    /// Whether the debug registers do.
    debug: bool,
    /// Whether the upper halves of the AVX registers are watched.
    avx: bool,
    x87: DataRegisters,
    /// Whether IA32_SYSENTER_ESP and EIP have 32 bits and no more (AMD64 Architecture Programmer's Manual, volume 2, section 6.1.2). KVM gives and takes no
    /// more of them for a guest that sees such a processor; what an emulated one holds beyond that is lost in a move.
    short_sysenter: bool,
}

/// CPUID 0 EBX of AMD: "Auth".
const VENDOR_AMD: u32 = 0x6874_7541;

/// CPUID 1 ECX: XSAVE and AVX.
const FEATURES_AVX: u32 = 1 << 26 | 1 << 28;

impl Registers {
    /// Puts a value into each register. Those that do not hold it even now are left out of the watch.
    pub fn put(seed: u64) -> Self {
        xmm!(seed, put: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        let x87 = DataRegisters::put(seed);
        put_controls();
        let avx = gate::cpuid(1, 0).ecx & FEATURES_AVX == FEATURES_AVX;
        if avx {
            // SAFETY: CPUID says that it is there.
            unsafe { gate::enable_avx() };
            xmm!(seed, widen: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        }
        let short_sysenter = gate::cpuid(0, 0).ebx == VENDOR_AMD;
        let mut registers = Self { seed, msrs: 0, debug: false, avx, x87, short_sysenter };
        for (index, (msr, mask)) in MSRS.iter().enumerate() {
            let due = registers.msr_value(index, *mask);
            // SAFETY: see MSRS; none of them matters to code in ring 3 that uses neither segments nor system calls.
            let written = unsafe { gate::write_msr(*msr, due) };
            registers.msrs |= u32::from(written && gate::read_msr(*msr) == Some(due)) << index;
        }
        gate::write_debug(registers.debug_values());
        registers.debug = gate::read_debug() == registers.debug_values();
        registers
    }

    /// How many of the model-specific registers are watched.
    pub fn msrs(&self) -> u32 {
        self.msrs.count_ones()
    }

    /// Whether the debug registers are watched.
    pub fn debug(&self) -> bool {
        self.debug
    }

    /// Whether the AVX registers are watched.
    pub fn avx(&self) -> bool {
        self.avx
    }

    /// Checks what ring 3 can read, in well below a microsecond.
    pub fn check(&self) {
        let seed = self.seed;
        xmm!(seed, check: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        if self.avx {
            // Both halves hold the same, so what was above is checked below and may stay there.
            xmm!(seed, exchange: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
            xmm!(seed, check: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        }
        if controls() != (MXCSR, X87_CONTROL) {
            bad(CONTROLS);
            put_controls();
        }
    }

    /// Checks the data registers of x87, in about a microsecond.
    pub fn check_x87(&self) {
        if self.x87.check() {
            put_controls();
        }
    }

    /// Checks what only ring 0 can read, which may take a hundred microseconds; `between` is called after each part.
    pub fn check_privileged(&self, mut between: impl FnMut()) {
        for (index, (msr, mask)) in MSRS.iter().enumerate().filter(|(index, _)| self.msrs & 1 << index != 0) {
            let due = self.msr_value(index, *mask);
            if gate::read_msr(*msr) != Some(due) {
                bad(u64::from(*msr));
                // SAFETY: as when it was put there first.
                unsafe { gate::write_msr(*msr, due) };
            }
            between();
        }
        if self.debug && gate::read_debug() != self.debug_values() {
            bad(DEBUG);
            gate::write_debug(self.debug_values());
        }
        between();
    }

    fn msr_value(&self, index: usize, mask: u64) -> u64 {
        let is_short = self.short_sysenter && matches!(MSRS[index].0, 0x175 | 0x176);
        value(self.seed, 100 + index as u64) & if is_short { mask & 0xffff_ffff } else { mask }
    }

    fn debug_values(&self) -> [u64; 4] {
        core::array::from_fn(|index| value(self.seed, 200 + index as u64) & LOWER_HALF)
    }
}

fn put_controls() {
    // SAFETY: no compiled code uses SSE or x87.
    unsafe {
        asm!("ldmxcsr [{0}]", in(reg) &MXCSR, options(nostack, readonly));
        asm!("fldcw [{0}]", in(reg) &X87_CONTROL, options(nostack, readonly));
    }
}

fn controls() -> (u32, u16) {
    let (mut mxcsr, mut x87) = (0, 0);
    // SAFETY: stores the two words.
    unsafe {
        asm!("stmxcsr [{0}]", in(reg) &raw mut mxcsr, options(nostack));
        asm!("fnstcw [{0}]", in(reg) &raw mut x87, options(nostack));
    }
    (mxcsr, x87)
}
