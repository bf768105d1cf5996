//! Who asked for what takes long: a console, or this control plane itself.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use crate::api::channel::{Channel, wait_readable};
use crate::api::host::{HostAnswer, HostRequest};

/// How often a command that waits looks whether Ctrl-C was pressed.
pub const LOOK: Duration = Duration::from_millis(100);

/// The console at the other end of a request that takes long: it is told how far it is, and may give up. Nobody, where the
/// control plane itself does something.
pub struct Caller<'a> {
    console: Option<&'a Channel<HostAnswer, HostRequest>>,
}

impl<'a> Caller<'a> {
    /// A console.
    pub fn console(channel: &'a Channel<HostAnswer, HostRequest>) -> Self {
        Self { console: Some(channel) }
    }
}

impl Caller<'_> {
    /// No console waits for it.
    pub fn nobody() -> Self {
        Self { console: None }
    }

    /// Whether a person waits, who can try again.
    pub fn is_a_person(&self) -> bool {
        self.console.is_some()
    }

    /// Tells how far the command is.
    pub fn progress(&self, doing: &str, thousandths: Option<u16>) {
        if let Some(console) = self.console {
            // A console that went away has given up what it watched, not the command.
            let _ = console.send(&HostAnswer::Progress { doing: doing.to_owned(), thousandths }, &[]);
        }
    }

    /// Whether Ctrl-C was pressed since the last call.
    pub fn cancelled(&self) -> bool {
        let Some(console) = self.console else { return false };
        match wait_readable(console.as_fd(), Duration::ZERO) {
            Ok(true) => matches!(console.receive(), Ok((HostRequest::Cancel, _))),
            _ => false,
        }
    }

    /// Sleeps; returns whether Ctrl-C was pressed meanwhile, and then at once.
    pub fn cancelled_within(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        loop {
            if self.cancelled() {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            std::thread::sleep(left.min(LOOK));
        }
    }
}
