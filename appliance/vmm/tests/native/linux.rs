//! Linux' boot protocol, with a kernel of a few instructions in a bzImage that looks like Linux' own: it prints what a boot
//! loader owes it, and powers off.

use std::io::{Seek, Write};

use super::*;

core::arch::global_asm!(
    r#"
    .pushsection .text.godwit_test_linux, "ax"
    .macro godwit_test_linux_body
    cmp dword ptr [esi + 0x202], 0x53726448
    jne 9f
    mov al, '|'
    out dx, al
    mov ebx, dword ptr [esi + 0x228]
3:  mov al, byte ptr [ebx]
    test al, al
    jz 4f
    out dx, al
    add ebx, 1
    jmp 3b
4:  mov al, '|'
    out dx, al
    mov ebx, dword ptr [esi + 0x218]
    mov ecx, dword ptr [esi + 0x21c]
5:  test ecx, ecx
    jz 6f
    mov al, byte ptr [ebx]
    out dx, al
    add ebx, 1
    sub ecx, 1
    jmp 5b
6:  mov al, '|'
    out dx, al
    mov al, byte ptr [esi + 0x1e8]
    add al, '0'
    out dx, al
    mov ebx, dword ptr [esi + 0x70]
    mov al, byte ptr [ebx]
    out dx, al
9:  mov edx, 0x604
    mov eax, 0x2000
    out dx, ax
8:  hlt
    jmp 8b
    .endm
    .globl godwit_test_linux_start
    .globl godwit_test_linux_end
godwit_test_linux_start:
    .code32
    // The 32-bit entry: esi holds the boot parameters, paging is off.
    mov edx, 0x3f8
    mov al, '3'
    out dx, al
    godwit_test_linux_body
    .org godwit_test_linux_start + 0x200, 0xf4
    .code64
    // The 64-bit entry.
    mov edx, 0x3f8
    mov al, '6'
    out dx, al
    godwit_test_linux_body
    .code64
godwit_test_linux_end:
    .popsection
    "#
);

unsafe extern "C" {
    static godwit_test_linux_start: u8;
    static godwit_test_linux_end: u8;
}

fn code() -> &'static [u8] {
    // SAFETY: both labels stand in one section of this program's text, the second behind the first, so the bytes between
    // are mapped, readable and never written.
    unsafe {
        let (start, end) = (&raw const godwit_test_linux_start, &raw const godwit_test_linux_end);
        std::slice::from_raw_parts(start, end.offset_from(start) as usize)
    }
}

fn file(bytes: &[u8]) -> File {
    let mut file = File::from(memfd_create("image", MemfdFlags::CLOEXEC).unwrap());
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

fn bzimage(version: u16, xloadflags: u16) -> File {
    let mut image = vec![0u8; 1024];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]);
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x200, &[0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &version.to_le_bytes());
    put(0x211, &[1]);
    put(0x214, &0x10_0000u32.to_le_bytes());
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x230, &0x20_0000u32.to_le_bytes());
    put(0x234, &[1]);
    put(0x236, &xloadflags.to_le_bytes());
    put(0x238, &255u32.to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x40_0000u32.to_le_bytes());
    image.extend_from_slice(code());
    file(&image)
}

fn boots(kernel: File, initrd: Option<&[u8]>, expected: &str) {
    let Some((mut machine, _memory)) = build(1, MEMORY_BYTES) else { return };
    machine.load(kernel, initrd.map(file), "console=ttyS0 quiet").unwrap();
    machine.start().unwrap();
    assert_eq!(wait_event(&machine), Event::Shutdown, "{}", output(&machine));
    assert_eq!(output(&machine), expected);
}

#[test]
fn a_bzimage_is_entered_in_64_bit_mode_with_all_that_the_protocol_owes_it() {
    // Five stretches in the memory map; the RSDP begins with R.
    boots(bzimage(0x020f, 1), Some(b"initrd"), "6|console=ttyS0 quiet|initrd|5R");
    boots(bzimage(0x020f, 1), None, "6|console=ttyS0 quiet||5R");
}

#[test]
fn a_bzimage_without_a_64_bit_entry_is_entered_in_32_bit_mode() {
    boots(bzimage(0x020f, 0), Some(b"initrd"), "3|console=ttyS0 quiet|initrd|5R");
    boots(bzimage(0x020a, 1), Some(b"initrd"), "3|console=ttyS0 quiet|initrd|5R");
}

#[test]
fn what_cannot_be_booted_says_why() {
    let Some(_) = kvm() else { return };
    let refused = |kernel: File, initrd: Option<&[u8]>, line: &str| {
        let (mut machine, _memory) = build(1, MEMORY_BYTES).unwrap();
        machine.load(kernel, initrd.map(file), line).unwrap_err().to_string()
    };
    assert!(refused(file(b"no kernel at all, and long enough").try_clone().unwrap(), None, "").contains("neither"));
    assert!(refused(file(&vec![0; 4096]), None, "").contains("neither"));
    assert!(refused(file(b""), None, "").contains("neither"));
    assert!(refused(bzimage(0x0205, 0), None, "").contains("2.05"));
    assert!(refused(bzimage(0x020f, 1), None, &"x".repeat(256)).contains("at most 255"));
    let too_long = vec![0; 13 << 20];
    assert!(refused(bzimage(0x020f, 1), Some(&too_long), "").contains("does not fit"));
}
