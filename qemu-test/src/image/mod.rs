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
//! Each step is skipped when its inputs have not changed.

mod assemble;
mod budget;
pub mod cpio;
mod initramfs;
mod iso;
mod kernel;
mod modules;
mod program;
mod recipe;

pub use assemble::{Image, build};
pub use kernel::{Flavour, KernelPackage, fetch};
pub use modules::{ModuleTree, read_module};
pub use program::static_program;
