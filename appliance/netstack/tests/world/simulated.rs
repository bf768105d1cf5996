//! Two stacks on a simulated link, driven in virtual time.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netstack::stack::TransportLimits;
use netstack::stream::RECORD_MAX;
use netstack::{Allowed, ConnectionId, Event, KeyPair, SendError, Stack, StackConfig};

use super::direction::Nature;
use super::link::{End, Link};

/// Two hosts on a link that have not met.
pub struct Pair {
    pub link: Rc<RefCell<Link>>,
    pub a: Stack<End>,
    pub b: Stack<End>,
    pub events_a: Vec<Event>,
    pub events_b: Vec<Event>,
    identity_b: KeyPair,
    looks: [Instant; 2],
}

/// Where host b is.
pub fn peer() -> SocketAddr {
    SocketAddr::new(super::address(2, false), super::PORT)
}

fn stack(link: &Rc<RefCell<Link>>, end: usize, identity: KeyPair, limits: &TransportLimits) -> Stack<End> {
    let mut config = StackConfig::new(super::address(1 + end as u8, false), 24, super::PORT);
    config.limits = limits.clone();
    let now = link.borrow().now;
    Stack::new(End::new(link, end), config, identity, Allowed::default(), now).unwrap()
}

impl Pair {
    pub fn new(nature: Nature, seed: u64, limits: &TransportLimits) -> Self {
        Self::with_mtus(nature, [nature.mtu; 2], seed, limits)
    }

    /// Each host's NIC with an MTU of its own.
    pub fn with_mtus(nature: Nature, mtus: [u16; 2], seed: u64, limits: &TransportLimits) -> Self {
        let link = Link::new(nature, seed);
        link.borrow_mut().set_mtus(mtus);
        let identity_b = KeyPair::generate().unwrap();
        let a = stack(&link, 0, KeyPair::generate().unwrap(), limits);
        let b = stack(&link, 1, identity_b.clone(), limits);
        let looks = [link.borrow().now; 2];
        Self { link, a, b, events_a: Vec::new(), events_b: Vec::new(), identity_b, looks }
    }

    /// Host b's migration role starts anew: nothing is left but its identity.
    pub fn restart_b(&mut self, limits: &TransportLimits) {
        self.b = stack(&self.link, 1, self.identity_b.clone(), limits);
    }

    pub fn now(&self) -> Instant {
        self.link.borrow().now
    }

    /// From now on each host looks at the wire only after a random time of up to this.
    pub fn set_busy(&mut self, busy: Duration) {
        self.link.borrow_mut().set_busy(busy);
    }

    fn poll(&mut self, looking: [bool; 2]) {
        let now = self.now();
        if looking[0] {
            self.a.poll(now);
        }
        if looking[1] {
            self.b.poll(now);
        }
        while let Some(event) = self.a.next_event() {
            self.events_a.push(event);
        }
        while let Some(event) = self.b.next_event() {
            self.events_b.push(event);
        }
    }

    fn looking(&self) -> [bool; 2] {
        self.looks.map(|at| at <= self.now())
    }

    /// Lets time pass until something happens, `end` at the latest.
    fn pass(&mut self, looking: [bool; 2], end: Instant) {
        let now = self.now();
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

    fn check(&self, end: Instant, bound: Duration) {
        assert!(self.now() < end, "not within {bound:?} of virtual time: {:?} {:?}", self.events_a, self.events_b);
    }

    /// Goes on until `done`, which may act on the stacks. Panics when it takes longer than `bound` of virtual time.
    pub fn until(&mut self, bound: Duration, done: impl FnMut(&mut Self) -> bool) {
        until(self, |pair| pair, bound, done);
    }
}

fn until<W>(world: &mut W, pair: fn(&mut W) -> &mut Pair, bound: Duration, mut done: impl FnMut(&mut W) -> bool) {
    let end = pair(world).now() + bound;
    loop {
        pair(world).check(end, bound);
        let looking = pair(world).looking();
        pair(world).poll(looking);
        if done(world) {
            return;
        }
        pair(world).poll(looking);
        pair(world).pass(looking, end);
    }
}

/// Two connected hosts: `from` is a's end of the connection that a opened, `to` is b's.
pub struct Simulated {
    pub pair: Pair,
    pub from: ConnectionId,
    pub to: ConnectionId,
}

impl Deref for Simulated {
    type Target = Pair;

    fn deref(&self) -> &Pair {
        &self.pair
    }
}

impl DerefMut for Simulated {
    fn deref_mut(&mut self) -> &mut Pair {
        &mut self.pair
    }
}

impl Simulated {
    pub fn connected(nature: Nature, seed: u64, limits: &TransportLimits) -> Self {
        Self::of(Pair::new(nature, seed, limits))
    }

    pub fn of(mut pair: Pair) -> Self {
        pair.b.allowed().insert(pair.a.public_key());
        let (now, key) = (pair.now(), pair.b.public_key());
        let from = pair.a.connect(peer(), key, now).unwrap();
        let to = Self::meet(&mut pair, from);
        Self { pair, from, to }
    }

    fn meet(pair: &mut Pair, from: ConnectionId) -> ConnectionId {
        let mut theirs = None;
        pair.until(Duration::from_secs(60), |pair| {
            theirs = pair.events_b.iter().rev().find_map(|event| match event {
                Event::Connected { connection, .. } => Some(*connection),
                _ => None,
            });
            let up = |event: &Event| matches!(event, Event::Connected { connection, .. } if *connection == from);
            theirs.is_some() && pair.events_a.iter().any(up)
        });
        theirs.unwrap()
    }

    /// A further connection, from a to b.
    pub fn connect_again(&mut self) -> (ConnectionId, ConnectionId) {
        self.pair.events_b.clear();
        let (now, key) = (self.now(), self.b.public_key());
        let from = self.a.connect(peer(), key, now).unwrap();
        (from, Self::meet(&mut self.pair, from))
    }

    /// As [`Pair::until`].
    pub fn until(&mut self, bound: Duration, done: impl FnMut(&mut Self) -> bool) {
        until(self, |world| &mut world.pair, bound, done);
    }

    /// Sends `bytes` in records from a to b; returns the time until b's application had them all.
    pub fn transfer(&mut self, bytes: usize, bound: Duration) -> Duration {
        let start = self.now();
        let record = Bytes::from(vec![0x5a; RECORD_MAX]);
        let (mut sent, mut got) = (0, 0);
        self.until(bound, |world| {
            let now = world.now();
            let from = world.from;
            while sent < bytes {
                match world.a.send_record(from, record.slice(..RECORD_MAX.min(bytes - sent))) {
                    Ok(()) => sent += RECORD_MAX.min(bytes - sent),
                    Err(SendError::Full) => break,
                    Err(error) => panic!("{error}: {:?}", world.events_a),
                }
            }
            let to = world.to;
            while let Some(record) = world.b.recv_record(to, now) {
                got += record.len();
            }
            got == bytes
        });
        self.events_a.clear();
        self.events_b.clear();
        self.now() - start
    }
}
