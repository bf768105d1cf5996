//! Measures the migration stack over a veth between two namespaces, next to kernel TCP on the same veth.
//!
//! `cargo run --release -p netstack --example migration_link [-- --seconds 3 --repeat 3 --stuns 300 --json]`, as root.
//! Prints payload Gbit/s, the same for each busy core of sender and receiver, and the stun case: 2 MiB after 20 ms of
//! silence until the peer's application says that it has them.

#[path = "../tests/world/mod.rs"]
mod world;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use netstack::nic::Nic;
use netstack::stack::TransportLimits;
use netstack::stream::RECORD_MAX;
use netstack::{ConnectionId, Event, SendError};
use rustix::time::{ClockId, clock_gettime};
use world::{Host, Wire, run};

const STUN_BYTES: usize = 2 << 20;

/// One measurement: payload, and the processor time of the thread at each end.
struct Figures {
    what: &'static str,
    mtu: u16,
    gbits: f64,
    sender: f64,
    receiver: f64,
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn gbits(bytes: u64, time: Duration) -> f64 {
    bytes as f64 * 8.0 / time.as_secs_f64() / 1e9
}

fn kernel_tcp(wire: &Wire, mtu: u16, time: Duration) -> Figures {
    let (ready, wait) = mpsc::channel();
    thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            Wire::within(&wire.b, move || {
                let listener = TcpListener::bind("10.75.0.2:7475").unwrap();
                ready.send(()).unwrap();
                let (mut stream, _) = listener.accept().unwrap();
                let (mut buffer, mut bytes, start) = (vec![0; RECORD_MAX], 0u64, Instant::now());
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    bytes += length as u64;
                }
                (bytes, start.elapsed(), cpu())
            })
        });
        let sender = scope.spawn(|| {
            Wire::within(&wire.a, move || {
                wait.recv().unwrap();
                let mut stream = TcpStream::connect("10.75.0.2:7475").unwrap();
                let (buffer, start) = (vec![1; RECORD_MAX], Instant::now());
                while start.elapsed() < time {
                    stream.write_all(&buffer).unwrap();
                }
                cpu()
            })
        });
        let (bytes, elapsed, receiver_cpu) = receiver.join().unwrap();
        let sender_cpu = sender.join().unwrap();
        let (sender, receiver) = (gbits(bytes, sender_cpu), gbits(bytes, receiver_cpu));
        Figures { what: "kernel TCP", mtu, gbits: gbits(bytes, elapsed), sender, receiver }
    })
}

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

fn dial(host: &mut Host<Nic>, peer: &world_peer::Peer) -> ConnectionId {
    let id = host.stack.connect(peer.address, peer.key, Instant::now()).unwrap();
    loop {
        host.poll();
        if host.connected().is_some() {
            return id;
        }
        assert_eq!(host.closed(), None);
        host.stack.wait(Instant::now(), None, &[]).unwrap();
    }
}

mod world_peer {
    /// Whom to call.
    pub(crate) struct Peer {
        pub(crate) address: std::net::SocketAddr,
        pub(crate) key: netstack::PublicKey,
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
    let peer = world_peer::Peer { address: b.address, key: b.key };
    thread::scope(|scope| {
        let receiver = scope.spawn(move || serve(b));
        let id = dial(&mut a, &peer);
        let result = work(&mut a, id);
        a.stack.close(id, 0, "done", Instant::now());
        (result, receiver.join().unwrap().1)
    })
}

fn migration_stack(wire: &Wire, mtu: u16, time: Duration) -> Figures {
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
    let (sender, receiver) = (gbits(bytes, sender_cpu), gbits(bytes, receiver_cpu));
    Figures { what: "migration stack", mtu, gbits: gbits(bytes, elapsed), sender, receiver }
}

/// Milliseconds of each stun, sorted.
fn stuns(wire: &Wire, count: usize) -> Vec<f64> {
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

fn number(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).map_or(default, |text| text.parse().expect("a number"))
}

fn median(mut figures: Vec<Figures>) -> Figures {
    figures.sort_by(|one, other| one.gbits.total_cmp(&other.gbits));
    figures.swap_remove(figures.len() / 2)
}

fn main() {
    if world::cannot_run() {
        return;
    }
    let json = std::env::args().any(|argument| argument == "--json");
    let time = Duration::from_secs(number("--seconds", 3));
    let (repeat, count) = (number("--repeat", 3), number("--stuns", 300) as usize);
    if !json {
        println!("one flow, payload Gbit/s, medians of {repeat}; per core: Gbit/s divided by the cores kept busy");
        println!("{:<16} {:>5} {:>8} {:>16} {:>18}", "", "MTU", "Gbit/s", "per sender core", "per receiver core");
    }
    for mtu in [1500, 9000] {
        let wire = Wire::new(mtu, mtu);
        for (namespace, last) in [(&wire.a, 1), (&wire.b, 2)] {
            run(&format!("ip -n {namespace} addr add 10.75.0.{last}/24 dev mig0"));
            run(&format!("ip -n {namespace} link set mig0 up"));
        }
        let tcp = median((0..repeat).map(|_| kernel_tcp(&wire, mtu, time)).collect());
        for namespace in [&wire.a, &wire.b] {
            run(&format!("ip -n {namespace} addr flush dev mig0"));
        }
        let ours = median((0..repeat).map(|_| migration_stack(&wire, mtu, time)).collect());
        for figures in [tcp, ours] {
            let Figures { what, mtu, gbits, sender, receiver } = figures;
            if json {
                println!(
                    "{{\"what\":\"{what}\",\"mtu\":{mtu},\"gbits\":{gbits:.2},\"gbits_per_sender_core\":{sender:.2},\"gbits_per_receiver_core\":{receiver:.2}}}"
                );
            } else {
                println!("{what:<16} {mtu:>5} {gbits:>8.1} {sender:>16.1} {receiver:>18.1}");
            }
        }
        if count == 0 {
            continue;
        }
        let times = stuns(&wire, count);
        let (p50, p99, most) = (times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]);
        if json {
            println!(
                "{{\"what\":\"stun\",\"mtu\":{mtu},\"p50_ms\":{p50:.3},\"p99_ms\":{p99:.3},\"max_ms\":{most:.3}}}"
            );
        } else {
            println!("2 MiB after 20 ms of silence, MTU {mtu}: p50 {p50:.2} ms, p99 {p99:.2} ms, max {most:.2} ms");
        }
    }
}
