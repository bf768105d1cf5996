//! A link in virtual time, of two directions.
//! Both stacks run in one thread and see the same clock, so that an hour costs what its packets cost.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use netstack::nic::{Counters, FrameBatch, LinkState, OutgoingFrame, Port, offload};

use super::direction::{Direction, Nature};

/// The clock and both directions.
pub struct Link {
    pub now: Instant,
    directions: [Direction; 2],
}

impl Link {
    pub fn new(nature: Nature, seed: u64) -> Rc<RefCell<Self>> {
        let now = Instant::now();
        let direction = |seed| Direction::new(nature, seed, now);
        Rc::new(RefCell::new(Self { now, directions: [direction(seed * 2 + 1), direction(seed * 2 + 2)] }))
    }

    /// The next arrival in either direction.
    pub fn next_arrival(&self) -> Option<Instant> {
        self.directions.iter().filter_map(Direction::next_arrival).min()
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
                let fill = |bytes: &[u8], _| {
                    buffer.bytes[..bytes.len()].copy_from_slice(bytes);
                    (buffer.length, buffer.segment, buffer.vlan) = (bytes.len(), None, None);
                };
                if direction.deliver(now, fill).is_none() {
                    break;
                }
                filled += 1;
            }
            Ok(filled)
        })
    }

    fn send(&mut self, frame: &OutgoingFrame<'_>) -> io::Result<()> {
        let mut link = self.link.borrow_mut();
        let now = link.now;
        let direction = &mut link.directions[self.sends];
        let result: Result<(), Infallible> = offload::cut(frame, |piece| {
            direction.carry([piece.header, piece.body], now);
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
