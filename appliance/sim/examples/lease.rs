//! Runs lease worlds: `cargo run --release -p sim --example lease -- FIRST COUNT`, or `-- trace SEED`.

use sim::lease::seeds::{run_seeds, trace_seed};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse::<u64>().ok());
    if let (Some("trace"), Some(seed)) = (arguments.first().map(String::as_str), number(1)) {
        let outcome = trace_seed(seed);
        for line in &outcome.trace {
            println!("{line}");
        }
        println!("{:?}", outcome.violation);
        return;
    }
    let (first, count) = (number(0).unwrap_or(0), number(1).unwrap_or(1_000));
    println!("{}", run_seeds(first..first + count));
}
