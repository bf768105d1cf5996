//! A small but real Debian for virtual machines: Debian's cloud kernel, an initrd of busybox and the modules that the machine
//! needs, and a root file system made by debootstrap, whose init is a script. Guests and the machine of a server are each
//! made by a recipe; the base system that is unpacked for them is one.

use std::fs;
use std::path::{Path, PathBuf};

use crate::child::Child;
use crate::error::{Doing, Result};
use crate::home::Home;
use crate::image::cpio::Archive;
use crate::image::{Flavour, KernelPackage, ModuleTree, fetch, unpack_kernel};
use crate::setup;
use crate::stamp::Inputs;

/// A base system as debootstrap makes it, which roots are made from.
#[derive(Debug, Clone, Copy)]
pub struct Base {
    /// Names its folder in the cache.
    pub name: &'static str,
    /// Debian's packages beside those that every Debian has, comma-separated.
    pub packages: &'static str,
}

impl Base {
    /// That of the guests and of the machine of a server, which alone starts what the package brings.
    pub const USUAL: Self = Self { name: "debian-base", packages: "nfs-kernel-server" };
    /// That of the guest with a database, and of the database's clients on this machine.
    pub const POSTGRESQL: Self = Self { name: "debian-postgresql", packages: "postgresql" };
}

/// Folders of debootstrap's result that no machine of the lab ever reads.
const UNREAD: &[&str] = &["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"];

/// Debian's static busybox.
pub const BUSYBOX: &str = "/bin/busybox";

/// The initrd's init: loads the modules, sets the address, goes over to the root.
const INITRD_INIT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
for word in $($b cat /proc/cmdline); do
    case $word in
        lab.address=*) address=${word#lab.address=} ;;
        lab.hostname=*) $b hostname ${word#lab.hostname=} ;;
    esac
done
$b ip link set lo up
if [ -n "$address" ] && [ -e /sys/class/net/eth0 ]; then
    $b ip link set eth0 up
    $b ip address add $address dev eth0
fi
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do $b sleep 0.05; tries=$((tries + 1)); done
$b mount -t ext4 /dev/vda /root || exec $b sh
for folder in dev proc sys; do $b mount -o move /$folder /root/$folder; done
exec $b switch_root /root /sbin/mini
"#;

/// What one Debian is made of.
pub struct Recipe {
    /// Names its files.
    pub name: &'static str,
    /// Modules that the initrd loads, each after what it depends on.
    pub modules: &'static [&'static str],
    /// The root's init, a script; it becomes `/usr/sbin/mini`.
    pub init: String,
    /// Static programs for `/usr/sbin`.
    pub programs: Vec<PathBuf>,
    /// What the root is made from.
    pub base: Base,
    /// A script that is run in the root once, before it becomes a file system; may be empty.
    pub prepare: &'static str,
    /// Size of the root file system, bytes.
    pub root_bytes: u64,
}

impl Recipe {
    /// One from the usual base, with nothing to prepare.
    pub fn usual(name: &'static str, modules: &'static [&'static str], init: String, programs: Vec<PathBuf>) -> Self {
        Self { name, modules, init, programs, base: Base::USUAL, prepare: "", root_bytes: 384 << 20 }
    }
}

/// The files of a Debian.
#[derive(Debug, Clone)]
pub struct Debian {
    /// The kernel as Debian has it (bzImage).
    pub vmlinuz: PathBuf,
    /// The same kernel unpacked (ELF).
    pub vmlinux: PathBuf,
    /// Its initrd. It takes `lab.address=ADDRESS/PREFIX` and `lab.hostname=NAME` from the kernel's command line.
    pub initrd: PathBuf,
    /// The root file system, raw, the machine's first disk.
    pub root: PathBuf,
}

impl Debian {
    /// Makes what is not up to date.
    pub fn build(home: &Home, recipe: &Recipe) -> Result<Self> {
        let package = fetch(home, Flavour::Cloud)?;
        let folder = home.root.join("debian");
        fs::create_dir_all(&folder).at("creating", &folder)?;
        let debian = Self {
            vmlinuz: package.vmlinuz.clone(),
            vmlinux: folder.join("vmlinux"),
            initrd: folder.join(format!("{}-initrd.img", recipe.name)),
            root: folder.join(format!("{}-root.img", recipe.name)),
        };
        unpack_kernel(&debian.vmlinuz, &debian.vmlinux)?;
        make_initrd(&package, recipe.modules, &debian.initrd)?;
        make_root(home, recipe, &debian.root)?;
        Ok(debian)
    }
}

fn make_initrd(package: &KernelPackage, modules: &[&str], result: &Path) -> Result<()> {
    let inputs = Inputs::of("debian initrd", 3).value((modules, INITRD_INIT)).content(Path::new(BUSYBOX))?;
    inputs.large_file(&package.vmlinuz)?.make(result, || {
        let mut archive = busybox_archive(package, modules, INITRD_INIT)?;
        archive.folder("root");
        // Uncompressed: unpacking costs a nested guest more than reading.
        fs::write(result, archive.finish()).at("writing", result)
    })?;
    Ok(())
}

/// An initramfs under construction: busybox, these modules with all that they need in `/modules` (`order` names them, each
/// after what it needs), and the init, a script for busybox's shell.
///
/// # Errors
/// Busybox or a module is not there.
pub fn busybox_archive(package: &KernelPackage, modules: &[&str], init: &str) -> Result<Archive> {
    let busybox = Path::new(BUSYBOX);
    let tree = ModuleTree::open(package)?;
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "proc", "sys", "modules"] {
        archive.folder(folder);
    }
    archive.character_device("dev/console", 0o600, 5, 1);
    archive.file("bin/busybox", 0o755, &fs::read(busybox).at("reading", busybox)?);
    archive.file("init", 0o755, init.as_bytes());
    let mut order = String::new();
    for file in tree.closure(modules.iter().copied())? {
        let name = file.rsplit('/').next().unwrap_or(&file);
        let name = name.split(".ko").next().unwrap_or(name);
        archive.file(&format!("modules/{name}.ko"), 0o644, &tree.content(&file)?);
        order += &format!("{name}.ko\n");
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    Ok(archive)
}

fn make_root(home: &Home, recipe: &Recipe, result: &Path) -> Result<()> {
    let base = recipe.base.tree(home)?;
    let mut inputs = Inputs::of("debian root", 3).value((recipe.base.packages, &recipe.init, recipe.prepare));
    for program in &recipe.programs {
        inputs = inputs.value(program.file_name()).content(program)?;
    }
    inputs.make(result, || {
        println!("debian: making the root file system of the {}", recipe.name);
        let tree = result.with_extension("tree");
        let _ = fs::remove_dir_all(&tree);
        Child::new("cp", ["--archive", "--reflink=auto"]).arg(&base).arg(&tree).run()?;
        let folder = tree.join("usr/sbin");
        let mini = folder.join("mini");
        fs::write(&mini, &recipe.init).at("writing", &mini)?;
        Child::new("install", ["--mode=755"]).args(&recipe.programs).arg(&folder).run()?;
        Child::new("chmod", ["755"]).arg(&mini).run()?;
        if !recipe.prepare.is_empty() {
            Child::new("chroot", [&tree]).args(["/bin/sh", "-e", "-c", recipe.prepare]).run()?;
        }
        let _ = fs::remove_file(result);
        Child::new("mke2fs", ["-q", "-t", "ext4", "-L", "root", "-E", "root_owner=0:0", "-d"])
            .arg(&tree)
            .arg(result)
            .arg(format!("{}k", recipe.root_bytes >> 10))
            .run()?;
        fs::remove_dir_all(&tree).at("removing", &tree)
    })?;
    Ok(())
}

/// Fetches what comes from Debian's mirror and is not in the cache yet: kernels, and these base systems.
pub fn fetch_all(home: &Home, bases: &[Base]) -> Result<()> {
    for flavour in [Flavour::Generic, Flavour::Cloud] {
        fetch(home, flavour)?;
    }
    bases.iter().try_for_each(|base| base.tree(home).map(drop))
}

impl Base {
    /// Its folder, from the cache or from apt's mirror.
    pub fn tree(self, home: &Home) -> Result<PathBuf> {
        let Self { name, packages } = self;
        let tree = home.cache().join(name);
        if tree.exists() {
            return Ok(tree);
        }
        println!("debian: debootstrap with {packages} (once, about a minute)");
        let partial = home.cache().join(format!("{name}.partial"));
        let _ = fs::remove_dir_all(&partial);
        let (suite, mirror) = setup::apt_source()?;
        Child::new("debootstrap", ["--variant=minbase", "--include", packages, &suite])
            .arg(&partial)
            .args(mirror)
            .run()?;
        for folder in UNREAD {
            let folder = partial.join(folder);
            let _ = fs::remove_dir_all(&folder);
            fs::create_dir_all(&folder).at("creating", &folder)?;
        }
        fs::rename(&partial, &tree).at("moving", &partial)?;
        Ok(tree)
    }
}
