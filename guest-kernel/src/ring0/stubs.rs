//! The assembly that runs in ring 0: the gate, the timer tick, and the fault that becomes a record.

use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicU64};

use crate::ring0::descriptors::{CPUS_MAX, USER_CODE, USER_DATA, USER_FLAGS};
use crate::ring0::gate::{
    CALL_CPUID, CALL_ENABLE, CALL_ENABLE_AVX, CALL_HALT, CALL_HANG, CALL_READ_DEBUG, CALL_READ_MSR, CALL_TRIPLE_FAULT,
    CALL_WRITE_DEBUG, CALL_WRITE_MSR,
};

/// One CPU's timer ticks: written by its stub.
#[repr(C, align(64))]
pub struct Ticks {
    /// How many were taken.
    pub count: AtomicU64,
    /// TSC of the latest.
    pub tsc: AtomicU64,
    /// Longest time between two in TSC cycles, since it was last set to zero.
    pub gap: AtomicU64,
}

/// The ticks of all CPUs. Each CPU's timer has a vector of its own, so that a stub knows its place without a register.
#[unsafe(no_mangle)]
pub static TICKS: [Ticks; CPUS_MAX] =
    [const { Ticks { count: AtomicU64::new(0), tsc: AtomicU64::new(0), gap: AtomicU64::new(0) } }; CPUS_MAX];

/// One CPU's interrupts from another: the count is written by its stub.
#[repr(C, align(64))]
pub struct Ipis {
    /// How many were taken.
    pub count: AtomicU64,
    /// Whether it takes them.
    pub ready: AtomicBool,
}

/// The interrupts from another CPU, of all CPUs. Vectors are each CPU's own, as those of the ticks are.
#[unsafe(no_mangle)]
pub static IPIS: [Ipis; CPUS_MAX] =
    [const { Ipis { count: AtomicU64::new(0), ready: AtomicBool::new(false) } }; CPUS_MAX];

/// Vector, error code, instruction, flags, stack and CR2 of the fault that ended the kernel.
#[unsafe(no_mangle)]
pub static FAULT: [AtomicU64; 6] = [const { AtomicU64::new(0) }; 6];

global_asm!(
    ".pushsection .text.stubs, \"ax\"",
    // Every vector has an entry of 16 bytes that pushes an error code where the CPU does not, and its number.
    ".balign 16",
    "fault_stubs:",
    ".set vector, 0",
    ".rept 256",
    ".balign 16",
    ".if (vector == 8) || (vector == 10) || (vector == 11) || (vector == 12) || (vector == 13) || (vector == 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)",
    ".else",
    "push 0",
    ".endif",
    ".byte 0x68", // push of a 32-bit constant; by name it would be a memory operand
    ".long vector",
    "jmp fault_record",
    ".set vector, vector + 1",
    ".endr",
    "",
    "fault_record:", // stack: vector, error, rip, cs, rflags, rsp, ss
    "cmp qword ptr [rsp], 13",
    "jne 2f",
    "push rax",
    "mov eax, offset gate_read_msr",
    "cmp qword ptr [rsp + 24], rax",
    "je gate_msr_refused",
    "mov eax, offset gate_write_msr",
    "cmp qword ptr [rsp + 24], rax",
    "je gate_msr_refused",
    "pop rax",
    "2:",
    "pop rax",
    "mov qword ptr [rip + FAULT], rax",
    "pop rax",
    "mov qword ptr [rip + FAULT + 8], rax",
    "mov rax, qword ptr [rsp]",
    "mov qword ptr [rip + FAULT + 16], rax",
    "mov rax, qword ptr [rsp + 16]",
    "mov qword ptr [rip + FAULT + 24], rax",
    "mov rax, qword ptr [rsp + 24]",
    "mov qword ptr [rip + FAULT + 32], rax",
    "mov rax, cr2",
    "mov qword ptr [rip + FAULT + 40], rax",
    "mov eax, offset {landing}",
    "mov qword ptr [rsp], rax",
    "mov qword ptr [rsp + 8], {user_code}",
    "mov qword ptr [rsp + 16], {user_flags}",
    "and qword ptr [rsp + 24], -16",
    "sub qword ptr [rsp + 24], 4096 + 8",
    "mov qword ptr [rsp + 32], {user_data}",
    "iretq",
    "",
    "gate_msr_refused:", // stack: rax, vector, error, then the frame in ring 0, then the gate's own frame
    "add rsp, 24",
    "mov rax, qword ptr [rsp + 24]", // the stack pointer at the refused instruction
    "mov rsp, rax",
    "xor eax, eax",
    "xor edx, edx",
    "mov ecx, 1",
    "iretq",
    "",
    ".balign 16",
    "gate_entry:", // stack: rip, cs, rflags, rsp, ss
    "cmp eax, {read_msr}",
    "je 3f",
    "cmp eax, {write_msr}",
    "je 4f",
    "cmp eax, {cpuid}",
    "je 5f",
    "cmp eax, {halt}",
    "je 6f",
    "cmp eax, {enable}",
    "je 7f",
    "cmp eax, {hang}",
    "je 8f",
    "cmp eax, {triple_fault}",
    "je 9f",
    "cmp eax, {read_debug}",
    "je gate_read_debug",
    "cmp eax, {write_debug}",
    "je gate_write_debug",
    "cmp eax, {enable_avx}",
    "je gate_enable_avx",
    "jmp fault_stubs + 6 * 16", // an ordinary undefined instruction
    "3:",
    "add qword ptr [rsp], 2",
    "gate_read_msr:",
    "rdmsr",
    "xor ecx, ecx",
    "iretq",
    "4:",
    "add qword ptr [rsp], 2",
    "mov eax, edi",
    "gate_write_msr:",
    "wrmsr",
    "xor ecx, ecx",
    "iretq",
    "5:",
    "add qword ptr [rsp], 2",
    "mov eax, edi",
    "cpuid",
    "iretq",
    "6:",
    "add qword ptr [rsp], 2",
    "sti",
    "hlt",
    "iretq",
    "7:",
    "add qword ptr [rsp], 2",
    "or qword ptr [rsp + 16], 0x200",
    "iretq",
    "8:",
    "cli",
    "hlt",
    "jmp 8b",
    "9:",
    "push 0",
    "push 0",
    "lidt [rsp]",
    "ud2",
    "gate_read_debug:",
    "add qword ptr [rsp], 2",
    "mov rax, dr0",
    "mov rcx, dr1",
    "mov rdx, dr2",
    "mov rdi, dr3",
    "iretq",
    "gate_write_debug:",
    "add qword ptr [rsp], 2",
    "mov dr0, rdi",
    "mov dr1, rsi",
    "mov dr2, rdx",
    "mov dr3, rcx",
    "iretq",
    "gate_enable_avx:",
    "add qword ptr [rsp], 2",
    "mov rax, cr4",
    "or eax, 0x40000",
    "mov cr4, rax",
    "xor ecx, ecx",
    "xor edx, edx",
    "mov eax, 7",
    "xsetbv",
    "iretq",
    "",
    ".balign 128",
    "tick_stubs:",
    ".set place, 0",
    ".rept {cpus_max}",
    ".balign 128",
    "push rax",
    "push rdx",
    "rdtsc",
    "shl rdx, 32",
    "or rax, rdx",
    "mov rdx, rax",
    "xchg rax, qword ptr [rip + TICKS + place + 8]",
    "sub rdx, rax",
    "cmp rdx, qword ptr [rip + TICKS + place + 16]",
    "jb 2f",
    "mov qword ptr [rip + TICKS + place + 16], rdx",
    "2:",
    "inc qword ptr [rip + TICKS + place]",
    "mov eax, 0xfee000b0", // end of interrupt
    "mov dword ptr [rax], 0",
    "pop rdx",
    "pop rax",
    "iretq",
    ".set place, place + 64",
    ".endr",
    "",
    ".balign 64",
    "ipi_stubs:",
    ".set place, 0",
    ".rept {cpus_max}",
    ".balign 64",
    "inc qword ptr [rip + IPIS + place]",
    "push rax",
    "mov eax, 0xfee000b0", // end of interrupt
    "mov dword ptr [rax], 0",
    "pop rax",
    "iretq",
    ".set place, place + 64",
    ".endr",
    "",
    "spurious_entry:",
    "iretq",
    ".popsection",
    cpus_max = const CPUS_MAX,
    landing = sym landing,
    user_code = const USER_CODE,
    user_data = const USER_DATA,
    user_flags = const USER_FLAGS,
    read_msr = const CALL_READ_MSR,
    write_msr = const CALL_WRITE_MSR,
    cpuid = const CALL_CPUID,
    halt = const CALL_HALT,
    enable = const CALL_ENABLE,
    hang = const CALL_HANG,
    triple_fault = const CALL_TRIPLE_FAULT,
    read_debug = const CALL_READ_DEBUG,
    write_debug = const CALL_WRITE_DEBUG,
    enable_avx = const CALL_ENABLE_AVX,
);

unsafe extern "C" {
    static fault_stubs: u8;
    static gate_entry: u8;
    static tick_stubs: u8;
    static ipi_stubs: u8;
    static spurious_entry: u8;
}

/// Address of the stub of a vector that nobody expects.
pub fn fault_address(vector: u8) -> u64 {
    (&raw const fault_stubs) as u64 + u64::from(vector) * 16
}

/// Address of the gate.
pub fn gate_address() -> u64 {
    (&raw const gate_entry) as u64
}

/// Address of the timer's stub of a CPU.
pub fn tick_address(cpu: u8) -> u64 {
    (&raw const tick_stubs) as u64 + u64::from(cpu) * 128
}

/// Address of the stub of a CPU that is called by another.
pub fn ipi_address(cpu: u8) -> u64 {
    (&raw const ipi_stubs) as u64 + u64::from(cpu) * 64
}

/// Address of the stub that ignores.
pub fn spurious_address() -> u64 {
    (&raw const spurious_entry) as u64
}

/// Where a fault comes back to ring 3, below the stack that it interrupted: the kernel ends with what is in [`FAULT`].
extern "C" fn landing() -> ! {
    let [vector, error, rip, flags, rsp, cr2] =
        core::array::from_fn(|index| FAULT[index].load(core::sync::atomic::Ordering::Relaxed));
    panic!("fault vector={vector} error={error:#x} rip={rip:#x} rflags={flags:#x} rsp={rsp:#x} cr2={cr2:#x}");
}
