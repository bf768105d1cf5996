//! The migration NIC, as a device that carries raw Ethernet frames and belongs to us alone.
//!
//! The kernel drives the hardware and nothing more: the interface is up but has no address, no ARP and no IPv6, so
//! that every frame for our address is answered here or not at all. Frames travel through one AF_PACKET socket with
//! `PACKET_VNET_HDR`, so that a batch of datagrams of one size is one frame of up to 64 KiB in both directions
//! (UDP segmentation and receive offload).
//!
//! In reading order: [`selector`] finds the interface, [`prepare`] takes it from the kernel, [`socket`] is the
//! [`Nic`] itself, [`port`] is what the rest of the crate sees of it, [`offload`] holds the frame arithmetic,
//! [`link`] asks for state and counters, and `syscall` is the only file of this crate with `unsafe`.

pub mod link;
pub mod offload;
pub mod port;
mod prepare;
pub mod selector;
mod socket;
mod syscall;

pub use link::{Counters, LinkState};
pub use port::{FrameBatch, FrameBuffer, OutgoingFrame, Port};
pub use selector::NicSelector;
pub use socket::{Nic, NicConfig, NicError};
