//! What kind of kernel a file holds. Its first bytes tell, so this can be asked before there is a machine.

use linux_loader::bootparam::setup_header;
use vm_memory::ByteValued;

use super::BootError;

/// Bytes of a kernel's beginning that tell what it is.
pub const HEADER_BYTES: usize = SETUP_HEADER + size_of::<setup_header>();

const ELF_MAGIC: &[u8] = b"\x7fELF";
/// Bytes of an ELF header of 64 bits.
const ELF_HEADER_BYTES: usize = 64;
/// `EI_CLASS` and `EI_DATA`: 64 bits, the lowest byte first.
const ELF_IDENT: (usize, [u8; 2]) = (4, [2, 1]);
/// `e_machine`: EM_X86_64.
const ELF_MACHINE: (usize, [u8; 2]) = (18, [62, 0]);

/// Where the setup header lies in a bzImage.
const SETUP_HEADER: usize = 0x1f1;
/// `header`: "HdrS".
pub(super) const SETUP_MAGIC: u32 = 0x5372_6448;
/// `loadflags`: the kernel goes above 1 MiB, which makes it a bzImage.
const LOADED_HIGH: u8 = 1;
/// The first version with such a flag.
const VERSION_LOADFLAGS: u16 = 0x0200;
/// The first version with `cmdline_size`, the oldest that is loaded here.
const VERSION_MIN: u16 = 0x0206;

/// What a kernel is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An ELF image for x86-64: with a PVH entry, or an uncompressed Linux.
    Elf,
    /// A Linux bzImage.
    BzImage,
}

/// What kind of kernel begins with these bytes: the first [`HEADER_BYTES`] of its file, or all if it has fewer.
///
/// # Errors
/// [`BootError::Unknown`] if it is no kernel, [`BootError::Processor`] if it is one for another processor,
/// [`BootError::Protocol`] if it is too old.
pub fn recognise(start: &[u8]) -> Result<Kind, BootError> {
    if start.starts_with(ELF_MAGIC) {
        let header = start.get(..ELF_HEADER_BYTES).ok_or(BootError::Unknown)?;
        let fits = |(at, bytes): (usize, [u8; 2])| header[at..].starts_with(&bytes);
        return if fits(ELF_IDENT) && fits(ELF_MACHINE) { Ok(Kind::Elf) } else { Err(BootError::Processor) };
    }
    let mut header = setup_header::default();
    let bytes = start.get(SETUP_HEADER..HEADER_BYTES).ok_or(BootError::Unknown)?;
    header.as_mut_slice().copy_from_slice(bytes);
    if header.header != SETUP_MAGIC || header.version < VERSION_LOADFLAGS || header.loadflags & LOADED_HIGH == 0 {
        return Err(BootError::Unknown);
    }
    if header.version < VERSION_MIN {
        return Err(BootError::Protocol { major: (header.version >> 8) as u8, minor: header.version as u8 });
    }
    Ok(Kind::BzImage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(class: u8, machine: u8) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES];
        header[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
        header[18] = machine;
        header
    }

    fn bz_image(version: u16, loadflags: u8) -> Vec<u8> {
        let mut header = vec![0; HEADER_BYTES];
        let setup = setup_header { header: SETUP_MAGIC, version, loadflags, ..Default::default() };
        header[SETUP_HEADER..].copy_from_slice(setup.as_slice());
        header
    }

    #[test]
    fn a_kernel_is_recognised_by_its_first_bytes_and_nothing_else_is_taken_for_one() {
        assert!(matches!(recognise(&elf(2, 62)), Ok(Kind::Elf)));
        assert!(matches!(recognise(&bz_image(0x020f, 1)), Ok(Kind::BzImage)));
        // An ELF of 32 bits, one for ARM, a kernel of 2005, a zImage.
        assert!(matches!(recognise(&elf(1, 3)), Err(BootError::Processor)));
        assert!(matches!(recognise(&elf(2, 183)), Err(BootError::Processor)));
        assert!(matches!(recognise(&bz_image(0x0204, 1)), Err(BootError::Protocol { major: 2, minor: 4 })));
        assert!(matches!(recognise(&bz_image(0x020f, 0)), Err(BootError::Unknown)));
        for start in [&b""[..], b"\x7fELF", b"[vm]\nname = \"web\"\n", &[0; HEADER_BYTES], &bz_image(0x020f, 1)[..600]]
        {
            assert!(matches!(recognise(start), Err(BootError::Unknown)), "{start:?}");
        }
    }
}
