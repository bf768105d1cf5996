//! The front of the entropy device: it has nothing to show.

use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;

use super::engine::RngEngine;
use crate::state::{ChunkKind, StateError, decode, encode};
use crate::virtio::device::{Kind, VirtioDevice};

/// The entropy device.
#[derive(Debug, Default)]
pub struct Rng;

impl Rng {
    /// Both halves.
    pub fn new() -> (Self, RngEngine) {
        (Self, RngEngine)
    }
}

impl VirtioDevice for Rng {
    type Engine = RngEngine;

    const KIND: Kind = Kind {
        id: VIRTIO_ID_RNG as u16,
        class: 0x00_ff00,
        noun: "entropy",
        chunk: ChunkKind::DEVICES_FROM + 0x12,
        version: 1,
        queue_sizes: &[64],
    };

    fn features(&self) -> u64 {
        0
    }

    fn read_config(&self, _: usize, _: &mut [u8]) {}

    fn write_config(&mut self, _: usize, _: &[u8]) {}

    fn activate(&mut self, _: &mut RngEngine, _: u64) {}

    fn reset(&mut self, _: &mut RngEngine) {}

    fn export_state(&self, _: &RngEngine) -> Result<Vec<u8>, StateError> {
        encode("entropy", &())
    }

    fn import_state(&mut self, _: &mut RngEngine, bytes: &[u8]) -> Result<(), StateError> {
        decode("entropy", bytes)
    }
}
