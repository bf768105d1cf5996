//! The virtio devices of one machine: built from its specification, put into their PCI slots, and reached by index.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::blk::{AttachError, Blk};
use super::net::{Net, Tap, TapError};
use super::rng::Rng;
use super::transport::function::FunctionError;
use super::transport::{VirtioPci, Wiring};
use crate::bus::{Shared, enter};
use crate::device::Device;
use crate::disk::{DiskError, RawDisk};
use crate::machine::MachineSpec;
use crate::pci::{PciFunction, PciRoot, slots};

/// What an announcement came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Announced {
    /// Frames that were sent.
    pub frames: u32,
    /// NICs of whose guest nothing was heard before.
    pub unheard: u32,
    /// How long ago the networks were told first; none where they never were.
    pub since: Option<Duration>,
}

/// Why the devices of a machine cannot be built, or a disk not be attached.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// More devices of a kind than there are slots for.
    #[error("{found} {noun}s are too many; a machine has {most} at most")]
    TooMany {
        /// `disk` or `nic`.
        noun: &'static str,
        /// How many were asked for.
        found: usize,
        /// How many there may be.
        most: usize,
    },
    /// Not one tap for each NIC.
    #[error("{found} taps for {wanted} NICs")]
    Taps {
        /// How many were given.
        found: usize,
        /// How many NICs there are.
        wanted: usize,
    },
    /// A tap that is none.
    #[error("the tap of nic {index}")]
    Tap {
        /// Which NIC.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: TapError,
    },
    /// A function cannot be built.
    #[error(transparent)]
    Function(#[from] FunctionError),
    /// No such device.
    #[error("there is no {noun} {index}")]
    Missing {
        /// `disk` or `nic`.
        noun: &'static str,
        /// The index that was given.
        index: usize,
    },
    /// A file that is no disk.
    #[error("the file of disk {index}")]
    Disk {
        /// Which disk.
        index: usize,
        /// What is wrong with it.
        #[source]
        source: DiskError,
    },
    /// Another has the file locked.
    #[error("the file of disk {index} is locked by another")]
    Locked {
        /// Which disk.
        index: usize,
    },
    /// A disk that does not fit the device.
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// The virtio devices of one machine. They live as long as this.
#[derive(Debug)]
pub struct Installed {
    disks: Vec<Shared<VirtioPci<Blk>>>,
    nics: Vec<Shared<VirtioPci<Net>>>,
    rng: Option<Shared<VirtioPci<Rng>>>,
    /// When the networks were told where the NICs are.
    announced: Option<Instant>,
}

impl Installed {
    /// Builds every device of `spec` at rest, disks without their files, and puts them into their slots.
    ///
    /// # Errors
    /// [`InstallError`]; nothing is left behind.
    pub fn build(
        spec: &MachineSpec,
        taps: Vec<OwnedFd>,
        wiring: &Wiring,
        root: &Shared<PciRoot>,
    ) -> Result<Self, InstallError> {
        if taps.len() != spec.nics.len() {
            return Err(InstallError::Taps { found: taps.len(), wanted: spec.nics.len() });
        }
        let mut root = enter(root);
        let mut plug = |slot: u8, function: Arc<Mutex<dyn PciFunction>>| root.insert(slot, &function);
        let (mut disks, mut nics) = (Vec::new(), Vec::new());
        for (index, disk) in spec.disks.iter().enumerate() {
            let most = slots::DISKS_MAX;
            let slot =
                slots::disk(index).ok_or(InstallError::TooMany { noun: "disk", found: spec.disks.len(), most })?;
            let (front, engine) = Blk::new(disk);
            let function = VirtioPci::new(front, engine, index as u16, slot, wiring.clone())?;
            plug(slot, function.clone());
            disks.push(function);
        }
        for (index, (nic, tap)) in spec.nics.iter().zip(taps).enumerate() {
            let most = slots::NICS_MAX;
            let slot = slots::nic(index).ok_or(InstallError::TooMany { noun: "nic", found: spec.nics.len(), most })?;
            let tap = Tap::new(tap).map_err(|source| InstallError::Tap { index, source })?;
            let (front, engine) = Net::new(nic, tap);
            let function = VirtioPci::new(front, engine, index as u16, slot, wiring.clone())?;
            plug(slot, function.clone());
            nics.push(function);
        }
        let rng = if spec.rng {
            let (front, engine) = Rng::new();
            let function = VirtioPci::new(front, engine, 0, slots::RNG_SLOT, wiring.clone())?;
            plug(slots::RNG_SLOT, function.clone());
            Some(function)
        } else {
            None
        };
        Ok(Self { disks, nics, rng, announced: None })
    }

    /// All of them as the machine's walks want them.
    pub fn devices(&self) -> Vec<Arc<Mutex<dyn Device>>> {
        let mut devices: Vec<Arc<Mutex<dyn Device>>> = Vec::new();
        devices.extend(self.disks.iter().map(|disk| disk.clone() as Arc<Mutex<dyn Device>>));
        devices.extend(self.nics.iter().map(|nic| nic.clone() as Arc<Mutex<dyn Device>>));
        devices.extend(self.rng.iter().map(|rng| rng.clone() as Arc<Mutex<dyn Device>>));
        devices
    }

    /// Puts a file behind a disk, locked unless it is only read. Requests that waited for it are served once the machine runs.
    ///
    /// # Errors
    /// [`InstallError`]; the disk stays without.
    pub fn attach_disk(&self, index: usize, file: File) -> Result<(), InstallError> {
        let disk = self.disks.get(index).ok_or(InstallError::Missing { noun: "disk", index })?;
        let mut disk = enter(disk);
        if disk.has_disk() {
            // Asked again, because the answer did not arrive or a later disk could not be opened.
            return Ok(());
        }
        let read_only = disk.front().read_only();
        let trouble = |source| InstallError::Disk { index, source };
        let mut raw = RawDisk::new(file, read_only).map_err(trouble)?;
        if !raw.lock().map_err(trouble)? {
            return Err(InstallError::Locked { index });
        }
        Ok(disk.attach_disk(raw)?)
    }

    /// Takes the file away from a disk of a machine that is at rest, to let another host open it.
    ///
    /// # Errors
    /// [`InstallError::Missing`] if there is no such disk, or it has no file or is at work.
    pub fn detach_disk(&self, index: usize) -> Result<File, InstallError> {
        let disk = self.disks.get(index).ok_or(InstallError::Missing { noun: "disk", index })?;
        let raw = enter(disk).detach_disk().ok_or(InstallError::Missing { noun: "disk", index })?;
        Ok(raw.into_file())
    }

    /// Lets go of the locks on the files of all disks of a machine that is at rest.
    ///
    /// # Errors
    /// [`InstallError::Disk`]: the first that could not; the earlier ones are changed.
    pub fn release_disks(&self) -> Result<(), InstallError> {
        for (index, disk) in self.disks.iter().enumerate() {
            let released = enter(disk).with_disk(RawDisk::release).unwrap_or(Ok(()));
            released.map_err(|source| InstallError::Disk { index, source })?;
        }
        Ok(())
    }

    /// Takes the locks that were let go of again.
    ///
    /// # Errors
    /// [`InstallError::Locked`] or [`InstallError::Disk`]: the first that could not; the earlier ones are changed.
    pub fn lock_disks(&self) -> Result<(), InstallError> {
        for (index, disk) in self.disks.iter().enumerate() {
            match enter(disk).with_disk(RawDisk::lock).unwrap_or(Ok(true)) {
                Ok(true) => {}
                Ok(false) => return Err(InstallError::Locked { index }),
                Err(source) => return Err(InstallError::Disk { index, source }),
            }
        }
        Ok(())
    }

    /// Whether every disk has its file.
    pub fn disks_attached(&self) -> bool {
        self.disks.iter().all(|disk| enter(disk).has_disk())
    }

    /// Requests of the guest to its disks that the storage failed, since the machine was built.
    pub fn failed_requests(&self) -> u64 {
        self.disks.iter().map(|disk| enter(disk).front().failed_requests()).sum()
    }

    /// Plugs the cable of a NIC in or pulls it out.
    ///
    /// # Errors
    /// [`InstallError::Missing`].
    pub fn set_link(&self, index: usize, up: bool) -> Result<(), InstallError> {
        let nic = self.nics.get(index).ok_or(InstallError::Missing { noun: "nic", index })?;
        enter(nic).set_link(up);
        Ok(())
    }

    /// Tells the networks where all NICs are, or again where those are of whose guest nothing was heard yet: of NICs that never were
    /// announced nothing is told again.
    pub fn announce_place(&mut self, again: bool) -> Announced {
        if !again {
            self.announced = Some(Instant::now());
        }
        let Some(first) = self.announced else { return Announced::default() };
        let mut announced = Announced { since: Some(first.elapsed()), ..Announced::default() };
        for (index, nic) in self.nics.iter().enumerate() {
            let mut nic = enter(nic);
            let heard = nic.is_heard();
            announced.unheard += u32::from(!heard);
            if heard && again {
                continue;
            }
            match nic.announce_place() {
                Ok(()) => announced.frames += 1,
                Err(error) => log::warn!("nic {index} is not announced: {error}"),
            }
        }
        announced
    }

    /// Asks the guest to announce itself on every NIC, after a move and after the machine runs again. Gives how many of its
    /// drivers can.
    pub fn announce(&self) -> usize {
        self.nics.iter().filter(|nic| enter(nic).announce()).count()
    }

    /// Asks all engines to come to rest at the same time, without waiting; `quiesce` of each then waits for its own.
    pub fn begin_quiesce(&self) {
        self.disks.iter().for_each(|disk| enter(disk).begin_quiesce());
        self.nics.iter().for_each(|nic| enter(nic).begin_quiesce());
        self.rng.iter().for_each(|rng| enter(rng).begin_quiesce());
    }

    /// Takes back a [`Self::begin_quiesce`], for devices that were not quiesced after all.
    pub fn cancel_quiesce(&self) {
        self.disks.iter().for_each(|disk| enter(disk).cancel_quiesce());
        self.nics.iter().for_each(|nic| enter(nic).cancel_quiesce());
        self.rng.iter().for_each(|rng| enter(rng).cancel_quiesce());
    }

    /// How long coming to rest may take: what a stun can spare.
    pub fn set_patience(&self, patience: Duration) {
        self.disks.iter().for_each(|disk| enter(disk).set_patience(patience));
        self.nics.iter().for_each(|nic| enter(nic).set_patience(patience));
        self.rng.iter().for_each(|rng| enter(rng).set_patience(patience));
    }
}
