//! What is in the image.

use crate::child::Child;
use crate::error::{Doing, LabError, Result};
use crate::image::{cpio, has_interpreter};
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::tally::Verdict;

/// An ELF file (System V ABI, chapter 4): its type at offset 16; relocatable files, as kernel modules are, have 1.
const ELF: &[u8] = b"\x7fELF";

pub(super) fn the_image_holds_no_other_program_than_the_one_binary(bench: &mut Bench) -> Result<Verdict> {
    let archive = &bench.image.initramfs;
    let unpacked = Child::new("zstd", ["-dcq"]).arg(archive).into_command().output().at("unpacking", archive)?;
    if !unpacked.status.success() {
        return Err(LabError::Input(format!("zstd: {}", String::from_utf8_lossy(&unpacked.stderr))));
    }
    let entries = cpio::read(&unpacked.stdout)?;
    let files: Vec<_> = entries.iter().filter(|entry| entry.is_file()).collect();
    let programs: Vec<&str> = files
        .iter()
        .filter(|entry| entry.content.starts_with(ELF) && entry.content.get(16) != Some(&1))
        .map(|entry| entry.path.as_str())
        .collect();
    expect(programs == ["init"], || format!("programs in the initramfs: {programs:?}"))?;
    let scripts: Vec<&str> =
        files.iter().filter(|entry| entry.content.starts_with(b"#!")).map(|entry| entry.path.as_str()).collect();
    expect(scripts.is_empty(), || format!("scripts in the initramfs: {scripts:?}"))?;
    let runnable: Vec<&str> =
        files.iter().filter(|entry| entry.mode & 0o111 != 0).map(|entry| entry.path.as_str()).collect();
    expect(runnable == ["init"], || format!("runnable files in the initramfs: {runnable:?}"))?;
    let modules = files.iter().filter(|entry| entry.path.ends_with(".ko")).count();
    expect(modules > 50, || format!("only {modules} kernel modules in the initramfs"))?;
    let init = files.iter().find(|entry| entry.path == "init").map_or(&[][..], |entry| &entry.content);
    expect(!has_interpreter(init), || "init is not static".into())?;
    Ok(Verdict::Passed)
}
