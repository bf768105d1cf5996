//! The entropy device (virtio 1.2, section 5.4): fills the guest's buffers from getrandom(2).
//!
//! In reading order: [`engine`] (one queue), [`device`] (no configuration, no features, no state of its own).

pub mod device;
pub mod engine;

#[cfg(test)]
mod tests;

pub use device::Rng;
