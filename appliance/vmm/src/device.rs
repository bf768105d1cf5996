//! What every device of a machine must be able to do besides answering on a bus: come to rest, go on, be reset,
//! and turn itself into bytes and back.

use crate::state::{ChunkKind, StateError};

/// A part of a machine that has a life of its own beside the vCPUs.
///
/// None of these has a default, so that a device whose state is forgotten does not compile. The machine calls
/// them in this order, never while a vCPU runs:
///
/// ```text
///   running --- quiesce ---> at rest --- export_state (any number of times) ---> at rest --- resume ---> running
///                               ^
///   freshly built --- import_state
/// ```
///
/// A freshly built device is at rest; the machine calls `resume` before the first vCPU runs.
pub trait Device: Send {
    /// What the operator calls it: `serial`, `disk 0`, `nic 1`.
    fn name(&self) -> String;

    /// Which chunk of the machine's state is its own. Unique in a machine; `instance` tells devices of one kind
    /// apart and must be the same on both sides of a move.
    fn chunk(&self) -> ChunkKind;

    /// Takes no new work, finishes what is under way, and delivers its completions and interrupts. When this
    /// returns nothing of the device touches guest memory or storage any more.
    ///
    /// # Errors
    /// In words for the operator. The device is then still running, as if the call had not been made.
    fn quiesce(&mut self) -> Result<(), DeviceError>;

    /// Works again. A device with queues looks at each of them and interrupts once for each: a notification or
    /// interrupt may have been lost on the way.
    ///
    /// # Errors
    /// In words for the operator; the device stays at rest.
    fn resume(&mut self) -> Result<(), DeviceError>;

    /// Back to what it was when the machine was built. Called at rest.
    fn reset(&mut self);

    /// The whole guest-visible state. Called at rest.
    ///
    /// # Errors
    /// [`StateError`]; the device is unchanged.
    fn export_state(&self) -> Result<Vec<u8>, StateError>;

    /// Takes over a state that a device of the same kind and the same specification exported. The bytes come from
    /// another host and are hostile input: bounded, checked, never a panic. Called at rest, before the first resume.
    ///
    /// # Errors
    /// [`StateError`]; the machine is then not to be run.
    fn import_state(&mut self, version: u16, bytes: &[u8]) -> Result<(), StateError>;
}

/// Why a device did not come to rest or did not go on.
#[derive(Debug, thiserror::Error)]
#[error("{device}: {what}")]
pub struct DeviceError {
    /// [`Device::name`] of the device.
    pub device: String,
    /// What it could not do.
    pub what: String,
    /// Why.
    #[source]
    pub source: Option<std::io::Error>,
}
