//! ELF kernels. With the note XEN_ELFNOTE_PHYS32_ENTRY they are entered by the PVH protocol (Xen, docs/misc/pvh.pandoc and
//! `public/arch-x86/hvm/start_info.h`); without it they are taken for an uncompressed Linux.

use linux_loader::configurator::pvh::PvhBootConfigurator;
use linux_loader::configurator::{BootConfigurator, BootParams};
use linux_loader::loader::KernelLoader;
use linux_loader::loader::elf::start_info::{hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use vm_memory::GuestAddress;

use super::memory_map::memory_map;
use super::{BootError, BootImage, COMMAND_LINE_START, Entry, linux, load_initrd, write_command_line};
use crate::memory::layout::LOW_RAM_END;
use crate::memory::{GuestMemory, Layout};

/// Where the start info lies.
pub const START_INFO: u64 = 0x6000;
const MODULES: u64 = START_INFO + 0x40;
const MEMORY_MAP: u64 = START_INFO + 0x80;

const MAGIC: u32 = 0x336e_c578;

pub(super) fn load(
    memory: &GuestMemory,
    layout: &Layout,
    image: &mut BootImage,
    rsdp: u64,
) -> Result<Entry, BootError> {
    let loaded = Elf::load(memory, None, &mut image.kernel, None).map_err(BootError::Kernel)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return linux::load_elf(memory, layout, image, rsdp, &loaded);
    };
    write_command_line(memory, &image.command_line, usize::MAX)?;
    let map: Vec<_> = memory_map(layout)
        .into_iter()
        .map(|s| hvm_memmap_table_entry { addr: s.start, size: s.bytes, type_: s.kind as u32, reserved: 0 })
        .collect();
    let mut info = hvm_start_info {
        magic: MAGIC,
        version: 1,
        cmdline_paddr: COMMAND_LINE_START,
        rsdp_paddr: rsdp,
        memmap_paddr: MEMORY_MAP,
        memmap_entries: map.len() as u32,
        ..Default::default()
    };
    let mut modules = Vec::new();
    if let Some(initrd) = &mut image.initrd {
        let limit = layout.memory_bytes().min(LOW_RAM_END);
        let initrd = load_initrd(memory, initrd, loaded.kernel_end, limit)?;
        modules.push(hvm_modlist_entry { paddr: initrd.start, size: initrd.bytes, ..Default::default() });
        info.nr_modules = 1;
        info.modlist_paddr = MODULES;
    }
    let mut params = BootParams::new(&info, GuestAddress(START_INFO));
    params.set_sections(&map, GuestAddress(MEMORY_MAP));
    if !modules.is_empty() {
        params.set_modules(&modules, GuestAddress(MODULES));
    }
    PvhBootConfigurator::write_bootparams(&params, memory)
        .map_err(|_| BootError::Memory(vm_memory::GuestMemoryError::InvalidGuestAddress(GuestAddress(START_INFO))))?;
    Ok(Entry::Pvh { entry: entry.0 as u32, start_info: START_INFO as u32 })
}
