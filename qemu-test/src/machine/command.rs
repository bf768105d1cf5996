//! A host's QEMU command line.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use crate::child::Child;
use crate::error::{Doing, Result};
use crate::image::Image;
use crate::machine::choice::Accelerator;
use crate::machine::clock::time_stamp_counter_khz;
use crate::machine::spec::{Firmware, Machine, Medium, StartFrom};
use crate::wire::{Wire, Wires, tap_name};

const FIRMWARE: &str = "/usr/share/OVMF";

/// Words for the kernel of every host: without `tsc=reliable` a loaded emulated host may distrust its time stamp counter,
/// and then the clocks of its guests go backwards.
const KERNEL_WORDS: &str = "console=ttyS0 quiet panic=-1 tsc=reliable rdinit=/stowaway";

/// QEMU, ready to start in the lab's namespace. It puts itself into the background once the machine is made.
pub(super) fn qemu(machine: &Machine, wires: &Wires, accelerator: Accelerator, image: &Image) -> Result<Child> {
    let spec = &machine.spec;
    let mut line = Line::default();
    line.words(&["-name", &spec.name, "-nodefaults", "-no-user-config", "-display", "none", "-daemonize"]);
    match accelerator {
        Accelerator::Kvm => line.words(&["-accel", "kvm", "-cpu", "host", "-M", "q35"]),
        Accelerator::Tcg => {
            line.words(&["-accel", "tcg,thread=multi", "-cpu", "EPYC,+svm,+npt,-xsavec", "-M", "q35"]);
        }
    }
    line.words(&["-smp", &spec.cpus.to_string(), "-m", &spec.memory_mib.to_string()]);
    line.option("-pidfile", &machine.process().pid_file);
    let (serial, log) = (machine.serial_socket(), machine.serial_log());
    let (serial, log, control) = (serial.display(), log.display(), machine.qmp_socket());
    line.words(&["-chardev", &format!("socket,id=serial,path={serial},server=on,wait=off,logfile={log}")]);
    line.words(&["-serial", "chardev:serial"]);
    let stowaway = machine.stowaway_socket();
    line.words(&["-chardev", &format!("socket,id=stowaway,path={},server=on,wait=off", stowaway.display())]);
    line.words(&["-serial", "chardev:stowaway"]);
    line.words(&["-qmp", &format!("unix:{},server=on,wait=off", control.display())]);
    line.words(&["-device", "i6300esb", "-action", "watchdog=reset"]);
    for wire in Wire::ALL {
        let (tap, mac) = (tap_name(&spec.name, wire), wire.host_mac(spec.number));
        line.words(&["-netdev", &format!("tap,id={wire},ifname={tap},script=no,downscript=no,vnet_hdr=on")]);
        line.words(&["-device", &format!("virtio-net-pci,netdev={wire},mac={mac},speed=10000,duplex=full")]);
    }
    if let Some(drive) = &spec.config_drive {
        line.words(&["-drive", &format!("if=none,id=config,format=raw,readonly=on,file={}", drive.display())]);
        line.words(&["-device", "virtio-blk-pci,drive=config"]);
    }
    match spec.start_from {
        StartFrom::Kernel => {
            line.option("-kernel", &image.kernel);
            line.option("-initrd", &image.lab_initramfs);
            let words =
                [KERNEL_WORDS.to_owned()].into_iter().chain(spec.configuration_words()).chain(spec.words.clone());
            let words = words.chain(
                (accelerator == Accelerator::Tcg).then(|| format!("tsc_early_khz={}", time_stamp_counter_khz())),
            );
            line.words(&["-append", &words.collect::<Vec<_>>().join(" ")]);
        }
        StartFrom::Iso(firmware, medium) => {
            firmware_words(&mut line, firmware, &machine.folder)?;
            medium_words(&mut line, medium, &image.iso);
        }
    }
    Ok(line.0.into_iter().fold(wires.inside("qemu-system-x86_64"), Child::arg))
}

fn firmware_words(line: &mut Line, firmware: Firmware, folder: &Path) -> Result<()> {
    if firmware == Firmware::Bios {
        return Ok(());
    }
    let variables = folder.join("OVMF_VARS.fd");
    let template = Path::new(FIRMWARE).join("OVMF_VARS_4M.fd");
    fs::copy(&template, &variables).at("copying", &template)?;
    line.words(&["-drive", &format!("if=pflash,format=raw,readonly=on,file={FIRMWARE}/OVMF_CODE_4M.fd")]);
    line.words(&["-drive", &format!("if=pflash,format=raw,file={}", variables.display())]);
    Ok(())
}

fn medium_words(line: &mut Line, medium: Medium, iso: &Path) {
    let iso = iso.display();
    match medium {
        Medium::Cd => {
            line.words(&["-drive", &format!("if=none,id=medium,media=cdrom,format=raw,readonly=on,file={iso}")]);
            line.words(&["-device", "ide-cd,bus=ide.0,drive=medium,bootindex=1"]);
        }
        Medium::Usb => {
            line.words(&["-drive", &format!("if=none,id=medium,format=raw,readonly=on,file={iso}")]);
            line.words(&["-device", "qemu-xhci", "-device", "usb-storage,drive=medium,bootindex=1"]);
        }
    }
}

/// A command line under construction.
#[derive(Default)]
struct Line(Vec<OsString>);

impl Line {
    fn words(&mut self, words: &[&str]) {
        self.0.extend(words.iter().map(OsString::from));
    }

    fn option(&mut self, name: &str, path: &Path) {
        self.0.push(name.into());
        self.0.push(path.into());
    }
}
