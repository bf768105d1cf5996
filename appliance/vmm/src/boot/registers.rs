//! What the first vCPU's registers hold when a kernel is entered.

use kvm_bindings::{kvm_dtable, kvm_lapic_state, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::BootError;
use crate::memory::GuestMemory;
use crate::state::StateError;
use crate::vcpu::msrs;

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode without paging, the start info in ebx.
    Pvh {
        /// Address of the first instruction.
        entry: u32,
        /// Address of the start info.
        start_info: u32,
    },
    /// 64-bit mode with the first 4 GiB mapped to themselves, the boot parameters in rsi.
    Linux64 {
        /// Address of the first instruction.
        entry: u64,
        /// Address of the boot parameters.
        boot_params: u64,
    },
    /// 32-bit protected mode without paging, the boot parameters in esi.
    Linux32 {
        /// Address of the first instruction.
        entry: u32,
        /// Address of the boot parameters.
        boot_params: u32,
    },
}

const GDT_START: u64 = 0x500;
const IDT_START: u64 = 0x540;
const PAGE_TABLES_START: u64 = 0x9000;
const STACK_TOP: u64 = 0x8ff0;

/// Linux' names: `__BOOT_CS` and `__BOOT_DS`.
const CODE_SELECTOR: u16 = 0x10;
const DATA_SELECTOR: u16 = 0x18;
const TASK_SELECTOR: u16 = 0x20;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
const RFLAGS_RESERVED: u64 = 2;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRING: u64 = 1;
const MSR_MTRR_DEFAULT: u32 = 0x2ff;
/// Memory type ranges on, everything write-back: what firmware leaves for RAM.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

const LAPIC_LVT0: usize = 0x350;
const LAPIC_LVT1: usize = 0x360;
const DELIVERY_NMI: u32 = 4 << 8;
const DELIVERY_EXTINT: u32 = 7 << 8;
const DELIVERY_AND_MASK: u32 = 7 << 8 | 1 << 16;

fn segment(selector: u16, kind: u8, long: bool) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!long),
        s: 1,
        l: u8::from(long),
        g: 1,
        ..Default::default()
    }
}

/// The descriptor of a segment (Intel SDM volume 3, figure 3-8).
fn descriptor(segment: &kvm_segment) -> u64 {
    let limit = u64::from(if segment.g == 1 { segment.limit >> 12 } else { segment.limit });
    let flags = u64::from(segment.type_)
        | u64::from(segment.s) << 4
        | u64::from(segment.dpl) << 5
        | u64::from(segment.present) << 7
        | u64::from(segment.avl) << 12
        | u64::from(segment.l) << 13
        | u64::from(segment.db) << 14
        | u64::from(segment.g) << 15;
    limit & 0xffff
        | (segment.base & 0xff_ffff) << 16
        | flags << 40
        | (limit >> 16 & 0xf) << 48
        | (segment.base >> 24 & 0xff) << 56
}

/// Maps the first 4 GiB to themselves, by pages of 2 MiB. Gives the address of the top table.
fn write_page_tables(memory: &GuestMemory) -> Result<u64, vm_memory::GuestMemoryError> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let (top, second) = (PAGE_TABLES_START, PAGE_TABLES_START + 0x1000);
    memory.write_obj(second | PRESENT_WRITABLE, GuestAddress(top))?;
    for gib in 0..4u64 {
        let third = second + 0x1000 * (gib + 1);
        memory.write_obj(third | PRESENT_WRITABLE, GuestAddress(second + gib * 8))?;
        for entry in 0..512u64 {
            let page = (gib << 30 | entry << 21) | PRESENT_WRITABLE | LARGE;
            memory.write_obj(page, GuestAddress(third + entry * 8))?;
        }
    }
    Ok(top)
}

/// Prepares the first vCPU to enter a kernel, with what that needs in memory.
///
/// # Errors
/// [`BootError::Memory`]; the kernel's refusals as [`StateError::Kernel`].
pub fn enter(vcpu: &VcpuFd, memory: &GuestMemory, entry: Entry) -> Result<(), EnterError> {
    let long = matches!(entry, Entry::Linux64 { .. });
    let (code, data) = (segment(CODE_SELECTOR, 0xb, long), segment(DATA_SELECTOR, 0x3, false));
    let task = kvm_segment { limit: 0x67, s: 0, g: 0, db: 0, ..segment(TASK_SELECTOR, 0xb, false) };
    let table = [0, 0, descriptor(&code), descriptor(&data), descriptor(&task)];
    for (index, descriptor) in table.iter().enumerate() {
        memory.write_obj(*descriptor, GuestAddress(GDT_START + index as u64 * 8))?;
    }
    memory.write_obj(0u64, GuestAddress(IDT_START))?;

    let mut sregs = vcpu.get_sregs().map_err(kernel("the reading of special registers"))?;
    sregs.gdt = kvm_dtable { base: GDT_START, limit: table.len() as u16 * 8 - 1, ..Default::default() };
    sregs.idt = kvm_dtable { base: IDT_START, limit: 7, ..Default::default() };
    sregs.cs = code;
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.tr = task;
    (sregs.cr0, sregs.cr4, sregs.efer) = (CR0_PE | CR0_ET, 0, 0);
    if long {
        sregs.cr3 = write_page_tables(memory)?;
        sregs.cr4 = CR4_PAE;
        sregs.cr0 |= CR0_PG;
        sregs.efer = EFER_LME | EFER_LMA;
    }
    vcpu.set_sregs(&sregs).map_err(kernel("special registers"))?;

    let mut regs = kvm_regs { rflags: RFLAGS_RESERVED, ..Default::default() };
    match entry {
        Entry::Pvh { entry, start_info } => (regs.rip, regs.rbx) = (entry.into(), start_info.into()),
        Entry::Linux64 { entry, boot_params } => {
            (regs.rip, regs.rsi, regs.rsp, regs.rbp) = (entry, boot_params, STACK_TOP, STACK_TOP);
        }
        Entry::Linux32 { entry, boot_params } => (regs.rip, regs.rsi) = (entry.into(), boot_params.into()),
    }
    vcpu.set_regs(&regs).map_err(kernel("registers"))?;
    Ok(())
}

/// What firmware leaves on every vCPU: the local APIC's inputs wired, memory types and fast strings on.
///
/// # Errors
/// [`StateError::Kernel`].
pub fn prepare(vcpu: &VcpuFd) -> Result<(), StateError> {
    let mut lapic = vcpu.get_lapic().map_err(kernel("the reading of the local APIC"))?;
    set_delivery(&mut lapic, LAPIC_LVT0, DELIVERY_EXTINT);
    set_delivery(&mut lapic, LAPIC_LVT1, DELIVERY_NMI);
    vcpu.set_lapic(&lapic).map_err(kernel("the local APIC"))?;
    for msr in [(MSR_MTRR_DEFAULT, MTRR_ENABLED_WRITE_BACK), (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRING)] {
        // Not every processor has them; a guest does without.
        if let Err(error) = msrs::write(vcpu, &[msr]) {
            log::debug!("{error}");
        }
    }
    Ok(())
}

fn set_delivery(lapic: &mut kvm_lapic_state, register: usize, delivery: u32) {
    let field = &mut lapic.regs[register..register + 4];
    let old = u32::from_le_bytes([field[0] as u8, field[1] as u8, field[2] as u8, field[3] as u8]);
    let new = old & !DELIVERY_AND_MASK | delivery;
    for (byte, value) in field.iter_mut().zip(new.to_le_bytes()) {
        *byte = value as _;
    }
}

fn kernel(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> StateError {
    move |error| StateError::Kernel { subject: "the first vCPU".into(), what, errno: error.to_string() }
}

/// Why the first vCPU could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// KVM refused.
    #[error(transparent)]
    Kernel(#[from] StateError),
    /// The machine's memory cannot be written.
    #[error("guest memory cannot be written")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

impl From<EnterError> for BootError {
    fn from(error: EnterError) -> Self {
        match error {
            EnterError::Memory(source) => Self::Memory(source),
            EnterError::Kernel(source) => {
                Self::Read { what: "first vCPU", source: std::io::Error::other(source.to_string()) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_those_that_linux_asks_for() {
        assert_eq!(descriptor(&segment(CODE_SELECTOR, 0xb, false)), 0x00cf_9b00_0000_ffff);
        assert_eq!(descriptor(&segment(CODE_SELECTOR, 0xb, true)), 0x00af_9b00_0000_ffff);
        assert_eq!(descriptor(&segment(DATA_SELECTOR, 0x3, false)), 0x00cf_9300_0000_ffff);
    }

    #[test]
    fn an_lvt_entry_keeps_its_vector_and_loses_its_mask() {
        let mut lapic = kvm_lapic_state::default();
        set_delivery(&mut lapic, LAPIC_LVT0, DELIVERY_AND_MASK | 0x31);
        set_delivery(&mut lapic, LAPIC_LVT0, DELIVERY_EXTINT);
        assert_eq!(
            lapic.regs[LAPIC_LVT0..LAPIC_LVT0 + 4].iter().map(|b| *b as u8).collect::<Vec<_>>(),
            [0x31, 7, 0, 0]
        );
    }
}
