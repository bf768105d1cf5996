//! One virtual machine: what it is made of ([`spec`]), and its life.

pub mod spec;

pub use spec::{DiskSpec, MachineSpec, NicSpec};
