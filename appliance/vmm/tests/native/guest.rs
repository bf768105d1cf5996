//! A guest of a few instructions, entered by PVH in 32-bit protected mode, that does what the first letter of its command
//! line says. It lives in this program's own text and is copied into an ELF.
//!
//! What it shares with the test lies in guest memory:
//!
//! ```text
//!   0x20_0000  rounds that the first vCPU has done       0x5000  rounds that the second has done
//!   0x20_0004  the same, written after the ports were asked
//!   0x20_1000  'd': how many pages to write; 0 when done   0x20_2000  'd': their addresses
//! ```

use std::fs::File;
use std::io::{Seek, Write};

use rustix::fs::{MemfdFlags, memfd_create};

/// Rounds done by the first vCPU.
pub(crate) const ROUNDS: u64 = 0x20_0000;
/// The same after the round's port and memory-mapped accesses.
pub(crate) const ROUNDS_CHECKED: u64 = 0x20_0004;
/// Rounds done by the second vCPU.
pub(crate) const SECOND_ROUNDS: u64 = 0x5000;
/// How many pages to write.
pub(crate) const PAGE_COUNT: u64 = 0x20_1000;
/// Their addresses.
pub(crate) const PAGE_LIST: u64 = 0x20_2000;

/// Where the code lies in guest memory.
pub(crate) const LOAD_ADDRESS: u64 = 0x10_0000;

core::arch::global_asm!(
    r#"
    .pushsection .text.godwit_test_guest, "ax"
    .globl godwit_test_guest_start
    .globl godwit_test_guest_end
    .code32
godwit_test_guest_start:
    mov esp, 0x8000
    mov dx, 0x3f8
    mov al, 'R'
    out dx, al
    mov al, byte ptr [0x20000]
    cmp al, 'c'
    je 20f
    cmp al, 'm'
    je 30f
    cmp al, 'd'
    je 40f
    cmp al, 'b'
    je 50f
    cmp al, 't'
    je 60f
    cmp al, 'k'
    je 61f
    cmp al, 'x'
    je 62f
    cmp al, 's'
    je 63f
    cmp al, 'e'
    je 64f
    cmp al, 'u'
    je 70f
    jmp 90f

// c: count, and ask a port and a memory-mapped register each round, with the answer known.
// ecx counts; the answers prove that no access is lost or doubled by a pause.
20:
    xor ecx, ecx
21:
    inc ecx
    mov dword ptr [0x200000], ecx
    mov dx, 0x70
    mov al, 0x40
    out dx, al
    inc dx
    mov al, cl
    out dx, al
    xor eax, eax
    in al, dx
    cmp al, cl
    jne 90f
    mov eax, dword ptr [0xe0000000]
    cmp eax, 0x00081b36
    jne 90f
    mov dword ptr [0x200004], ecx
    jmp 21b

// m: start the second vCPU at 0x10000 in real mode, then as c. It counts, and asks the power management timer.
30:
    mov esi, 0xfee00000
    mov eax, dword ptr [esi + 0xf0]
    or eax, 0x1ff
    mov dword ptr [esi + 0xf0], eax
    // The call leaves the address of the second vCPU's code, which is less than 32 bytes long.
    call 31f
    .code16
    xor ax, ax
    mov ds, ax
82:
    inc dword ptr [0x5000]
    mov dx, 0x608
    in eax, dx
    jmp 82b
    .code32
31: pop esi
    mov edi, 0x10000
    mov ecx, 32
    cld
    rep movsb
    mov esi, 0xfee00000
    mov dword ptr [esi + 0x310], 0x01000000
    mov dword ptr [esi + 0x300], 0x00004500
    mov dword ptr [esi + 0x300], 0x00004610
    mov dword ptr [esi + 0x300], 0x00004610
    jmp 20b

// d: write to the pages that are listed, each time it is asked.
40:
    mov ecx, dword ptr [0x201000]
    test ecx, ecx
    jz 40b
    mov esi, 0x202000
41:
    mov edi, dword ptr [esi]
    inc dword ptr [edi + 8]
    add esi, 4
    dec ecx
    jnz 41b
    mov dword ptr [0x201000], 0
    jmp 40b

// b: wait for the power button, then S5.
50:
    mov dx, 0x600
    in ax, dx
    test ax, 0x100
    jz 50b
63:
    mov dx, 0x604
    mov ax, 0x2000
    out dx, ax
    jmp 91f

// t: a fault without a table to go by.
60:
    push 0
    push 0
    lidt [esp]
    ud2

// k, x: reset by the keyboard controller, by the chipset.
61:
    mov dx, 0x64
    mov al, 0xfe
    out dx, al
    jmp 91f
62:
    mov dx, 0xcf9
    mov al, 6
    out dx, al
    jmp 91f

// e: what comes in on the serial port goes out again.
64:
    mov dx, 0x3fd
    in al, dx
    test al, 1
    jz 64b
    mov dx, 0x3f8
    in al, dx
    out dx, al
    jmp 64b

// u: run into a hole of the address map, where there is nothing to be fetched.
70:
    mov eax, 0xd0000000
    jmp eax

90:
    mov dx, 0x3f8
    mov al, 'F'
    out dx, al
91:
    hlt
    jmp 91b

    .code64
godwit_test_guest_end:
    .popsection
    "#
);

unsafe extern "C" {
    static godwit_test_guest_start: u8;
    static godwit_test_guest_end: u8;
}

fn code() -> &'static [u8] {
    // SAFETY: both labels stand in one section of this program's text, the second behind the first, so the bytes between
    // are mapped, readable and never written.
    unsafe {
        let (start, end) = (&raw const godwit_test_guest_start, &raw const godwit_test_guest_end);
        std::slice::from_raw_parts(start, end.offset_from(start) as usize)
    }
}

/// The guest as an ELF with a PVH note.
pub(crate) fn image() -> File {
    elf(code())
}

/// Code that is entered at its first byte, as an ELF with a PVH note.
pub(crate) fn elf(code: &[u8]) -> File {
    let mut note = Vec::new();
    for word in [4u32, 4, 18] {
        note.extend_from_slice(&word.to_le_bytes());
    }
    note.extend_from_slice(b"Xen\0");
    note.extend_from_slice(&(LOAD_ADDRESS as u32).to_le_bytes());

    let headers = 64 + 2 * 56u64;
    let note_at = headers;
    let code_at = note_at + note.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend_from_slice(&2u16.to_le_bytes());
    elf.extend_from_slice(&62u16.to_le_bytes());
    elf.extend_from_slice(&1u32.to_le_bytes());
    for long in [LOAD_ADDRESS, 64, 0] {
        elf.extend_from_slice(&long.to_le_bytes());
    }
    elf.extend_from_slice(&0u32.to_le_bytes());
    for short in [64u16, 56, 2, 64, 0, 0] {
        elf.extend_from_slice(&short.to_le_bytes());
    }
    let mut segment = |kind: u32, at: u64, address: u64, bytes: u64| {
        elf.extend_from_slice(&kind.to_le_bytes());
        elf.extend_from_slice(&7u32.to_le_bytes());
        for long in [at, address, address, bytes, bytes, 4] {
            elf.extend_from_slice(&long.to_le_bytes());
        }
    };
    segment(1, code_at, LOAD_ADDRESS, code.len() as u64);
    segment(4, note_at, 0, note.len() as u64);
    elf.extend_from_slice(&note);
    elf.extend_from_slice(code);

    let mut file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(&elf).unwrap();
    file.rewind().unwrap();
    file
}
