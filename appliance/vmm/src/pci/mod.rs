//! PCI as the guest sees it: one root bus, a host bridge, and a function in each occupied slot.
//!
//! ```text
//!   ECAM 0xe000_0000 ---+
//!                       +--> root --> function (config space, BARs, MSI-X)  -- BAR --> MMIO bus
//!   ports 0xcf8/0xcfc --+
//! ```
//!
//! There is no firmware to hand out addresses: every BAR has a place in the 32-bit window from the start
//! ([`slots`]), and the guest may move it. Functions interrupt by MSI-X only; none has an interrupt pin, so a driver
//! that knows only INTx gets no interrupts.
//!
//! In reading order: [`config_space`] (registers, capabilities, BARs of one function), [`msix`], [`root`] (the bus and
//! the two ways to configuration space), [`slots`] (who sits where).

pub mod config_space;
pub mod msix;
pub mod root;
pub mod slots;

pub use config_space::{BarWindows, ConfigSpace, Identity};
pub use msix::Msix;
pub use root::{ConfigPorts, Ecam, PciFunction, PciRoot};
