//! The serial line: what the witness is told and what it tells.
//!
//! - [`settings`]: the words of the kernel command line.
//! - [`command`]: the lines that come in.
//! - [`record`]: the lines that go out.
//! - [`serial`]: the 16550, without waiting.
//! - [`desk`]: serves the line between two steps of work.

pub mod command;
#[cfg(target_os = "none")]
pub mod desk;
pub mod record;
#[cfg(target_os = "none")]
pub mod serial;
pub mod settings;
