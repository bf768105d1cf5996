//! The virtual machine monitor: one [`machine::Machine`] is one VM under KVM.
//!
//! The crate knows no host, no cluster and no path. It is handed open descriptors (`/dev/kvm`, the memfd
//! that is guest RAM, disks, taps), builds a machine round them, runs it, and can take its whole state out
//! and put it into another machine of the same [`machine::MachineSpec`]. It is the home of `unsafe`; each
//! block says why it holds.
//!
//! ```text
//!    vCPU thread --- exit ---> bus (PIO, MMIO) ---> legacy/ pci/ virtio/      what the guest sees
//!         |                                           |        |
//!      KVM_RUN                                     MsiSink  Doorbells         how it interrupts and is called
//!         |                                           |        |
//!    guest RAM (memfd) <--- memory/ ---> dirty bitmap irqchip (irqfd, ioeventfd, GSI routing)
//! ```
//!
//! In reading order: what devices are made of ([`bus`], [`interrupt`], [`device`]); guest RAM and what was written to it
//! ([`memory`]); how a machine becomes bytes ([`state`]); the kernel's part of it ([`irqchip`], [`clock`], [`cpuid`], and
//! `kvm_raw`, the ioctls that kvm-ioctls lacks; [`ioctls`] names all that are made); vCPUs ([`vcpu`]); what is there when a
//! guest starts ([`boot`], [`acpi`]); devices ([`legacy`], [`pci`], [`virtio`] over [`disk`]); and the [`machine`] that
//! holds all of it.

pub mod acpi;
pub mod boot;
pub mod bus;
pub mod clock;
pub mod cpuid;
pub mod device;
pub mod disk;
pub mod interrupt;
pub mod ioctls;
pub mod irqchip;
mod kvm_raw;
pub mod legacy;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod state;
pub mod vcpu;
pub mod virtio;
