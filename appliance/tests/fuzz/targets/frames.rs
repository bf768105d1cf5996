//! Frames on the migration NIC, from whoever is on its wire: ARP, ND, ICMP, UDP and the packets of QUIC before and after a peer is known.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use netstack::nic::{Counters, FrameBatch, LinkState, OutgoingFrame, Port, offload};
use netstack::{Allowed, Event, KeyPair, Stack, StackConfig};

use super::{Outcome, Prepared};

const PORT: u16 = 7780;
/// A stack has its arena, its batches of frames (each of the largest length), and what QUIC keeps of a caller.
const BYTES_MAX: usize = 128 << 20;

#[derive(Default)]
struct Wire {
    to: [VecDeque<Vec<u8>>; 2],
}

/// One end of the wire.
struct End {
    wire: Rc<RefCell<Wire>>,
    end: usize,
}

impl Port for End {
    fn receive(&mut self, batch: &mut FrameBatch) -> io::Result<usize> {
        let mut wire = self.wire.borrow_mut();
        let queue = &mut wire.to[self.end];
        batch.refill(|buffers| {
            let mut filled = 0;
            while let (Some(buffer), false) = (buffers.get_mut(filled), queue.is_empty()) {
                let frame = queue.pop_front().unwrap_or_default();
                let length = frame.len().min(buffer.bytes.len());
                buffer.bytes[..length].copy_from_slice(&frame[..length]);
                (buffer.length, buffer.segment, buffer.vlan) = (length, None, None);
                filled += 1;
            }
            Ok(filled)
        })
    }

    fn send(&mut self, frame: &OutgoingFrame<'_>) -> io::Result<()> {
        let mut wire = self.wire.borrow_mut();
        let queue = &mut wire.to[1 - self.end];
        let cut: Result<(), io::Error> = offload::cut(frame, |piece| {
            queue.push_back([piece.header, piece.body].concat());
            Ok(())
        });
        cut
    }

    fn readiness(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn mac(&self) -> [u8; 6] {
        [2, 0, 0, 0, 1, self.end as u8]
    }

    fn mtu(&self) -> u16 {
        1500
    }

    fn name(&self) -> &str {
        "wire"
    }

    fn link(&mut self) -> LinkState {
        LinkState { up: true, speed_mbit: None, full_duplex: Some(true) }
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

fn address(end: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, 1 + end as u8).into()
}

fn stack(wire: &Rc<RefCell<Wire>>, end: usize, identity: &KeyPair, now: Instant) -> Stack<End> {
    let config = StackConfig::new(address(end), 24, PORT);
    let port = End { wire: Rc::clone(wire), end };
    Stack::new(port, config, identity.clone(), Allowed::default(), now).expect("a stack")
}

/// Everything that two hosts say until they are connected and a message has passed, as the second hears it.
fn conversation(identities: &[KeyPair; 2], started: Instant) -> Vec<Vec<u8>> {
    let wire = Rc::new(RefCell::new(Wire::default()));
    let mut now = started;
    let mut stacks = [0, 1].map(|end| stack(&wire, end, &identities[end], now));
    stacks[1].allowed().insert(identities[0].public());
    let peer = SocketAddr::new(address(1), PORT);
    let connection = stacks[0].connect(peer, identities[1].public(), now).expect("a connection");
    let mut heard = Vec::new();
    for _ in 0..2_000 {
        now += Duration::from_millis(2);
        stacks[0].poll(now);
        heard.extend(wire.borrow().to[1].iter().cloned());
        stacks[1].poll(now);
        while let Some(event) = stacks[0].next_event() {
            if matches!(event, Event::Connected { .. }) {
                stacks[0].send_control(connection, b"what is said").expect("connected");
            }
        }
    }
    heard
}

fn packed(frames: &[Vec<u8>]) -> Vec<u8> {
    let piece = |frame: &Vec<u8>| [&(frame.len() as u16).to_le_bytes()[..], frame].concat();
    frames.iter().flat_map(piece).collect()
}

pub(super) fn prepare() -> Result<Prepared, String> {
    let identities = [0, 1].map(|_| KeyPair::generate().expect("a key"));
    let started = Instant::now();
    let heard = conversation(&identities, started);
    assert!(heard.len() > 5, "they talked: {} frames", heard.len());
    let mut inputs = vec![packed(&heard[..heard.len().min(12)])];
    inputs.extend(heard.iter().take(12).map(|frame| packed(std::slice::from_ref(frame))));
    let [caller, listener] = identities;
    let execute = move |input: &[u8]| {
        let wire = Rc::new(RefCell::new(Wire::default()));
        let mut now = started;
        let mut stack = stack(&wire, 1, &listener, now);
        stack.allowed().insert(caller.public());
        // It calls somebody too, so that answers mean something to it.
        let _ = stack.connect(SocketAddr::new(address(0), PORT), caller.public(), now);
        let (mut rest, mut frames) = (input, 0);
        while let Some((length, behind)) = rest.split_first_chunk::<2>() {
            let (frame, behind) = behind.split_at(behind.len().min(u16::from_le_bytes(*length).into()));
            rest = behind;
            frames += 1;
            wire.borrow_mut().to[1].push_back(frame.to_vec());
            now += Duration::from_millis(3);
            stack.poll(now);
            while stack.next_event().is_some() {}
        }
        for _ in 0..20 {
            now = stack.next_timeout(now).unwrap_or(now).max(now + Duration::from_millis(1));
            stack.poll(now);
        }
        let _ = (stack.neighbours(now), stack.conflict(), stack.counters());
        Outcome::taken_if(frames > 0)
    };
    Ok(Prepared { inputs, text: false, bytes_max: BYTES_MAX, execute: Box::new(execute) })
}
