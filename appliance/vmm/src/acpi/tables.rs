//! The static tables, in firmware's memory below 1 MiB where a guest also finds them by looking (ACPI 6.5, chapter 5).

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use super::{dsdt, pm};
use crate::legacy::{reset_control, rtc};
use crate::memory::layout::{ECAM_START, IOAPIC_START, LAPIC_START};
use crate::memory::{GuestMemory, Layout};

/// Where the root pointer lies; the tables follow. In the stretch that a guest searches, 0xe0000 to 0xfffff.
pub const TABLES_START: u64 = 0xe_0000;
const TABLES_END: u64 = 0x10_0000;

const OEM: [u8; 6] = *b"GODWIT";
const OEM_TABLE: [u8; 8] = *b"GODWITVM";
const OEM_REVISION: u32 = 1;

/// Legacy devices are there, a VGA is not (IAPC_BOOT_ARCH). There is no keyboard controller to be probed.
const BOOT_ARCHITECTURE: u16 = 1 | 1 << 2;

/// Which interrupt of the PC's reaches the I/O APIC otherwise than edge-triggered on the pin of its number.
const POLARITY_HIGH_LEVEL: u16 = 0b1101;

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn port(address: u64, bits: u8, access: AccessSize) -> GAS {
    GAS::new(AddressSpace::SystemIo, bits, 0, access, address)
}

fn fadt(facs: u64, dsdt: u64) -> Vec<u8> {
    let mut table = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    let control = pm::PORT + pm::CONTROL_OFFSET;
    let timer = pm::PORT + pm::TIMER_OFFSET;
    table.firmware_ctrl = (facs as u32).into();
    table.dsdt = (dsdt as u32).into();
    table.x_dsdt = dsdt.into();
    table.sci_int = (pm::SCI as u16).into();
    table.pm1a_evt_blk = (pm::PORT as u32).into();
    table.pm1a_cnt_blk = (control as u32).into();
    table.pm_tmr_blk = (timer as u32).into();
    (table.pm1_evt_len, table.pm1_cnt_len, table.pm_tmr_len) = (4, 2, 4);
    // C2 and C3 do not exist: latencies above 100 and 1000 say so.
    table.p_lvl2_lat = 0xfff.into();
    table.p_lvl3_lat = 0xfff.into();
    table.century = rtc::CENTURY;
    table.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    table.reset_reg = port(reset_control::CHIPSET_PORT, 8, AccessSize::ByteAccess);
    table.reset_value = reset_control::CHIPSET_RESET;
    table.x_pm1a_evt_blk = port(pm::PORT, 32, AccessSize::WordAccess);
    table.x_pm1a_cnt_blk = port(control, 16, AccessSize::WordAccess);
    table.x_pm_tmr_blk = port(timer, 32, AccessSize::DwordAccess);
    bytes_of(&table.finalize())
}

/// Interrupt controllers (section 5.2.12). The I/O APIC's number is the first that no vCPU has.
fn madt(cpus: u8) -> Vec<u8> {
    let mut table = Sdt::new(*b"APIC", 36, 5, OEM, OEM_TABLE, OEM_REVISION);
    table.append_slice(&(LAPIC_START as u32).to_le_bytes());
    // PCs' PICs are there too and must be masked.
    table.append_slice(&1u32.to_le_bytes());
    for cpu in 0..cpus {
        table.append_slice(&[0, 8, cpu, cpu]);
        table.append_slice(&1u32.to_le_bytes());
    }
    table.append_slice(&[1, 12, cpus, 0]);
    table.append_slice(&(IOAPIC_START as u32).to_le_bytes());
    table.append_slice(&0u32.to_le_bytes());
    for (irq, gsi, flags) in [(0u8, 2u32, 0u16), (pm::SCI as u8, pm::SCI, POLARITY_HIGH_LEVEL)] {
        table.append_slice(&[2, 10, 0, irq]);
        table.append_slice(&gsi.to_le_bytes());
        table.append_slice(&flags.to_le_bytes());
    }
    // The NMI is input 1 of every local APIC.
    table.append_slice(&[4, 6, 0xff, 0, 0, 1]);
    table.as_slice().to_vec()
}

fn mcfg() -> Vec<u8> {
    let mut table = MCFG::new(OEM, OEM_TABLE, OEM_REVISION);
    table.add_ecam(ECAM_START, 0, 0, 0);
    bytes_of(&table)
}

/// Firmware control structure: nothing in it counts without sleep states, but the full hardware model wants one.
fn facs() -> Vec<u8> {
    bytes_of(&acpi_tables::facs::FACS::new())
}

/// Writes all tables for a machine of `cpus` and gives the address of the root pointer.
///
/// # Errors
/// If guest memory cannot be written, which a machine of the least size already can.
pub fn write(memory: &GuestMemory, layout: &Layout, cpus: u8) -> Result<u64, GuestMemoryError> {
    let mut next = TABLES_START + Rsdp::len() as u64;
    let mut place = |bytes: &[u8]| {
        let at = next.next_multiple_of(64);
        next = at + bytes.len() as u64;
        if next > TABLES_END {
            return Err(GuestMemoryError::InvalidGuestAddress(GuestAddress(next)));
        }
        memory.write_slice(bytes, GuestAddress(at))?;
        Ok(at)
    };
    let facs = place(&facs())?;
    let dsdt = place(&dsdt::dsdt(layout, OEM, OEM_TABLE, OEM_REVISION))?;
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    for table in [fadt(facs, dsdt), madt(cpus), mcfg()] {
        xsdt.add_entry(place(&table)?);
    }
    let xsdt = place(&bytes_of(&xsdt))?;
    memory.write_slice(&bytes_of(&Rsdp::new(OEM, xsdt)), GuestAddress(TABLES_START))?;
    Ok(TABLES_START)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn read(memory: &GuestMemory, at: u64, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        memory.read_slice(&mut data, GuestAddress(at)).unwrap();
        data
    }

    fn table(memory: &GuestMemory, at: u64) -> Vec<u8> {
        let length = u32::from_le_bytes(read(memory, at + 4, 4).try_into().unwrap());
        read(memory, at, length as usize)
    }

    #[test]
    fn a_guest_finds_every_table_from_the_root_pointer_and_all_sums_are_right() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap();
        let layout = Layout::new(16 << 20).unwrap();
        let root = write(&memory, &layout, 255).unwrap();
        let rsdp = read(&memory, root, 36);
        assert_eq!((&rsdp[..8], sum(&rsdp[..20]), sum(&rsdp)), (&b"RSD PTR "[..], 0, 0));
        let xsdt = table(&memory, u64::from_le_bytes(rsdp[24..32].try_into().unwrap()));
        assert_eq!((&xsdt[..4], sum(&xsdt)), (&b"XSDT"[..], 0));
        let entries: Vec<u64> = xsdt[36..].chunks(8).map(|e| u64::from_le_bytes(e.try_into().unwrap())).collect();
        let tables: Vec<Vec<u8>> = entries.iter().map(|at| table(&memory, *at)).collect();
        let names: Vec<&[u8]> = tables.iter().map(|table| &table[..4]).collect();
        assert_eq!(names, [&b"FACP"[..], b"APIC", b"MCFG"]);
        assert!(tables.iter().all(|table| sum(table) == 0));
        let fadt = &tables[0];
        let dsdt = table(&memory, u32::from_le_bytes(fadt[40..44].try_into().unwrap()).into());
        assert_eq!((&dsdt[..4], sum(&dsdt)), (&b"DSDT"[..], 0));
        let facs = u32::from_le_bytes(fadt[36..40].try_into().unwrap());
        assert_eq!((&read(&memory, facs.into(), 4)[..], facs % 64), (&b"FACS"[..], 0));
        let madt = &tables[1];
        assert_eq!(madt.len(), 44 + 255 * 8 + 12 + 2 * 10 + 6);
    }
}
