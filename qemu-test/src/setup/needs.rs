//! The list of what must be there, and how each is recognised.

use std::path::Path;

use crate::child::Child;

/// What a verb is about to do; each purpose has its own needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Build and test the Rust code.
    Build,
    /// Make the appliance's image.
    Image,
    /// Boot hosts, lay wires, serve datastores.
    Fleet,
    /// Make the Debian guest.
    Guests,
}

/// How to see that a need is met.
pub(super) enum Probe {
    /// A program in one of the usual folders.
    Program(&'static str),
    /// A file.
    File(&'static str),
    /// QEMU of this major version or later: earlier ones break nested guests under a 6.12 host.
    Qemu(u32),
}

/// One thing that must be there.
pub(super) struct Need {
    pub(super) purpose: Purpose,
    pub(super) probe: Probe,
    pub(super) package: &'static str,
    /// Whether Debian 12 has it only in its backports suite.
    pub(super) from_backports: bool,
}

const fn need(purpose: Purpose, probe: Probe, package: &'static str) -> Need {
    Need { purpose, probe, package, from_backports: false }
}

/// Everything, in the order in which it is installed.
pub(super) const NEEDS: &[Need] = &[
    need(Purpose::Build, Probe::Program("cc"), "gcc"),
    need(Purpose::Build, Probe::Program("musl-gcc"), "musl-tools"),
    need(Purpose::Build, Probe::Program("ip"), "iproute2"),
    need(Purpose::Image, Probe::Program("depmod"), "kmod"),
    need(Purpose::Image, Probe::Program("zstd"), "zstd"),
    need(Purpose::Image, Probe::Program("xz"), "xz-utils"),
    need(Purpose::Image, Probe::Program("xorriso"), "xorriso"),
    need(Purpose::Image, Probe::Program("mformat"), "mtools"),
    need(Purpose::Image, Probe::Program("grub-mkrescue"), "grub-common"),
    need(Purpose::Image, Probe::File("/usr/lib/grub/i386-pc/moddep.lst"), "grub-pc-bin"),
    need(Purpose::Image, Probe::File("/usr/lib/grub/x86_64-efi/moddep.lst"), "grub-efi-amd64-bin"),
    Need { purpose: Purpose::Fleet, probe: Probe::Qemu(10), package: "qemu-system-x86", from_backports: true },
    Need { purpose: Purpose::Fleet, probe: Probe::Program("qemu-img"), package: "qemu-utils", from_backports: true },
    need(Purpose::Fleet, Probe::File("/usr/share/OVMF/OVMF_CODE_4M.fd"), "ovmf"),
    need(Purpose::Fleet, Probe::Program("ganesha.nfsd"), "nfs-ganesha"),
    need(Purpose::Fleet, Probe::File("/usr/lib/x86_64-linux-gnu/ganesha/libfsalvfs.so"), "nfs-ganesha-vfs"),
    need(Purpose::Fleet, Probe::Program("mkfs.xfs"), "xfsprogs"),
    need(Purpose::Guests, Probe::Program("debootstrap"), "debootstrap"),
    need(Purpose::Guests, Probe::Program("mke2fs"), "e2fsprogs"),
    need(Purpose::Guests, Probe::File("/bin/busybox"), "busybox-static"),
];

/// Rust targets beside the machine's own.
pub(super) const RUST_TARGETS: &[&str] = &["x86_64-unknown-linux-musl", "x86_64-unknown-none"];

impl Need {
    /// Whether it is there.
    pub(super) fn is_met(&self) -> bool {
        match self.probe {
            Probe::Program(name) => find_program(name),
            Probe::File(path) => Path::new(path).exists(),
            Probe::Qemu(least) => qemu_major().is_some_and(|major| major >= least),
        }
    }
}

fn find_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|folder| folder.join(name).is_file())
}

fn qemu_major() -> Option<u32> {
    let said = Child::new("qemu-system-x86_64", ["--version"]).output().ok()?;
    parse_qemu_major(&said)
}

fn parse_qemu_major(said: &str) -> Option<u32> {
    let (_, after) = said.split_once("version ")?;
    after.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_qemu_is_read_from_what_it_says() {
        assert_eq!(parse_qemu_major("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\n"), Some(10));
        assert_eq!(parse_qemu_major("QEMU emulator version 7.2.17"), Some(7));
        assert_eq!(parse_qemu_major("bash: not found"), None);
    }
}
