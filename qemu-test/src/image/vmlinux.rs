//! The ELF kernel inside a bzImage: a kernel that starts from it does not unpack itself, which takes an emulated processor seconds.

use std::fs;
use std::path::Path;

use crate::child::Child;
use crate::error::{Doing, LabError, Result};
use crate::stamp::Inputs;

/// Unpacks the kernel of a bzImage into `result`, if that is not up to date.
pub fn unpack(bzimage: &Path, result: &Path) -> Result<()> {
    Inputs::of("vmlinux", 1).large_file(bzimage)?.make(result, || {
        let image = fs::read(bzimage).at("reading", bzimage)?;
        let refused = |why: &str| LabError::Input(format!("{}: {why}", bzimage.display()));
        let (packed, size) = payload(&image).ok_or_else(|| refused("it is no bzImage"))?;
        let unpacker = unpacker(packed).ok_or_else(|| refused("its kernel is packed by neither zstd nor xz"))?;
        let file = result.with_extension("packed");
        fs::write(&file, packed).at("writing", &file)?;
        let output = Child::new(unpacker, ["-dc"]).arg(&file).into_command().output().at("unpacking", &file)?;
        fs::remove_file(&file).at("removing", &file)?;
        if output.stdout.len() != size {
            return Err(refused(&format!("{unpacker} unpacked {} bytes of {size}", output.stdout.len())));
        }
        fs::write(result, &output.stdout).at("writing", result)
    })?;
    Ok(())
}

/// The packed kernel, and its size when it is unpacked, which stands behind it (Documentation/arch/x86/boot.rst:
/// `payload_offset`, `payload_length`).
fn payload(image: &[u8]) -> Option<(&[u8], usize)> {
    let word = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    let version = u16::from_le_bytes(image.get(0x206..0x208)?.try_into().ok()?);
    if image.get(0x202..0x206)? != b"HdrS" || version < 0x208 {
        return None;
    }
    // The boot sector, and the sectors of the setup code.
    let protected_mode = (usize::from(image[0x1f1]) + 1) * 512;
    let first = protected_mode.checked_add(word(0x248)?)?;
    let end = first.checked_add(word(0x24c)?)?.checked_sub(4)?;
    Some((image.get(first..end)?, word(end)?))
}

fn unpacker(packed: &[u8]) -> Option<&'static str> {
    match packed {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("zstd"),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Some("xz"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage of one setup sector with `payload` eight bytes behind it.
    fn bzimage(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 8];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&8_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn the_packed_kernel_is_found_with_its_size() {
        let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 1, 2, 3];
        let image = bzimage(&[&packed[..], &57_u32.to_le_bytes()].concat());
        assert_eq!(payload(&image), Some((&packed[..], 57)));
        assert_eq!(unpacker(&packed), Some("zstd"));
        packed[0] = 0;
        assert_eq!(unpacker(&packed), None);
    }

    #[test]
    fn what_is_no_bzimage_or_cut_short_is_refused() {
        let image = bzimage(&[0; 16]);
        for length in [0, 0x1f1, 0x250, image.len() - 1] {
            assert_eq!(payload(&image[..length]), None, "{length}");
        }
        let mut old = image;
        old[0x206] = 7;
        assert_eq!(payload(&old), None);
    }
}
