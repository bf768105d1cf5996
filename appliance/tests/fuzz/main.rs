//! Everything that comes from another host, a datastore or another role, given to what reads it: real inputs, changed by a seed's choice.
//!
//! ```text
//!   target: real inputs ----> mutation (seed) ----> worker, a process of its own: reads it, uses what was taken
//!                                ^  inputs that were taken  |        | panic, end, no end, too much memory
//!                                +--------------------------+        v
//!                                                      the input is stored, to be kept in tests/fuzz/inputs/TARGET
//! ```
//!
//! `cargo lab fuzz` runs them for as long as one wants (`GODWIT_FUZZ_SECONDS`, `GODWIT_FUZZ_SEED`, `GODWIT_FUZZ_TARGET`); as a test each runs a few
//! inputs from one seed, and all that are kept.
//!
//! In reading order: [`targets`] (what is read, one file each), [`mutation`], [`allocation`] (how much memory an input costs), [`worker`].

mod allocation;
mod mutation;
mod targets;
mod worker;

use std::time::Duration;

use worker::{Amount, Found};

/// Where nothing else is asked for.
const SEED: u64 = 20_261_201;

fn asked<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no such value: {text}")))
}

#[test]
fn no_bytes_of_another_host_or_datastore_or_role_bring_a_reader_down() {
    let seed = asked("GODWIT_FUZZ_SEED").unwrap_or(SEED);
    let seconds: Option<u64> = asked("GODWIT_FUZZ_SECONDS");
    let only: Option<String> = asked("GODWIT_FUZZ_TARGET");
    let chosen: Vec<_> =
        targets::ALL.iter().filter(|target| only.as_ref().is_none_or(|only| only == target.name)).collect();
    let names: Vec<_> = targets::ALL.iter().map(|target| target.name).collect();
    assert!(!chosen.is_empty(), "there is no such target; there are: {}", names.join(", "));
    let mut failures = Vec::new();
    for target in chosen {
        let amount = match seconds {
            Some(seconds) => Amount::Time(Duration::from_secs(seconds)),
            None => Amount::Executions(target.executions),
        };
        match worker::run(target.name, seed, amount) {
            Found::Nothing(done) => println!("{done}"),
            Found::NotTried(why) => println!("{}: not tried: {why}", target.name),
            Found::Failure(failure) => {
                println!("{failure}");
                failures.push(target.name);
            }
        }
    }
    assert!(failures.is_empty(), "{} (see above)", failures.join(", "));
}

#[test]
fn a_reader_that_breaks_is_found_out_with_its_input_in_whatever_way_it_does() {
    let told = targets::broken::ALL.iter().map(|target| {
        match worker::run(target.name, SEED, Amount::Executions(target.executions)) {
            Found::Failure(failure) => failure,
            Found::Nothing(done) | Found::NotTried(done) => panic!("it was not found out: {done}"),
        }
    });
    for (told, words) in told.zip(["on purpose", "on purpose", "signal: 6", "bytes of memory"]) {
        assert!(told.contains(words), "{told}");
        let input = told.split("it is stored in ").nth(1).and_then(|rest| rest.split(';').next()).expect("a file");
        assert!(std::fs::read(input).expect("the input").contains(&0xa5), "{told}");
        std::fs::remove_file(input).expect("the input");
    }
}

/// One target, in a process of its own.
#[test]
#[ignore = "started by the test above"]
fn worker() {
    if let Some(order) = worker::Order::of_environment() {
        worker::work(&order);
    }
}
