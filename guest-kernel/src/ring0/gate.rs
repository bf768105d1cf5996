//! Calls into ring 0: `ud2` with the call's number in EAX.

use core::arch::asm;

// A marker in the upper bytes tells a call from an undefined instruction that a compiler put there.
const MARK: u32 = 0x5717_0000;
pub(super) const CALL_READ_MSR: u32 = MARK + 1;
pub(super) const CALL_WRITE_MSR: u32 = MARK + 2;
pub(super) const CALL_CPUID: u32 = MARK + 3;
pub(super) const CALL_HALT: u32 = MARK + 4;
pub(super) const CALL_ENABLE: u32 = MARK + 5;
pub(super) const CALL_HANG: u32 = MARK + 6;
pub(super) const CALL_TRIPLE_FAULT: u32 = MARK + 7;
pub(super) const CALL_READ_DEBUG: u32 = MARK + 8;
pub(super) const CALL_WRITE_DEBUG: u32 = MARK + 9;
pub(super) const CALL_ENABLE_AVX: u32 = MARK + 10;

/// The four registers of CPUID.
#[derive(Clone, Copy, Debug)]
pub struct Cpuid {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// CPUID as ring 0 sees it: where ring 0 is emulated, ring 3 would see another machine's.
pub fn cpuid(leaf: u32, subleaf: u32) -> Cpuid {
    let (eax, ebx, ecx, edx): (u32, u64, u32, u32);
    // SAFETY: the gate changes the four registers that are named; RBX is kept by hand, the compiler reserves it.
    unsafe {
        asm!(
            "mov {kept}, rbx",
            "ud2",
            "xchg {kept}, rbx",
            kept = out(reg) ebx,
            inlateout("eax") CALL_CPUID => eax,
            in("edi") leaf,
            inlateout("ecx") subleaf => ecx,
            lateout("edx") edx,
        );
    }
    Cpuid { eax, ebx: ebx as u32, ecx, edx }
}

/// Reads a model-specific register; `None` if the CPU refuses.
pub fn read_msr(register: u32) -> Option<u64> {
    let (low, refused, high): (u32, u32, u32);
    // SAFETY: reading has no effect on memory; a refusal is caught by the fault stub.
    unsafe {
        asm!("ud2", inlateout("eax") CALL_READ_MSR => low, inlateout("ecx") register => refused, lateout("edx") high);
    }
    (refused == 0).then_some(u64::from(high) << 32 | u64::from(low))
}

/// Writes a model-specific register; false if the CPU refuses.
///
/// # Safety
/// The register's effect must be one that Rust's memory model survives.
pub unsafe fn write_msr(register: u32, value: u64) -> bool {
    let refused: u32;
    // SAFETY: the caller answers for the effect.
    unsafe {
        asm!(
            "ud2",
            inlateout("eax") CALL_WRITE_MSR => _,
            inlateout("ecx") register => refused,
            inlateout("edx") (value >> 32) as u32 => _,
            in("edi") value as u32,
        );
    }
    refused == 0
}

/// DR0 to DR3.
pub fn read_debug() -> [u64; 4] {
    let (a, b, c, d): (u64, u64, u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("ud2", inlateout("rax") u64::from(CALL_READ_DEBUG) => a, lateout("rcx") b, lateout("rdx") c, lateout("rdi") d);
    }
    [a, b, c, d]
}

/// Writes DR0 to DR3. No breakpoint is enabled, so they are mere numbers.
pub fn write_debug([a, b, c, d]: [u64; 4]) {
    // SAFETY: DR7 stays as it is after reset, so the addresses have no effect.
    unsafe { asm!("ud2", in("eax") CALL_WRITE_DEBUG, in("rdi") a, in("rsi") b, in("rdx") c, in("rcx") d) };
}

/// Lets interrupts in.
///
/// # Safety
/// The interrupt table is filled.
pub unsafe fn enable_interrupts() {
    // SAFETY: the stubs keep every register.
    unsafe { asm!("ud2", in("eax") CALL_ENABLE) };
}

/// Waits for the next interrupt.
pub fn halt() {
    // SAFETY: the stubs keep every register.
    unsafe { asm!("ud2", in("eax") CALL_HALT) };
}

/// Stops for ever, deaf to interrupts: a guest that hangs.
pub fn hang() -> ! {
    // SAFETY: does not return.
    unsafe { asm!("ud2", in("eax") CALL_HANG, options(noreturn)) }
}

/// Resets the CPU the hard way: a fault without an interrupt table.
pub fn triple_fault() -> ! {
    // SAFETY: does not return.
    unsafe { asm!("ud2", in("eax") CALL_TRIPLE_FAULT, options(noreturn)) }
}

/// Turns on the AVX state of this CPU: CR4.OSXSAVE, and XCR0 with x87, SSE and AVX.
/// Source: Intel SDM, volume 1, section 13.3.
///
/// # Safety
/// CPUID says that the CPU has XSAVE and AVX.
pub unsafe fn enable_avx() {
    // SAFETY: the caller's; no compiled code uses the state.
    unsafe { asm!("ud2", inlateout("eax") CALL_ENABLE_AVX => _, lateout("ecx") _, lateout("edx") _) };
}
