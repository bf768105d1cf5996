//! What the host provides under a guest's disk: an open file and a ring of operations on it.
//!
//! Nothing here knows virtio. A front end (today `virtio::blk`) fills a slot's buffer list with pieces of guest memory,
//! starts an operation, and gets one completion for it, however many system calls that took: short transfers are
//! continued, unaligned buffers travel through a bounce buffer, and what the file cannot do (punch holes, say) is done
//! another way.
//!
//! In reading order: [`raw`] (the file and its facts), [`transfer`] (one operation and its progress), [`ring`]
//! (io_uring and the slots).

pub mod raw;
pub mod ring;
pub mod transfer;

pub use raw::{DiskError, RawDisk};
pub use ring::{Completion, DiskRing, WatchToken};
