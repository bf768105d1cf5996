//! The block device (virtio 1.2, section 5.2): one queue, served by io_uring on a thread of its own.
//!
//! With VIRTIO_BLK_F_FLUSH negotiated the disk is a writeback cache to the guest: a write is acknowledged when the file
//! took it, and a flush is acknowledged after an fdatasync that began when every earlier acknowledged write was in the
//! file. A driver that does not know flush gets every write on stable storage before its acknowledgement.
//!
//! The file may come later (the destination of a move opens it only after the commit): until then requests wait in the ring.
//!
//! In reading order: [`request`] (what the guest asks), [`engine`] (how it is done), [`device`] (what the registers show),
//! [`state`] (what travels).

pub mod device;
pub mod engine;
pub mod request;
pub mod state;

#[cfg(test)]
mod tests;

pub use device::{AttachError, Blk};
