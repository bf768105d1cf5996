//! The appliance's image: what a host boots.
//!
//! ```text
//!  kernel package --dpkg-deb--> vmlinuz --------------------------+
//!       |                                                         |
//!       +--> modules + dependencies --depmod--> modules.cpio.zst -+--> initramfs --+--> godwit.iso (BIOS, UEFI, CD, USB)
//!  cargo build --release (musl) --------------> godwit.cpio.zst --+                |
//!  config/ -------------------------------------------+                            +--> kernel + initramfs, for -kernel
//! ```
//!
//! Each step is skipped when its inputs have not changed. Kernel, modules and binary may also come from another builder:
//! `buildroot/external/` makes them from source and has them packed here.

mod assemble;
mod budget;
#[cfg(test)]
mod buildroot;
pub mod cpio;
mod initramfs;
mod iso;
mod kernel;
mod modules;
mod program;
mod recipe;
mod vmlinux;

pub use assemble::{Image, Parts, build, pack};
pub use kernel::{Flavour, KernelPackage, fetch};
pub use modules::{ModuleTree, read_module};
pub use program::{has_interpreter, static_program};
pub use vmlinux::unpack as unpack_kernel;
