//! Events and serial output, sent to every connection that asked for them. None of them is ever waited for: a console that
//! hangs must not hold the guest up.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vmm::legacy::output_ring::OutputRing;

use crate::api::channel::{Channel, ChannelError};
use crate::api::vmm::{VmmAnswer, VmmRequest};

/// Bytes of serial output in one message.
const SERIAL_BYTES: usize = 16 * 1024;

/// The monitor's end of a connection.
pub type Connection = Arc<Channel<VmmAnswer, VmmRequest>>;

/// Connections that get events. There are so few in the life of a guest that a socket takes all of them.
#[derive(Debug, Default)]
pub struct Broadcast {
    connections: Mutex<Vec<Connection>>,
}

impl Broadcast {
    fn lock(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection; `first` is sent to it before anything else, without a gap.
    pub fn add(&self, connection: Connection, first: impl IntoIterator<Item = VmmAnswer>) {
        let mut connections = self.lock();
        if first.into_iter().all(|answer| connection.send_at_once(&answer).is_ok()) {
            connections.push(connection);
        }
    }

    /// Sends to all, and forgets those that are gone.
    pub fn send(&self, answer: &VmmAnswer) {
        self.lock().retain(|connection| connection.send_at_once(answer).is_ok());
    }
}

/// A connection and the position in the output up to which it was sent.
#[derive(Debug)]
struct Console {
    connection: Connection,
    next: u64,
}

/// Connections that get the serial output, each as fast as it takes it: a terminal on a serial line is far slower than a
/// guest that prints its log. What is not kept any more when its turn comes is skipped, and the console told so.
#[derive(Debug, Default)]
pub struct Consoles {
    all: Mutex<Vec<Console>>,
}

impl Consoles {
    fn lock(&self) -> MutexGuard<'_, Vec<Console>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a connection. What is kept of the output is sent to it at the next [`Self::send`].
    pub fn add(&self, connection: Connection, output: &OutputRing) {
        let kept = output.read(0);
        self.lock().push(Console { connection, next: kept.next - kept.bytes.len() as u64 });
    }

    /// Sends each what it has not got yet, as far as it takes it at once, and forgets those that are gone. True if one is
    /// to be tried again.
    pub fn send(&self, output: &OutputRing) -> bool {
        let mut behind = false;
        self.lock().retain_mut(|console| match console.send(output) {
            Ok(()) => true,
            Err(ChannelError::NotTaken(_)) => {
                behind = true;
                true
            }
            Err(_) => false,
        });
        behind
    }
}

impl Console {
    fn send(&mut self, output: &OutputRing) -> Result<(), ChannelError> {
        let fresh = output.read(self.next);
        let mut next = fresh.next - fresh.bytes.len() as u64;
        let mut skipped = fresh.lost;
        for piece in fresh.bytes.chunks(SERIAL_BYTES) {
            let mut shown = Vec::new();
            if skipped > 0 {
                shown.extend_from_slice(format!("\r\n[{skipped} bytes of output were skipped]\r\n").as_bytes());
            }
            shown.extend_from_slice(piece);
            self.connection.send_at_once(&VmmAnswer::Serial(shown))?;
            skipped = 0;
            next += piece.len() as u64;
            self.next = next;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    type Terminal = Channel<VmmRequest, VmmAnswer>;

    fn attached(output: &OutputRing) -> (Consoles, Terminal) {
        let (monitor, terminal) = Channel::pair().expect("sockets");
        let consoles = Consoles::default();
        consoles.add(Arc::new(monitor), output);
        (consoles, terminal)
    }

    /// What waits in the socket of a terminal.
    fn shown(terminal: &Terminal) -> Vec<u8> {
        let mut shown = Vec::new();
        while let Ok((VmmAnswer::Serial(bytes), _)) = terminal.receive_within(Duration::ZERO) {
            shown.extend(bytes);
        }
        shown
    }

    /// What comes until nothing is left to be sent.
    fn shown_at_last(consoles: &Consoles, output: &OutputRing, terminal: &Terminal) -> Vec<u8> {
        let mut all = shown(terminal);
        while consoles.send(output) {
            all.extend(shown(terminal));
        }
        all.extend(shown(terminal));
        all
    }

    #[test]
    fn a_console_that_is_slower_than_a_burst_gets_all_of_it_late_and_what_comes_after() {
        let output = OutputRing::new().expect("an event");
        let (consoles, terminal) = attached(&output);
        let burst: Vec<u8> = (0..=u8::MAX).cycle().take(40_000).collect();
        let behind = burst.chunks(100).map(|line| {
            output.push(line);
            consoles.send(&output)
        });
        assert_eq!(behind.last(), Some(true), "the socket is full, and the guest did not wait for it");
        assert!(shown_at_last(&consoles, &output, &terminal) == burst, "nothing is missing");
        output.push(b"$ ");
        assert!(!consoles.send(&output));
        assert_eq!(shown(&terminal), b"$ ");
    }

    #[test]
    fn a_console_for_which_output_was_not_kept_is_told_how_much_it_did_not_get() {
        let output = OutputRing::new().expect("an event");
        let (consoles, terminal) = attached(&output);
        while !consoles.send(&output) {
            output.push(b"early ");
        }
        output.push(&vec![b'x'; 100_000]);
        output.push(b"late");
        let shown = String::from_utf8(shown_at_last(&consoles, &output, &terminal)).expect("text");
        let (before, after) = shown.split_once("\r\n[").expect("told");
        let (skipped, after) = after.split_once(" bytes of output were skipped]\r\n").expect("told");
        let skipped: u64 = skipped.parse().expect("a number");
        assert_eq!((before.len() + after.len()) as u64 + skipped, output.read(u64::MAX).next, "every byte is counted");
        assert!(before.ends_with("early ") && after.ends_with("xxlate"), "the end of the output is there");
    }

    #[test]
    fn a_console_that_is_gone_is_forgotten() {
        let output = OutputRing::new().expect("an event");
        let (consoles, terminal) = attached(&output);
        drop(terminal);
        output.push(b"x");
        assert!(!consoles.send(&output));
        assert!(consoles.lock().is_empty());
    }
}
