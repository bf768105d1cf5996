//! The network device (virtio 1.2, section 5.1): one pair of queues and a control queue, over a tap with
//! virtio headers, so that checksums and segmentation are the guest's and the kernel's business and never ours.
//!
//! A packet goes straight between the tap and the guest's buffers. The tap is silent until the device runs: on the
//! destination of a move nothing is read before the resume, and what had piled up by then is thrown away, since it was meant
//! for nobody. After a move the networks are told ([`announcement`]), and the guest is asked to tell them too
//! ([`transport::VirtioPci::announce`]).
//!
//! In reading order: [`tap`] (the host's side), [`receive`], [`transmit`], [`control`] (the three queues), [`engine`] (the thread),
//! [`device`] (what the registers show), [`state`] (what travels), [`announcement`] (its new place).
//!
//! [`transport::VirtioPci::announce`]: crate::virtio::transport::VirtioPci::announce

pub mod announcement;
pub mod control;
pub mod device;
pub mod engine;
pub mod receive;
pub mod state;
pub mod tap;
pub mod transmit;

#[cfg(test)]
mod tests;

pub use device::Net;
pub use tap::{Tap, TapError};
