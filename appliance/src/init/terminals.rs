//! The terminals that get a console: every serial line and screen that is really there.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;

/// Terminals worth trying on every machine, besides those that the kernel uses as its console.
const USUAL: [&str; 2] = ["ttyS0", "tty1"];

/// Names (without /dev/) of the terminals that answer.
pub(super) fn present() -> Vec<String> {
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    // tty0 is whichever screen is in front; its console lives on the first.
    for name in active.split_whitespace().map(|name| if name == "tty0" { "tty1" } else { name }).chain(USUAL) {
        if !names.iter().any(|known| known == name) && open(name).is_some() {
            names.push(name.to_owned());
        }
    }
    names
}

/// Opens a terminal for reading and writing. `None` if there is no hardware behind it: an absent serial port opens,
/// and then answers EIO to everything.
pub(super) fn open(name: &str) -> Option<File> {
    let flags = (OFlags::NOCTTY | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(format!("/dev/{name}")).ok()?;
    rustix::termios::tcgetattr(&file).ok()?;
    // Opened without blocking so that a line without carrier does not hold PID 1; its console wants it to block.
    let status = rustix::fs::fcntl_getfl(&file).ok()?;
    rustix::fs::fcntl_setfl(&file, status - OFlags::NONBLOCK).ok()?;
    Some(file)
}
