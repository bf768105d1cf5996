//! From the guest's buffers to the tap.

use std::io;

use libc::iovec;

use super::announcement::Heard;
use super::tap::{FRAME_BYTES_MAX, HEADER_BYTES, Tap};
use crate::virtio::chain::{Chain, iovecs};
use crate::virtio::queue::VirtQueue;

/// Frames in one go, so that reception gets its turn.
const BURST: usize = 256;
/// Shortest frame: an Ethernet header.
const FRAME_BYTES_MIN: usize = HEADER_BYTES + 14;

/// What a go at the ring ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The ring is empty; the driver notifies.
    Empty,
    /// The tap takes no more, for now.
    Full,
    /// More is there; others first.
    More,
}

/// The sending side. Its lists keep their capacity.
#[derive(Default)]
pub struct Transmitter {
    chain: Chain,
    iovecs: Vec<iovec>,
}

impl Transmitter {
    /// Sends what the driver made available. Without a link everything is sent nowhere.
    pub fn transmit(&mut self, tap: &Tap, heard: &Heard, queue: &mut VirtQueue, link_up: bool) -> Outcome {
        queue.disable_kicks();
        for _ in 0..BURST {
            if !queue.pop(&mut self.chain) {
                if queue.enable_kicks() {
                    continue;
                }
                return Outcome::Empty;
            }
            let bytes = self.chain.readable.bytes();
            if link_up && (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&bytes) {
                iovecs(self.chain.readable.range(0, bytes), &mut self.iovecs);
                // SAFETY: guest memory, checked when the chain was loaded; the queue holds the mapping.
                match unsafe { tap.write(&self.iovecs) } {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        queue.unpop(1);
                        return Outcome::Full;
                    }
                    // A header that the kernel refuses, an interface that is down: such a frame is lost, as on a wire.
                    Err(error) => log::trace!("nic: a frame was not sent: {error}"),
                    Ok(()) => heard.sent(),
                }
            }
            queue.push_used(self.chain.head, 0);
        }
        Outcome::More
    }
}
