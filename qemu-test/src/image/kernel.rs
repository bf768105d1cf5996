//! The kernel: Debian's own package, fetched by apt into the cache and unpacked there, or one that another builder made.

use std::fs;
use std::path::{Path, PathBuf};

use crate::child::Child;
use crate::error::{Doing, LabError, Result};
use crate::home::Home;
use crate::setup;

/// Which of Debian's kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// All drivers: for hosts.
    Generic,
    /// Drivers of virtual machines only: for guests.
    Cloud,
}

/// A kernel with its modules.
#[derive(Debug, Clone)]
pub struct KernelPackage {
    /// The release, as `uname -r` says it.
    pub release: String,
    /// The kernel itself (bzImage).
    pub vmlinuz: PathBuf,
    /// The folder of its modules with depmod's index: `lib/modules/<release>` on a host that boots it.
    pub modules: PathBuf,
}

impl KernelPackage {
    /// A kernel that another builder made; the folder of its modules is named after its release.
    pub fn made_elsewhere(vmlinuz: PathBuf, modules: PathBuf) -> Result<Self> {
        let release = modules.file_name().map(|name| name.to_string_lossy().into_owned());
        let release = release.ok_or_else(|| LabError::Input(format!("{} names no release", modules.display())))?;
        Ok(Self { release, vmlinuz, modules })
    }
}

impl Flavour {
    fn metapackage(self) -> &'static str {
        match self {
            Self::Generic => "linux-image-amd64",
            Self::Cloud => "linux-image-cloud-amd64",
        }
    }

    fn folder(self) -> &'static str {
        match self {
            Self::Generic => "kernel",
            Self::Cloud => "kernel-cloud",
        }
    }
}

/// The kernel package, from the cache or from apt. What the cache holds stays until the cache is removed.
pub fn fetch(home: &Home, flavour: Flavour) -> Result<KernelPackage> {
    let folder = home.cache().join(flavour.folder());
    if let Some(package) = unpacked(&folder)? {
        return Ok(package);
    }
    let partial = home.cache().join(format!("{}.partial", flavour.folder()));
    let _ = fs::remove_dir_all(&partial);
    fs::create_dir_all(&partial).at("creating", &partial)?;
    download(flavour, &partial)?;
    let archive = first_with_suffix(&partial, ".deb")?
        .ok_or_else(|| LabError::Input(format!("apt downloaded no package into {}", partial.display())))?;
    Child::new("dpkg-deb", ["-x"]).arg(&archive).arg(&partial).run()?;
    fs::remove_file(&archive).at("removing", &archive)?;
    // Debian 13 and merged-/usr packages have the modules in usr/lib.
    if !partial.join("lib/modules").exists() && partial.join("usr/lib/modules").exists() {
        fs::rename(partial.join("usr/lib"), partial.join("lib")).at("moving", &partial)?;
    }
    fs::rename(&partial, &folder).at("moving", &partial)?;
    let package = unpacked(&folder)?
        .ok_or_else(|| LabError::Input(format!("{} holds no kernel and modules", folder.display())))?;
    Child::new("depmod", ["-b"]).arg(&folder).arg(&package.release).run()?;
    Ok(package)
}

fn download(flavour: Flavour, folder: &Path) -> Result<()> {
    let suite = setup::backports_suite();
    let target: Vec<&str> = suite.iter().flat_map(|suite| ["-t", suite.as_str()]).collect();
    let depends = || Child::new("apt-cache", &target).arg("depends").arg(flavour.metapackage()).output();
    let mut package = depends().ok().and_then(|said| image_package(&said));
    if package.is_none() {
        Child::new("apt-get", ["-q", "-o", "DPkg::Lock::Timeout=600", "update"]).run()?;
        package = image_package(&depends()?);
    }
    let package = package.ok_or_else(|| LabError::Missing {
        what: format!("apt offers no {}", flavour.metapackage()),
        hint: format!("apt-cache policy {}", flavour.metapackage()),
    })?;
    println!("image: downloading {package}");
    Child::new("apt-get", &target)
        .arg("-q")
        .arg("-o")
        .arg("APT::Sandbox::User=root")
        .arg("download")
        .arg(&package)
        .in_folder(folder)
        .run()
}

/// The real package behind the metapackage: `Depends: linux-image-6.12.95+deb12-amd64`.
fn image_package(depends: &str) -> Option<String> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    names.map(str::trim).find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

fn unpacked(folder: &Path) -> Result<Option<KernelPackage>> {
    let Some(vmlinuz) = first_with_prefix(&folder.join("boot"), "vmlinuz-")? else { return Ok(None) };
    let name = vmlinuz.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let release = name.trim_start_matches("vmlinuz-").to_owned();
    let modules = folder.join("lib/modules").join(&release);
    Ok(modules.exists().then_some(KernelPackage { release, vmlinuz, modules }))
}

fn first_with_suffix(folder: &Path, suffix: &str) -> Result<Option<PathBuf>> {
    first(folder, |name| name.ends_with(suffix))
}

fn first_with_prefix(folder: &Path, prefix: &str) -> Result<Option<PathBuf>> {
    first(folder, |name| name.starts_with(prefix))
}

fn first(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Option<PathBuf>> {
    if !folder.exists() {
        return Ok(None);
    }
    let entries = fs::read_dir(folder).at("reading", folder)?.flatten();
    let mut found = entries
        .map(|entry| entry.path())
        .filter(|path| wanted(&path.file_name().unwrap_or_default().to_string_lossy()));
    Ok(found.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_behind_the_metapackage_is_found() {
        let said = "linux-image-amd64\n  Depends: linux-image-6.12.95+deb12-amd64\n  Recommends: firmware\n";
        assert_eq!(image_package(said).as_deref(), Some("linux-image-6.12.95+deb12-amd64"));
        assert_eq!(image_package("W: nothing\n"), None);
    }
}
