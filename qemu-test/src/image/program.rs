//! Static programs, built for a machine without a C library.

use std::path::PathBuf;

use crate::child::Child;
use crate::error::{LabError, Result};
use crate::home::Home;

const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds the program of a package of this workspace for release and gives its file.
pub fn static_program(home: &Home, package: &str) -> Result<PathBuf> {
    println!("image: building {package} (some minutes the first time, a second where nothing changed)");
    let built = Child::new("cargo", ["build", "--quiet", "--release", "--target", TARGET, "--package", package])
        .in_folder(&home.source)
        .env("CARGO_TARGET_DIR", &home.target)
        .succeeds_in_sight()?;
    if !built {
        return Err(LabError::Input(format!("{package} does not build (see above)")));
    }
    Ok(home.target.join(TARGET).join("release").join(package))
}

/// Whether an ELF64 file asks for a dynamic linker: it has a program header of type `PT_INTERP` (3).
pub fn has_interpreter(elf: &[u8]) -> bool {
    let half = |at: usize| elf.get(at..at + 2).map_or(0, |bytes| usize::from(u16::from_le_bytes([bytes[0], bytes[1]])));
    let table = elf.get(32..40).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes) as usize;
    (0..half(56)).any(|index| half(table + index * half(54)) == 3)
}
