//! Runs lease worlds: `cargo lab sim`, which is this program built for release: `lease FIRST COUNT`, or `lease trace SEED`. With `damaged` before
//! either, those in which leases of VMs are damaged.

use std::process::ExitCode;

use sim::lease::seeds::{Report, run_damaged, run_damaged_seeds, run_seeds, trace_seed};

/// Worlds between two lines that tell how far it is.
const SHOWN_EVERY: u64 = 20_000;

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let is_damaged = arguments.first().is_some_and(|word| word == "damaged");
    if is_damaged {
        arguments.remove(0);
    }
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    if let (Some("trace"), Some(seed)) = (arguments.first().map(String::as_str), number(1)) {
        let outcome = if is_damaged { run_damaged(seed, true) } else { trace_seed(seed) };
        for line in &outcome.trace {
            println!("{line}");
        }
        return match outcome.violation {
            None => {
                println!("seed {seed} keeps every promise");
                ExitCode::SUCCESS
            }
            Some(violation) => {
                println!("seed {seed}: {violation}");
                ExitCode::FAILURE
            }
        };
    }
    let (first, count) = (number(0).unwrap_or(0), number(1).unwrap_or(1_000));
    let (mut report, mut next, end) = (Report::default(), first, first.saturating_add(count));
    while next < end {
        let upto = end.min(next.saturating_add(SHOWN_EVERY));
        report.merge(if is_damaged { run_damaged_seeds(next..upto) } else { run_seeds(next..upto) });
        next = upto;
        if next < end {
            eprintln!("{} of {count} seeds, {} failures", next - first, report.failures.len());
        }
    }
    println!("{report}");
    if report.failures.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("appliance/sim/seeds/lease.txt keeps seeds that failed once: one a line, with what they broke");
    ExitCode::FAILURE
}
