//! Moves and roles that are broken on purpose: whatever happens, the VM runs on exactly one host, and its disk and its
//! clients have lost nothing.

use std::time::Duration;

use crate::console::{Answer, SerialLine};
use crate::error::{LabError, Result};
use crate::tests::nested::bench::{Bench, expect, says};
use crate::tests::nested::guest::{HOSTS, MOVE_BOUND, Way};
use crate::tests::nested::losses::cut_for;
use crate::tests::tally::Verdict;
use crate::wire::Wire;

/// Longer than a peer may be silent.
pub(super) const CABLE_AWAY: Duration = Duration::from_secs(8);
/// Memory under load in a move that is broken, MiB, and its pages a second.
const LOAD: (u32, u32) = (16, 200);
/// Moves that are begun until one can be stopped in a phase that lasts some milliseconds only.
const TRIES: u32 = 6;

pub(super) fn migrate_killed_at_the_source_in_every_phase_of_a_move(bench: &mut Bench) -> Result<Verdict> {
    let phases = ["offer", "pre-copy", "stun", "commit", "audit"];
    break_moves(bench, End::Source, &phases, &Fault::AtOnce("kill migrate"))
}

pub(super) fn migrate_killed_at_the_destination_in_every_phase_of_a_move(bench: &mut Bench) -> Result<Verdict> {
    let phases = ["checks", "pre-copy", "verify", "commit", "resume", "audit"];
    break_moves(bench, End::Destination, &phases, &Fault::AtOnce("kill migrate"))
}

pub(super) fn the_monitor_killed_at_the_destination_before_the_commit(bench: &mut Bench) -> Result<Verdict> {
    // In the stun it is the source that stands still: at the destination verification and commit are one step.
    for (end, phase) in [(End::Destination, "pre-copy"), (End::Source, "stun")] {
        until_hit(phase, || {
            let way = bench.way("deb")?;
            let Way { source, destination } = way;
            let kill = |bench: &Bench, _: &str| bench.fleet.order(destination, "kill vmm deb").map(|_| ());
            let fault = Fault::Within { still: &kill, afterwards: &|_, _| Ok(()) };
            let talker = bench.talk("deb")?;
            let (hit, answer) = strike(bench, way, end, phase, &fault)?;
            println!("  killed in {phase}: {}", answer.output.lines().next().unwrap_or_default());
            if answer.output.contains("does not run there") {
                // All had been handed over when the source was stopped, and the commit overtook the kill.
                for host in HOSTS {
                    bench.wait_for_state(host, "deb", "stopped")?;
                }
                return Ok((false, ()));
            }
            if hit {
                let told = answer.status != 0 && answer.output.contains(&format!("still running on {source}"));
                expect(told, || bench.unexpected(source, "vm migrate", &answer).to_string())?;
                expect(bench.settled_on("deb")? == source, || format!("deb does not run on {source}"))?;
                bench.judge(talker, "deb")?;
            }
            Ok((hit, ()))
        })?;
    }
    Ok(Verdict::Passed)
}

pub(super) fn the_migration_cable_cut_in_pre_copy_and_in_the_stun(bench: &mut Bench) -> Result<Verdict> {
    cut_for(bench, End::Source, &["pre-copy", "stun", "commit"], Wire::Migration, CABLE_AWAY)
}

/// A monitor that dies at the source takes its VM with it, as at any time, and the move ends; nothing is left behind, and
/// the VM starts again.
pub(super) fn the_monitor_killed_at_the_source_ends_the_vm_and_its_move(bench: &mut Bench) -> Result<Verdict> {
    let fault = Fault::Within { still: &kill_monitor, afterwards: &|_, _| Ok(()) };
    for phase in ["pre-copy", "stun"] {
        let (source, answer) = until_hit(phase, || {
            let way = bench.way("deb")?;
            let (hit, answer) = strike(bench, way, End::Source, phase, &fault)?;
            // All had been handed over when the role stood still, and the commit overtook the kill.
            let overtaken = hit && answer.status == 0 && bench.settled_on("deb")? == way.destination;
            Ok((hit && !overtaken, (way.source, answer)))
        })?;
        println!("  killed in {phase}: {}", answer.output.lines().next().unwrap_or_default());
        let told = answer.status != 0 && answer.output.contains("stopped") && answer.output.contains("vm start deb");
        expect(told, || bench.unexpected(source, "vm migrate", &answer).to_string())?;
        for host in HOSTS {
            bench.wait_for_state(host, "deb", "stopped")?;
        }
        expect(bench.monitors("deb")?.is_empty(), || "a monitor of a stopped VM is left".into())?;
    }
    bench.way("deb")?;
    let talker = bench.talk("deb")?;
    bench.judge(talker, "deb")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_monitor_that_dies_ends_its_vm_only_and_is_told(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    bench.fleet.order("host-a", "kill vmm deb")?;
    for host in HOSTS {
        bench.wait_for_state(host, "deb", "stopped")?;
    }
    bench.done("host-a", "host show")?;
    bench.done("host-b", "vm start deb")?;
    let talker = bench.talk("deb")?;
    bench.judge(talker, "deb")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_control_plane_that_dies_adopts_its_vms_again(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    let talker = bench.talk("deb")?;
    bench.fleet.order("host-a", "kill host")?;
    // The console says so until the role is back.
    std::thread::sleep(Duration::from_secs(3));
    bench.wait_for_state("host-a", "deb", "running")?;
    expect(bench.settled_on("deb")? == "host-a", || "deb does not run where it ran".into())?;
    bench.judge(talker, "deb")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_lease_role_that_dies_costs_no_vm_and_no_lease(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    let talker = bench.talk("deb")?;
    bench.fleet.order("host-a", "kill lease")?;
    // Longer than the expiry: a successor that did not renew would have lost the VM by now.
    std::thread::sleep(Duration::from_millis(model::limits::LEASE_EXPIRY_MS + 3_000));
    let answer = bench.exec("host-b", "vm start deb")?;
    expect(answer.status != 0 && answer.output.contains("host-a"), || {
        bench.unexpected("host-b", "vm start deb", &answer).to_string()
    })?;
    expect(bench.settled_on("deb")? == "host-a", || "deb does not run where it ran".into())?;
    bench.judge(talker, "deb")?;
    let serial = bench.serial_log("host-a")?;
    // The control plane may have looked before init had it started again.
    let told =
        ["started", "starts"].map(|start| format!("role lease was killed by signal 9, and init {start} it again"));
    expect(told.iter().any(|told| says(&serial, told)), || {
        format!("nobody at the console of host-a is told that a role fell:\n{serial}")
    })?;
    Ok(Verdict::Passed)
}

pub(super) fn two_hosts_that_start_a_vm_at_the_same_instant_agree_on_one(bench: &mut Bench) -> Result<Verdict> {
    for _ in 0..3 {
        bench.end("deb")?;
        let mut lines =
            [SerialLine::open(&bench.fleet.machine("host-a")?)?, SerialLine::open(&bench.fleet.machine("host-b")?)?];
        let [first, second] = &mut lines;
        let tokens = [first.type_command("vm start deb")?, second.type_command("vm start deb")?];
        let answers = [first.finish(&tokens[0], MOVE_BOUND)?, second.finish(&tokens[1], MOVE_BOUND)?];
        drop(lines);
        let won = answers.iter().filter(|answer| answer.status == 0).count();
        expect(won == 1, || format!("{won} hosts say that they started it: {answers:?}"))?;
        let winner = if answers[0].status == 0 { "host-a" } else { "host-b" };
        let loser = answers.iter().find(|answer| answer.status != 0);
        let named = loser.is_some_and(|answer| answer.output.contains(winner));
        expect(named, || format!("the host that lost does not name {winner}: {answers:?}"))?;
        expect(bench.settled_on("deb")? == winner, || format!("deb does not run on {winner}"))?;
    }
    Ok(Verdict::Passed)
}

pub(super) fn kill_monitor(bench: &Bench, at: &str) -> Result<()> {
    bench.fleet.order(at, "kill vmm deb").map(drop)
}

/// An end of a move.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Source,
    Destination,
}

impl End {
    /// The host there.
    pub(super) fn of(self, way: Way) -> &'static str {
        if self == Self::Source { way.source } else { way.destination }
    }
}

/// Something done to a host in a phase of a move.
pub(super) enum Fault<'a> {
    /// An order that the host carries out by itself, some milliseconds after its log told of the phase.
    AtOnce(&'a str),
    /// Something that takes longer than a phase may last: the migration role stands still meanwhile.
    Within { still: Deed<'a>, afterwards: Deed<'a> },
}

/// What is done to a host.
pub(super) type Deed<'a> = &'a dyn Fn(&Bench, &str) -> Result<()>;

impl Fault<'_> {
    /// What the host does when its log tells of the phase.
    fn order(&self) -> &str {
        match self {
            Self::AtOnce(order) => order,
            Self::Within { .. } => "stop migrate",
        }
    }

    /// The rest, on the host `at`; whether it fell into this phase. Where the role was stopped too late, nothing is done.
    fn carry_out(&self, bench: &Bench, at: &str, phase: &str) -> Result<bool> {
        let Self::Within { still, afterwards } = self else { return Ok(true) };
        let fell_in = bench.phase_on(at);
        let hit = fell_in.as_ref().is_ok_and(|fell_in| fell_in == phase);
        let done = if hit { still(bench, at) } else { Ok(()) };
        bench.fleet.order(at, "continue migrate")?;
        done?;
        let fell_in = fell_in?;
        if hit {
            afterwards(bench, at)?;
        } else {
            println!("  the role stood still in {fell_in} and not in {phase}");
        }
        Ok(hit)
    }
}

/// Breaks a move in each of the phases and waits until all is settled: exactly one host runs the VM, and what the command
/// said is so. The client's connection must live through all of them.
pub(super) fn break_moves(bench: &Bench, end: End, phases: &[&str], fault: &Fault<'_>) -> Result<Verdict> {
    bench.way("deb")?;
    let talker = bench.talk("deb")?;
    bench.load_memory("deb", LOAD)?;
    for phase in phases {
        until_hit(phase, || break_move(bench, end, phase, fault))?;
        expect(!talker.has_failed(), || "the client lost its connection".into())?;
    }
    bench.judge_memory("deb")?;
    bench.judge(talker, "deb")?;
    Ok(Verdict::Passed)
}

/// Tries until a fault fell into the phase that it was meant for; what it gave then.
pub(super) fn until_hit<T>(phase: &str, mut strike: impl FnMut() -> Result<(bool, T)>) -> Result<T> {
    for _ in 0..TRIES {
        if let (true, outcome) = strike()? {
            return Ok(outcome);
        }
    }
    Err(LabError::Input(format!("no move could be stopped in the phase {phase}")))
}

/// Starts a move; when it enters a phase at `end`, the fault befalls that host. Whether it fell into the phase, and what the
/// command said.
pub(super) fn strike(bench: &Bench, way: Way, end: End, phase: &str, fault: &Fault<'_>) -> Result<(bool, Answer)> {
    let (mut line, token) = begin(bench, way, end, phase, fault.order())?;
    let hit = fault.carry_out(bench, end.of(way), phase)?;
    Ok((hit, line.finish(&token, MOVE_BOUND)?))
}

/// Starts a move and waits until the host at `end` has carried out an order, which it does when the move enters a phase there. The console at
/// which the move was typed, and the token of that command.
pub(super) fn begin(bench: &Bench, way: Way, end: End, phase: &str, order: &str) -> Result<(SerialLine, String)> {
    let (Way { source, destination }, at) = (way, end.of(way));
    // The roles that the fault before ended are back, and know each other's keys.
    bench.can_move("deb", source, destination)?;
    let pending = bench.fleet.order_when(at, phase, order)?;
    let mut line = SerialLine::open(&bench.fleet.machine(source)?)?;
    let token = line.type_command(&format!("vm migrate deb {destination}"))?;
    let done = pending.wait(MOVE_BOUND)?;
    if done.status != 0 {
        let said = line.finish(&token, MOVE_BOUND)?.output;
        return Err(LabError::Input(format!(
            "{order} in the phase {phase} on {at}: {}; of the move was said: {said}",
            done.output
        )));
    }
    Ok((line, token))
}

fn break_move(bench: &Bench, end: End, phase: &str, fault: &Fault<'_>) -> Result<(bool, ())> {
    let way = bench.way("deb")?;
    let (hit, answer) = strike(bench, way, end, phase, fault)?;
    let now = bench.settled_on("deb")?;
    let verdict = if answer.status == 0 { "moved" } else { "failed" };
    println!("  broken in {phase}: {verdict}, runs on {now}");
    if answer.status != 0 {
        let told = answer.output.contains("error: ") && answer.output.contains("cause: ");
        expect(told && answer.output.contains(now), || {
            format!("a move that failed does not say why, or where the VM is: {}", answer.output)
        })?;
    }
    expect(answer.status != 0 || now == way.destination, || format!("said to have moved, runs on {now}"))?;
    Ok((hit, ()))
}
