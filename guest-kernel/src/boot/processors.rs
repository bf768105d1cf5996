//! Wakes the other CPUs, one after the other, by INIT and SIPI, and brings each to ring 3.
//!
//! ```text
//! SIPI -> trampoline (real mode, below 1 MiB) -> long mode -> its seat's GDT, TSS -> ring 3 -> witness_processor(cpu)
//! ```
//!
//! Source: Intel SDM, volume 3, sections 10.4.4 (MP initialization) and 11.8.5 (entering IA-32e mode).

use core::arch::{global_asm, naked_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::boot::entry::RING0_STACK_BYTES;
use crate::boot::paging::ROOT;
use crate::ring0::descriptors::{
    GDT, Gdt, IDT_POINTER, KERNEL_CODE, KERNEL_DATA, Pointer, TASK_SELECTOR, Task, USER_CODE, USER_DATA, USER_FLAGS,
};
use crate::witness::clock::{Counter, Tsc};
use crate::witness::timer;

const USER_STACK_BYTES: usize = 16 * 1024;
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;

/// What one of the other CPUs needs for itself.
#[repr(C, align(4096))]
pub struct Seat {
    user_stack: [u8; USER_STACK_BYTES],
    ring0_stack: [u8; RING0_STACK_BYTES],
    cpu: u64,
    gdt: Gdt,
    gdt_pointer: Pointer,
    task: Task,
}

/// The seat of the CPU that is being woken.
static SEAT: AtomicU64 = AtomicU64::new(0);
/// The number of the CPU that woke last.
static AWAKE: AtomicU64 = AtomicU64::new(0);

global_asm!(
    ".pushsection .text.trampoline, \"ax\"",
    ".code16",
    "trampoline_start:",
    "cli",
    "cld",
    "mov ax, cs",
    "mov ds, ax",
    "mov eax, 0x620", // as in the entry
    "mov cr4, eax",
    "mov eax, offset {root}",
    "mov cr3, eax",
    "mov ecx, 0xc0000080",
    "rdmsr",
    "or eax, 0x100",
    "wrmsr",
    ".byte 0x66, 0x0f, 0x01, 0x16", // lgdt with a 32-bit base, from an address in this segment
    ".word trampoline_gdt - trampoline_start",
    "mov eax, 0x80000033",
    "mov cr0, eax",
    ".byte 0x66, 0xea", // far jump with a 32-bit offset
    ".long {long_mode}",
    ".word {kernel_code}",
    "trampoline_gdt:",
    ".word {gdt_limit}",
    ".long {gdt}",
    "trampoline_end:",
    ".code64",
    ".popsection",
    root = sym ROOT,
    long_mode = sym processor_long_mode,
    kernel_code = const KERNEL_CODE,
    gdt_limit = const size_of::<Gdt>() - 1,
    gdt = sym GDT,
);

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    /// The work of another CPU, in the binary.
    fn witness_processor(cpu: u64) -> !;
}

/// From the trampoline to ring 3.
#[unsafe(naked)]
unsafe extern "C" fn processor_long_mode() -> ! {
    naked_asm!(
        "mov eax, {kernel_data}",
        "mov ss, eax",
        "xor eax, eax",
        "mov ds, eax",
        "mov es, eax",
        "mov fs, eax",
        "mov gs, eax",
        "mov rbx, qword ptr [rip + {seat}]",
        "lea rsp, [rbx + {ring0_top}]",
        "lgdt [rbx + {gdt_pointer}]",
        "mov eax, {task_selector}",
        "ltr ax",
        "lidt [{idt_pointer}]",
        "mov eax, {user_data}",
        "push rax",
        "lea rax, [rbx + {user_top}]",
        "push rax",
        "push {user_flags} + 0x200", // interrupts are let in
        "mov eax, {user_code}",
        "push rax",
        "mov eax, offset {ring3}",
        "push rax",
        "mov rdi, qword ptr [rbx + {cpu}]",
        "iretq",
        kernel_data = const KERNEL_DATA,
        seat = sym SEAT,
        ring0_top = const offset_of!(Seat, ring0_stack) + RING0_STACK_BYTES,
        gdt_pointer = const offset_of!(Seat, gdt_pointer),
        task_selector = const TASK_SELECTOR,
        idt_pointer = sym IDT_POINTER,
        user_data = const USER_DATA,
        user_flags = const USER_FLAGS,
        user_top = const USER_STACK_BYTES,
        user_code = const USER_CODE,
        ring3 = sym processor_ring3,
        cpu = const offset_of!(Seat, cpu),
    )
}

#[unsafe(naked)]
unsafe extern "C" fn processor_ring3() -> ! {
    naked_asm!("xor ebp, ebp", "call {main}", "ud2", main = sym witness_processor)
}

/// Says that CPU `cpu` is there; it says so itself.
pub fn awake(cpu: u64) {
    AWAKE.store(cpu, SeqCst);
}

/// Wakes the CPU with the LAPIC identifier `apic` as number `cpu` (1 for the first that is woken). False if it does not
/// come within a second; then no other may be woken, since it may still come.
///
/// # Safety
/// `trampoline` is a page below 1 MiB and `seat` memory below 4 GiB, both of which nothing else uses, and the seat stays
/// the CPU's. All numbers below `cpu` have been woken.
pub unsafe fn wake(apic: u8, cpu: u64, trampoline: u64, seat: *mut Seat, tsc_hz: u64) -> bool {
    let rsp0 = (seat as *const u8).wrapping_add(offset_of!(Seat, ring0_stack) + RING0_STACK_BYTES);
    let code = &raw const trampoline_start;
    let bytes = (&raw const trampoline_end) as usize - code as usize;
    // SAFETY: the caller's memory.
    unsafe {
        (trampoline as *mut u8).copy_from_nonoverlapping(code, bytes);
        (&raw mut (*seat).cpu).write(cpu);
        (&raw mut (*seat).task).write(Task::new(rsp0));
        (&raw mut (*seat).gdt).write(Gdt::with_task((&raw const (*seat).task) as u64));
        (&raw mut (*seat).gdt_pointer).write(Pointer::to(&raw const (*seat).gdt));
    }
    SEAT.store(seat as u64, SeqCst);
    timer::send(apic, INIT);
    within(tsc_hz / 100, || false);
    timer::send(apic, STARTUP | (trampoline >> 12) as u32);
    if within(tsc_hz / 100, || AWAKE.load(SeqCst) == cpu) {
        return true;
    }
    timer::send(apic, STARTUP | (trampoline >> 12) as u32);
    within(tsc_hz, || AWAKE.load(SeqCst) == cpu)
}

/// Waits for a condition, at most `cycles`.
fn within(cycles: u64, condition: impl Fn() -> bool) -> bool {
    let begin = Tsc.read();
    while !condition() {
        if Tsc.read().wrapping_sub(begin) > cycles {
            return false;
        }
        core::hint::spin_loop();
    }
    true
}
