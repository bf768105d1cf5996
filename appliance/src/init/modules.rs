//! Kernel modules: those that the devices ask for by their modalias, and those that the appliance always wants.
//!
//! The image holds them uncompressed (the initramfs as a whole is compressed), so that loading needs no decompressor:
//! `finit_module(2)` gets the file as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::modalias::Aliases;
use super::screen::say;
use super::uevents::{News, Uevents};

/// KVM tells on the host's console, as an error, which registers a guest touched that do not exist: any guest could write
/// there as often as it likes. A kernel without the parameter says nothing anyway.
fn keep_guests_off_the_console() {
    let _ = fs::write("/sys/module/kvm/parameters/report_ignored_msrs", "N");
}

/// Wanted on every host, whatever devices it has: what nothing in the hardware announces. The image carries all of them.
const ALWAYS: [&str; 15] = [
    "crc32c_generic",
    "bridge",
    "8021q",
    "tun",
    "vhost_net",
    "isofs",
    "vfat",
    "nls_ascii",
    "nls_cp437",
    "nls_iso8859_1",
    "nls_utf8",
    "sd_mod",
    "nfsv4",
    "nfsv3",
    "tcp_diag",
];
/// The watchdog of a machine without one in hardware.
const WATCHDOG_IN_SOFTWARE: &str = "softdog";

/// Devices appear late (USB, SCSI): they are waited for until nothing came for this long.
const SETTLE: Duration = Duration::from_millis(200);
/// Most time that is spent waiting for devices in this phase; later ones are noticed by [`Modules::watch`].
const SETTLE_MAX: Duration = Duration::from_secs(3);

/// The modules of the image and which of them were asked for.
#[derive(Default)]
pub(super) struct Modules {
    folder: PathBuf,
    aliases: Aliases,
    files: BTreeMap<String, (String, Vec<String>)>,
    done: BTreeSet<String>,
    seen: BTreeSet<String>,
    uevents: Option<Uevents>,
    loaded: usize,
    failed: Vec<String>,
}

impl Modules {
    /// Reads `modules.dep` and `modules.alias` of the running kernel. An image without modules (everything built in)
    /// is fine.
    pub(super) fn of_running_kernel() -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let folder = PathBuf::from("/lib/modules").join(release);
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        Self {
            aliases: Aliases::parse(&read("modules.alias")),
            files: dependencies(&read("modules.dep")),
            folder,
            // From now on no device is missed: what is there is walked through, what comes is told.
            uevents: Uevents::open().ok(),
            ..Self::default()
        }
    }

    /// Number of modules loaded, and what failed with its reason.
    pub(super) fn outcome(&self) -> (usize, &[String]) {
        (self.loaded, &self.failed)
    }

    /// Loads what devices ask for until no new device appears, then what is always wanted.
    pub(super) fn load_all(&mut self) {
        for name in ALWAYS {
            self.load(name);
        }
        self.load_for_devices();
        let begin = Instant::now();
        while begin.elapsed() < SETTLE_MAX && self.watch(SETTLE) {}
        if !Path::new("/dev/watchdog0").exists() {
            self.load(WATCHDOG_IN_SOFTWARE);
        }
        keep_guests_off_the_console();
    }

    /// Loads what the next device wants that appears within `bound`. True if something happened.
    pub(super) fn watch(&mut self, bound: Duration) -> bool {
        let Some(uevents) = &self.uevents else {
            std::thread::sleep(bound);
            self.load_for_devices();
            return false;
        };
        match uevents.next(bound) {
            News::Device(modalias) => self.load_for(&modalias),
            News::Lost => self.load_for_devices(),
            News::Other => {}
            News::Quiet => return false,
        }
        true
    }

    /// Looks at every device there is.
    fn load_for_devices(&mut self) {
        for modalias in device_modaliases() {
            self.load_for(&modalias);
        }
    }

    fn load_for(&mut self, modalias: &str) {
        if self.seen.insert(modalias.to_owned()) {
            for module in self.aliases.modules_for(modalias) {
                self.load(&module);
            }
        }
    }

    /// Loads a module after those that it needs. Failures are kept for the outcome; the rest goes on.
    fn load(&mut self, name: &str) {
        let name = name.replace('-', "_");
        if !self.done.insert(name.clone()) {
            return;
        }
        let Some((path, needs)) = self.files.get(&name).cloned() else { return };
        // modules.dep lists the nearest need first, so the farthest is loaded first.
        for need in needs.iter().rev() {
            let needed = module_name(need);
            if self.done.insert(needed.clone()) {
                self.insert(&needed, need);
            }
        }
        self.insert(&name, &path);
    }

    fn insert(&mut self, name: &str, path: &str) {
        let outcome = File::open(self.folder.join(path)).map_err(|error| error.to_string()).and_then(|file| {
            match rustix::system::finit_module(file, c"", 0) {
                Ok(()) => Ok(true),
                Err(Errno::EXIST) => Ok(false),
                // The driver is fine but this machine has nothing for it (kvm_amd on Intel, an absent watchdog).
                Err(Errno::NODEV | Errno::OPNOTSUPP) => Ok(false),
                Err(error) => Err(error.to_string()),
            }
        });
        match outcome {
            Ok(new) => self.loaded += usize::from(new),
            Err(error) => {
                say(&format!("warning: kernel module {name} was not loaded: {error}"));
                self.failed.push(format!("{name}: {error}"));
            }
        }
    }
}

/// Text of `modules.dep`: `PATH: PATH PATH...`, by module name.
fn dependencies(text: &str) -> BTreeMap<String, (String, Vec<String>)> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| {
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            (module_name(path), (path.trim().to_owned(), needs))
        })
        .collect()
}

/// `kernel/arch/x86/kvm/kvm-amd.ko` is `kvm_amd`.
fn module_name(path: &str) -> String {
    let file = Path::new(path).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

/// The modalias of every device in /sys.
fn device_modaliases() -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![(PathBuf::from("/sys/devices"), 0_u8)];
    while let Some((folder, depth)) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            // Links lead to other devices, which are found in their own place.
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < 24 => folders.push((entry.path(), depth + 1)),
                Ok(kind) if kind.is_file() && entry.file_name() == "modalias" => {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    found.extend(Some(text.trim().to_owned()).filter(|text| !text.is_empty()));
                }
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dependencies_of_a_module_are_known_by_its_name() {
        let files =
            dependencies("kernel/fs/nfs/nfsv4.ko: kernel/fs/nfs/nfs.ko kernel/net/sunrpc/sunrpc.ko\nkernel/a-b.ko:\n");
        let (path, needs) = &files["nfsv4"];
        assert_eq!(path, "kernel/fs/nfs/nfsv4.ko");
        assert_eq!(needs, &["kernel/fs/nfs/nfs.ko", "kernel/net/sunrpc/sunrpc.ko"]);
        assert!(files["a_b"].1.is_empty());
    }

    #[test]
    fn the_image_carries_what_every_host_wants() {
        let recipe: toml::Table = include_str!("../../../config/image.toml").parse().unwrap();
        let lists = recipe["modules"].as_table().unwrap().values().filter_map(toml::Value::as_array);
        let carried: BTreeSet<&str> = lists.flatten().filter_map(toml::Value::as_str).collect();
        let missing: Vec<_> =
            ALWAYS.iter().chain([&WATCHDOG_IN_SOFTWARE]).filter(|name| !carried.contains(*name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn devices_of_this_machine_are_found() {
        assert!(
            device_modaliases().iter().any(|alias| alias.starts_with("cpu:")),
            "every x86 kernel has one for its CPU"
        );
    }
}
