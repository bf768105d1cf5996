//! Putting a kernel ([`kernel`] tells what kind) into a fresh machine, as its boot loader would: PVH for an ELF that has the
//! note ([`pvh`]), Linux' own protocol for a bzImage or an ELF without ([`linux`]).
//!
//! ```text
//!   0x500    descriptor table              0x9000   page tables of the first 4 GiB, six pages
//!   0x6000   PVH start info and its lists   0x2_0000 command line
//!   0x7000   Linux boot parameters          0xe_0000 ACPI tables, RSDP first
//!   1 MiB or where the image says: the kernel; as high as may be below 3 GiB: the initrd
//! ```

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use vm_memory::{Bytes, GuestAddress, ReadVolatile};

use crate::memory::{GuestMemory, Layout, PAGE_BYTES};

pub mod kernel;
pub mod linux;
pub mod memory_map;
pub mod pvh;
pub mod registers;

pub use registers::Entry;

use kernel::{HEADER_BYTES, Kind, recognise};

/// Where the command line lies.
pub const COMMAND_LINE_START: u64 = 0x2_0000;
/// Longest command line in bytes, without the zero at its end.
pub const COMMAND_LINE_BYTES_MAX: usize = 0xffff;

/// What is to be booted. Kept by the machine, so that it can be booted again after a reset.
#[derive(Debug)]
pub struct BootImage {
    /// A bzImage or an ELF.
    pub kernel: File,
    /// The initial RAM file system.
    pub initrd: Option<File>,
    /// The kernel's command line.
    pub command_line: String,
}

/// Why nothing could be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file cannot be read.
    #[error("the {what} cannot be read")]
    Read {
        /// Kernel or initrd.
        what: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Neither a bzImage nor an ELF.
    #[error("the kernel is neither a Linux bzImage nor an ELF image")]
    Unknown,
    /// An ELF, but not for this processor.
    #[error("the kernel is an ELF image, but not one for x86-64")]
    Processor,
    /// The image is damaged, or does not fit the machine's memory.
    #[error("the kernel cannot be loaded: {0}")]
    Kernel(#[source] linux_loader::loader::Error),
    /// A kernel too old for what is asked of it.
    #[error("the kernel is too old: its boot protocol is {major}.{minor:02}, and 2.06 is needed")]
    Protocol {
        /// Version of its boot protocol.
        major: u8,
        /// The part behind the point.
        minor: u8,
    },
    /// The command line is too long, or has a zero byte in it.
    #[error("the command line has {length} bytes; at most {limit} are possible, and no zero byte")]
    CommandLine {
        /// Its length.
        length: usize,
        /// The most that the kernel takes.
        limit: usize,
    },
    /// Kernel and initrd do not fit into memory.
    #[error(
        "the initrd of {initrd_bytes} bytes does not fit: there are {room} bytes for it below 3 GiB of this machine"
    )]
    Initrd {
        /// Its length.
        initrd_bytes: u64,
        /// How much room there is.
        room: u64,
    },
    /// Guest memory cannot be written.
    #[error("guest memory cannot be written")]
    Memory(#[source] vm_memory::GuestMemoryError),
}

/// A stretch of guest memory that holds an initrd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Guest-physical address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// Loads an image and everything it needs into guest memory. `rsdp` is the address of ACPI's root pointer.
///
/// # Errors
/// [`BootError`].
pub fn load(memory: &GuestMemory, layout: &Layout, image: &mut BootImage, rsdp: u64) -> Result<Entry, BootError> {
    let mut start = Vec::with_capacity(HEADER_BYTES);
    let read = |source| BootError::Read { what: "kernel", source };
    image.kernel.seek(SeekFrom::Start(0)).map_err(read)?;
    image.kernel.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut start).map_err(read)?;
    match recognise(&start)? {
        Kind::Elf => pvh::load(memory, layout, image, rsdp),
        Kind::BzImage => linux::load(memory, layout, image, rsdp),
    }
}

/// Writes the command line, whose length must not exceed `limit`.
fn write_command_line(memory: &GuestMemory, line: &str, limit: usize) -> Result<(), BootError> {
    let limit = limit.min(COMMAND_LINE_BYTES_MAX);
    if line.len() > limit || line.contains('\0') {
        return Err(BootError::CommandLine { length: line.len(), limit });
    }
    let mut bytes = line.as_bytes().to_vec();
    bytes.push(0);
    memory.write_slice(&bytes, GuestAddress(COMMAND_LINE_START)).map_err(BootError::Memory)
}

/// Puts the initrd as high as may be: below `limit`, on a page boundary, not below `floor` (the end of what the kernel needs).
fn load_initrd(memory: &GuestMemory, initrd: &mut File, floor: u64, limit: u64) -> Result<Loaded, BootError> {
    let read = |source| BootError::Read { what: "initrd", source };
    let bytes = initrd.seek(SeekFrom::End(0)).map_err(read)?;
    initrd.seek(SeekFrom::Start(0)).map_err(read)?;
    let floor = floor.next_multiple_of(PAGE_BYTES);
    let start = limit.checked_sub(bytes).map(|start| start / PAGE_BYTES * PAGE_BYTES).filter(|start| *start >= floor);
    let start = start.ok_or(BootError::Initrd { initrd_bytes: bytes, room: limit.saturating_sub(floor) })?;
    copy(memory, initrd, start, bytes)?;
    Ok(Loaded { start, bytes })
}

fn copy(memory: &GuestMemory, file: &mut File, start: u64, bytes: u64) -> Result<(), BootError> {
    use vm_memory::GuestMemoryBackend;
    let mut done = 0;
    while done < bytes {
        let piece = (bytes - done).min(1 << 20) as usize;
        let mut slice = memory.get_slice(GuestAddress(start + done), piece).map_err(BootError::Memory)?;
        let read = file
            .read_exact_volatile(&mut slice)
            .map_err(|error| BootError::Read { what: "initrd", source: std::io::Error::other(error.to_string()) });
        read?;
        done += piece as u64;
    }
    Ok(())
}
