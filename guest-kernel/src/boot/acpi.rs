//! Power off, reset, processors and PCI's configuration space, from the ACPI tables.
//!
//! Source: ACPI 6.5, sections 5.2.5 (RSDP), 5.2.7 and 5.2.8 (RSDT, XSDT), 5.2.9 (FADT), 5.2.12 (MADT), 4.8.3 (PM1 registers),
//! 4.8.3.7 (sleep control), 7.4.2 (`\_S5`), 20.2 (AML); PCI Firmware 3.3, section 4.1.2 (MCFG).

use heapless::Vec;

/// Most processors that are listed.
pub const PROCESSORS_MAX: usize = 64;

/// `\_S5`'s value where the tables do not tell.
const S5_ASSUMED: u8 = 5;
const FADT_RESET_SUPPORTED: u32 = 1 << 10;
const FADT_HARDWARE_REDUCED: u32 = 1 << 20;
/// An XSDT of more tables than this is cut off.
const TABLES_MAX: u32 = 64;
/// An MCFG of more entries than this is cut off.
const MCFG_MAX: u64 = 64;
/// A DSDT of more bytes than this is searched no further.
const DSDT_MAX: u32 = 1 << 20;

/// Where a register is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// In port space.
    Port(u16),
    /// In memory.
    Memory(u64),
}

/// What is written to power off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerOff {
    /// 16 bits to the PM1a control register.
    Control(Register, u16),
    /// 8 bits to the sleep control register of a hardware-reduced machine.
    Sleep(Register, u8),
}

/// The power button: a status register and, `enable` bytes after it, the one that lets it show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Button {
    /// PM1a status.
    pub status: u16,
    /// PM1a enable.
    pub enable: u16,
}

/// What the tables say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Platform {
    /// How to power off.
    pub power_off: Option<PowerOff>,
    /// What to write to reset.
    pub reset: Option<(Register, u8)>,
    /// The power button, if it can be polled.
    pub button: Option<Button>,
    /// LAPIC identifiers of the processors that are enabled, in the order of the MADT; those above 254 are left out.
    pub processors: Vec<u8, PROCESSORS_MAX>,
    /// Where the configuration space of PCI bus 0 begins, if it is in memory below 4 GiB.
    pub ecam: Option<u64>,
}

/// Physical memory, a byte at a time.
struct View<'a, R>(&'a R);

impl<R: Fn(u64) -> u8> View<'_, R> {
    fn bytes<const N: usize>(&self, address: u64) -> [u8; N] {
        core::array::from_fn(|index| (self.0)(address + index as u64))
    }

    fn byte(&self, address: u64) -> u8 {
        (self.0)(address)
    }

    fn word(&self, address: u64) -> u32 {
        u32::from_le_bytes(self.bytes(address))
    }

    fn long(&self, address: u64) -> u64 {
        u64::from_le_bytes(self.bytes(address))
    }

    /// A generic address structure, `None` if it is empty or in another space.
    fn register(&self, address: u64) -> Option<Register> {
        match (self.byte(address), self.long(address + 4)) {
            (_, 0) => None,
            (0, place) => Some(Register::Memory(place)),
            (1, place) => Some(Register::Port(place as u16)),
            _ => None,
        }
    }
}

impl Platform {
    /// Reads the tables from the root pointer at `rsdp` through `read`, which gives one byte of physical memory. What is
    /// not there stays empty.
    pub fn read(rsdp: u64, read: impl Fn(u64) -> u8) -> Self {
        let view = View(&read);
        let mut platform = Self::default();
        if rsdp == 0 || &view.bytes::<8>(rsdp) != b"RSD PTR " {
            return platform;
        }
        let extended = view.byte(rsdp + 15) >= 2 && view.long(rsdp + 24) != 0;
        let (root, size) = if extended { (view.long(rsdp + 24), 8) } else { (u64::from(view.word(rsdp + 16)), 4) };
        let count = (view.word(root + 4).saturating_sub(36) / size).min(TABLES_MAX);
        for index in 0..count {
            let entry = root + 36 + u64::from(index * size);
            let table = if extended { view.long(entry) } else { u64::from(view.word(entry)) };
            match &view.bytes::<4>(table) {
                b"FACP" => platform.take_fadt(&view, table),
                b"APIC" => platform.take_madt(&view, table),
                b"MCFG" => platform.take_mcfg(&view, table),
                _ => {}
            }
        }
        platform
    }

    fn take_fadt<R: Fn(u64) -> u8>(&mut self, view: &View<R>, table: u64) {
        let bytes = view.word(table + 4);
        let has = |end: u32| bytes >= end;
        let flags = if has(116) { view.word(table + 112) } else { 0 };
        let dsdt = match has(148).then(|| view.long(table + 140)) {
            Some(address) if address != 0 => address,
            _ => u64::from(view.word(table + 40)),
        };
        let s5 = find_s5(view, dsdt).unwrap_or(S5_ASSUMED);
        if has(129) && flags & FADT_RESET_SUPPORTED != 0 {
            self.reset = view.register(table + 116).map(|register| (register, view.byte(table + 128)));
        }
        if flags & FADT_HARDWARE_REDUCED != 0 {
            if has(256) {
                // SLP_TYP in bits 2 to 4, SLP_EN in bit 5.
                self.power_off = view.register(table + 244).map(|at| PowerOff::Sleep(at, s5 << 2 | 1 << 5));
            }
            return;
        }
        let port = |extended: u64, plain: u64, end: u32| {
            let extended = has(end).then(|| view.register(table + extended)).flatten();
            let plain = view.word(table + plain) as u16;
            extended.or((plain != 0).then_some(Register::Port(plain)))
        };
        // SLP_TYP in bits 10 to 12, SLP_EN in bit 13.
        self.power_off = port(172, 64, 184).map(|at| PowerOff::Control(at, u16::from(s5) << 10 | 1 << 13));
        if let Some(Register::Port(status)) = port(148, 56, 160) {
            self.button = Some(Button { status, enable: status + u16::from(view.byte(table + 88)) / 2 });
        }
    }

    fn take_mcfg<R: Fn(u64) -> u8>(&mut self, view: &View<R>, table: u64) {
        // Base, segment group, first bus, last bus, reserved.
        let entries = u64::from(view.word(table + 4).saturating_sub(44) / 16).min(MCFG_MAX);
        let of_bus_0 = |entry: &u64| view.word(*entry + 8) & 0xff_ffff == 0 && view.long(*entry) >> 32 == 0;
        self.ecam = (0..entries).map(|index| table + 44 + index * 16).find(of_bus_0).map(|entry| view.long(entry));
    }

    fn take_madt<R: Fn(u64) -> u8>(&mut self, view: &View<R>, table: u64) {
        let end = table + u64::from(view.word(table + 4));
        let mut entry = table + 44;
        while entry + 2 <= end {
            let (kind, length) = (view.byte(entry), view.byte(entry + 1));
            let processor = match kind {
                0 => Some((u32::from(view.byte(entry + 3)), view.word(entry + 4))),
                9 => Some((view.word(entry + 4), view.word(entry + 8))),
                _ => None,
            };
            if let Some((id, flags)) = processor
                && flags & 1 != 0
                && id < 255
            {
                // More than fit stay asleep.
                let _ = self.processors.push(id as u8);
            }
            if length < 2 {
                return;
            }
            entry += u64::from(length);
        }
    }
}

/// The first element of the package `\_S5`, by its name and encoding in the DSDT.
fn find_s5<R: Fn(u64) -> u8>(view: &View<R>, dsdt: u64) -> Option<u8> {
    if dsdt == 0 || &view.bytes::<4>(dsdt) != b"DSDT" {
        return None;
    }
    let end = dsdt + u64::from(view.word(dsdt + 4).min(DSDT_MAX));
    // Name (0x08), perhaps a root prefix, "_S5_", Package (0x12), its length in 1 to 4 bytes, the count, the element.
    let name = (dsdt + 36..end.saturating_sub(8)).find(|at| {
        let before = view.byte(at - 1);
        view.byte(*at) == b'_'
            && &view.bytes::<4>(*at) == b"_S5_"
            && (before == 0x08 || before == b'\\')
            && view.byte(at + 4) == 0x12
    })?;
    let length_bytes = 1 + u64::from(view.byte(name + 5) >> 6);
    let element = name + 5 + length_bytes + 1;
    match view.byte(element) {
        value @ (0 | 1) => Some(value),
        0x0a..=0x0c => Some(view.byte(element + 1) & 7),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of 4 KiB with tables at round addresses.
    struct Tables(std::vec::Vec<u8>);

    impl Tables {
        fn new() -> Self {
            let mut tables = Self(std::vec![0; 4096]);
            tables.put(0x10, b"RSD PTR ").put(0x1f, &[2]).put(0x10 + 24, &0x100u64.to_le_bytes());
            tables.put(0x100, b"XSDT").put(0x104, &(36u32 + 16).to_le_bytes());
            tables.put(0x124, &0x200u64.to_le_bytes()).put(0x12c, &0x400u64.to_le_bytes());
            tables.put(0x200, b"FACP").put(0x204, &276u32.to_le_bytes()).put(0x200 + 40, &0x600u32.to_le_bytes());
            tables.put(0x400, b"APIC").put(0x404, &44u32.to_le_bytes());
            tables
        }

        fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
            self
        }

        fn read(&self) -> Platform {
            Platform::read(0x10, |address| self.0[address as usize])
        }
    }

    #[test]
    fn power_off_takes_its_value_from_the_package_s5() {
        let mut tables = Tables::new();
        tables.put(0x200 + 64, &0x604u32.to_le_bytes()).put(0x200 + 56, &0x600u32.to_le_bytes()).put(0x200 + 88, &[4]);
        assert_eq!(tables.read().power_off, Some(PowerOff::Control(Register::Port(0x604), 5 << 10 | 1 << 13)));
        assert_eq!(tables.read().button, Some(Button { status: 0x600, enable: 0x602 }));
        let name = b"\x5b\x80_S5_\x08_S5_\x12\x06\x04\x0a\x07\x00\x00";
        tables.put(0x600, b"DSDT").put(0x604, &100u32.to_le_bytes()).put(0x630, name);
        assert_eq!(tables.read().power_off, Some(PowerOff::Control(Register::Port(0x604), 7 << 10 | 1 << 13)));
        tables.put(0x630, b"\x08\\_S5_\x12\x06\x04\x00\x00\x00\x00\x00\x00\x00\x00");
        assert_eq!(tables.read().power_off, Some(PowerOff::Control(Register::Port(0x604), 1 << 13)));
    }

    #[test]
    fn a_hardware_reduced_machine_sleeps_and_resets_by_registers_in_memory() {
        let mut tables = Tables::new();
        tables.put(0x200 + 112, &(1u32 << 20 | 1 << 10).to_le_bytes());
        tables
            .put(0x200 + 116, &[0, 8, 0, 1])
            .put(0x200 + 120, &0xfe00_0002u64.to_le_bytes())
            .put(0x200 + 128, &[0x42]);
        tables.put(0x200 + 244, &[0, 8, 0, 1]).put(0x200 + 248, &0xfe00_0000u64.to_le_bytes());
        let platform = tables.read();
        assert_eq!(platform.power_off, Some(PowerOff::Sleep(Register::Memory(0xfe00_0000), 5 << 2 | 1 << 5)));
        assert_eq!(platform.reset, Some((Register::Memory(0xfe00_0002), 0x42)));
        assert_eq!(platform.button, None);
    }

    #[test]
    fn processors_are_those_that_are_enabled() {
        let mut tables = Tables::new();
        let entries = [
            &[0u8, 8, 0, 0, 1, 0, 0, 0][..],
            &[1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0],
            &[0, 8, 1, 7, 0, 0, 0, 0],
            &[9, 16, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0],
            &[9, 16, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0],
        ]
        .concat();
        tables.put(0x404, &(44 + entries.len() as u32).to_le_bytes()).put(0x42c, &entries);
        assert_eq!(tables.read().processors, [0, 9]);
    }

    #[test]
    fn configuration_space_is_that_of_bus_0() {
        let mut tables = Tables::new();
        tables.put(0x104, &(36u32 + 24).to_le_bytes()).put(0x134, &0x700u64.to_le_bytes());
        tables.put(0x700, b"MCFG").put(0x704, &(44u32 + 32).to_le_bytes());
        tables.put(0x72c, &0xd000_0000u64.to_le_bytes()).put(0x734, &[0, 0, 64, 127]);
        tables.put(0x73c, &0xb000_0000u64.to_le_bytes()).put(0x744, &[0, 0, 0, 63]);
        assert_eq!(tables.read().ecam, Some(0xb000_0000));
        tables.put(0x740, &[1]);
        assert_eq!(tables.read().ecam, None, "it lies beyond what is mapped");
    }

    #[test]
    fn broken_tables_end_the_reading_and_nothing_else() {
        assert_eq!(Platform::read(0, |_| 0), Platform::default());
        assert_eq!(Platform::read(16, |_| 0xff), Platform::default());
        let mut tables = Tables::new();
        // An entry of length 0 would never end.
        tables.put(0x404, &100u32.to_le_bytes());
        assert_eq!(tables.read().processors, [0u8; 0]);
    }
}
