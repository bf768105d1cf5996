//! What the machines with QEMU boot beside Debian's kernel: an initramfs with this machine's own QEMU, the libraries that it
//! loads, the firmware that it reads, the modules of KVM, the witness, and a shell that takes orders.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::child::Child;
use crate::debian::{BUSYBOX, busybox_archive};
use crate::error::{Doing, LabError, Result};
use crate::home::Home;
use crate::image::cpio::Archive;
use crate::image::{Flavour, fetch};
use crate::stamp::Inputs;

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
/// What QEMU reads to start a kernel by PVH on q35: SeaBIOS, the ROM that enters the kernel, and that of KVM's APIC.
const FIRMWARE: &[&str] = &["bios-256k.bin", "pvh.bin", "kvmvapic.bin"];
/// Where Debian's packages put firmware.
const FIRMWARE_FOLDERS: &[&str] = &["/usr/share/qemu", "/usr/share/seabios"];
/// Modules; of those of KVM the one that is not for the machine's processor refuses to be loaded.
const MODULES: &[&str] = &["virtio_pci", "virtio_net", "kvm_amd", "kvm_intel"];
/// Programs of busybox that orders name.
const APPLETS: &[&str] = &["sh", "cat", "dmesg", "kill", "rm", "sleep", "tail", "test"];

/// Where the witness lies in the machine.
pub(super) const WITNESS: &str = "/witness";
/// The folder of the key that both ends know.
pub(super) const KEYS: &str = "/keys";
/// Where QEMU writes its process id.
pub(super) const PID_FILE: &str = "/run/qemu.pid";
/// What the init says first.
pub(super) const INIT_RUNS: &str = "init runs";

/// Loads the modules, gives the NICs their addresses, and takes orders: a line `@exec TOKEN COMMAND` is answered as Godwit's console does.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin:/usr/bin
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
echo "init runs"
for module in $(cat /modules/order); do $b insmod /modules/$module 2>/dev/null; done
$b ip link set lo up
for word in $(cat /proc/cmdline); do
    case $word in
        lab.nic=*)
            word=${word#lab.nic=}
            for nic in /sys/class/net/*; do
                [ "$(cat $nic/address)" = "${word%%=*}" ] || continue
                $b ip link set ${nic##*/} mtu 9000
                $b ip link set ${nic##*/} up
                $b ip address add ${word#*=} dev ${nic##*/}
            done ;;
    esac
done
while :; do
    read -r word token command || sleep 1
    [ "$word" = @exec ] || continue
    echo "@begin $token"
    sh -c "$command" </dev/null
    echo "@end $token $?"
done
"#;

/// Ends the machine's QEMU, if one runs, and waits until it is gone with the ports that it listened on.
const END_QEMU: &str = "#!/bin/sh
[ -e /run/qemu.pid ] || exit 0
pid=$(cat /run/qemu.pid)
kill -9 $pid 2>/dev/null
while [ -e /proc/$pid/exe ]; do sleep 0.05; done
rm /run/qemu.pid
";

/// The file, up to date.
pub(in crate::bench) struct Initramfs {
    pub(super) file: PathBuf,
}

impl Initramfs {
    /// Makes it, with this witness, if it is not up to date. The kernel is that of Godwit's hosts.
    pub(in crate::bench) fn build(home: &Home, witness: &Path) -> Result<Self> {
        let package = fetch(home, Flavour::Generic)?;
        let file = home.root.join("debian").join("qemu-initramfs.img");
        let folder = file.parent().unwrap_or(&home.root);
        fs::create_dir_all(folder).at("creating", folder)?;
        let mut files = BTreeSet::from([(PathBuf::from(QEMU), QEMU.to_owned())]);
        files.extend(libraries(QEMU)?.into_iter().map(|path| (PathBuf::from(&path), path)));
        for name in FIRMWARE {
            files.insert((firmware(name)?, format!("/usr/share/qemu/{name}")));
        }
        let mut inputs = Inputs::of("initramfs with QEMU", 1).value((MODULES, APPLETS, INIT, END_QEMU));
        inputs = inputs.large_file(&package.vmlinuz)?.content(Path::new(BUSYBOX))?.content(witness)?;
        for (from, to) in &files {
            inputs = inputs.value(to).large_file(from)?;
        }
        inputs.make(&file, || {
            println!("debian: making the machine that runs QEMU");
            let mut archive = busybox_archive(&package, MODULES, INIT)?;
            for applet in APPLETS {
                archive.link(&format!("bin/{applet}"), "busybox");
            }
            archive.file("bin/end-qemu", 0o755, END_QEMU.as_bytes());
            for folder in ["run", "tmp", KEYS.trim_start_matches('/')] {
                archive.folder(folder);
            }
            archive.file(WITNESS.trim_start_matches('/'), 0o644, &fs::read(witness).at("reading", witness)?);
            add_files(&mut archive, &files)?;
            // Uncompressed: unpacking costs an emulated machine more than reading.
            fs::write(&file, archive.finish()).at("writing", &file)
        })?;
        Ok(Self { file })
    }
}

/// Adds files with the folders that they lie in; links are followed.
fn add_files(archive: &mut Archive, files: &BTreeSet<(PathBuf, String)>) -> Result<()> {
    let mut folders = BTreeSet::new();
    for (_, to) in files {
        let parents = Path::new(to.trim_start_matches('/')).ancestors().skip(1);
        folders.extend(parents.map(|folder| folder.to_string_lossy().into_owned()).filter(|folder| !folder.is_empty()));
    }
    for folder in folders {
        archive.folder(&folder);
    }
    for (from, to) in files {
        archive.file(to.trim_start_matches('/'), 0o755, &fs::read(from).at("reading", from)?);
    }
    Ok(())
}

fn firmware(name: &str) -> Result<PathBuf> {
    let found = FIRMWARE_FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|path| path.exists());
    found.ok_or_else(|| LabError::Missing {
        what: format!("QEMU's {name} is in none of {}", FIRMWARE_FOLDERS.join(", ")),
        hint: "apt-get install qemu-system-x86 seabios".into(),
    })
}

/// The paths of the libraries that a program loads, and of the loader itself.
fn libraries(program: &str) -> Result<Vec<String>> {
    let said = Child::new("ldd", [program]).output()?;
    let (found, missing) = loaded(&said);
    if missing.is_empty() {
        return Ok(found);
    }
    let what = format!("{program} lacks {}", missing.join(", "));
    Err(LabError::Missing { what, hint: "apt-get install --reinstall qemu-system-x86".into() })
}

/// What ldd(1) tells: `libz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x7f)`, `/lib64/ld-linux-x86-64.so.2 (0x7f)`, `libx.so => not
/// found`; the kernel's own (`linux-vdso.so.1 (0x7f)`) has no path.
fn loaded(said: &str) -> (Vec<String>, Vec<String>) {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for line in said.lines() {
        let (name, place) = line.trim().split_once(" => ").unwrap_or(("", line.trim()));
        let path = place.split(" (").next().unwrap_or(place);
        if path.starts_with('/') {
            found.push(path.to_owned());
        } else if place == "not found" {
            missing.push(name.to_owned());
        }
    }
    (found, missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::cpio;

    #[test]
    fn what_a_program_loads_is_read_with_its_loader_and_what_is_missing_is_told() {
        let said = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibz.so.1 => /lib/x86_64-linux-gnu/libz.so.1 (0x7f9d)\n\
                    \tlibgone.so.3 => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x7fa0)\n";
        let (found, missing) = loaded(said);
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libz.so.1", "/lib64/ld-linux-x86-64.so.2"]);
        assert_eq!(missing, ["libgone.so.3"]);
    }

    #[test]
    fn files_lie_in_folders_that_come_before_them() {
        let mut archive = Archive::default();
        let file = std::env::temp_dir().join(format!("godwit-initramfs-{}", std::process::id()));
        fs::write(&file, "x").unwrap();
        add_files(&mut archive, &BTreeSet::from([(file.clone(), "/usr/share/qemu/x".into())])).unwrap();
        fs::remove_file(&file).unwrap();
        let paths: Vec<String> = cpio::read(&archive.finish()).unwrap().into_iter().map(|entry| entry.path).collect();
        assert_eq!(paths, ["usr", "usr/share", "usr/share/qemu", "usr/share/qemu/x"]);
    }

    /// The loop of the init, with a shell that is no init.
    #[test]
    fn orders_are_answered_as_the_lab_reads_them() {
        let at = INIT.find("while :").expect("the loop");
        let lines = INIT[at..].replace("|| sleep 1", "|| exit 0");
        let script =
            format!("printf 'noise\\n@exec t1 echo \"a  b\"; false\\n@exec t2 cat; exit 3\\n' | {{\n{lines}}}");
        let said = Child::new("sh", ["-c", &script]).output().expect("a shell that understands it");
        assert_eq!(said, "@begin t1\na  b\n@end t1 1\n@begin t2\n@end t2 3\n");
        for script in [INIT, END_QEMU] {
            assert!(Child::new("sh", ["-n", "-c", script]).succeeds());
        }
    }
}
