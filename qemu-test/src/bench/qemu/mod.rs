//! Debian's QEMU as one of those who are compared, with the witness as its guest.
//!
//! `way` is how it is used, in words of its command line and of its control protocol; `moves` runs and moves a guest, whatever
//! the two ends are: `native`, two network namespaces of this machine, or `nested`, two machines of the lab, which boot
//! what `initramfs` makes.

mod initramfs;
mod moves;
mod native;
mod nested;
mod way;

pub(super) use initramfs::Initramfs;
pub(super) use moves::Qemu;
pub(super) use native::Native;
pub(super) use nested::{Nested, boot_hosts};
pub(super) use way::{Way, version};
