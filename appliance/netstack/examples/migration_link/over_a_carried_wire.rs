//! How much of a line both use that delays and loses.

use std::time::Duration;

use crate::arguments::{Arguments, CarriedWire};
use crate::figures::{Figures, median};
use crate::world::Wire;
use crate::world::direction::Nature;
use crate::{kernel_tcp, migration_stack};

/// Time that a frame may wait for the line, at least: what a host's queue of 1,000 frames holds at 1 Gbit/s is more. A shorter one
/// would overflow when the thread that carries waits for a processor.
const QUEUE_LEAST: Duration = Duration::from_millis(5);

/// Measures and prints.
pub(crate) fn run(arguments: &Arguments, wire: &CarriedWire) {
    let line = wire.bits_a_second as f64 / 1e9;
    if !arguments.json {
        println!(
            "one flow, payload Gbit/s, medians of {} of {} s, in turns; line of {line} Gbit/s, MTU {}, a queue of 5 ms or one \
             round trip; late: by which frames came later than due (mean, most); full: frames in ten thousand that found \
             the queue full; ratio: the stack's payload to this one's",
            arguments.repeat,
            arguments.time.as_secs(),
            wire.mtu
        );
        println!(
            "{:>7} {:>6}  {:<18} {:>7} {:>7} {:>6} {:>13} {:>5}",
            "RTT ms", "loss %", "", "Gbit/s", "% line", "ratio", "late us", "full"
        );
    }
    let free = Nature { bits_a_second: u64::MAX, ..nature(wire, Duration::ZERO, 0) };
    cell(arguments, free, None);
    for round_trip in &wire.round_trips {
        for ppm in &wire.losses_ppm {
            cell(arguments, nature(wire, *round_trip, *ppm), Some(line));
        }
    }
}

fn nature(wire: &CarriedWire, round_trip: Duration, lost_ppm: u32) -> Nature {
    Nature {
        bits_a_second: wire.bits_a_second,
        queue: QUEUE_LEAST.max(round_trip),
        mtu: wire.mtu,
        path_mtu: wire.mtu,
        ..Nature::new(1, round_trip).losing(lost_ppm)
    }
}

/// All contestants over wires of one nature, which lose the same with each; `line` in Gbit/s.
fn cell(arguments: &Arguments, nature: Nature, line: Option<f64>) {
    let controls = kernel_tcp::congestion_controls();
    let mut series: Vec<Vec<Figures>> = (0..=controls.len()).map(|_| Vec::new()).collect();
    for seed in 1..=arguments.repeat {
        for (at, figures) in series.iter_mut().enumerate() {
            // A wire of its own for each: neither a queue nor what TCP remembers of a peer is left by another.
            let wire = Wire::carried(nature, seed);
            let mut measured = match controls.get(at) {
                Some(control) => kernel_tcp::measure(&wire, nature.mtu, arguments.time, control),
                None => migration_stack::measure(&wire, nature.mtu, arguments.time),
            };
            measured.wire = wire.tally();
            figures.push(measured);
        }
    }
    let medians: Vec<Figures> = series.into_iter().map(median).collect();
    let ours = medians.last().map_or(f64::NAN, |ours| ours.gbits);
    for figures in &medians {
        print(arguments.json, figures, nature, line, ours / figures.gbits);
    }
}

fn print(json: bool, figures: &Figures, nature: Nature, line: Option<f64>, ratio: f64) {
    let (rtt, loss) = (nature.delay.as_secs_f64() * 2e3, f64::from(nature.lost_ppm) / 1e4);
    let Figures { what, mtu, gbits, .. } = figures;
    let tally = figures.wire.unwrap_or_default();
    let full = tally.overflowed as f64 * 1e4 / (tally.carried + tally.lost + tally.overflowed).max(1) as f64;
    let (mean, most) = (tally.late_mean().as_micros(), tally.latest.as_micros());
    if json {
        let line = line.map_or("null".into(), |line| line.to_string());
        println!(
            "{{\"what\":\"{what}\",\"mtu\":{mtu},\"rtt_ms\":{rtt},\"loss_percent\":{loss},\"line_gbits\":{line},\"gbits\":{gbits:.4},\
             \"ratio\":{ratio:.2},\"late_us_mean\":{mean},\"late_us_max\":{most},\"full_in_10000\":{full:.1}}}"
        );
        return;
    }
    let (rtt, of_line) = match line {
        Some(line) => (format!("{rtt}"), format!("{:.1}", 100.0 * gbits / line)),
        None => ("the wire".into(), "-".into()),
    };
    println!("{rtt:>8} {loss:>6}  {what:<18} {gbits:>6.3} {of_line:>7} {ratio:>6.2} {mean:>6} {most:>6} {full:>5.1}");
}
