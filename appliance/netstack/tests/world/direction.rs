//! One direction of a link: rate, delay, a queue that overflows, random loss, reordering; all from one seed. It has no
//! clock: in virtual time (`link`) and in that of this machine (`carrier`) frames meet the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the link does to frames, in each direction.
#[derive(Debug, Clone, Copy)]
pub struct Nature {
    pub bits_a_second: u64,
    /// One way.
    pub delay: Duration,
    /// Time that a frame may wait for the line before the queue overflows.
    pub queue: Duration,
    /// Of a million frames, how many are lost.
    pub lost_ppm: u32,
    /// Of a million frames, how many come 300 us later.
    pub late_ppm: u32,
    /// Of a million frames, how many have some bytes changed, cut off or put in, headers included.
    pub mangled_ppm: u32,
    /// Each host looks at the wire only after a random time of up to this: its processors have other work.
    pub busy: Duration,
    pub mtu: u16,
    /// Largest IP packet that the middle of the path carries.
    pub path_mtu: u16,
}

impl Nature {
    pub fn new(gbits: u64, rtt: Duration) -> Self {
        Self {
            bits_a_second: gbits * 1_000_000_000,
            delay: rtt / 2,
            queue: Duration::from_millis(1).max(rtt),
            lost_ppm: 0,
            late_ppm: 0,
            mangled_ppm: 0,
            busy: Duration::ZERO,
            mtu: 1500,
            path_mtu: 1500,
        }
    }

    pub fn losing(self, lost_ppm: u32) -> Self {
        Self { lost_ppm, ..self }
    }
}

/// One direction.
pub struct Direction {
    pub nature: Nature,
    busy_until: Instant,
    arriving: BTreeMap<(Instant, u64), Vec<u8>>,
    sequence: u64,
    pub random: u64,
    spare: Vec<Vec<u8>>,
    pub up: bool,
    /// Frames that found the queue full.
    pub overflowed: u64,
    /// Frames that were lost on the way.
    pub lost: u64,
    /// Frames that were neither.
    pub passed: u64,
}

impl Direction {
    /// What is lost follows from the seed.
    pub fn new(nature: Nature, seed: u64, now: Instant) -> Self {
        Self {
            nature,
            busy_until: now,
            arriving: BTreeMap::new(),
            sequence: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            spare: Vec::new(),
            up: true,
            overflowed: 0,
            lost: 0,
            passed: 0,
        }
    }

    pub fn chance(&mut self, ppm: u32) -> bool {
        super::xorshift(&mut self.random) % 1_000_000 < u64::from(ppm)
    }

    fn mangle(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.random % 4 {
            self.chance(0);
            // Half of it in the headers.
            let within = if self.random.is_multiple_of(2) { bytes.len().min(80) } else { bytes.len() };
            let at = (self.random >> 8) as usize % within.max(1);
            match self.random >> 4 & 7 {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.random as u8),
                _ => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= (self.random >> 40) as u8),
            }
        }
    }

    /// Decides about a frame of `length` bytes that is sent now: when it arrives, if it does.
    pub fn fate(&mut self, length: usize, now: Instant) -> Option<Instant> {
        let start = self.busy_until.max(now);
        if !self.up || length > usize::from(self.nature.path_mtu) + 14 {
            return None;
        }
        if start - now > self.nature.queue {
            self.overflowed += 1;
            return None;
        }
        // Preamble, checksum and gap: 24 bytes on the line.
        let nanoseconds = (length as u64 + 24) * 8 * 1_000_000_000 / self.nature.bits_a_second;
        self.busy_until = start + Duration::from_nanos(nanoseconds);
        if self.chance(self.nature.lost_ppm) {
            self.lost += 1;
            return None;
        }
        self.passed += 1;
        let late = if self.chance(self.nature.late_ppm) { Duration::from_micros(300) } else { Duration::ZERO };
        Some(self.busy_until + self.nature.delay + late)
    }

    /// Takes a frame, in parts, that is sent now.
    pub fn carry(&mut self, parts: [&[u8]; 2], now: Instant) {
        let Some(due) = self.fate(parts[0].len() + parts[1].len(), now) else { return };
        let mut bytes = self.buffer();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        if self.chance(self.nature.mangled_ppm) {
            self.mangle(&mut bytes);
        }
        self.arrive(due, bytes);
    }

    /// An empty buffer for what is to arrive.
    pub fn buffer(&mut self) -> Vec<u8> {
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes
    }

    /// Lets a frame whose fate was decided arrive.
    pub fn arrive(&mut self, due: Instant, bytes: Vec<u8>) {
        self.sequence += 1;
        self.arriving.insert((due, self.sequence), bytes);
    }

    /// When the next frame arrives.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.arriving.keys().next().map(|(at, _)| *at)
    }

    /// Hands the next frame over if it has arrived; with the moment at which it did.
    pub fn deliver<T>(&mut self, now: Instant, take: impl FnOnce(&[u8], Instant) -> T) -> Option<T> {
        let entry = self.arriving.first_entry().filter(|entry| entry.key().0 <= now)?;
        let at = entry.key().0;
        let bytes = entry.remove();
        let taken = take(&bytes, at);
        self.spare.push(bytes);
        Some(taken)
    }
}
