//! Guest RAM: where it lies, how the VMM touches it, and which pages were written.
//!
//! Guest RAM is one memfd. Outside this crate a page has one number: its offset in the memfd divided by
//! [`PAGE_BYTES`]. [`layout`] says at which guest-physical addresses those pages appear, [`guest_memory`] maps
//! them into the VMM, [`dirty_bitmap`] is the value that says which pages were written, [`dirty_log`] is where KVM and the
//! VMM's devices say it.

pub mod dirty_bitmap;
pub mod dirty_log;
pub mod guest_memory;
pub mod layout;

pub use dirty_bitmap::DirtyBitmap;
pub use dirty_log::{DirtyLog, DirtyLogError};
pub use guest_memory::{GuestMemory, MemoryError};
pub use layout::{Layout, PAGE_BYTES};
