//! A guest that does what the test writes into its mailbox: reads and writes of its address space, in 64-bit mode with
//! interrupts on, which it counts by vector. With it a test is the driver of a real machine's devices: what it writes at a
//! doorbell comes to the device by ioeventfd, and the device's interrupts arrive by irqfd and local APIC.
//!
//! ```text
//!   0x20_0000  mailbox: asked u32, done u32, kind u32 (bytes; + 0x10 for a read), -, address u64, value u64
//!   0x20_1000  count of interrupts, u32 for each vector
//!   0x1_0000   what the test prepares: descriptors of GDT (+0) and IDT (+0x10), GDT (+0x20), page tables, IDT
//! ```

use std::os::unix::fs::FileExt;

use super::guest::{LOAD_ADDRESS, elf};
use super::*;

const MAILBOX: u64 = 0x20_0000;
const COUNTS: u64 = 0x20_1000;
const TABLES: u64 = 0x1_0000;
const PML4: u64 = 0x1_1000;
const PDPT: u64 = 0x1_2000;
const IDT: u64 = 0x1_3000;
const DIRECTORIES: u64 = 0x1_4000;
/// First of the vectors that are counted.
pub(crate) const VECTOR: u8 = 0x40;
const VECTORS: usize = 16;
const STUB_BYTES: u64 = 32;
const READ: u32 = 0x10;

core::arch::global_asm!(
    r#"
    .pushsection .text.godwit_test_messenger, "ax"
    .balign 64
    .globl godwit_test_messenger_start
    .globl godwit_test_messenger_stubs
    .globl godwit_test_messenger_end
    .code32
godwit_test_messenger_start:
    mov esp, 0x8000
    mov eax, 0x11000
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov ecx, 0xc0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    lgdt [0x10000]
    push 8
    call 2f
    // To what follows these 6 bytes, as 64-bit code.
2:  pop eax
    add eax, 6
    push eax
    retf
    .code64
3:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, 0x10010
    lidt [rax]
    mov eax, 0xfee000f0
    mov ecx, dword ptr [rax]
    or ecx, 0x1ff
    mov dword ptr [rax], ecx
    sti

    mov ebx, 0x200000
4:  mov eax, dword ptr [rbx]
    cmp eax, dword ptr [rbx + 4]
    je 4b
    mov ecx, dword ptr [rbx + 8]
    mov rdi, qword ptr [rbx + 16]
    mov rdx, qword ptr [rbx + 24]
    cmp ecx, 1
    je 11f
    cmp ecx, 2
    je 12f
    cmp ecx, 4
    je 14f
    cmp ecx, 8
    je 18f
    cmp ecx, 0x11
    je 21f
    cmp ecx, 0x12
    je 22f
    mov edx, dword ptr [rdi]
    jmp 30f
21: movzx edx, byte ptr [rdi]
    jmp 30f
22: movzx edx, word ptr [rdi]
30: mov qword ptr [rbx + 24], rdx
    jmp 5f
11: mov byte ptr [rdi], dl
    jmp 5f
12: mov word ptr [rdi], dx
    jmp 5f
14: mov dword ptr [rdi], edx
    jmp 5f
18: mov qword ptr [rdi], rdx
5:  mov eax, dword ptr [rbx]
    mov dword ptr [rbx + 4], eax
    jmp 4b

    .balign 32
godwit_test_messenger_stubs:
    .set vector, 0x40
    .rept 16
    .balign 32
    push rax
    inc dword ptr [0x201000 + 4 * vector]
    mov eax, 0xfee000b0
    mov dword ptr [rax], 0
    pop rax
    iretq
    .set vector, vector + 1
    .endr
    .balign 32
godwit_test_messenger_end:
    .popsection
    "#
);

unsafe extern "C" {
    static godwit_test_messenger_start: u8;
    static godwit_test_messenger_stubs: u8;
    static godwit_test_messenger_end: u8;
}

fn code() -> &'static [u8] {
    // SAFETY: both labels stand in one section of this program's text, the second behind the first, so the bytes between
    // are mapped, readable and never written.
    unsafe {
        let (start, end) = (&raw const godwit_test_messenger_start, &raw const godwit_test_messenger_end);
        std::slice::from_raw_parts(start, end.offset_from(start) as usize)
    }
}

fn stubs() -> u64 {
    let (start, stubs) = (&raw const godwit_test_messenger_start, &raw const godwit_test_messenger_stubs);
    LOAD_ADDRESS + (stubs as u64 - start as u64)
}

/// The way to the guest: its memory.
#[derive(Clone, Copy)]
pub(crate) struct Messenger<'a>(pub(crate) &'a File);

impl Messenger<'_> {
    /// The guest's code.
    pub(crate) fn image() -> File {
        elf(code())
    }

    /// Prepares the tables that the guest expects. To be called after the machine was loaded, before it starts.
    pub(crate) fn prepare(self) {
        let put = |at: u64, words: &[u64]| {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.0.write_all_at(&bytes, at).unwrap();
        };
        let (gdt, idt) = (TABLES + 0x20, IDT);
        // Limit in the low 16 bits, base behind it.
        put(TABLES, &[23 | gdt << 16]);
        put(TABLES + 0x10, &[4095 | idt << 16]);
        // Null, 64-bit code, data.
        put(gdt, &[0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff]);
        // The first 4 GiB, in pages of 2 MiB.
        put(PML4, &[PDPT | 3]);
        put(PDPT, &[0, 1, 2, 3].map(|at| (DIRECTORIES + at * 4096) | 3));
        let pages: Vec<u64> = (0..2048).map(|page| page << 21 | 0x83).collect();
        put(DIRECTORIES, &pages);
        for index in 0..VECTORS as u64 {
            let stub = stubs() + index * STUB_BYTES;
            let gate = stub & 0xffff | 8 << 16 | 0x8e00 << 32 | (stub & 0xffff_0000) << 32;
            put(IDT + (u64::from(VECTOR) + index) * 16, &[gate, 0]);
        }
        self.0.write_all_at(&[0; 0x2000], MAILBOX).unwrap();
    }

    fn ask(self, kind: u32, address: u64, value: u64) -> u64 {
        self.0.write_all_at(&kind.to_le_bytes(), MAILBOX + 8).unwrap();
        self.0.write_all_at(&address.to_le_bytes(), MAILBOX + 16).unwrap();
        self.0.write_all_at(&value.to_le_bytes(), MAILBOX + 24).unwrap();
        let asked = word(self.0, MAILBOX).wrapping_add(1);
        self.0.write_all_at(&asked.to_le_bytes(), MAILBOX).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while word(self.0, MAILBOX + 4) != asked {
            assert!(Instant::now() < deadline, "the guest does not answer");
            std::thread::yield_now();
        }
        let mut value = [0; 8];
        self.0.read_exact_at(&mut value, MAILBOX + 24).unwrap();
        u64::from_le_bytes(value)
    }

    /// The guest writes `bytes` (1, 2, 4 or 8) bytes.
    pub(crate) fn write(self, address: u64, bytes: u32, value: u64) {
        self.ask(bytes, address, value);
    }

    /// The guest reads 1, 2 or 4 bytes.
    pub(crate) fn read(self, address: u64, bytes: u32) -> u64 {
        self.ask(READ | bytes, address, 0)
    }

    /// Interrupts by that vector since the start.
    pub(crate) fn interrupts(self, vector: u8) -> u32 {
        word(self.0, COUNTS + 4 * u64::from(vector))
    }
}
