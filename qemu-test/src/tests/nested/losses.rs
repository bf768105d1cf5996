//! A host that is lost in the middle of a move, and one that loses its datastore for a moment: whatever the move had come to, the VM runs on
//! exactly one host, or starts on the one that is left, and its disk has lost nothing.

use std::time::Duration;

use crate::error::Result;
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::nested::faults::{End, Fault, begin, break_moves, until_hit};
use crate::tests::nested::fences::{heard_on, went_on};
use crate::tests::nested::guest::{HOSTS, MOVE_BOUND};
use crate::tests::tally::Verdict;
use crate::wait;
use crate::wire::Wire;

/// An outage that a lease survives.
pub(super) const BRIEFLY: Duration = Duration::from_secs(5);
/// How long the VM may take to run on the host that is left: the other's lease has to expire.
const RUNS_BOUND: Duration = Duration::from_secs(180);

/// A move waits for the lease and the disks meanwhile, or is given up.
pub(super) fn the_datastore_cable_cut_for_five_seconds_in_a_move(bench: &mut Bench) -> Result<Verdict> {
    cut_for(bench, End::Source, &["pre-copy", "commit"], Wire::Datastore, BRIEFLY)?;
    cut_for(bench, End::Destination, &["commit"], Wire::Datastore, BRIEFLY)
}

/// When the lease is handed over; in the other phases, and at the destination, `cargo lab losses` does it, for which the tests have no minutes.
pub(super) fn the_power_of_the_source_cut_in_the_commit_of_a_move(bench: &mut Bench) -> Result<Verdict> {
    power_lost(bench, End::Source, "commit")
}

/// Lets a host lose its power in a phase of a move, and boots it again.
pub(super) fn power_lost(bench: &mut Bench, end: End, phase: &str) -> Result<Verdict> {
    let lost = until_hit(phase, || lose_power(bench, end, phase))?;
    boot_again(bench, lost)?;
    Ok(Verdict::Passed)
}

/// Boots the host that lost its power in a move: the VM goes on where it is.
fn boot_again(bench: &mut Bench, lost: &str) -> Result<()> {
    let left = if lost == HOSTS[0] { HOSTS[1] } else { HOSTS[0] };
    let machine = bench.fleet.machine(lost)?;
    bench.fleet.boot(std::slice::from_ref(&machine))?;
    bench.comes_back(lost)?;
    expect(bench.settled_on("deb")? == left, || format!("deb does not run on {left} any more"))
}

/// Breaks a move in each of the phases by a cable that is cut for so long.
pub(super) fn cut_for(bench: &Bench, end: End, phases: &[&str], wire: Wire, away: Duration) -> Result<Verdict> {
    let cut = |bench: &Bench, at: &str| bench.fleet.wires().cut(at, wire);
    let mend = |bench: &Bench, at: &str| {
        std::thread::sleep(away);
        bench.fleet.wires().mend(at, wire)
    };
    break_moves(bench, end, phases, &Fault::Within { still: &cut, afterwards: &mend })
}

/// Cuts the power at one end of a move that stands still there, if it does so in this phase, and waits until the VM runs at the other. Whether
/// the phase was hit, and the host that lost its power.
fn lose_power(bench: &mut Bench, end: End, phase: &str) -> Result<(bool, &'static str)> {
    let way = bench.way("deb")?;
    let heard = heard_on(bench, way.source)?;
    let lost = end.of(way);
    let (mut line, token) = begin(bench, way, end, phase, "stop migrate")?;
    let fell_in = bench.phase_on(lost)?;
    if fell_in != phase {
        println!("  the role stood still in {fell_in} and not in {phase}");
        bench.fleet.order(lost, "continue migrate")?;
        line.finish(&token, MOVE_BOUND)?;
        return Ok((false, lost));
    }
    bench.fleet.machine(lost)?.process().kill()?;
    let left = if lost == way.source { way.destination } else { way.source };
    if left == way.source {
        let answer = line.finish(&token, MOVE_BOUND)?;
        println!(
            "  power lost in {phase} on {lost}; {left} says: {}",
            answer.output.lines().next().unwrap_or_default()
        );
    }
    drop(line);
    let by_itself = wait::until(&format!("deb to run on {left}"), RUNS_BOUND, || {
        if bench.state(left, "deb")? == "running" {
            return Ok(Ok(true));
        }
        let started = bench.exec(left, "vm start deb")?;
        Ok(if started.status == 0 { Ok(false) } else { Err(started.output) })
    })?;
    println!("  power lost in {phase} on {lost}: it runs on {left}{}", if by_itself { "" } else { ", started there" });
    went_on(bench, &[heard])?;
    Ok((true, lost))
}
