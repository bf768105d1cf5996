//! The migration stack, one flow, and the stun case.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netstack::nic::Nic;
use netstack::stack::TransportLimits;
use netstack::stream::RECORD_MAX;
use netstack::{ConnectionId, Event, PublicKey, SendError};

use crate::figures::{Figures, cpu};
use crate::world::{Host, Wire};

const STUN_BYTES: usize = 2 << 20;

fn host(namespace: &str, last: u8) -> Host<Nic> {
    Host::with_limits(Wire::nic(namespace, None).unwrap(), last, false, TransportLimits::default())
}

/// The receiving host: takes records until told the end; answers each `until-N` when N bytes have come.
fn serve(mut host: Host<Nic>) -> (u64, Duration) {
    let (mut bytes, mut wanted, mut started) = (0u64, None, None);
    let mut connection: Option<ConnectionId> = None;
    loop {
        host.poll();
        if let Some(id) = connection {
            let now = Instant::now();
            while let Some(record) = host.stack.recv_record(id, now) {
                started.get_or_insert_with(|| (now, cpu()));
                bytes += record.len() as u64;
            }
            while let Some(message) = host.stack.recv_control(id, now) {
                wanted = Some(u64::from_le_bytes(message[..8].try_into().unwrap()));
            }
            if wanted == Some(bytes) {
                wanted = None;
                host.stack.send_control(id, &bytes.to_le_bytes()).unwrap();
                host.poll();
            }
        }
        for event in host.events.split_off(0) {
            match event {
                Event::Connected { connection: id, .. } => connection = Some(id),
                Event::Closed { .. } => return (bytes, cpu().saturating_sub(started.map_or(cpu(), |(_, cpu)| cpu))),
                _ => {}
            }
        }
        host.stack.wait(Instant::now(), None, &[]).unwrap();
    }
}

fn dial(host: &mut Host<Nic>, address: SocketAddr, key: PublicKey) -> ConnectionId {
    let id = host.stack.connect(address, key, Instant::now()).unwrap();
    loop {
        host.poll();
        if host.connected().is_some() {
            return id;
        }
        assert_eq!(host.closed(), None);
        host.stack.wait(Instant::now(), None, &[]).unwrap();
    }
}

fn send_all(host: &mut Host<Nic>, id: ConnectionId, records: impl IntoIterator<Item = Bytes>) -> u64 {
    let mut bytes = 0;
    for record in records {
        loop {
            match host.stack.send_record(id, record.clone()) {
                Ok(()) => break,
                Err(SendError::Full) => {
                    host.stack.wait(Instant::now(), None, &[]).unwrap();
                    host.poll();
                    assert_eq!(host.closed(), None);
                    host.events.clear();
                }
                Err(error) => panic!("{error}"),
            }
        }
        bytes += record.len() as u64;
    }
    bytes
}

/// Waits until the peer's application says that it has `bytes` in all.
fn confirmed(host: &mut Host<Nic>, id: ConnectionId, bytes: u64) {
    host.stack.send_control(id, &bytes.to_le_bytes()).unwrap();
    loop {
        host.poll();
        host.events.clear();
        if host.stack.recv_control(id, Instant::now()).is_some() {
            return;
        }
        host.stack.wait(Instant::now(), None, &[]).unwrap();
    }
}

/// Runs `work` on a sender while the other host serves; gives its result and the receiver's processor time.
fn with_peer<T: Send>(wire: &Wire, work: impl FnOnce(&mut Host<Nic>, ConnectionId) -> T + Send) -> (T, Duration) {
    let b = host(&wire.b, 2);
    let mut a = host(&wire.a, 1);
    b.stack.allowed().insert(a.key);
    let (address, key) = (b.address, b.key);
    thread::scope(|scope| {
        let receiver = scope.spawn(move || serve(b));
        let id = dial(&mut a, address, key);
        let result = work(&mut a, id);
        a.stack.close(id, 0, "done", Instant::now());
        (result, receiver.join().unwrap().1)
    })
}

/// Sends for so long, and until the peer's application has it all.
pub(crate) fn measure(wire: &Wire, mtu: u16, time: Duration) -> Figures {
    let record = Bytes::from(vec![0x5a; RECORD_MAX]);
    let ((bytes, elapsed, sender_cpu), receiver_cpu) = with_peer(wire, |host, id| {
        let (start, cpu_start) = (Instant::now(), cpu());
        let mut bytes = 0;
        while start.elapsed() < time {
            bytes += send_all(host, id, std::iter::repeat_n(record.clone(), 16));
        }
        confirmed(host, id, bytes);
        (bytes, start.elapsed(), cpu() - cpu_start)
    });
    Figures::new("migration stack".into(), mtu, bytes, elapsed, [sender_cpu, receiver_cpu])
}

/// Milliseconds of each stun, sorted.
pub(crate) fn stuns(wire: &Wire, count: usize) -> Vec<f64> {
    let record = Bytes::from(vec![0x5a; RECORD_MAX]);
    let (mut times, _) = with_peer(wire, |host, id| {
        // A migration has sent gigabytes before its stun.
        let mut bytes = send_all(host, id, std::iter::repeat_n(record.clone(), 2048));
        confirmed(host, id, bytes);
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let silence = Instant::now() + Duration::from_millis(20);
            while Instant::now() < silence {
                host.stack.wait(Instant::now(), Some(silence), &[]).unwrap();
                host.poll();
            }
            let start = Instant::now();
            bytes += send_all(host, id, std::iter::repeat_n(record.clone(), STUN_BYTES / RECORD_MAX));
            confirmed(host, id, bytes);
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times
    });
    times.sort_by(f64::total_cmp);
    times
}
