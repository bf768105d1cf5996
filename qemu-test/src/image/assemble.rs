//! The steps of a build, in order.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Result};
use crate::home::Home;
use crate::image::kernel::{self, Flavour};
use crate::image::program::static_program;
use crate::image::recipe::Recipe;
use crate::image::{budget, initramfs, iso};

/// The files of a built image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel, to boot a host without a boot loader.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initramfs: PathBuf,
    /// The bootable ISO.
    pub iso: PathBuf,
    /// What the lab's own hosts boot: the initramfs with the stowaway behind it.
    pub lab_initramfs: PathBuf,
}

impl Image {
    /// The files of this tree's image, built or not.
    pub fn of(home: &Home) -> Self {
        let folder = home.image();
        Self {
            kernel: folder.join("vmlinuz"),
            initramfs: folder.join("initramfs"),
            iso: folder.join("godwit.iso"),
            lab_initramfs: folder.join("lab-initramfs"),
        }
    }
}

/// Builds what is not up to date, prints the sizes and checks them.
pub fn build(home: &Home) -> Result<Image> {
    let recipe = Recipe::read(&home.source)?;
    let binary = static_program(home, "godwit")?;
    let package = kernel::fetch(home, Flavour::Generic)?;
    let image = Image::of(home);
    if !image.kernel.exists() || size_differs(&package.vmlinuz, &image.kernel) {
        fs::copy(&package.vmlinuz, &image.kernel).at("copying", &package.vmlinuz)?;
    }
    let modules = initramfs::pack_modules(home, &recipe, &package)?;
    let appliance = initramfs::pack_appliance(home, &binary)?;
    initramfs::join(&[&modules, &appliance], &image.initramfs)?;
    let stowaway = initramfs::pack_stowaway(home, &static_program(home, "stowaway")?)?;
    initramfs::join(&[&image.initramfs, &stowaway], &image.lab_initramfs)?;
    iso::make(home, &image.kernel, &image.initramfs, &image.iso)?;
    println!("image: Linux {}", package.release);
    budget::check("binary", &binary, recipe.budget.binary)?;
    budget::show("kernel", &image.kernel)?;
    budget::show("initramfs", &image.initramfs)?;
    budget::check("ISO", &image.iso, recipe.budget.iso)?;
    println!("image: {}", image.iso.display());
    Ok(image)
}

fn size_differs(left: &Path, right: &Path) -> bool {
    let size = |path| fs::metadata(path).map(|about| about.len()).ok();
    size(left) != size(right)
}
