//! The steps of a build, in order.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Doing, LabError, Result};
use crate::home::Home;
use crate::image::kernel::{self, Flavour, KernelPackage};
use crate::image::program::{has_interpreter, static_program};
use crate::image::recipe::Recipe;
use crate::image::{budget, initramfs, iso};
use crate::stamp::Inputs;

/// What an image is packed from, whoever made it.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The one binary, static.
    pub binary: PathBuf,
    /// The kernel and its modules.
    pub kernel: KernelPackage,
}

/// The files of a built image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel, to boot a host without a boot loader.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initramfs: PathBuf,
    /// The bootable ISO.
    pub iso: PathBuf,
    /// What the lab's own hosts boot: the initramfs with the stowaway behind it. Only [`build`] makes it.
    pub lab_initramfs: PathBuf,
}

impl Image {
    /// The files of this tree's image, built or not.
    pub fn of(home: &Home) -> Self {
        Self::within(&home.image())
    }

    /// The files of an image in this folder, built or not.
    pub fn within(folder: &Path) -> Self {
        Self {
            kernel: folder.join("vmlinuz"),
            initramfs: folder.join("initramfs"),
            iso: folder.join("godwit.iso"),
            lab_initramfs: folder.join("lab-initramfs"),
        }
    }
}

/// The fast path: builds the binary, fetches Debian's kernel, packs them, and adds what the lab's own hosts boot.
pub fn build(home: &Home) -> Result<Image> {
    let binary = static_program(home, "godwit")?;
    let parts = Parts { binary, kernel: kernel::fetch(home, Flavour::Generic)? };
    let folder = home.image();
    let image = pack(&home.source, &parts, &folder)?;
    let stowaway = folder.join("stowaway.cpio.zst");
    initramfs::pack_stowaway(&static_program(home, "stowaway")?, &stowaway)?;
    initramfs::join(&[&image.initramfs, &stowaway], &image.lab_initramfs)?;
    Ok(image)
}

/// Packs these parts as the source tree says and puts the image into `folder`: does what is not up to date there, prints
/// the sizes and checks them.
pub fn pack(source: &Path, parts: &Parts, folder: &Path) -> Result<Image> {
    let recipe = Recipe::read(source)?;
    let Parts { binary, kernel } = parts;
    if has_interpreter(&fs::read(binary).at("reading", binary)?) {
        return Err(LabError::Input(format!("{} is not static: nothing in the image could load it", binary.display())));
    }
    let image = Image::within(folder);
    let vmlinuz = &kernel.vmlinuz;
    Inputs::of("kernel", 1)
        .large_file(vmlinuz)?
        .make(&image.kernel, || fs::copy(vmlinuz, &image.kernel).at("copying", vmlinuz).map(drop))?;
    let (modules, appliance) = (folder.join("modules.cpio.zst"), folder.join("godwit.cpio.zst"));
    initramfs::pack_modules(source, &recipe, kernel, &modules)?;
    initramfs::pack_appliance(binary, &appliance)?;
    initramfs::join(&[&modules, &appliance], &image.initramfs)?;
    iso::make(source, &image.kernel, &image.initramfs, &image.iso)?;
    println!("image: Linux {}", kernel.release);
    budget::check("binary", binary, recipe.budget.binary)?;
    budget::show("kernel", &image.kernel)?;
    budget::show("initramfs", &image.initramfs)?;
    budget::check("ISO", &image.iso, recipe.budget.iso)?;
    println!("image: {}", image.iso.display());
    Ok(image)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::home::source_tree;

    /// An ELF64 header with one program header of this type behind it.
    fn elf(kind: u8) -> Vec<u8> {
        let mut elf = vec![0; 64 + 56];
        (elf[32], elf[54], elf[56], elf[64]) = (64, 56, 1, kind);
        elf
    }

    #[test]
    fn a_binary_that_wants_a_dynamic_linker_is_refused_before_anything_is_packed() {
        let (loadable, interpreter) = (1, 3);
        assert!(!has_interpreter(&elf(loadable)));
        let folder = std::env::temp_dir().join(format!("godwit-dynamic-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let binary = folder.join("godwit");
        fs::write(&binary, elf(interpreter)).unwrap();
        let kernel = KernelPackage::made_elsewhere("/none".into(), "/none/6.12.1".into()).unwrap();
        let error = pack(&source_tree(), &Parts { binary, kernel }, &folder).unwrap_err().to_string();
        assert!(error.contains("is not static"), "{error}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
