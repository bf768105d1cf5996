//! Kernel modules: which files the named ones need, and their tree as the image carries it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::child::Child;
use crate::error::{Doing, LabError, Result};
use crate::image::KernelPackage;

/// Files of depmod that a loader without libkmod needs: dependencies, aliases, what is built in, in text.
const INDEX_FILES: &[&str] =
    &["modules.dep", "modules.alias", "modules.softdep", "modules.builtin", "modules.builtin.modinfo", "modules.order"];

/// The modules of a kernel package and what each depends on.
pub struct ModuleTree {
    folder: PathBuf,
    /// Module name to its file, relative to the folder, and the files that it needs, nearest first.
    files: BTreeMap<String, (String, Vec<String>)>,
    builtin: BTreeSet<String>,
}

impl ModuleTree {
    /// Reads depmod's index of the package.
    pub fn open(package: &KernelPackage) -> Result<Self> {
        let folder = package.modules.clone();
        let read = |name: &str| fs::read_to_string(folder.join(name)).at("reading", &folder.join(name));
        let files = read("modules.dep")?.lines().filter_map(parse_dependencies).collect();
        let builtin = read("modules.builtin")?.lines().map(name_of).collect();
        Ok(Self { folder, files, builtin })
    }

    /// The files of these modules and of everything that they depend on, relative to the tree, dependencies first.
    /// Names that the kernel does not know are an error that lists all of them.
    pub fn closure<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<Vec<String>> {
        let (mut wanted, mut unknown) = (Vec::new(), Vec::new());
        for name in names {
            let name = name.replace('-', "_");
            match self.files.get(&name) {
                Some((file, needs)) => wanted.extend(needs.iter().rev().chain([file]).cloned()),
                None if self.builtin.contains(&name) => {}
                None => unknown.push(name),
            }
        }
        if !unknown.is_empty() {
            let what =
                format!("config/image.toml names modules that this kernel does not have: {}", unknown.join(", "));
            return Err(LabError::Input(what));
        }
        let mut seen = BTreeSet::new();
        wanted.retain(|file| seen.insert(file.clone()));
        Ok(wanted)
    }

    /// A module's content, unpacked.
    pub fn content(&self, file: &str) -> Result<Vec<u8>> {
        read_module(&self.folder.join(file))
    }

    /// Copies these files, unpacked, and the package's index of built-in modules into `to/lib/modules/<release>`, and has
    /// depmod write the index of what is there.
    pub fn copy(&self, files: &[String], to: &Path, release: &str) -> Result<()> {
        let folder = to.join("lib/modules").join(release);
        for file in files {
            let unpacked = folder.join(uncompressed_name(file));
            let parent = unpacked.parent().unwrap_or(&folder);
            fs::create_dir_all(parent).at("creating", parent)?;
            fs::write(&unpacked, self.content(file)?).at("writing", &unpacked)?;
        }
        for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            fs::copy(self.folder.join(name), folder.join(name)).at("copying", &folder.join(name))?;
        }
        Child::new("depmod", ["-b"]).arg(to).arg(release).run()
    }
}

/// The index files that go into the image.
pub(super) fn is_wanted_index(name: &str) -> bool {
    INDEX_FILES.contains(&name)
}

/// Reads a module's file, unpacked if the package has it compressed (Debian 13: xz).
pub fn read_module(path: &Path) -> Result<Vec<u8>> {
    let Some(program) = (match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => Some("xz"),
        Some("zst") => Some("zstd"),
        _ => None,
    }) else {
        return fs::read(path).at("reading", path);
    };
    let output = Child::new(program, ["-dc"]).arg(path).into_command().output().at("unpacking", path)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(LabError::Input(format!("{program} cannot unpack {}", path.display())))
}

fn uncompressed_name(file: &str) -> &str {
    file.strip_suffix(".xz").or_else(|| file.strip_suffix(".zst")).unwrap_or(file)
}

/// `kernel/net/8021q/8021q.ko: kernel/net/802/mrp.ko ...` to the module's name and its files.
fn parse_dependencies(line: &str) -> Option<(String, (String, Vec<String>))> {
    let (file, needs) = line.split_once(':')?;
    let needs = needs.split_whitespace().map(str::to_owned).collect();
    Some((name_of(file), (file.to_owned(), needs)))
}

fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    uncompressed_name(name).trim_end_matches(".ko").replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> ModuleTree {
        let text = "kernel/net/8021q/8021q.ko: kernel/net/802/mrp.ko kernel/net/llc/llc.ko\nkernel/net/802/mrp.ko:\n\
                    kernel/net/llc/llc.ko.xz:\nkernel/a/virtio-rng.ko:\n";
        let files = text.lines().filter_map(parse_dependencies).collect();
        ModuleTree { folder: PathBuf::new(), files, builtin: ["virtio_pci".to_owned()].into() }
    }

    #[test]
    fn dependencies_come_before_what_needs_them_and_once() {
        let files = tree().closure(["8021q", "virtio-rng", "mrp", "virtio_pci"]).unwrap();
        let expected =
            ["kernel/net/llc/llc.ko", "kernel/net/802/mrp.ko", "kernel/net/8021q/8021q.ko", "kernel/a/virtio-rng.ko"];
        assert_eq!(files, expected);
    }

    #[test]
    fn all_unknown_modules_are_named_at_once() {
        let error = tree().closure(["8021q", "nonsense", "rubbish"]).unwrap_err().to_string();
        assert!(error.contains("nonsense, rubbish") && !error.contains("8021q"), "{error}");
    }

    #[test]
    fn a_modules_name_is_its_files_name_with_underscores() {
        assert_eq!(name_of("kernel/drivers/virtio-net.ko.xz"), "virtio_net");
        assert_eq!(name_of("8021q.ko"), "8021q");
    }
}
