//! Modes of the terminal: raw while something other than the line editor reads it.

use std::io;
use std::os::fd::AsFd;

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcsetattr};

/// The terminal gives each byte as it is typed and echoes nothing, until this is dropped.
#[derive(Debug)]
pub struct RawInput {
    before: Option<Termios>,
}

impl RawInput {
    /// Switches the terminal on standard input; does nothing where standard input is no terminal.
    ///
    /// # Errors
    /// The terminal refuses.
    pub fn begin() -> io::Result<Self> {
        let stdin = io::stdin();
        if !isatty(stdin.as_fd()) {
            return Ok(Self { before: None });
        }
        let before = tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.input_modes -= rustix::termios::InputModes::ICRNL | rustix::termios::InputModes::IXON;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
        Ok(Self { before: Some(before) })
    }
}

impl Drop for RawInput {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // Nothing better can be done with an error here; the next prompt sets the modes again.
            let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, before);
        }
    }
}
