//! Goodput and the stun case on a simulated link in virtual time: the transport's table of `docs/benchmarks.md`.
//!
//! `cargo run --release -p netstack --example simulated_link [-- --quick]`

#[path = "../tests/world/mod.rs"]
mod world;

use std::time::Duration;

use netstack::stack::TransportLimits;
use world::direction::Nature;
use world::simulated::Simulated;

fn limits() -> TransportLimits {
    TransportLimits {
        send_window_bytes: 256 << 20,
        receive_window_bytes: 256 << 20,
        idle_timeout: Duration::from_secs(60),
        handshake_timeout: Duration::from_secs(60),
        ..TransportLimits::default()
    }
}

/// Per cent of the line, start included, for a transfer that would take a second (40 RTTs at least) at line rate.
fn goodput(nature: Nature, gbits: u64, rtt: Duration) -> f64 {
    let mut world = Simulated::connected(nature, 7, &limits());
    let ideal = Duration::from_secs(1).max(rtt * 40);
    let bytes = (gbits as f64 * 1e9 / 8.0 * ideal.as_secs_f64()) as usize;
    let took = world.transfer(bytes, Duration::from_secs(3600));
    100.0 * ideal.as_secs_f64() / took.as_secs_f64()
}

fn stuns(nature: Nature, count: usize) -> Vec<f64> {
    let mut world = Simulated::connected(nature, 11, &limits());
    world.transfer(256 << 20, Duration::from_secs(600));
    let mut times: Vec<f64> = (0..count)
        .map(|_| {
            let until = world.now() + Duration::from_millis(20);
            world.until(Duration::from_secs(60), |world| world.now() >= until);
            world.transfer(2 << 20, Duration::from_secs(60)).as_secs_f64() * 1e3
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    println!("goodput, % of the line (payload / line rate; 93.8 is all that headers leave at MTU 1500)");
    println!("{:>8} {:>7} {:>8} {:>8}", "RTT ms", "loss %", "1 Gbit/s", "10 Gbit/s");
    let cells: &[(u64, u32)] = if quick {
        &[(200, 0), (200, 10_000), (10_000, 10_000)]
    } else {
        &[
            (200, 0),
            (200, 1_000),
            (200, 10_000),
            (1_000, 0),
            (1_000, 1_000),
            (1_000, 10_000),
            (10_000, 0),
            (10_000, 1_000),
            (10_000, 10_000),
            (75_000, 1_000),
            (75_000, 10_000),
        ]
    };
    for (rtt, ppm) in cells {
        let time = Duration::from_micros(*rtt);
        let slow = goodput(Nature::new(1, time).losing(*ppm), 1, time);
        let fast = goodput(Nature::new(10, time).losing(*ppm), 10, time);
        println!("{:>8} {:>7} {slow:>8.1} {fast:>8.1}", *rtt as f64 / 1e3, f64::from(*ppm) / 1e4);
    }
    println!("hosts that look at the wire only every 0 to 1 ms, RTT 0.2 ms:");
    for (gbits, ppm) in [(1, 0), (10, 0), (10, 1_000)] {
        let time = Duration::from_micros(200);
        let nature = Nature { busy: Duration::from_millis(1), ..Nature::new(gbits, time).losing(ppm) };
        let queue = Duration::from_millis(20);
        let all = goodput(Nature { queue, ..nature }, gbits, time);
        println!("{gbits:>2} Gbit/s, loss {} %: {all:.1}", f64::from(ppm) / 1e4);
    }
    println!("2 MiB after 20 ms of silence at 10 Gbit/s, until the peer's application has them: p50 / p99 / max ms");
    let cases = [(200, 0, 0), (200, 1_000, 0), (200, 10_000, 0), (1_000, 10_000, 0), (200, 0, 1)];
    for (rtt, ppm, busy) in cases {
        let nature = Nature { busy: Duration::from_millis(busy), ..Nature::new(10, Duration::from_micros(rtt)) };
        let times = stuns(nature.losing(ppm), if quick { 50 } else { 300 });
        let (p50, p99, most) = (times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]);
        let loss = f64::from(ppm) / 1e4;
        println!("RTT {} ms, loss {loss} %, busy {busy} ms: {p50:.1} / {p99:.1} / {most:.1}", rtt as f64 / 1e3);
    }
}
