//! From the loader's hand-over to Rust in ring 3, and what the platform says about itself.
//!
//! ```text
//! PVH loader -- 32 bit, paging off --> entry -- page tables, GDT, TSS, long mode --> ring 3 -- clears .bss --> main
//! ```
//!
//! - [`entry`]: the first instructions and the ELF note that leads to them.
//! - [`paging`]: the identity map, its extension beyond 4 GiB.
//! - [`start_info`]: the loader's description of memory and command line.
//! - [`acpi`]: power off, reset, processors and where PCI is, from the tables.
//! - [`power`]: power off, reset, the power button.
//! - [`processors`]: wakes the other CPUs.

pub mod acpi;
#[cfg(target_os = "none")]
pub mod entry;
#[cfg(target_os = "none")]
pub mod paging;
#[cfg(target_os = "none")]
pub mod power;
#[cfg(target_os = "none")]
pub mod processors;
pub mod start_info;
