//! The machine's disks and network interfaces, by index.

use std::fs::File;
use std::time::Duration;

use super::build::MachineError;
use super::life::{Machine, Phase};
use crate::virtio::installed::Announced;

impl Machine {
    /// Puts a file behind a disk, before or after the machine runs. On the destination of a move this comes after the
    /// commit and before the first resume.
    ///
    /// # Errors
    /// [`MachineError::Install`]; the disk stays without.
    pub fn attach_disk(&self, index: usize, file: File) -> Result<(), MachineError> {
        Ok(self.installed.attach_disk(index, file)?)
    }

    /// Takes the file away from a disk of a paused machine, to let another host open it.
    ///
    /// # Errors
    /// [`MachineError::Phase`] if the machine runs; [`MachineError::Install`].
    pub fn detach_disk(&self, index: usize) -> Result<File, MachineError> {
        if self.phase == Phase::Running {
            return Err(MachineError::Phase { what: "give a disk away", phase: self.phase });
        }
        Ok(self.installed.detach_disk(index)?)
    }

    /// Lets go of the locks on the files of all disks of a paused machine, so that another host may take it over.
    /// [`Machine::resume`] takes them back.
    ///
    /// # Errors
    /// [`MachineError::Phase`] if the machine runs; [`MachineError::Install`].
    pub fn release_disks(&self) -> Result<(), MachineError> {
        if self.phase == Phase::Running {
            return Err(MachineError::Phase { what: "let go of its disks", phase: self.phase });
        }
        Ok(self.installed.release_disks()?)
    }

    /// Whether every disk has its file.
    pub fn disks_attached(&self) -> bool {
        self.installed.disks_attached()
    }

    /// Requests of the guest to its disks that the storage failed, since the machine was built.
    pub fn failed_requests(&self) -> u64 {
        self.installed.failed_requests()
    }

    /// Plugs the cable of a NIC in or pulls it out.
    ///
    /// # Errors
    /// [`MachineError::Install`] if there is no such NIC.
    pub fn set_link(&self, index: usize, up: bool) -> Result<(), MachineError> {
        Ok(self.installed.set_link(index, up)?)
    }

    /// Tells the networks where all NICs are, by frames of our own. `again`: only if this host did so before, only those of whose guest
    /// nothing was heard, and only of a machine that runs: one that was stopped may run elsewhere by now.
    ///
    /// # Errors
    /// [`MachineError::Phase`].
    pub fn announce_place(&mut self, again: bool) -> Result<Announced, MachineError> {
        if again && self.phase != Phase::Running {
            return Err(MachineError::Phase { what: "be announced again", phase: self.phase });
        }
        Ok(self.installed.announce_place(again))
    }

    /// Asks the guest to announce itself on every NIC, after a move and after the resume. Gives how many of its drivers can.
    pub fn announce(&self) -> usize {
        self.installed.announce()
    }

    /// How long devices may take to come to rest in a pause: what a stun can spare.
    pub fn set_quiesce_patience(&self, patience: Duration) {
        self.installed.set_patience(patience);
    }
}
