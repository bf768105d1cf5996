//! Linux by its own protocol (Documentation/arch/x86/boot.rst): a bzImage is entered at its 64-bit entry point where it has
//! one, else at the 32-bit one; an uncompressed ELF without a PVH note at its ELF entry, in 64-bit mode.

use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use linux_loader::configurator::linux::LinuxBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::bzimage::BzImage;
use linux_loader::loader::{KernelLoader, KernelLoaderResult};
use vm_memory::GuestAddress;

use super::kernel::SETUP_MAGIC;
use super::memory_map::{ONE_MIB, memory_map};
use super::{BootError, BootImage, COMMAND_LINE_START, Entry, load_initrd, write_command_line};
use crate::memory::layout::LOW_RAM_END;
use crate::memory::{GuestMemory, Layout};

/// Where the boot parameters ("zero page") lie.
pub const BOOT_PARAMS: u64 = 0x7000;

const BOOT_FLAG: u16 = 0xaa55;
/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// `vid_mode`: leave the screen as it is.
const VIDEO_NORMAL: u16 = 0xffff;
const XLF_KERNEL_64: u16 = 1;
/// Offset of the 64-bit entry point from the 32-bit one.
const ENTRY_64_OFFSET: u64 = 0x200;
const VERSION_INIT_SIZE: u16 = 0x020a;
const VERSION_XLOADFLAGS: u16 = 0x020c;
/// The highest address an initrd may have if the kernel does not say.
const INITRD_MAX_OLD: u32 = 0x37ff_ffff;

pub(super) fn load(
    memory: &GuestMemory,
    layout: &Layout,
    image: &mut BootImage,
    rsdp: u64,
) -> Result<Entry, BootError> {
    let loaded = BzImage::load(memory, None, &mut image.kernel, Some(GuestAddress(ONE_MIB)));
    let loaded = loaded.map_err(BootError::Kernel)?;
    let header = known_part(loaded.setup_header.ok_or(BootError::Unknown)?);
    let floor = kernel_end(&header, &loaded);
    write_parameters(memory, layout, image, rsdp, header, floor)?;
    let entry = loaded.kernel_load.0;
    let boot_params = BOOT_PARAMS;
    if header.version >= VERSION_XLOADFLAGS && header.xloadflags & XLF_KERNEL_64 != 0 {
        Ok(Entry::Linux64 { entry: entry + ENTRY_64_OFFSET, boot_params })
    } else {
        Ok(Entry::Linux32 { entry: entry as u32, boot_params: boot_params as u32 })
    }
}

/// An uncompressed kernel, which has no setup header: one is made for it.
pub(super) fn load_elf(
    memory: &GuestMemory,
    layout: &Layout,
    image: &mut BootImage,
    rsdp: u64,
    loaded: &KernelLoaderResult,
) -> Result<Entry, BootError> {
    let header = setup_header {
        boot_flag: BOOT_FLAG,
        header: SETUP_MAGIC,
        version: 0x020f,
        loadflags: 1,
        kernel_alignment: 0x20_0000,
        cmdline_size: 2047,
        initrd_addr_max: 0x7fff_ffff,
        ..Default::default()
    };
    write_parameters(memory, layout, image, rsdp, header, loaded.kernel_end)?;
    Ok(Entry::Linux64 { entry: loaded.kernel_load.0, boot_params: BOOT_PARAMS })
}

/// The part of the header that this kernel has: its second byte of `jump` tells where the header ends, and what lies
/// behind is code.
fn known_part(header: setup_header) -> setup_header {
    use vm_memory::ByteValued;
    const START: usize = 0x1f1;
    let end = 0x202 + usize::from(header.jump >> 8);
    let mut header = header;
    let bytes = header.as_mut_slice();
    let length = end.saturating_sub(START).min(bytes.len());
    bytes[length..].fill(0);
    header
}

/// The end of the memory that the kernel needs while it unpacks itself and starts.
fn kernel_end(header: &setup_header, loaded: &KernelLoaderResult) -> u64 {
    if header.version < VERSION_INIT_SIZE {
        return loaded.kernel_end;
    }
    let alignment = u64::from(header.kernel_alignment).max(1);
    let start = if header.relocatable_kernel == 0 {
        header.pref_address
    } else {
        // It goes to the next aligned address from where it was loaded, not below the one it prefers.
        loaded.kernel_load.0.div_ceil(alignment).saturating_mul(alignment).max(header.pref_address)
    };
    start.saturating_add(u64::from(header.init_size)).max(loaded.kernel_end)
}

fn write_parameters(
    memory: &GuestMemory,
    layout: &Layout,
    image: &mut BootImage,
    rsdp: u64,
    header: setup_header,
    floor: u64,
) -> Result<(), BootError> {
    write_command_line(memory, &image.command_line, header.cmdline_size as usize)?;
    let mut params = boot_params { hdr: header, acpi_rsdp_addr: rsdp, ..Default::default() };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.vid_mode = VIDEO_NORMAL;
    params.hdr.cmd_line_ptr = COMMAND_LINE_START as u32;
    (params.hdr.ramdisk_image, params.hdr.ramdisk_size) = (0, 0);
    if let Some(initrd) = &mut image.initrd {
        let highest = if header.initrd_addr_max == 0 { INITRD_MAX_OLD } else { header.initrd_addr_max };
        let limit = layout.memory_bytes().min(LOW_RAM_END).min(u64::from(highest) + 1);
        let initrd = load_initrd(memory, initrd, floor, limit)?;
        params.hdr.ramdisk_image = initrd.start as u32;
        params.hdr.ramdisk_size = initrd.bytes as u32;
    }
    let map = memory_map(layout);
    params.e820_entries = map.len() as u8;
    for (entry, stretch) in params.e820_table.iter_mut().zip(map) {
        *entry = boot_e820_entry { addr: stretch.start, size: stretch.bytes, r#type: stretch.kind as u32 };
    }
    LinuxBootConfigurator::write_bootparams(&BootParams::new(&params, GuestAddress(BOOT_PARAMS)), memory)
        .map_err(|_| BootError::Memory(vm_memory::GuestMemoryError::InvalidGuestAddress(GuestAddress(BOOT_PARAMS))))
}
