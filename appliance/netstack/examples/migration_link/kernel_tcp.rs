//! Kernel TCP, one flow.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use netstack::stream::RECORD_MAX;

use crate::figures::{Figures, cpu};
use crate::world::{Wire, run};

/// Bytes that a socket may hold, so that no window is shorter than the longest path here (1 Gbit/s, 75 ms: 9.4 MB).
const BUFFER_MAX: &str = "4096 131072 67108864";

/// What the kernel uses where nobody asks for another.
pub(crate) fn default_congestion_control() -> String {
    let name = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    name.trim().to_owned()
}

/// All that this kernel offers.
pub(crate) fn congestion_controls() -> Vec<String> {
    let names = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap_or_default();
    names.split_whitespace().map(str::to_owned).collect()
}

/// Gives the wire's ends addresses and sends for so long.
pub(crate) fn measure(wire: &Wire, mtu: u16, time: Duration, control: &str) -> Figures {
    for (namespace, last) in [(&wire.a, 1), (&wire.b, 2)] {
        run(&format!("ip -n {namespace} addr add 10.75.0.{last}/24 dev mig0"));
        run(&format!("ip -n {namespace} link set mig0 up"));
        Wire::within(namespace, || {
            for direction in ["rmem", "wmem"] {
                std::fs::write(format!("/proc/sys/net/ipv4/tcp_{direction}"), BUFFER_MAX).unwrap();
            }
        });
    }
    let figures = flow(wire, mtu, time, control);
    for namespace in [&wire.a, &wire.b] {
        run(&format!("ip -n {namespace} addr flush dev mig0"));
    }
    figures
}

fn flow(wire: &Wire, mtu: u16, time: Duration, control: &str) -> Figures {
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
                rustix::net::sockopt::set_tcp_congestion(&stream, control).unwrap();
                let (buffer, start) = (vec![1; RECORD_MAX], Instant::now());
                while start.elapsed() < time {
                    stream.write_all(&buffer).unwrap();
                }
                cpu()
            })
        });
        let (bytes, elapsed, receiver_cpu) = receiver.join().unwrap();
        let sender_cpu = sender.join().unwrap();
        Figures::new(format!("kernel TCP, {control}"), mtu, bytes, elapsed, [sender_cpu, receiver_cpu])
    })
}
