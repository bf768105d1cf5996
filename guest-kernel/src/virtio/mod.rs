//! virtio devices on PCI, polled: the parts of the crate virtio-drivers that this kernel uses, and what they need of it.
//!
//! The crate's transport and queues serve; its ready-made drivers do not. That of disks waits for each flush by itself, and
//! so keeps nothing in flight beside it and would hang, without a word, on a flush whose answer a move lost. And neither it
//! nor that of network interfaces puts a barrier between a request and the look at whether the device wants to be told of it
//! (virtio 1.2, section 2.7.13.4.1).
//!
//! - [`memory`]: memory that devices reach.
//! - [`bus`]: which devices there are.
//! - [`channel`]: one queue of a device.

pub mod bus;
pub mod channel;
pub mod memory;
