//! The two halves of a virtio device: the front, which its registers show, and the engine, which works.

use super::queue::VirtQueue;
use super::worker::Control;
use crate::state::StateError;

/// The queues of an active device by number. A queue that the driver did not enable is None, and keeps its place.
pub type Queues = Vec<Option<VirtQueue>>;

/// What kind of device it is.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Device number (virtio 1.2, chapter 5).
    pub id: u16,
    /// PCI class code.
    pub class: u32,
    /// As in `disk 0`: the operator's word.
    pub noun: &'static str,
    /// Chunk of the machine's state.
    pub chunk: u16,
    /// Version of the chunk's layout.
    pub version: u16,
    /// Entries of each queue.
    pub queue_sizes: &'static [u16],
}

/// The front of a device. All calls come from the transport under its mutex.
pub trait VirtioDevice: Send + 'static {
    /// What does the work.
    type Engine: Engine;

    /// What kind of device this is.
    const KIND: Kind;

    /// Features of the device itself; the transport adds those of the rings.
    fn features(&self) -> u64;

    /// The guest reads device configuration; bytes beyond its end stay as they are.
    fn read_config(&self, offset: usize, data: &mut [u8]);

    /// The guest writes device configuration.
    fn write_config(&mut self, offset: usize, data: &[u8]);

    /// The driver is ready with these features; called at rest, before the engine first runs, also on import.
    fn activate(&mut self, engine: &mut Self::Engine, features: u64);

    /// The driver reset the device; called at rest. Afterwards front and engine are as built.
    fn reset(&mut self, engine: &mut Self::Engine);

    /// State beyond transport and rings; called at rest.
    ///
    /// # Errors
    /// [`StateError`].
    fn export_state(&self, engine: &Self::Engine) -> Result<Vec<u8>, StateError>;

    /// Takes over what [`Self::export_state`] of another machine gave: hostile input. Called at rest, after `activate` if
    /// the device was active.
    ///
    /// # Errors
    /// [`StateError`].
    fn import_state(&mut self, engine: &mut Self::Engine, bytes: &[u8]) -> Result<(), StateError>;
}

/// The working half.
pub trait Engine: Send + 'static {
    /// Whether it has all that it needs to run (a disk, say). One that has not stays at rest, and requests wait.
    fn ready(&self) -> bool;

    /// Works until it has agreed to stop ([`Control::agree_to_stop`]), nothing being in flight then. On entry every queue
    /// may hold requests nobody told about: look at each first.
    fn run(&mut self, queues: &mut Queues, control: &Control);
}
