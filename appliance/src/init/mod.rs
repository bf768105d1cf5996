//! PID 1. It boots the machine in named phases, starts the roles, gathers their logs, starts them again when they end,
//! and shuts the machine down in order. It parses nothing that came from outside the image.
//!
//! ```text
//!  mounts -> console -> modules -> configuration -> identity -> loopback -> roles -> (supervise) -> shutdown
//!     \________\__________\____________\_____________\___________\_______/
//!                      a phase that fails is told on the screen; the machine still comes up
//! ```
//!
//! Only what makes everything else impossible (no `/proc`, no `/dev`) is fatal: then `init` explains on the screen and
//! stops. It never reboots by itself.

mod boot;
pub mod configure;
mod filesystems;
mod gather;
pub mod identity;
mod liveness;
mod modalias;
mod modules;
mod order;
mod power_button;
mod screen;
mod shutdown;
mod supervise;
mod terminals;
mod uevents;

pub use boot::run;
