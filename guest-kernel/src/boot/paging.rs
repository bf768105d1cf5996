//! The identity map: 2 MiB pages, writable, open to ring 3.
//!
//! The first 4 GiB stand ready in the image, so that ring 0, which may be emulated instruction by instruction, builds
//! nothing. Memory beyond is mapped by ring 3 itself, which may write the tables like any other memory.
//! Source: Intel SDM, volume 3, section 5.5.4 (4-level paging).

/// Present, writable, user; accessed and dirty are set beforehand so that the CPU has nothing to note in the tables.
const TABLE: usize = 0x27;
const LARGE_PAGE: u64 = 0xe7;
const GIB: u64 = 1 << 30;

/// A page table whose entries lead to other tables: pointers that the linker fills in.
#[repr(C, align(4096))]
pub struct Directory([*const u8; 512]);

// SAFETY: the CPU reads it; Rust writes it only by `map`, on the first CPU, before others run.
unsafe impl Sync for Directory {}

#[repr(C, align(4096))]
struct Leaves([u64; 4 * 512]);

const fn leaves() -> Leaves {
    let mut leaves = [0; 4 * 512];
    let mut index = 0;
    while index < leaves.len() {
        leaves[index] = ((index as u64) << 21) | LARGE_PAGE;
        index += 1;
    }
    Leaves(leaves)
}

#[unsafe(link_section = ".data.paging")]
static LOW: Leaves = leaves();

#[unsafe(link_section = ".data.paging")]
static mut GIGABYTES: Directory = {
    let mut entries = [core::ptr::null(); 512];
    let low = (&raw const LOW).cast::<u8>();
    entries[0] = low.wrapping_add(TABLE);
    entries[1] = low.wrapping_add(4096 + TABLE);
    entries[2] = low.wrapping_add(2 * 4096 + TABLE);
    entries[3] = low.wrapping_add(3 * 4096 + TABLE);
    Directory(entries)
};

/// The root of the map (CR3).
#[unsafe(link_section = ".data.paging")]
pub static ROOT: Directory = {
    let mut entries = [core::ptr::null(); 512];
    entries[0] = (&raw const GIGABYTES).cast::<u8>().wrapping_add(TABLE);
    Directory(entries)
};

/// Highest address that can be mapped: the root has one table of 512 GiB.
pub const HIGHEST: u64 = 512 * GIB;

/// Gigabytes of the map that `end` needs beyond the four that are there.
pub fn tables_needed(end: u64) -> u64 {
    end.min(HIGHEST).div_ceil(GIB).saturating_sub(4)
}

/// Maps everything from 4 GiB to `end`, with `tables_needed(end)` pages at `tables`.
///
/// # Safety
/// `tables` is memory below 4 GiB that nothing else uses; only the first CPU runs.
pub unsafe fn map(end: u64, tables: u64) {
    for index in 0..tables_needed(end) {
        let table = (tables + index * 4096) as *mut u64;
        let base = (index + 4) * GIB;
        for entry in 0..512 {
            // SAFETY: the caller gave this memory; it lies in the part that is mapped.
            unsafe { table.add(entry as usize).write_volatile((base + (entry << 21)) | LARGE_PAGE) };
        }
        let link = table.cast::<u8>().wrapping_add(TABLE).cast_const();
        // SAFETY: one of the 512 entries of a table of our own; not present before, so nothing is cached of it.
        unsafe { (&raw mut GIGABYTES.0).cast::<*const u8>().add(index as usize + 4).write_volatile(link) };
    }
}
