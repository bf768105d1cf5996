//! Two network namespaces joined by a veth, made and removed by the test that uses them, and two stacks in one thread.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of this")]

pub mod carrier;
pub mod direction;
pub mod link;
pub mod simulated;
pub mod super_frame;

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netstack::nic::Port;
use netstack::stack::TransportLimits;
use netstack::stream::Estimates;
use netstack::{
    Allowed, ConnectionId, Event, KeyPair, Nic, NicConfig, NicError, NicSelector, PublicKey, Stack, StackConfig,
};
use rustix::thread::LinkNameSpaceType;

use carrier::{Carrier, Tally};
use direction::Nature;

static COUNT: AtomicU32 = AtomicU32::new(0);
/// No test waits longer for anything.
pub const BOUND: Duration = Duration::from_secs(300);
pub const PORT: u16 = 7474;

/// Says why a test does nothing here, if so.
pub fn cannot_run() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: network namespaces need root");
        return true;
    }
    if Command::new("ip").arg("-V").output().is_err() {
        println!("skipped: the ip command (iproute2) is not installed");
        return true;
    }
    false
}

pub fn run(command: &str) {
    assert!(try_run(command), "failed: {command}");
}

pub fn try_run(command: &str) -> bool {
    let mut words = command.split_ascii_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    if !output.status.success() {
        eprintln!("{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

/// A namespace `a` and a namespace `b`, with `mig0` in each.
pub struct Wire {
    pub a: String,
    pub b: String,
    carrier: Option<Carrier>,
}

impl Wire {
    /// A veth: it carries as fast as the processors are, and loses nothing.
    pub fn new(mtu_a: u16, mtu_b: u16) -> Self {
        let wire = Self::ends();
        run(&format!("ip link add mig0 netns {} type veth peer name mig0 netns {}", wire.a, wire.b));
        run(&format!("ip -n {} link set mig0 mtu {mtu_a} address 02:00:00:00:00:0a", wire.a));
        run(&format!("ip -n {} link set mig0 mtu {mtu_b} address 02:00:00:00:00:0b", wire.b));
        wire
    }

    /// A wire that delays and loses as `nature` and the seed have it.
    pub fn carried(nature: Nature, seed: u64) -> Self {
        let mut wire = Self::ends();
        let taps = [&wire.a, &wire.b].map(|end| Self::within(end, || carrier::tap("mig0")).expect("a TAP device"));
        for (end, last) in [(&wire.a, 'a'), (&wire.b, 'b')] {
            // Until the carrier reads them, frames wait in the device: more than come while it waits for a processor.
            run(&format!(
                "ip -n {end} link set mig0 mtu {} address 02:00:00:00:00:0{last} txqueuelen 10000",
                nature.mtu
            ));
        }
        wire.carrier = Some(Carrier::between(taps, nature, seed));
        wire
    }

    /// What a wire that delays and loses has done up to now.
    pub fn tally(&self) -> Option<Tally> {
        self.carrier.as_ref().map(Carrier::tally)
    }

    fn ends() -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let base = format!("gw{}-{number}", std::process::id());
        let wire = Self { a: format!("{base}a"), b: format!("{base}b"), carrier: None };
        run(&format!("ip netns add {}", wire.a));
        run(&format!("ip netns add {}", wire.b));
        wire
    }

    /// Runs `work` in a namespace, on a thread that ends with it. Sockets made there stay there.
    pub fn within<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{namespace}")).unwrap();
        thread::scope(|scope| {
            scope
                .spawn(move || {
                    rustix::thread::move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                    work()
                })
                .join()
                .unwrap()
        })
    }

    /// A host at each end.
    pub fn hosts(&self, ipv6: bool) -> (Host<Nic>, Host<Nic>) {
        let host = |namespace, last| Host::new(Self::nic(namespace, None).unwrap(), last, ipv6);
        (host(&self.a, 1), host(&self.b, 2))
    }

    pub fn nic(namespace: &str, vlan: Option<u16>) -> Result<Nic, NicError> {
        let config = NicConfig { selector: NicSelector::Name("mig0".into()), mtu: None, vlan };
        Self::within(namespace, move || Nic::open(&config))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.carrier = None;
        try_run(&format!("ip netns del {}", self.a));
        try_run(&format!("ip netns del {}", self.b));
    }
}

/// One host: its stack and what happened on it.
pub struct Host<P: Port> {
    pub stack: Stack<P>,
    pub address: SocketAddr,
    pub key: PublicKey,
    pub events: Vec<Event>,
}

pub fn address(last: u8, ipv6: bool) -> IpAddr {
    if ipv6 { format!("fd00:7474::{last:x}").parse().unwrap() } else { IpAddr::from([10, 74, 0, last]) }
}

pub fn limits() -> TransportLimits {
    TransportLimits {
        handshake_timeout: Duration::from_secs(2),
        idle_timeout: Duration::from_secs(2),
        ..TransportLimits::default()
    }
}

impl<P: Port> Host<P> {
    pub fn new(port: P, last: u8, ipv6: bool) -> Self {
        Self::with_limits(port, last, ipv6, limits())
    }

    pub fn with_limits(port: P, last: u8, ipv6: bool, limits: TransportLimits) -> Self {
        let address = address(last, ipv6);
        let mut config = StackConfig::new(address, if ipv6 { 64 } else { 24 }, PORT);
        config.limits = limits;
        let identity = KeyPair::generate().unwrap();
        let key = identity.public();
        let stack = Stack::new(port, config, identity, Allowed::default(), Instant::now()).unwrap();
        Self { stack, address: SocketAddr::new(address, PORT), key, events: Vec::new() }
    }

    pub fn poll(&mut self) {
        self.stack.poll(Instant::now());
        while let Some(event) = self.stack.next_event() {
            self.events.push(event);
        }
    }

    /// Takes the first event that `wanted` finds something in.
    pub fn take<T>(&mut self, wanted: impl Fn(&Event) -> Option<T>) -> Option<T> {
        let position = self.events.iter().position(|event| wanted(event).is_some())?;
        wanted(&self.events.remove(position))
    }

    pub fn connected(&mut self) -> Option<(ConnectionId, PublicKey, u16)> {
        self.take(|event| match event {
            Event::Connected { connection, peer, peer_mtu, .. } => Some((*connection, *peer, *peer_mtu)),
            _ => None,
        })
    }

    pub fn closed(&mut self) -> Option<netstack::CloseReason> {
        self.take(|event| match event {
            Event::Closed { reason, .. } => Some(reason.clone()),
            _ => None,
        })
    }

    pub fn estimates(&self, id: ConnectionId) -> Estimates {
        self.stack.estimates(id).unwrap()
    }
}

/// Drives both hosts until `done` gives something. Panics after [`BOUND`].
pub fn until<A: Port, B: Port, T>(
    a: &mut Host<A>,
    b: &mut Host<B>,
    what: &str,
    mut done: impl FnMut(&mut Host<A>, &mut Host<B>) -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        a.poll();
        b.poll();
        if let Some(result) = done(a, b) {
            return result;
        }
        let now = Instant::now();
        assert!(now - start < BOUND, "waited too long for {what}; events: {:?} and {:?}", a.events, b.events);
        a.stack.wait(now, Some(now + Duration::from_micros(200)), &[]).unwrap();
    }
}

/// Connects a to b, each knowing the other. Returns both ends.
pub fn connect<A: Port, B: Port>(a: &mut Host<A>, b: &mut Host<B>) -> (ConnectionId, ConnectionId) {
    b.stack.allowed().insert(a.key);
    let id = a.stack.connect(b.address, b.key, Instant::now()).unwrap();
    let (mut ours, mut theirs) = (None, None);
    until(a, b, "the handshake", |a, b| {
        assert_eq!(a.closed(), None, "the connection failed");
        ours = ours.or_else(|| a.connected());
        theirs = theirs.or_else(|| b.connected());
        ours.zip(theirs)
    });
    let (connected, peer, _) = ours.unwrap();
    assert_eq!((connected, peer), (id, b.key));
    assert_eq!(theirs.unwrap().1, a.key);
    (id, theirs.unwrap().0)
}

/// The next number of a generator that needs no memory; its state is never 0.
pub fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// The content of record `number`, from a generator that needs no memory.
pub fn record(number: u64, length: usize, mut buffer: bytes::BytesMut) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    buffer.extend_from_slice(&number.to_le_bytes());
    while buffer.len() < length {
        buffer.extend_from_slice(&xorshift(&mut state).to_le_bytes());
    }
    buffer.truncate(length);
    buffer.freeze()
}

/// Sends `count` records of `length` bytes from a to b and checks that each arrives whole, once.
pub fn transfer<A: Port, B: Port>(
    a: &mut Host<A>,
    b: &mut Host<B>,
    (from, to): (ConnectionId, ConnectionId),
    count: u64,
    length: usize,
) {
    let mut seen = vec![false; count as usize];
    let (mut sent, mut got) = (0, 0);
    let mut pending: Option<Bytes> = None;
    let mut check = bytes::BytesMut::with_capacity(length);
    until(a, b, "all records", |a, b| {
        while sent < count {
            let next = match pending.take() {
                Some(next) => next,
                None => record(sent, length, a.stack.buffer(from).unwrap()),
            };
            match a.stack.send_record(from, next.clone()) {
                Ok(()) => sent += 1,
                Err(netstack::SendError::Full) => {
                    pending = Some(next);
                    break;
                }
                Err(error) => panic!("record {sent}: {error}; {:?}", a.events),
            }
        }
        while let Some(bytes) = b.stack.recv_record(to, Instant::now()) {
            let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            check.clear();
            let expected = record(number, length, std::mem::take(&mut check));
            assert!(bytes == expected, "record {number} is damaged");
            check = expected.try_into_mut().unwrap();
            assert!(!std::mem::replace(&mut seen[number as usize], true), "record {number} came twice");
            got += 1;
        }
        (got == count).then_some(())
    });
}
