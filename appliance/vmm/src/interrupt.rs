//! How a device interrupts the guest, and how the guest rings a device without leaving the kernel.
//!
//! [`MsiSink`] and [`Doorbells`] are what devices are written against; `irqchip` implements them over KVM
//! (GSI routing with irqfd, and ioeventfd), [`fake`] implements them in memory for tests of devices.

use std::io;
use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

pub mod fake;

/// A message-signalled interrupt: a write of `data` to `address` (Intel SDM volume 3, "Message Signalled
/// Interrupts"; PCI Local Bus Specification 3.0, section 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MsiMessage {
    /// Message address, low and high half together.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// Number of a global system interrupt, KVM's name for an interrupt source. MSI vectors get numbers above the
/// I/O APIC's pins.
pub type Gsi = u32;

/// Why an interrupt or a doorbell could not be wired.
#[derive(Debug, thiserror::Error)]
pub enum InterruptError {
    /// All interrupt sources that KVM's routing table can hold are in use.
    #[error("all {limit} interrupt sources of the machine are in use")]
    Exhausted {
        /// How many there are.
        limit: u32,
    },
    /// The number was never allocated or has been released.
    #[error("interrupt source {gsi} is not allocated")]
    Unknown {
        /// The number that was given.
        gsi: Gsi,
    },
    /// The kernel refused.
    #[error("KVM refused {what}")]
    Kernel {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

/// One allocated interrupt source: writing `event` injects the message that is routed to `gsi`.
///
/// The event may be handed to the kernel (vhost) or to any thread. While no message is routed, events are lost:
/// a device that is masked keeps the pending bit itself.
#[derive(Debug, Clone)]
pub struct MsiVector {
    /// The source's number.
    pub gsi: Gsi,
    /// The irqfd. It never blocks.
    pub event: Arc<EventFd>,
}

impl MsiVector {
    /// Injects the interrupt. A full event counter means that it is on its way already, so no error is possible
    /// that a device could do anything about.
    pub fn trigger(&self) {
        let _ = self.event.write(1);
    }
}

/// Where a device gets its message-signalled interrupts.
pub trait MsiSink: Send + Sync {
    /// Allocates an interrupt source, without a message yet.
    ///
    /// # Errors
    /// [`InterruptError::Exhausted`] or what the kernel says.
    fn allocate(&self) -> Result<MsiVector, InterruptError>;

    /// Sets the message of each source named, or takes it away (`None`: masked, or not set up by the guest yet),
    /// in one change of the kernel's routing table. Sources that are not named keep theirs. On import of a saved
    /// state call it once with all vectors.
    ///
    /// # Errors
    /// [`InterruptError::Unknown`] before anything was changed, or what the kernel says.
    fn route(&self, changes: &[(Gsi, Option<MsiMessage>)]) -> Result<(), InterruptError>;

    /// Gives a source back.
    ///
    /// # Errors
    /// [`InterruptError::Unknown`] or what the kernel says.
    fn release(&self, gsi: Gsi) -> Result<(), InterruptError>;
}

/// Where a guest's write is turned into an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DoorbellAddress {
    /// A guest-physical address.
    Mmio(u64),
    /// A port.
    Pio(u64),
}

/// Where a device registers the addresses at which the guest notifies it (ioeventfd).
pub trait Doorbells: Send + Sync {
    /// From now on a write at `address` writes `event` and does not reach the bus. With `datamatch`, only a write
    /// of exactly two bytes with that value does (virtio's queue index); without, a write of any length.
    ///
    /// # Errors
    /// What the kernel says; EEXIST if the same address and datamatch are registered already.
    fn register(&self, address: DoorbellAddress, datamatch: Option<u16>, event: &EventFd)
    -> Result<(), InterruptError>;

    /// Undoes a registration; the arguments must be the same.
    ///
    /// # Errors
    /// What the kernel says; ENOENT if there is none such.
    fn unregister(
        &self,
        address: DoorbellAddress,
        datamatch: Option<u16>,
        event: &EventFd,
    ) -> Result<(), InterruptError>;
}

/// A level-triggered interrupt line of the machine (the system control interrupt of ACPI).
pub trait IrqLine: Send + Sync {
    /// Asserts or releases the line. Setting what is set already changes nothing.
    fn set(&self, asserted: bool);
}
