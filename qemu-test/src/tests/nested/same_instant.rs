//! Two hosts that start the same VMs at the same instants, again and again: each VM is won by exactly one.

use std::path::Path;
use std::sync::Barrier;
use std::time::Duration;

use crate::console::{Answer, SerialLine};
use crate::error::{LabError, Result};
use crate::guests;
use crate::home::Home;
use crate::image;
use crate::servers::Make;
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::nested::guest::HOSTS;

/// VMs of a round.
const VMS: usize = 10;
/// How long a start may take whose lease both want.
const START_BOUND: Duration = Duration::from_secs(120);

/// Lets both hosts start each VM at the same instant, so many rounds, and prints who won how many.
///
/// # Errors
/// A VM was won by both hosts or by none, or runs elsewhere than the host says that won it.
pub fn contend(home: &Home, make: Make, rounds: u32) -> Result<()> {
    let image = image::build(home)?;
    let bench = Bench::up_with(home, make, image, place)?;
    let mut won = [0; HOSTS.len()];
    for round in 1..=rounds {
        let winners = race(&bench)?;
        for host in 0..HOSTS.len() {
            let mine: Vec<usize> = (0..VMS).filter(|vm| winners[*vm] == host).collect();
            runs(&bench, HOSTS[host], &mine)?;
            won[host] += mine.len();
        }
        // Beside each other, as they were started.
        std::thread::scope(|scope| {
            let (bench, winners) = (&bench, &winners);
            let ends: Vec<_> = (0..HOSTS.len()).map(|host| scope.spawn(move || end(bench, host, winners))).collect();
            ends.into_iter().try_for_each(|end| end.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })?;
        println!("  round {round}: {won:?} starts won by {HOSTS:?}");
    }
    Ok(())
}

fn name(vm: usize) -> String {
    format!("contended{vm}")
}

/// The VMs: copies of the witness that take little memory.
fn place(home: &Home, datastore: &Path) -> Result<()> {
    (0..VMS).try_for_each(|vm| guests::place_small_witness(home, datastore, &name(vm), 500))
}

/// Starts each VM on both hosts at once; gives the winner of each.
fn race(bench: &Bench) -> Result<Vec<usize>> {
    let ready = Barrier::new(HOSTS.len());
    let start = |host: &str| -> Result<Vec<Answer>> {
        let mut line = bench.fleet.machine(host).and_then(|machine| SerialLine::open(&machine));
        let mut answers = Vec::new();
        for vm in 0..VMS {
            // Both come here for each VM, also where one of them has failed: the other would wait for ever.
            ready.wait();
            answers.push(
                line.as_mut()
                    .map_err(|error| LabError::Input(error.to_string()))
                    .and_then(|line| line.exec_within(&format!("vm start {}", name(vm)), START_BOUND)),
            );
        }
        answers.into_iter().collect()
    };
    let answers = std::thread::scope(|scope| {
        HOSTS
            .map(|host| scope.spawn(move || start(host)))
            .map(|start| start.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let [first, second] = answers;
    let (first, second) = (first?, second?);
    let winner = |vm: usize| match (first[vm].status, second[vm].status) {
        (0, status) if status != 0 => Ok(0),
        (status, 0) if status != 0 => Ok(1),
        _ => Err(LabError::Input(format!("{}: host-a: {:?}; host-b: {:?}", name(vm), first[vm], second[vm]))),
    };
    (0..VMS).map(winner).collect()
}

/// The host has monitors of these VMs and of no other.
fn runs(bench: &Bench, host: &str, vms: &[usize]) -> Result<()> {
    let processes = bench.fleet.order(host, "processes")?.output;
    let has = |vm: &usize| processes.lines().any(|line| line.ends_with(&format!(" vmm {}", name(*vm))));
    let found: Vec<usize> = (0..VMS).filter(has).collect();
    expect(found == vms, || format!("{host} says that it started {vms:?}, and has monitors of {found:?}"))
}

fn end(bench: &Bench, host: usize, winners: &[usize]) -> Result<()> {
    (0..VMS)
        .filter(|vm| winners[*vm] == host)
        .try_for_each(|vm| bench.done(HOSTS[host], &format!("vm kill {}", name(vm))).map(drop))
}
