//! One virtual machine: what it is made of ([`spec`]), how it is put together ([`build`]), its life ([`life`]), its disks
//! and network interfaces ([`devices`]), its state as bytes ([`state`]), and what it tells its owner ([`events`]).
//!
//! ```text
//!            load                    resume                   pause
//!   Empty ----------> Ready --------------------> Running ------------> Ready
//!     |                 ^                            |                    ^
//!     +-- import_state -+        the guest ends: an Event, vCPUs parked   |
//!                                                    +------ reset -------+
//! ```
//!
//! In every state but Running all vCPUs are parked and all devices at rest.

pub mod build;
pub mod devices;
pub mod events;
pub mod life;
pub mod spec;
pub mod state;

pub use crate::virtio::installed::InstallError;
pub use build::{MachineError, Resources};
pub use events::{Event, Events};
pub use life::{Machine, Phase, Timings};
pub use spec::{DiskSpec, MachineSpec, NicSpec};
