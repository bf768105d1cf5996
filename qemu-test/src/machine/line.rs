//! A QEMU command line under construction: what all machines of the lab have in common.

use std::ffi::OsString;
use std::path::Path;

use crate::child::Child;
use crate::machine::choice::Accelerator;
use crate::machine::clock::time_stamp_counter_khz;
use crate::wire::{Wire, Wires, tap_name};

/// The words after QEMU's name.
pub struct Line(Vec<OsString>);

impl Line {
    /// A machine without a device, which QEMU puts into the background once it is made.
    pub fn of(name: &str, accelerator: Accelerator, cpus: u8, memory_mib: u32) -> Self {
        let mut line = Self(Vec::new());
        line.words(&["-name", name, "-nodefaults", "-no-user-config", "-display", "none", "-daemonize"]);
        match accelerator {
            Accelerator::Kvm => line.words(&["-accel", "kvm", "-cpu", "host", "-M", "q35"]),
            Accelerator::Tcg => {
                line.words(&["-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt,-xsavec", "-M", "q35"]);
            }
        }
        line.words(&["-smp", &cpus.to_string(), "-m", &memory_mib.to_string()]);
        line
    }

    /// Adds words.
    pub fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    /// Adds an option that names a path.
    pub fn option(&mut self, name: &str, path: &Path) {
        self.0.push(name.into());
        self.0.push(path.into());
    }

    /// Adds a raw disk; `how` are further words of QEMU's on it, as "readonly=on".
    pub fn disk(&mut self, id: &str, how: &str, file: &Path) {
        self.words(&["-drive", &format!("if=none,id={id},format=raw,{how},file={}", file.display())]);
        self.words(&["-device", &format!("virtio-blk-pci,drive={id}")]);
    }

    /// Adds the NIC of machine `name`, number `number`, on this wire. Its tap must be there when QEMU starts.
    pub fn nic(&mut self, name: &str, wire: Wire, number: u8) {
        let (tap, mac) = (tap_name(name, wire), wire.host_mac(number));
        self.words(&["-netdev", &format!("tap,id={wire},ifname={tap},script=no,downscript=no,vnet_hdr=on")]);
        self.words(&["-device", &format!("virtio-net-pci,netdev={wire},mac={mac},speed=1000,duplex=full")]);
    }

    /// Adds the kernel's command line: these words, and what the kernel must be told of this accelerator.
    pub fn kernel_words(&mut self, accelerator: Accelerator, words: impl IntoIterator<Item = String>) {
        let rate = (accelerator == Accelerator::Tcg).then(|| format!("tsc_early_khz={}", time_stamp_counter_khz()));
        self.words(&["-append", &words.into_iter().chain(rate).collect::<Vec<_>>().join(" ")]);
    }

    /// QEMU, ready to start in the lab's namespace.
    pub fn program(self, wires: &Wires) -> Child {
        self.0.into_iter().fold(wires.inside("qemu-system-x86_64"), Child::arg)
    }
}
