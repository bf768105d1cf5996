//! The nested hosts of the moment. Two pairs of machines at once would be too many for most machines that run this: who needs a pair
//! has the other one ended and boots its own, on wires that are laid anew.

use std::path::PathBuf;

use crate::bench::case::Case;
use crate::bench::godwit;
use crate::bench::qemu::{Initramfs, boot_hosts};
use crate::error::Result;
use crate::fleet::Fleet;
use crate::home::Home;
use crate::image::Image;
use crate::machine::{Accelerator, HostSpec, Machine};
use crate::servers::Make;
use crate::wire::Wires;

/// What both pairs are made of.
pub(super) struct Stage {
    pub(super) home: Home,
    pub(super) image: Image,
    /// The witness.
    pub(super) kernel: PathBuf,
    /// What Godwit's datastore holds a VM of each of.
    pub(super) cases: Vec<Case>,
    /// What the machines with QEMU boot.
    pub(super) initramfs: Initramfs,
    pub(super) on: Option<Pair>,
}

/// A pair of hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pair {
    Godwit,
    Qemu,
}

impl Stage {
    /// Godwit's hosts, and whether they were booted just now.
    pub(super) fn godwit(&mut self) -> Result<([Machine; 2], bool)> {
        let new = self.change_to(Pair::Godwit, |stage| {
            let place = |datastore: &std::path::Path| godwit::place(datastore, &stage.kernel, &stage.cases);
            Fleet::up(&stage.home, Make::default(), specs().to_vec(), place).map(drop)
        })?;
        Ok((self.machines(), new))
    }

    /// The machines with QEMU.
    pub(super) fn qemu(&mut self) -> Result<[Machine; 2]> {
        self.change_to(Pair::Qemu, |stage| {
            let fleet = Fleet::wired(&stage.home, specs().to_vec())?;
            boot_hosts(&fleet, &stage.image, &stage.initramfs)
        })?;
        Ok(self.machines())
    }

    /// The wires of whichever pair.
    pub(super) fn wires(&self) -> Wires {
        Wires::of(&self.home.tag())
    }

    /// Ends whichever pair runs, also what an earlier run left.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.on = None;
        Fleet::down(&self.home).map(drop)
    }

    /// The same, for who has a failure to tell already.
    pub(super) fn clear_after_failure(&mut self) {
        if let Err(error) = self.clear() {
            println!("lab: the hosts that failed do not end: {error}");
        }
    }

    fn change_to(&mut self, pair: Pair, boot: impl FnOnce(&Self) -> Result<()>) -> Result<bool> {
        if self.on == Some(pair) {
            return Ok(false);
        }
        self.clear()?;
        boot(self)?;
        self.on = Some(pair);
        Ok(true)
    }

    /// Both pairs have the same machines: names, addresses, CPUs, memory, NICs.
    fn machines(&self) -> [Machine; 2] {
        specs().map(|spec| Machine::of(spec, &self.home.run()))
    }
}

fn specs() -> [HostSpec; 2] {
    [1, 2].map(HostSpec::usual)
}

/// The process of this machine that is this one.
pub(super) fn pid_of(machine: &Machine) -> Option<u32> {
    machine.process().pid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned())
}

/// What the hosts run on, for the page.
pub(super) fn machine_description() -> String {
    let HostSpec { cpus, memory_mib, .. } = HostSpec::usual(1);
    let (accelerator, _) = Accelerator::choose();
    let what = match accelerator {
        Accelerator::Kvm => "under KVM, which nests",
        Accelerator::Tcg => "under QEMU's TCG, which emulates an AMD processor with SVM",
    };
    format!("{cpus} CPU and {memory_mib} MiB each, {what}")
}
