//! virtio over PCI: virtio 1.2, section 4.1, without the legacy interface.
//!
//! One BAR holds everything ([`layout`]). [`registers`] is what the driver configures, decided without touching anything;
//! [`function`] carries the decisions out: it wires BAR and doorbells, starts and stops the engine. [`interrupts`] is the part
//! that engines share. [`state`] is the function as the machine sees it: rest, resume, export, import.

pub mod function;
pub mod interrupts;
pub mod layout;
pub mod registers;
pub mod state;

#[cfg(test)]
pub(crate) mod fake_driver;
#[cfg(test)]
pub(crate) mod hostile_state;
#[cfg(test)]
mod tests;

pub use function::{VirtioPci, Wiring};
