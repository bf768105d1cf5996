//! ACPI: the tables that tell the guest what machine it is on ([`tables`], with the code of its devices in [`dsdt`]), and the
//! fixed hardware behind them ([`pm`]).
//!
//! The full hardware model, not the reduced one: the power button is the fixed one, there is a system control interrupt, a
//! timer, and the PC's PIT and PICs.

pub mod dsdt;
pub mod pm;
pub mod tables;

pub use tables::{TABLES_START, write};
