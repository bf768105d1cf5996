//! How fast both are where nothing but the processors bounds them.

use crate::arguments::Arguments;
use crate::figures::{Figures, median};
use crate::world::Wire;
use crate::{kernel_tcp, migration_stack};

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments) {
    let Arguments { time, repeat, stuns, json, .. } = *arguments;
    if !json {
        println!("one flow, payload Gbit/s, medians of {repeat}; per core: Gbit/s divided by the cores kept busy");
        println!("{:<16} {:>5} {:>8} {:>16} {:>18}", "", "MTU", "Gbit/s", "per sender core", "per receiver core");
    }
    for mtu in [1500, 9000] {
        let wire = Wire::new(mtu, mtu);
        let control = kernel_tcp::default_congestion_control();
        let tcp = median((0..repeat).map(|_| kernel_tcp::measure(&wire, mtu, time, &control)).collect());
        let ours = median((0..repeat).map(|_| migration_stack::measure(&wire, mtu, time)).collect());
        for Figures { what, mtu, gbits, per_core: [sender, receiver], .. } in [tcp, ours] {
            if json {
                println!(
                    "{{\"what\":\"{what}\",\"mtu\":{mtu},\"gbits\":{gbits:.2},\"gbits_per_sender_core\":{sender:.2},\"gbits_per_receiver_core\":{receiver:.2}}}"
                );
            } else {
                println!("{what:<16} {mtu:>5} {gbits:>8.1} {sender:>16.1} {receiver:>18.1}");
            }
        }
        if stuns == 0 {
            continue;
        }
        let times = migration_stack::stuns(&wire, stuns);
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
