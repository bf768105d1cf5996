//! The table that describes devices in ACPI's own language (ACPI 6.5, chapters 19 and 20).

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::pm;
use crate::legacy::{rtc, serial};
use crate::memory::Layout;
use crate::memory::layout::{ECAM_BYTES, ECAM_START, PCI_WINDOW_32_BYTES, PCI_WINDOW_32_START, PCI_WINDOW_64_BYTES};

/// The table.
pub fn dsdt(layout: &Layout, oem: [u8; 6], oem_table: [u8; 8], oem_revision: u32) -> Vec<u8> {
    let mut code = Vec::new();
    system_bus(layout, &mut code);
    sleep_states(&mut code);
    let mut table = Sdt::new(*b"DSDT", 36, 6, oem, oem_table, oem_revision);
    table.append_slice(&code);
    table.as_slice().to_vec()
}

fn system_bus(layout: &Layout, code: &mut Vec<u8>) {
    let (serial, clock, board, pci) = (serial_port(), clock(), board(), pci_root(layout));
    let devices: Vec<&dyn Aml> = vec![&pci, &board, &serial, &clock];
    Scope::new(Path::new("_SB_"), devices).to_aml_bytes(code);
}

/// S5, soft off, by the sleep type that the control register understands.
fn sleep_states(code: &mut Vec<u8>) {
    let kind = pm::SLEEP_TYPE_S5 as u8;
    Name::new(Path::new("_S5_"), &Package::new(vec![&kind, &kind, &0u8, &0u8])).to_aml_bytes(code);
}

/// Bytes that are AML already: a device built by a function that owned its parts.
struct Code(Vec<u8>);

impl Aml for Code {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

fn device(path: &str, parts: Vec<&dyn Aml>) -> Code {
    let mut code = Vec::new();
    Device::new(Path::new(path), parts).to_aml_bytes(&mut code);
    Code(code)
}

/// The root of PCI: one bus, memory windows below and above 4 GiB, no ports for devices and no interrupt pins (all
/// interrupts are message-signalled).
fn pci_root(layout: &Layout) -> Code {
    let window_64 = layout.pci_window_64_start();
    let resources = Name::new(
        Path::new("_CRS"),
        &ResourceTemplate::new(vec![
            &AddressSpace::new_bus_number(0u16, 0u16),
            &IO::new(0xcf8, 0xcf8, 1, 8),
            &AddressSpace::new_memory(
                AddressSpaceCacheable::NotCacheable,
                true,
                PCI_WINDOW_32_START as u32,
                (PCI_WINDOW_32_START + PCI_WINDOW_32_BYTES - 1) as u32,
                None,
            ),
            &AddressSpace::new_memory(
                AddressSpaceCacheable::NotCacheable,
                true,
                window_64,
                window_64 + PCI_WINDOW_64_BYTES - 1,
                None,
            ),
        ]),
    );
    let id = Name::new(Path::new("_HID"), &EISAName::new("PNP0A08"));
    let compatible = Name::new(Path::new("_CID"), &EISAName::new("PNP0A03"));
    let unique = Name::new(Path::new("_UID"), &0u8);
    let segment = Name::new(Path::new("_SEG"), &0u8);
    let bus = Name::new(Path::new("_BBN"), &0u8);
    let coherent = Name::new(Path::new("_CCA"), &1u8);
    device("PCI0", vec![&id, &compatible, &unique, &segment, &bus, &coherent, &resources])
}

/// What the mainboard takes for itself: PCI configuration space, which Linux uses only if it is reserved here, and the ports
/// of power management.
fn board() -> Code {
    let id = Name::new(Path::new("_HID"), &EISAName::new("PNP0C02"));
    let unique = Name::new(Path::new("_UID"), &0u8);
    let resources = Name::new(
        Path::new("_CRS"),
        &ResourceTemplate::new(vec![
            &Memory32Fixed::new(true, ECAM_START as u32, ECAM_BYTES as u32),
            &IO::new(pm::PORT as u16, pm::PORT as u16, 1, pm::PORTS as u8),
        ]),
    );
    device("MBRD", vec![&id, &unique, &resources])
}

fn serial_port() -> Code {
    let id = Name::new(Path::new("_HID"), &EISAName::new("PNP0501"));
    let unique = Name::new(Path::new("_UID"), &0u8);
    let resources = Name::new(
        Path::new("_CRS"),
        &ResourceTemplate::new(vec![
            &Interrupt::new(true, true, false, false, serial::IRQ),
            &IO::new(serial::PORT as u16, serial::PORT as u16, 1, serial::PORTS as u8),
        ]),
    );
    device("COM1", vec![&id, &unique, &resources])
}

fn clock() -> Code {
    let id = Name::new(Path::new("_HID"), &EISAName::new("PNP0B00"));
    let resources = Name::new(
        Path::new("_CRS"),
        &ResourceTemplate::new(vec![&IO::new(rtc::PORT as u16, rtc::PORT as u16, 1, rtc::PORTS as u8)]),
    );
    device("RTC_", vec![&id, &resources])
}
