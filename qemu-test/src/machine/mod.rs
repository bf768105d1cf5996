//! A host: one QEMU that boots the image.
//!
//! `choice` finds out what the hosts can run on, `spec` says what a host is, `command` makes QEMU's command line of it (`line`
//! has what the machine of a server shares), `boot` starts it and tells a boot that hung in the emulator from one that the
//! product failed, `qmp` is QEMU's control socket.

mod boot;
mod choice;
mod clock;
mod command;
mod config_drive;
mod line;
mod qmp;
mod spec;

pub use boot::{Boot, BootOutcome, start_hosts};
pub use choice::Accelerator;
pub use clock::time_stamp_counter_khz;
pub use command::{KERNEL_WORDS, chassis};
pub use config_drive::config_drive;
pub use line::Line;
pub use qmp::Qmp;
pub use spec::{Firmware, HostSpec, Machine, Medium, StartFrom};
