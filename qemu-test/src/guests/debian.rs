//! A small but real Debian: Debian's cloud kernel, an initrd of busybox and the few modules that it takes to mount the
//! root, and a root file system made by debootstrap, with `guest-load` in it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::child::Child;
use crate::error::{Doing, Result};
use crate::home::Home;
use crate::image::cpio::Archive;
use crate::image::{Flavour, KernelPackage, ModuleTree, fetch, static_program};
use crate::setup;
use crate::stamp::Inputs;

/// Size of the journal's disk.
pub const JOURNAL_BYTES: u64 = 64 << 20;
/// Size of the root file system.
const ROOT_BYTES: u64 = 384 << 20;

/// Modules that the initrd loads. `button` and `evdev` bring the power button to `guest-load`.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_net", "crc32c_generic", "ext4", "button", "evdev"];

/// Folders of debootstrap's result that a guest of the lab never reads.
const UNREAD: &[&str] = &["var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale"];

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

/// The root's init: the service in the background, a shell on the serial port.
const MINI: &str = r#"#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=linux
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts && mount -t devpts devpts /dev/pts
journal=
[ -b /dev/vdb ] && journal=/dev/vdb
/usr/sbin/guest-load $journal &
cd /root
while :; do
    setsid --ctty --wait bash --login </dev/ttyS0 >/dev/ttyS0 2>&1
    sleep 1
done
"#;

/// The files of a Debian guest; VMs get copies of the root.
#[derive(Debug, Clone)]
pub struct DebianGuest {
    /// The kernel (bzImage).
    pub kernel: PathBuf,
    /// Its initrd.
    pub initrd: PathBuf,
    /// The root file system, raw.
    pub root: PathBuf,
}

impl DebianGuest {
    /// Makes what is not up to date.
    pub fn build(home: &Home) -> Result<Self> {
        let package = fetch(home, Flavour::Cloud)?;
        let folder = home.root.join("guests");
        fs::create_dir_all(&folder).at("creating", &folder)?;
        let guest = Self {
            kernel: package.vmlinuz.clone(),
            initrd: folder.join("debian-initrd.img"),
            root: folder.join("debian-root.img"),
        };
        make_initrd(&package, &guest.initrd)?;
        make_root(home, &guest.root)?;
        Ok(guest)
    }
}

fn make_initrd(package: &KernelPackage, result: &Path) -> Result<()> {
    let busybox = Path::new("/bin/busybox");
    let inputs = Inputs::of("debian initrd", 1).value((MODULES, INITRD_INIT)).content(busybox)?;
    inputs.large_file(&package.vmlinuz)?.make(result, || {
        let tree = ModuleTree::open(package)?;
        let mut archive = Archive::default();
        for folder in ["bin", "dev", "proc", "sys", "root", "modules"] {
            archive.folder(folder);
        }
        archive.character_device("dev/console", 0o600, 5, 1);
        archive.file("bin/busybox", 0o755, &fs::read(busybox).at("reading", busybox)?);
        archive.file("init", 0o755, INITRD_INIT.as_bytes());
        let mut order = String::new();
        for file in tree.closure(MODULES.iter().copied())? {
            let name = file.rsplit('/').next().unwrap_or(&file);
            let name = name.split(".ko").next().unwrap_or(name);
            archive.file(&format!("modules/{name}.ko"), 0o644, &tree.content(&file)?);
            order += &format!("{name}.ko\n");
        }
        archive.file("modules/order", 0o644, order.as_bytes());
        // Uncompressed: unpacking costs a nested guest more than reading.
        fs::write(result, archive.finish()).at("writing", result)
    })?;
    Ok(())
}

fn make_root(home: &Home, result: &Path) -> Result<()> {
    // Static, so that it fits any Debian.
    let load = static_program(home, "guest-load")?;
    let tree = bootstrapped(home)?;
    Inputs::of("debian root", 1).value(MINI).content(&load)?.make(result, || {
        println!("guests: making the Debian root file system");
        let program = tree.join("usr/sbin/guest-load");
        fs::copy(&load, &program).at("copying", &load)?;
        let mini = tree.join("usr/sbin/mini");
        fs::write(&mini, MINI).at("writing", &mini)?;
        Child::new("chmod", ["755"]).arg(&program).arg(&mini).run()?;
        let _ = fs::remove_file(result);
        Child::new("mke2fs", ["-q", "-t", "ext4", "-L", "root", "-E", "root_owner=0:0", "-d"])
            .arg(&tree)
            .arg(result)
            .arg(format!("{}k", ROOT_BYTES >> 10))
            .run()
    })?;
    Ok(())
}

/// The folder with Debian's base system, from the cache or from apt's mirror.
fn bootstrapped(home: &Home) -> Result<PathBuf> {
    let tree = home.cache().join("debian");
    if tree.exists() {
        return Ok(tree);
    }
    println!("guests: debootstrap (once, about a minute)");
    let partial = home.cache().join("debian.partial");
    let _ = fs::remove_dir_all(&partial);
    let (suite, mirror) = setup::apt_source()?;
    Child::new("debootstrap", ["--variant=minbase", &suite]).arg(&partial).args(mirror).run()?;
    for folder in UNREAD {
        let folder = partial.join(folder);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).at("creating", &folder)?;
    }
    fs::rename(&partial, &tree).at("moving", &partial)?;
    Ok(tree)
}
