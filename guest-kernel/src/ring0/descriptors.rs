//! Descriptor tables. Source: Intel SDM, volume 3, sections 3.5 (GDT), 7.7 (64-bit TSS), 6.14 (64-bit IDT).

use crate::boot::entry::{RING0_STACK, RING0_STACK_BYTES};
use crate::ring0::stubs;

/// Selector of ring 0's code.
pub const KERNEL_CODE: u16 = 0x08;
/// Selector of ring 0's data.
pub const KERNEL_DATA: u16 = 0x10;
/// Selector of the task; its descriptor takes two entries.
pub const TASK_SELECTOR: u16 = 0x18;
/// Selector of ring 3's data.
pub const USER_DATA: u16 = 0x2b;
/// Selector of ring 3's code.
pub const USER_CODE: u16 = 0x33;
/// RFLAGS with which ring 3 begins: the bit that is always set, and IOPL 3, which opens every port. KVM without VMX or SVM drops IOPL, and there the
/// task's bitmap opens them. QEMU's emulated SVM does not look at the bitmap after a guest's task register was restored: it wants the type of a
/// task that is not busy, and what LTR loaded is busy (AMD64 Architecture Programmer's Manual, volume 2, sections 12.2.1 and 12.4).
pub const USER_FLAGS: u32 = 0x3002;
/// Most CPUs that are used.
pub const CPUS_MAX: usize = crate::boot::acpi::PROCESSORS_MAX;
/// Vector of the first CPU's LAPIC timer; the others follow.
pub const TICK_VECTOR: u8 = 0x20;
const TICK_VECTOR_LAST: u8 = TICK_VECTOR + CPUS_MAX as u8 - 1;
/// Vector by which the first CPU is called; the others follow.
pub const IPI_VECTOR: u8 = TICK_VECTOR_LAST + 1;
const IPI_VECTOR_LAST: u8 = IPI_VECTOR + CPUS_MAX as u8 - 1;
/// Vector of the LAPIC's spurious interrupt.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// The global descriptor table.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
pub struct Gdt([u64; 7]);

impl Gdt {
    /// The table of a CPU whose task is at `task`.
    pub fn with_task(task: u64) -> Self {
        let low = (task & 0xff_ffff) << 16 | (task >> 24 & 0xff) << 56;
        let mut entries = ENTRIES;
        entries[3] |= low;
        entries[4] = task >> 32;
        Self(entries)
    }
}

/// Ring 0's code and data, the task without its base, ring 3's data and code.
const ENTRIES: [u64; 7] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    0x0000_8900_0000_0000 | (size_of::<Task>() as u64 - 1),
    0,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
];

/// The table of the first CPU; the task's base is filled in by the entry.
#[unsafe(link_section = ".data.descriptors")]
pub static mut GDT: Gdt = Gdt(ENTRIES);

/// Operand of `lgdt` and `lidt`.
#[repr(C, packed)]
pub struct Pointer {
    limit: u16,
    base: *const u8,
}

// SAFETY: read by the CPU, never changed.
unsafe impl Sync for Pointer {}

impl Pointer {
    /// Leads to `gdt`.
    pub const fn to(gdt: *const Gdt) -> Self {
        Self { limit: size_of::<Gdt>() as u16 - 1, base: gdt.cast() }
    }
}

/// Leads to [`GDT`].
#[unsafe(link_section = ".data.descriptors")]
pub static GDT_POINTER: Pointer = Pointer::to(&raw const GDT);

/// A 64-bit TSS and its I/O bitmap.
#[repr(C, packed)]
pub struct Task {
    reserved: u32,
    rsp0: *const u8,
    rest: [u32; 22],
    reserved_end: u16,
    bitmap_offset: u16,
    /// A zero bit opens a port to ring 3. The byte after the last port must be all ones.
    bitmap: [u8; 8192],
    bitmap_end: u8,
}

// SAFETY: read by the CPU, never changed.
unsafe impl Sync for Task {}

impl Task {
    /// A task whose way into ring 0 uses the stack that ends at `rsp0`.
    pub const fn new(rsp0: *const u8) -> Self {
        Self {
            reserved: 0,
            rsp0,
            rest: [0; 22],
            reserved_end: 0,
            bitmap_offset: 104,
            bitmap: [0; 8192],
            bitmap_end: 0xff,
        }
    }
}

/// The task of the first CPU.
#[unsafe(link_section = ".data.descriptors")]
pub static TASK: Task = Task::new((&raw const RING0_STACK).cast::<u8>().wrapping_add(RING0_STACK_BYTES));

#[repr(C, align(16))]
struct Idt([[u64; 2]; 256]);

#[unsafe(link_section = ".data.descriptors")]
static mut IDT: Idt = Idt([[0; 2]; 256]);

/// Leads to the interrupt table, which all CPUs share.
#[unsafe(link_section = ".data.descriptors")]
pub static IDT_POINTER: Pointer = Pointer { limit: size_of::<Idt>() as u16 - 1, base: (&raw const IDT).cast() };

/// Fills the interrupt table: done from ring 3, where it costs nothing.
///
/// # Safety
/// Interrupts are off and only the first CPU runs.
pub unsafe fn fill_idt() {
    for vector in 0..=255u8 {
        let handler = match vector {
            6 => stubs::gate_address(),
            TICK_VECTOR..=TICK_VECTOR_LAST => stubs::tick_address(vector - TICK_VECTOR),
            IPI_VECTOR..=IPI_VECTOR_LAST => stubs::ipi_address(vector - IPI_VECTOR),
            SPURIOUS_VECTOR => stubs::spurious_address(),
            _ => stubs::fault_address(vector),
        };
        // Present, DPL 0, 64-bit interrupt gate.
        let low = (handler & 0xffff) | (u64::from(KERNEL_CODE) << 16) | 0x8e00 << 32 | (handler & 0xffff_0000) << 32;
        let entry = [low, handler >> 32];
        // SAFETY: within the table; nothing reads it meanwhile.
        unsafe { (&raw mut IDT.0).cast::<[u64; 2]>().add(usize::from(vector)).write_volatile(entry) };
    }
}
