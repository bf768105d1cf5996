//! Two stacks on a simulated link, driven in virtual time.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netstack::stack::TransportLimits;
use netstack::stream::RECORD_MAX;
use netstack::{Allowed, ConnectionId, Event, KeyPair, SendError, Stack, StackConfig};

use super::link::{End, Link, Nature};

/// Two hosts.
pub struct Simulated {
    pub link: Rc<RefCell<Link>>,
    pub a: Stack<End>,
    pub b: Stack<End>,
    pub events_a: Vec<Event>,
    pub events_b: Vec<Event>,
    pub from: ConnectionId,
    pub to: ConnectionId,
    looks: [Instant; 2],
}

impl Simulated {
    /// Two connected hosts.
    pub fn connected(nature: Nature, seed: u64, limits: &TransportLimits) -> Self {
        let link = Link::new(nature, seed);
        let start = link.borrow().now;
        let host = |sends: usize| {
            let mut config = StackConfig::new(super::address(1 + sends as u8, false), 24, super::PORT);
            config.limits = limits.clone();
            Stack::new(End::new(&link, sends), config, KeyPair::generate().unwrap(), Allowed::default(), start).unwrap()
        };
        let (mut a, b) = (host(0), host(1));
        b.allowed().insert(a.public_key());
        let to = std::net::SocketAddr::new(super::address(2, false), super::PORT);
        let from = a.connect(to, b.public_key(), start).unwrap();
        let mut world =
            Self { link, a, b, events_a: Vec::new(), events_b: Vec::new(), from, to: from, looks: [start; 2] };
        world.until(Duration::from_secs(10), |world| {
            let up = world.events_a.iter().any(|event| matches!(event, Event::Connected { .. }));
            let id = world.events_b.iter().find_map(|event| match event {
                Event::Connected { connection, .. } => Some(*connection),
                _ => None,
            });
            world.to = id.unwrap_or(world.to);
            up && id.is_some()
        });
        world
    }

    pub fn now(&self) -> Instant {
        self.link.borrow().now
    }

    /// Goes on until `done`, which may act on the stacks. Panics when it takes longer than `bound` of virtual time.
    pub fn until(&mut self, bound: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now() + bound;
        loop {
            let now = self.now();
            assert!(now < end, "not within {bound:?} of virtual time: {:?} {:?}", self.events_a, self.events_b);
            let looking = self.looks.map(|at| at <= now);
            self.poll(now, looking);
            while let Some(event) = self.a.next_event() {
                self.events_a.push(event);
            }
            while let Some(event) = self.b.next_event() {
                self.events_b.push(event);
            }
            if done(self) {
                return;
            }
            self.poll(now, looking);
            let due = [self.a.next_timeout(now), self.b.next_timeout(now)];
            // A host goes away when its work is done, not before.
            for end in (0..2).filter(|end| looking[*end] && due[*end].is_none_or(|at| at > now)) {
                self.looks[end] = self.link.borrow_mut().next_look(end);
            }
            let next = [due[0], due[1], self.link.borrow().next_arrival()];
            let next = next.into_iter().flatten().min().unwrap_or(end);
            // Frames that come within a few microseconds are seen together, as a NIC's interrupt moderation does it.
            let moderated = if next > now { next + Duration::from_micros(5) } else { now };
            let someone_looks = self.looks.into_iter().min().unwrap_or(now);
            self.link.borrow_mut().now = moderated.max(someone_looks).max(now);
        }
    }

    fn poll(&mut self, now: Instant, looking: [bool; 2]) {
        if looking[0] {
            self.a.poll(now);
        }
        if looking[1] {
            self.b.poll(now);
        }
    }

    /// Sends `bytes` in records from a to b; returns the time until b's application had them all.
    pub fn transfer(&mut self, bytes: usize, bound: Duration) -> Duration {
        let start = self.now();
        let record = Bytes::from(vec![0x5a; RECORD_MAX]);
        let (mut sent, mut got) = (0, 0);
        self.until(bound, |world| {
            let now = world.now();
            while sent < bytes {
                match world.a.send_record(world.from, record.slice(..RECORD_MAX.min(bytes - sent))) {
                    Ok(()) => sent += RECORD_MAX.min(bytes - sent),
                    Err(SendError::Full) => break,
                    Err(error) => panic!("{error}: {:?}", world.events_a),
                }
            }
            while let Some(record) = world.b.recv_record(world.to, now) {
                got += record.len();
            }
            got == bytes
        });
        self.events_a.clear();
        self.events_b.clear();
        self.now() - start
    }
}
