//! A person's terminal, joined to a host's serial line.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::error::{Doing, Result};
use crate::line_owner::{Owned, Owner};
use crate::machine::Machine;

/// Ctrl-\: the host's console has Ctrl-] for itself, which leaves a VM's console.
const LEAVE: u8 = 0x1c;

/// The terminal in raw mode; it is as it was before once this is dropped.
struct RawTerminal {
    terminal: OwnedFd,
    before: Option<Termios>,
}

impl RawTerminal {
    fn take() -> Result<Self> {
        let terminal = std::io::stdin().as_fd().try_clone_to_owned().doing("opening the terminal")?;
        let before = tcgetattr(&terminal).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(&terminal, OptionalActions::Now, &raw).doing("setting up the terminal")?;
        }
        Ok(Self { terminal, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(&self.terminal, OptionalActions::Now, before);
        }
    }
}

/// Joins standard input and output to the serial line until Ctrl-\ is typed, input ends, or the host does. Nothing else types there
/// meanwhile.
pub fn attach(machine: &Machine) -> Result<()> {
    let socket = machine.serial_socket();
    let _owned = Owned::take(&socket, &machine.spec.name, Owner::Person)?;
    let mut line = UnixStream::connect(&socket).at("connecting to", &socket)?;
    eprintln!("{}: Ctrl-\\ leaves", machine.spec.name);
    let terminal = RawTerminal::take()?;
    // A return shows the prompt to who comes in later.
    line.write_all(b"\r").at("writing to", &socket)?;
    let mut buffer = [0; 4096];
    loop {
        let mut ready = [PollFd::new(&terminal.terminal, PollFlags::IN), PollFd::new(&line, PollFlags::IN)];
        poll(&mut ready, None).doing("waiting for input")?;
        let (typed, said) = (!ready[0].revents().is_empty(), !ready[1].revents().is_empty());
        if said {
            let count = line.read(&mut buffer).at("reading from", &socket)?;
            if count == 0 {
                break;
            }
            let mut screen = std::io::stdout().lock();
            screen.write_all(&buffer[..count]).and_then(|()| screen.flush()).doing("writing to the terminal")?;
        }
        if typed {
            let count = std::io::stdin().lock().read(&mut buffer[..256]).doing("reading the terminal")?;
            let typed = &buffer[..count];
            let leaves = typed.iter().position(|byte| *byte == LEAVE);
            line.write_all(&typed[..leaves.unwrap_or(count)]).at("writing to", &socket)?;
            if count == 0 || leaves.is_some() {
                break;
            }
        }
    }
    drop(terminal);
    eprintln!();
    Ok(())
}
