//! A host's QEMU command line.

use std::fs;
use std::path::Path;

use crate::child::Child;
use crate::error::{Doing, Result};
use crate::image::Image;
use crate::machine::choice::Accelerator;
use crate::machine::line::Line;
use crate::machine::spec::{Firmware, Machine, Medium, StartFrom};
use crate::wire::{Wire, Wires};

const FIRMWARE: &str = "/usr/share/OVMF";

/// Words for the kernel of every machine that runs VMs: without `tsc=reliable` a loaded emulated host may distrust its time stamp counter,
/// and then the clocks of its guests go backwards.
pub const KERNEL_WORDS: &str = "console=ttyS0 quiet panic=-1 tsc=reliable";
/// The init of the lab's hosts, which starts the product's.
const STOWAWAY: &str = "rdinit=/stowaway";

/// The machine of a host, with nothing to boot.
pub fn chassis(machine: &Machine, accelerator: Accelerator) -> Line {
    let spec = &machine.spec;
    let mut line = Line::of(&spec.name, accelerator, spec.cpus, spec.memory_mib);
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
        line.nic(&spec.name, wire, spec.number);
    }
    line
}

/// QEMU, ready to start in the lab's namespace. It puts itself into the background once the machine is made.
pub(super) fn qemu(machine: &Machine, wires: &Wires, accelerator: Accelerator, image: &Image) -> Result<Child> {
    let spec = &machine.spec;
    let mut line = chassis(machine, accelerator);
    if let Some(drive) = &spec.config_drive {
        line.disk("config", "readonly=on", drive);
    }
    match spec.start_from {
        StartFrom::Kernel => {
            line.option("-kernel", &image.kernel);
            line.option("-initrd", &image.lab_initramfs);
            let words = [KERNEL_WORDS, STOWAWAY].map(str::to_owned).into_iter();
            let words = words.chain(spec.configuration_words()).chain(spec.words.clone());
            line.kernel_words(accelerator, words);
        }
        StartFrom::Iso(firmware, medium) => {
            firmware_words(&mut line, firmware, &machine.folder)?;
            medium_words(&mut line, medium, &image.iso);
        }
    }
    Ok(line.program(wires))
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
