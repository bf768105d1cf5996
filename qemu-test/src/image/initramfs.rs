//! The initramfs: two compressed archives one after the other, so that a new binary does not pack the modules again.

use std::fs;
use std::path::Path;

use crate::child::Child;
use crate::error::{Doing, Result};
use crate::image::KernelPackage;
use crate::image::cpio::Archive;
use crate::image::modules::{ModuleTree, is_wanted_index};
use crate::image::recipe::Recipe;
use crate::stamp::Inputs;

/// Folders that the kernel and init mount things on.
const MOUNT_POINTS: &[&str] = &["dev", "proc", "sys", "run", "tmp", "etc", "vm", "datastore"];

/// Packs the modules that the recipe of this source tree names into the compressed archive `result`.
pub(super) fn pack_modules(source: &Path, recipe: &Recipe, package: &KernelPackage, result: &Path) -> Result<()> {
    let index = package.modules.join("modules.dep");
    let inputs = Inputs::of("modules", 3).content(&Recipe::file(source))?.content(&index)?;
    inputs.large_file(&package.vmlinuz)?.make(result, || {
        let tree = ModuleTree::open(package)?;
        let files = tree.closure(recipe.module_names())?;
        println!("image: packing {} kernel modules", files.len());
        let staging = result.with_file_name("modules");
        let _ = fs::remove_dir_all(&staging);
        tree.copy(&files, &staging, &package.release)?;
        let mut archive = Archive::default();
        add_folder(&mut archive, &staging, Path::new("lib"))?;
        fs::remove_dir_all(&staging).at("removing", &staging)?;
        compress(&archive.finish(), result)
    })?;
    Ok(())
}

/// Packs the binary, which holds its defaults, as `/init` into the compressed archive `result`.
pub(super) fn pack_appliance(binary: &Path, result: &Path) -> Result<()> {
    Inputs::of("appliance", 4).content(binary)?.make(result, || {
        let mut archive = Archive::default();
        for folder in MOUNT_POINTS {
            archive.folder(folder);
        }
        // The kernel opens it as init's standard input and output before anything is mounted.
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.file("init", 0o755, &fs::read(binary).at("reading", binary)?);
        compress(&archive.finish(), result)
    })?;
    Ok(())
}

/// Packs the lab's own helper, which only the lab's hosts get, into the compressed archive `result`.
pub(super) fn pack_stowaway(program: &Path, result: &Path) -> Result<()> {
    Inputs::of("stowaway", 1).content(program)?.make(result, || {
        let mut archive = Archive::default();
        archive.file("stowaway", 0o755, &fs::read(program).at("reading", program)?);
        compress(&archive.finish(), result)
    })?;
    Ok(())
}

/// Puts the archives one after the other.
pub(super) fn join(parts: &[&Path], result: &Path) -> Result<()> {
    let mut inputs = Inputs::of("initramfs", 2);
    for part in parts {
        inputs = inputs.large_file(part)?;
    }
    inputs.make(result, || {
        let mut whole = Vec::new();
        for part in parts {
            whole.extend(fs::read(part).at("reading", part)?);
        }
        fs::write(result, whole).at("writing", result)
    })?;
    Ok(())
}

fn add_folder(archive: &mut Archive, root: &Path, relative: &Path) -> Result<()> {
    archive.folder(&relative.to_string_lossy());
    let folder = root.join(relative);
    let mut entries: Vec<_> = fs::read_dir(&folder).at("reading", &folder)?.flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = relative.join(entry.file_name());
        if entry.path().is_dir() {
            add_folder(archive, root, &path)?;
        } else if path.extension().is_some_and(|kind| kind == "ko")
            || is_wanted_index(&entry.file_name().to_string_lossy())
        {
            archive.file(&path.to_string_lossy(), 0o644, &fs::read(entry.path()).at("reading", &entry.path())?);
        }
    }
    Ok(())
}

fn compress(archive: &[u8], result: &Path) -> Result<()> {
    let plain = result.with_extension("");
    fs::write(&plain, archive).at("writing", &plain)?;
    Child::new("zstd", ["-19", "-T0", "-q", "-f", "--rm", "-o"]).arg(result).arg(&plain).run()
}
