//! Readers that break on the one input in many that has a certain byte, each in its way.

use super::{Outcome, Prepared, Target};

const INPUT: [u8; 64] = [7; 64];
const WRONG: u8 = 0xa5;

/// Each of them is found out.
pub(crate) const ALL: &[Target] = &[
    Target { name: "panics", executions: 1_000_000, prepare: || Ok(reader(|| panic!("on purpose"))) },
    Target { name: "panics-on-a-thread", executions: 1_000_000, prepare: || Ok(reader(on_a_thread)) },
    Target { name: "ends-the-process", executions: 1_000_000, prepare: || Ok(reader(|| std::process::abort())) },
    Target { name: "takes-memory", executions: 1_000_000, prepare: || Ok(reader(take_memory)) },
];

fn on_a_thread() {
    let _ = std::thread::spawn(|| panic!("on purpose")).join();
}

fn take_memory() {
    std::hint::black_box(vec![1u8; 64 << 20]);
}

fn reader(breaks: fn()) -> Prepared {
    let execute = move |input: &[u8]| {
        if input.contains(&WRONG) {
            breaks();
        }
        Outcome::taken_if(input.len() == INPUT.len())
    };
    Prepared { inputs: vec![INPUT.to_vec()], text: false, bytes_max: 1 << 20, execute: Box::new(execute) }
}
