//! A link in virtual time: rate, delay, a queue that overflows, random loss, reordering; all from one seed.
//! Both stacks run in one thread and see the same clock, so that an hour costs what its packets cost.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use netstack::nic::{Counters, FrameBatch, LinkState, OutgoingFrame, Port, offload};

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
struct Direction {
    nature: Nature,
    busy_until: Instant,
    arriving: BTreeMap<(Instant, u64), Vec<u8>>,
    sequence: u64,
    random: u64,
    spare: Vec<Vec<u8>>,
    up: bool,
    overflowed: u64,
}

impl Direction {
    fn chance(&mut self, ppm: u32) -> bool {
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

    fn carry(&mut self, frame: &OutgoingFrame<'_>, now: Instant) {
        let length = frame.header.len() + frame.body.len();
        let start = self.busy_until.max(now);
        if !self.up || length > usize::from(self.nature.path_mtu) + 14 {
            return;
        }
        if start - now > self.nature.queue {
            self.overflowed += 1;
            return;
        }
        // Preamble, checksum and gap: 24 bytes on the line.
        let nanoseconds = (length as u64 + 24) * 8 * 1_000_000_000 / self.nature.bits_a_second;
        self.busy_until = start + Duration::from_nanos(nanoseconds);
        if self.chance(self.nature.lost_ppm) {
            return;
        }
        let late = if self.chance(self.nature.late_ppm) { Duration::from_micros(300) } else { Duration::ZERO };
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.clear();
        bytes.extend_from_slice(frame.header);
        bytes.extend_from_slice(frame.body);
        if self.chance(self.nature.mangled_ppm) {
            self.mangle(&mut bytes);
        }
        self.sequence += 1;
        self.arriving.insert((self.busy_until + self.nature.delay + late, self.sequence), bytes);
    }
}

/// The clock and both directions.
pub struct Link {
    pub now: Instant,
    directions: [Direction; 2],
}

impl Link {
    pub fn new(nature: Nature, seed: u64) -> Rc<RefCell<Self>> {
        let now = Instant::now();
        let direction = |seed: u64| Direction {
            nature,
            busy_until: now,
            arriving: BTreeMap::new(),
            sequence: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            spare: Vec::new(),
            up: true,
            overflowed: 0,
        };
        Rc::new(RefCell::new(Self { now, directions: [direction(seed * 2 + 1), direction(seed * 2 + 2)] }))
    }

    /// The next arrival in either direction.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.directions.iter().filter_map(|direction| direction.arriving.keys().next()).map(|(at, _)| *at).min()
    }

    /// Gives each end's NIC an MTU of its own.
    pub fn set_mtus(&mut self, mtus: [u16; 2]) {
        for (direction, mtu) in self.directions.iter_mut().zip(mtus) {
            direction.nature.mtu = mtu;
            direction.nature.path_mtu = direction.nature.path_mtu.min(mtus[0]).min(mtus[1]);
        }
    }

    pub fn cut(&mut self, up: bool) {
        self.directions.iter_mut().for_each(|direction| direction.up = up);
    }

    /// From now on each host looks at the wire only after a random time of up to this.
    pub fn set_busy(&mut self, busy: Duration) {
        self.directions.iter_mut().for_each(|direction| direction.nature.busy = busy);
    }

    /// When host `end` looks at the wire next if it looks now.
    pub fn next_look(&mut self, end: usize) -> Instant {
        let direction = &mut self.directions[end];
        direction.chance(0);
        let busy = direction.nature.busy.as_nanos() as u64;
        self.now + Duration::from_nanos(if busy == 0 { 0 } else { direction.random % busy })
    }

    pub fn overflowed(&self) -> u64 {
        self.directions.iter().map(|direction| direction.overflowed).sum()
    }
}

/// One end of the link.
pub struct End {
    link: Rc<RefCell<Link>>,
    sends: usize,
    /// The link's state is not told, as behind a switch.
    pub hides_link: bool,
}

impl End {
    pub fn new(link: &Rc<RefCell<Link>>, sends: usize) -> Self {
        Self { link: Rc::clone(link), sends, hides_link: false }
    }
}

impl Port for End {
    fn receive(&mut self, batch: &mut FrameBatch) -> io::Result<usize> {
        let mut link = self.link.borrow_mut();
        let now = link.now;
        let direction = &mut link.directions[1 - self.sends];
        batch.refill(|buffers| {
            let mut filled = 0;
            for buffer in buffers {
                match direction.arriving.first_entry() {
                    Some(entry) if entry.key().0 <= now => {
                        let bytes = entry.remove();
                        buffer.bytes[..bytes.len()].copy_from_slice(&bytes);
                        (buffer.length, buffer.segment, buffer.vlan) = (bytes.len(), None, None);
                        direction.spare.push(bytes);
                        filled += 1;
                    }
                    _ => break,
                }
            }
            Ok(filled)
        })
    }

    fn send(&mut self, frame: &OutgoingFrame<'_>) -> io::Result<()> {
        let mut link = self.link.borrow_mut();
        let now = link.now;
        let direction = &mut link.directions[self.sends];
        let result: Result<(), Infallible> = offload::cut(frame, |piece| {
            direction.carry(piece, now);
            Ok(())
        });
        result.map_err(|never| match never {})
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 1, self.sends as u8]
    }

    fn mtu(&self) -> u16 {
        self.link.borrow().directions[self.sends].nature.mtu
    }

    fn name(&self) -> &str {
        if self.sends == 0 { "sim-a" } else { "sim-b" }
    }

    fn link(&mut self) -> LinkState {
        let up = self.hides_link || self.link.borrow().directions[self.sends].up;
        LinkState { up, speed_mbit: None, full_duplex: Some(true) }
    }

    fn is_gone(&mut self) -> bool {
        false
    }

    fn counters(&mut self) -> Counters {
        Counters::default()
    }

    fn join_multicast(&mut self, _: [u8; 6]) -> io::Result<()> {
        Ok(())
    }
}
