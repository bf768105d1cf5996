//! What the guest wrote to its serial port: the last bytes of it, with a position that only grows.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::enter;

/// Bytes that are kept.
pub const RING_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
struct Ring {
    /// The last bytes, oldest first.
    kept: VecDeque<u8>,
    /// How many bytes the guest has written since it started, on whatever host.
    written: u64,
}

/// A bounded ring of output. Clones share it.
#[derive(Debug, Clone)]
pub struct OutputRing {
    ring: Arc<Mutex<Ring>>,
    event: Arc<EventFd>,
}

/// A piece of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The position behind them: where to go on.
    pub next: u64,
    /// How many bytes between the position asked for and the first of `bytes` are gone.
    pub lost: u64,
}

/// The ring as it is saved.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RingState {
    kept: Vec<u8>,
    written: u64,
}

impl OutputRing {
    /// An empty ring.
    ///
    /// # Errors
    /// If there is no event descriptor to be had.
    pub fn new() -> io::Result<Self> {
        Ok(Self { ring: Arc::default(), event: Arc::new(EventFd::new(EFD_NONBLOCK)?) })
    }

    /// Becomes readable when there is new output. Whoever waits reads it and then calls [`Self::read`].
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    /// Adds output, and forgets the oldest if there is too much.
    pub fn push(&self, bytes: &[u8]) {
        let mut ring = enter(&self.ring);
        ring.written += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(RING_BYTES)..];
        let excess = (ring.kept.len() + bytes.len()).saturating_sub(RING_BYTES);
        ring.kept.drain(..excess);
        ring.kept.extend(bytes);
        drop(ring);
        // A full counter means that the reader has been told already.
        let _ = self.event.write(1);
    }

    /// The output from a position on, or from the oldest byte kept if that is later.
    pub fn read(&self, from: u64) -> Output {
        let ring = enter(&self.ring);
        let oldest = ring.written - ring.kept.len() as u64;
        let start = from.clamp(oldest, ring.written);
        let bytes = ring.kept.iter().skip((start - oldest) as usize).copied().collect();
        Output { bytes, next: ring.written, lost: start.saturating_sub(from) }
    }

    /// The whole ring, to be saved.
    pub fn export_state(&self) -> RingState {
        let ring = enter(&self.ring);
        RingState { kept: ring.kept.iter().copied().collect(), written: ring.written }
    }

    /// Takes over a saved ring. False if it cannot be one.
    pub fn import_state(&self, state: RingState) -> bool {
        if state.kept.len() > RING_BYTES || (state.kept.len() as u64) > state.written {
            return false;
        }
        *enter(&self.ring) = Ring { kept: state.kept.into(), written: state.written };
        let _ = self.event.write(1);
        true
    }
}

impl io::Write for OutputRing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_is_too_slow_learns_how_much_it_missed() {
        let ring = OutputRing::new().unwrap();
        ring.push(b"hello");
        assert_eq!(ring.read(0), Output { bytes: b"hello".to_vec(), next: 5, lost: 0 });
        assert_eq!(ring.read(3), Output { bytes: b"lo".to_vec(), next: 5, lost: 0 });
        ring.push(&vec![b'x'; RING_BYTES]);
        let output = ring.read(3);
        assert_eq!((output.bytes.len(), output.next, output.lost), (RING_BYTES, 5 + RING_BYTES as u64, 2));
        assert_eq!(ring.read(u64::MAX).bytes, b"");
    }

    #[test]
    fn output_longer_than_the_ring_leaves_its_end() {
        let ring = OutputRing::new().unwrap();
        let mut long = vec![b'a'; RING_BYTES];
        long.push(b'z');
        ring.push(&long);
        let output = ring.read(0);
        assert_eq!((output.bytes.len(), output.bytes.last(), output.lost), (RING_BYTES, Some(&b'z'), 1));
    }

    #[test]
    fn a_ring_goes_on_elsewhere_at_the_same_position() {
        let ring = OutputRing::new().unwrap();
        ring.push(b"before");
        let other = OutputRing::new().unwrap();
        assert!(other.import_state(ring.export_state()));
        other.push(b" after");
        assert_eq!(other.read(2).bytes, b"fore after");
        assert!(!other.import_state(RingState { kept: vec![0; 2], written: 1 }));
        assert!(!other.import_state(RingState { kept: vec![0; RING_BYTES + 1], written: u64::MAX }));
    }
}
