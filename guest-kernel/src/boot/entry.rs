//! The first instructions.
//!
//! Source of the hand-over: Xen, "x86/HVM direct boot ABI" (PVH): 32-bit protected mode, paging off, EBX holds the
//! physical address of `hvm_start_info`.

use core::arch::naked_asm;

use crate::boot::paging::ROOT;
use crate::ring0::descriptors::{
    GDT, GDT_POINTER, IDT_POINTER, KERNEL_CODE, KERNEL_DATA, TASK, TASK_SELECTOR, USER_CODE, USER_DATA, USER_FLAGS,
};

/// Bytes of the stack of ring 3 on the first CPU.
const USER_STACK_BYTES: usize = 128 * 1024;
/// Bytes of the stack of ring 0: its stubs push a few words.
pub const RING0_STACK_BYTES: usize = 4096;

/// A stack: memory that only the stack pointer leads to.
#[repr(C, align(4096))]
pub struct Stack<const BYTES: usize>(core::cell::UnsafeCell<[u8; BYTES]>);

// SAFETY: no Rust code makes a reference to the bytes; each stack is used by one CPU alone.
unsafe impl<const BYTES: usize> Sync for Stack<BYTES> {}

#[unsafe(link_section = ".noinit")]
static USER_STACK: Stack<USER_STACK_BYTES> = Stack(core::cell::UnsafeCell::new([0; USER_STACK_BYTES]));
/// The stack of ring 0 on the first CPU.
#[unsafe(link_section = ".noinit")]
pub static RING0_STACK: Stack<RING0_STACK_BYTES> = Stack(core::cell::UnsafeCell::new([0; RING0_STACK_BYTES]));

/// The ELF note `XEN_ELFNOTE_PHYS32_ENTRY` (18, name "Xen"): where a PVH loader starts the kernel.
#[repr(C, packed(4))]
struct PvhNote {
    name_bytes: u32,
    descriptor_bytes: u32,
    kind: u32,
    name: [u8; 4],
    entry: unsafe extern "C" fn() -> !,
}

#[used]
#[unsafe(link_section = ".note.pvh")]
static NOTE: PvhNote = PvhNote { name_bytes: 4, descriptor_bytes: 8, kind: 18, name: *b"Xen\0", entry: witness_entry };

/// The entry: long mode, tables, then `witness_main(hvm_start_info, first tsc)` in ring 3 with interrupts off.
///
/// # Safety
/// Only for a PVH loader.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn witness_entry() -> ! {
    naked_asm!(
        ".code32",
        "cli",
        "cld",
        "rdtsc",
        "mov esi, eax",
        "mov ebp, edx",
        "mov esp, offset {ring0_stack} + {ring0_bytes}",
        "lgdt [{gdt_pointer}]",
        "mov eax, cr4",
        "or eax, 0x620", // PAE, OSFXSR, OSXMMEXCPT: ring 3 may hold values in SSE registers
        "mov cr4, eax",
        "mov eax, offset {root}",
        "mov cr3, eax",
        "mov ecx, 0xc0000080",
        "rdmsr",
        "or eax, 0x100", // EFER.LME
        "wrmsr",
        "mov eax, cr0",
        "and eax, 0xfffffff3", // neither EM nor TS
        "or eax, 0x80000003",  // PG, MP, PE
        "mov cr0, eax",
        "push {kernel_code}",
        "mov eax, offset witness_long_mode",
        "push eax",
        "retf",
        ".code64",
        "witness_long_mode:",
        "mov eax, {kernel_data}",
        "mov ss, eax",
        "xor eax, eax",
        "mov ds, eax",
        "mov es, eax",
        "mov fs, eax",
        "mov gs, eax",
        "mov esp, offset {ring0_stack} + {ring0_bytes}",
        // The task's base stands in pieces in its descriptor.
        "mov eax, offset {task}",
        "mov edi, offset {gdt} + {task_selector}",
        "mov word ptr [rdi + 2], ax",
        "shr eax, 16",
        "mov byte ptr [rdi + 4], al",
        "mov byte ptr [rdi + 7], ah",
        "mov eax, {task_selector}",
        "ltr ax",
        "lidt [{idt_pointer}]",
        // No interrupt of the 8259s: a BIOS that ran before us may have left them open.
        "mov al, 0xff",
        "out 0x21, al",
        "out 0xa1, al",
        "shl rbp, 32",
        "or rsi, rbp",
        "mov edi, ebx",
        "mov eax, {user_data}",
        "push rax",
        "mov eax, offset {user_stack} + {user_bytes}",
        "push rax",
        "push {user_flags}",
        "mov eax, {user_code}",
        "push rax",
        "mov eax, offset {ring3}",
        "push rax",
        "iretq",
        ring0_stack = sym RING0_STACK,
        ring0_bytes = const RING0_STACK_BYTES,
        gdt_pointer = sym GDT_POINTER,
        root = sym ROOT,
        kernel_code = const KERNEL_CODE,
        kernel_data = const KERNEL_DATA,
        task = sym TASK,
        gdt = sym GDT,
        task_selector = const TASK_SELECTOR,
        idt_pointer = sym IDT_POINTER,
        user_data = const USER_DATA,
        user_flags = const USER_FLAGS,
        user_code = const USER_CODE,
        user_stack = sym USER_STACK,
        user_bytes = const USER_STACK_BYTES,
        ring3 = sym ring3_entry,
    )
}

/// Ring 3's first instructions: clear .bss at native speed, go to Rust.
#[unsafe(naked)]
unsafe extern "C" fn ring3_entry() -> ! {
    naked_asm!(
        "mov rbx, rdi",
        "mov edi, offset bss_start",
        "mov ecx, offset bss_end",
        "sub ecx, edi",
        "xor eax, eax",
        "rep stosb",
        "mov rdi, rbx",
        "xor ebp, ebp",
        "call {main}",
        "ud2",
        main = sym witness_main,
    )
}

unsafe extern "C" {
    /// The kernel proper, in the binary.
    fn witness_main(start_info: u64, first_tsc: u64) -> !;
}

unsafe extern "C" {
    static image_start: u8;
    static image_end: u8;
}

/// The physical range that the loaded image occupies, stacks included.
pub fn image() -> core::ops::Range<u64> {
    (&raw const image_start) as u64..(&raw const image_end) as u64
}
