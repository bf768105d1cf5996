//! The steps of a build, in order.

use std::fs;
use std::path::{Path, PathBuf};

use crate::child::Child;
use crate::error::{Doing, LabError, Result};
use crate::home::Home;
use crate::image::kernel::{self, Flavour};
use crate::image::recipe::Recipe;
use crate::image::{budget, initramfs, iso};

const TARGET: &str = "x86_64-unknown-linux-musl";

/// The files of a built image.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel, to boot a host without a boot loader.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initramfs: PathBuf,
    /// The bootable ISO.
    pub iso: PathBuf,
}

impl Image {
    /// The files of this tree's image, built or not.
    pub fn of(home: &Home) -> Self {
        let folder = home.image();
        Self { kernel: folder.join("vmlinuz"), initramfs: folder.join("initramfs"), iso: folder.join("godwit.iso") }
    }
}

/// Builds what is not up to date, prints the sizes and checks them.
pub fn build(home: &Home) -> Result<Image> {
    let recipe = Recipe::read(&home.source)?;
    let binary = build_binary(home)?;
    let package = kernel::fetch(home, Flavour::Generic)?;
    let image = Image::of(home);
    if !image.kernel.exists() || size_differs(&package.vmlinuz, &image.kernel) {
        fs::copy(&package.vmlinuz, &image.kernel).at("copying", &package.vmlinuz)?;
    }
    let modules = initramfs::pack_modules(home, &recipe, &package)?;
    let appliance = initramfs::pack_appliance(home, &binary)?;
    initramfs::join(&[&modules, &appliance], &image.initramfs)?;
    iso::make(home, &image.kernel, &image.initramfs, &image.iso)?;
    println!("image: Linux {}", package.release);
    budget::check("binary", &binary, recipe.budget.binary)?;
    budget::show("kernel", &image.kernel)?;
    budget::show("initramfs", &image.initramfs)?;
    budget::check("ISO", &image.iso, recipe.budget.iso)?;
    println!("image: {}", image.iso.display());
    Ok(image)
}

fn build_binary(home: &Home) -> Result<PathBuf> {
    let built = Child::new("cargo", ["build", "--quiet", "--release", "--package", "godwit", "--target", TARGET])
        .in_folder(&home.source)
        .as_caller()
        .succeeds_in_sight()?;
    if !built {
        return Err(LabError::Input("the appliance does not build (see above)".into()));
    }
    Ok(home.target.join(TARGET).join("release/godwit"))
}

fn size_differs(left: &Path, right: &Path) -> bool {
    let size = |path| fs::metadata(path).map(|about| about.len()).ok();
    size(left) != size(right)
}
