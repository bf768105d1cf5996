//! Joins the terminal to a guest's serial port, until Ctrl-] or the end of the guest.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};

use crate::api::channel::{Channel, ChannelError};
use crate::api::vmm::{VmmAnswer, VmmRequest};
use crate::console::terminal::RawInput;

const CTRL_CLOSE_BRACKET: u8 = 0x1d;

/// Why the terminal is its own again.
#[derive(Debug, PartialEq, Eq)]
pub enum Left {
    /// Ctrl-] was pressed.
    ByKey,
    /// The guest, or its monitor, ended, or it was moved to another host.
    GuestEnded,
}

/// Attaches over a connection to the VM's monitor.
///
/// # Errors
/// The terminal or the monitor failed.
pub fn attach(monitor: OwnedFd) -> Result<Left, ChannelError> {
    let channel = Channel::<VmmRequest, VmmAnswer>::of(monitor);
    channel.send(&VmmRequest::SerialAttach, &[])?;
    let _raw = RawInput::begin()?;
    let stdin = io::stdin();
    loop {
        let mut ready = [PollFd::new(&channel, PollFlags::IN), PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let (output, keys) = (!ready[0].revents().is_empty(), !ready[1].revents().is_empty());
        if output {
            match channel.receive() {
                Ok((VmmAnswer::Serial(bytes), _)) => {
                    io::stdout().write_all(&bytes)?;
                    io::stdout().flush()?;
                }
                Ok(_) => {}
                Err(ChannelError::Closed) => return Ok(Left::GuestEnded),
                Err(error) => return Err(error),
            }
        }
        if keys {
            let mut typed = [0; 1024];
            let count = rustix::io::read(stdin.as_fd(), &mut typed)?;
            let typed = &typed[..count];
            let end = typed.iter().position(|key| *key == CTRL_CLOSE_BRACKET);
            let input = &typed[..end.unwrap_or(count)];
            if !input.is_empty() {
                channel.send(&VmmRequest::Serial(input.to_vec()), &[])?;
            }
            if end.is_some() || count == 0 {
                return Ok(Left::ByKey);
            }
        }
    }
}
