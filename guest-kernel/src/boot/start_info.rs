//! What a PVH loader tells: memory map, command line, where ACPI begins.
//!
//! Source: Xen, `public/arch-x86/hvm/start_info.h`.

use heapless::Vec;

/// First word of `hvm_start_info`.
pub const MAGIC: u32 = 0x336e_c578;
/// Most ranges of the memory map that are read.
pub const RANGES_MAX: usize = 64;
/// Most bytes of the command line that are read.
pub const CMDLINE_MAX: usize = 2048;
/// Type of a range of ordinary memory.
const TYPE_RAM: u32 = 1;

/// A physical range in bytes, end exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// First byte beyond.
    pub end: u64,
}

/// What the loader said.
pub struct StartInfo {
    /// Ranges of ordinary memory, as listed.
    pub ram: Vec<Range, RANGES_MAX>,
    /// Physical address and length of the command line, without its final zero.
    pub cmdline: Range,
    /// Physical address of the ACPI root pointer, 0 if there is none.
    pub rsdp: u64,
}

/// Why the loader's structure cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    /// The first word is not [`MAGIC`].
    Magic(u32),
    /// The structure is of a version without a memory map.
    NoMemoryMap,
}

fn word(read: &impl Fn(u64) -> u8, address: u64) -> u32 {
    u32::from_le_bytes(core::array::from_fn(|index| read(address + index as u64)))
}

fn long(read: &impl Fn(u64) -> u8, address: u64) -> u64 {
    u64::from_le_bytes(core::array::from_fn(|index| read(address + index as u64)))
}

impl StartInfo {
    /// Reads the structure at `address` through `read`, which gives one byte of physical memory.
    pub fn read(address: u64, read: impl Fn(u64) -> u8) -> Result<Self, Error> {
        let magic = word(&read, address);
        if magic != MAGIC {
            return Err(Error::Magic(magic));
        }
        let (version, map, entries) =
            (word(&read, address + 4), long(&read, address + 40), word(&read, address + 48).min(RANGES_MAX as u32));
        if version < 1 || map == 0 || entries == 0 {
            return Err(Error::NoMemoryMap);
        }
        let mut ram = Vec::new();
        for index in 0..u64::from(entries) {
            let entry = map + index * 24;
            let (start, bytes, kind) = (long(&read, entry), long(&read, entry + 8), word(&read, entry + 16));
            if kind == TYPE_RAM && bytes > 0 {
                // Cannot be full: there are at most RANGES_MAX entries.
                let _ = ram.push(Range { start, end: start.saturating_add(bytes) });
            }
        }
        let text = long(&read, address + 24);
        let mut bytes = 0;
        while text != 0 && bytes < CMDLINE_MAX as u64 && read(text + bytes) != 0 {
            bytes += 1;
        }
        Ok(Self { ram, cmdline: Range { start: text, end: text + bytes }, rsdp: long(&read, address + 32) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(entries: &[(u64, u64, u32)], cmdline: &str) -> std::vec::Vec<u8> {
        let mut bytes = std::vec![0; 4096];
        bytes[256..256 + cmdline.len()].copy_from_slice(cmdline.as_bytes());
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_le_bytes());
        put(4, &1u32.to_le_bytes());
        put(24, &256u64.to_le_bytes());
        put(32, &0xe0000u64.to_le_bytes());
        put(40, &1024u64.to_le_bytes());
        put(48, &(entries.len() as u32).to_le_bytes());
        for (index, (start, length, kind)) in entries.iter().enumerate() {
            put(1024 + index * 24, &start.to_le_bytes());
            put(1032 + index * 24, &length.to_le_bytes());
            put(1040 + index * 24, &kind.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn only_ordinary_memory_is_listed_and_the_command_line_ends_at_its_zero() {
        let bytes = memory(&[(0, 0x9fc00, 1), (0xf0000, 0x10000, 2), (0x100000, 0x700000, 1)], "seed=7 rate=2");
        let info = StartInfo::read(0, |address| bytes[address as usize]).unwrap();
        assert_eq!(&info.ram[..], [Range { start: 0, end: 0x9fc00 }, Range { start: 0x100000, end: 0x800000 }]);
        assert_eq!(info.cmdline, Range { start: 256, end: 269 });
        assert_eq!(info.rsdp, 0xe0000);
    }

    #[test]
    fn a_structure_of_another_kind_is_refused() {
        let mut bytes = memory(&[(0, 4096, 1)], "");
        bytes[0] = 0;
        assert_eq!(StartInfo::read(0, |at| bytes[at as usize]).err(), Some(Error::Magic(MAGIC & !0xff)));
        let bytes = memory(&[], "");
        assert_eq!(StartInfo::read(0, |at| bytes[at as usize]).err(), Some(Error::NoMemoryMap));
    }
}
