//! From the tap into the guest's buffers.
//!
//! ```text
//!   buffers hold the largest frame:  tap --readv--> guest memory
//!   they do not:                     tap --read--> our buffer --copy--> guest memory, once it fits
//! ```
//!
//! Only a read tells how large a frame is, and what does not fit is lost. So buffers are taken off the ring until the
//! largest frame would fit; a ring that cannot hold it gets its frames through a buffer of ours.

use std::collections::VecDeque;
use std::io;

use libc::iovec;

use super::announcement::Heard;
use super::tap::{FRAME_BYTES_MAX, HEADER_BYTES, Tap};
use crate::virtio::chain::{Chain, SEGMENTS_MAX, Segment, mark_dirty};
use crate::virtio::queue::VirtQueue;

/// Offset in the header of the count of buffers that a frame spans.
const NUM_BUFFERS: usize = 10;
/// Frames in one go, so that transmission gets its turn.
const BURST: usize = 256;

/// What a go at the tap ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The tap is empty, for now.
    Empty,
    /// The ring is: wait for the driver.
    NoBuffers,
    /// More is there; others first.
    More,
    /// The tap is gone.
    Gone,
}

/// The receiving side. Its lists keep their capacity.
pub struct Receiver {
    mergeable: bool,
    frame_max: usize,
    chain: Chain,
    /// Buffers taken off the ring, not yet given back: head, count of segments, bytes.
    taken: VecDeque<(u16, usize, usize)>,
    segments: VecDeque<Segment>,
    bytes: usize,
    iovecs: Vec<iovec>,
    used: Vec<(u16, u32)>,
    ours: Vec<u8>,
    /// Bytes in `ours` that wait for buffers.
    held: usize,
}

impl Receiver {
    /// For frames of up to `frame_max` bytes with header.
    pub fn new(mergeable: bool, frame_max: usize) -> Self {
        Self {
            mergeable,
            frame_max: frame_max.min(FRAME_BYTES_MAX),
            chain: Chain::default(),
            taken: VecDeque::new(),
            segments: VecDeque::new(),
            bytes: 0,
            iovecs: Vec::new(),
            used: Vec::new(),
            ours: Vec::new(),
            held: 0,
        }
    }

    /// Other offloads, other frames.
    pub fn set_frame_max(&mut self, frame_max: usize) {
        self.frame_max = frame_max.min(FRAME_BYTES_MAX);
    }

    /// Delivers what is there.
    pub fn receive(&mut self, tap: &Tap, heard: &Heard, queue: &mut VirtQueue) -> Outcome {
        for _ in 0..BURST {
            self.take_buffers(queue);
            if self.taken.is_empty() {
                return Outcome::NoBuffers;
            }
            let bytes = match self.read(tap) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Outcome::Empty,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::warn!("nic: the tap cannot be read: {error}");
                    return Outcome::Gone;
                }
            };
            heard.received(|| self.destination(bytes));
            if bytes < HEADER_BYTES {
                self.held = 0;
            } else if self.held == 0 {
                self.give_back(queue, bytes);
            } else if !self.place_held(queue, bytes) {
                return Outcome::NoBuffers;
            }
        }
        Outcome::More
    }

    /// Throws away what the tap holds, for a link that is down.
    pub fn drop_all(&mut self, tap: &Tap) {
        self.held = 0;
        tap.discard();
    }

    /// Puts the buffers that hold nothing back into the ring: they are exported as never taken.
    pub fn release(&mut self, queue: &mut VirtQueue) {
        queue.unpop(self.taken.len() as u16);
        self.taken.clear();
        self.segments.clear();
        (self.bytes, self.held) = (0, 0);
    }

    fn take_buffers(&mut self, queue: &mut VirtQueue) {
        // A frame that is held may be longer than those that are expected: it came before the guest turned offloads off, or over a link that
        // carries more than the guest was told.
        while self.bytes < self.frame_max.max(self.held) && (self.mergeable || self.taken.is_empty()) {
            if self.segments.len() >= SEGMENTS_MAX / 2 || !queue.pop(&mut self.chain) {
                return;
            }
            let bytes = self.chain.writable.bytes();
            if bytes < HEADER_BYTES {
                return queue.refuse("a receive buffer is shorter than the header");
            }
            self.segments.extend(self.chain.writable.list());
            self.taken.push_back((self.chain.head, self.chain.writable.list().len(), bytes));
            self.bytes += bytes;
        }
    }

    /// Reads a frame: into the guest's buffers, or, if they may be too small, into ours (then `held` is set).
    fn read(&mut self, tap: &Tap) -> io::Result<usize> {
        if self.held > 0 {
            return Ok(self.held);
        }
        if self.bytes >= self.frame_max {
            self.iovecs.clear();
            self.iovecs.extend(self.segments.iter().take(SEGMENTS_MAX).map(Segment::iovec));
            // SAFETY: guest memory, checked when the chains were loaded; the queue holds the mapping.
            return unsafe { tap.read(&self.iovecs) };
        }
        self.ours.resize(FRAME_BYTES_MAX, 0);
        let ours = [iovec { iov_base: self.ours.as_mut_ptr().cast(), iov_len: self.ours.len() }];
        // SAFETY: a buffer of our own.
        self.held = unsafe { tap.read(&ours) }?;
        Ok(self.held)
    }

    /// Where the frame that was just read is for, if it has come so far in one piece.
    fn destination(&self, bytes: usize) -> Option<[u8; 6]> {
        let end = HEADER_BYTES + 6;
        if bytes < end {
            return None;
        }
        if self.held > 0 {
            return self.ours[HEADER_BYTES..end].try_into().ok();
        }
        let first = self.segments.front().filter(|segment| segment.length >= end)?;
        let mut mac = [0; 6];
        for (at, byte) in (HEADER_BYTES..).zip(&mut mac) {
            // SAFETY: inside the segment, which is checked guest memory.
            *byte = unsafe { first.pointer.wrapping_add(at).read_volatile() };
        }
        Some(mac)
    }

    /// Copies the held frame into the guest's buffers. False if it must wait for more of them.
    fn place_held(&mut self, queue: &mut VirtQueue, bytes: usize) -> bool {
        if bytes > self.bytes {
            let ring_used_up = self.taken.len().max(self.segments.len()) >= usize::from(queue.size());
            if self.mergeable && !ring_used_up {
                return false;
            }
            // It will never fit: lost, as on a card without room.
            self.held = 0;
            return true;
        }
        let mut done = 0;
        for segment in &self.segments {
            let step = segment.length.min(bytes - done);
            // SAFETY: `segment` is checked guest memory, `ours` holds `bytes` bytes.
            unsafe { std::ptr::copy_nonoverlapping(self.ours[done..].as_ptr(), segment.pointer, step) };
            done += step;
            if done == bytes {
                break;
            }
        }
        self.held = 0;
        self.give_back(queue, bytes);
        true
    }

    /// Gives the buffers that a frame of `bytes` fills back to the driver.
    fn give_back(&mut self, queue: &mut VirtQueue, bytes: usize) {
        self.used.clear();
        let mut left = bytes;
        let buffers = self.count_buffers(bytes);
        self.write_count(buffers);
        while left > 0 {
            let Some((head, count, room)) = self.taken.pop_front() else { return };
            let filled = left.min(room);
            let mut unmarked = filled;
            for _ in 0..count {
                let Some(mut segment) = self.segments.pop_front() else { return };
                segment.length = segment.length.min(unmarked);
                unmarked -= segment.length;
                if segment.length > 0 {
                    mark_dirty(queue.memory(), &segment);
                }
            }
            self.bytes -= room;
            self.used.push((head, filled as u32));
            left -= filled;
        }
        queue.push_used_together(&self.used);
    }

    fn count_buffers(&self, bytes: usize) -> u16 {
        let mut left = bytes;
        let filled = self.taken.iter().take_while(|(_, _, room)| {
            let more = left > 0;
            left = left.saturating_sub(*room);
            more
        });
        filled.count() as u16
    }

    /// The header's count of buffers, which the kernel leaves to us. The header may be split.
    fn write_count(&mut self, buffers: u16) {
        let count = buffers.to_le_bytes();
        let mut at = 0;
        for segment in &self.segments {
            for (offset, byte) in (NUM_BUFFERS..).zip(count) {
                if (at..at + segment.length).contains(&offset) {
                    // SAFETY: inside the segment, which is checked guest memory.
                    unsafe { segment.pointer.wrapping_add(offset - at).write_volatile(byte) };
                }
            }
            at += segment.length;
            if at >= HEADER_BYTES {
                return;
            }
        }
    }
}
