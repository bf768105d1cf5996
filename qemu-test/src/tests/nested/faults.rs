//! Moves and hosts that are broken on purpose: whatever happens, the VM runs on exactly one host, and its disk and its
//! clients have lost nothing.

use std::time::Duration;

use crate::console::SerialLine;
use crate::error::Result;
use crate::guests;
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::nested::guest::{HOSTS, MOVE_BOUND, address};
use crate::tests::tally::Verdict;
use crate::wire::Wire;

/// Moments of a move at which it is broken: from the first checks over pre-copy into stun and commit. Where the stun lies
/// depends on the machine, so the moments sweep.
const MOMENTS_MS: [u64; 6] = [300, 900, 1500, 2200, 3000, 4000];

pub(super) fn migrate_killed_at_the_source_at_any_moment_of_a_move(bench: &mut Bench) -> Result<Verdict> {
    break_moves(bench, |bench, source, _| bench.fleet.order(source, "kill migrate").map(drop))
}

pub(super) fn migrate_killed_at_the_destination_at_any_moment_of_a_move(bench: &mut Bench) -> Result<Verdict> {
    break_moves(bench, |bench, _, destination| bench.fleet.order(destination, "kill migrate").map(drop))
}

pub(super) fn the_monitor_killed_at_the_destination_at_any_moment_before_the_commit(
    bench: &mut Bench,
) -> Result<Verdict> {
    // After the commit this is the VM's own death, which the next promise is about: only early moments here.
    break_moves_at(bench, &MOMENTS_MS[..3], |bench, _, destination| {
        // There may be none yet: then nothing is broken and the move must simply succeed.
        bench.fleet.order(destination, "kill vmm deb").map(drop)
    })
}

pub(super) fn the_migration_cable_cut_at_any_moment_of_a_move(bench: &mut Bench) -> Result<Verdict> {
    break_moves(bench, |bench, source, _| {
        bench.fleet.wires().cut(source, Wire::Migration)?;
        std::thread::sleep(Duration::from_secs(8));
        bench.fleet.wires().mend(source, Wire::Migration)
    })
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
    bench.listen(&talker)?;
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
    bench.listen(&talker)?;
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
    Ok(Verdict::Passed)
}

/// The first fence: a host that is cut off from the datastore ends its VMs before another may start them.
pub(super) fn the_vm_of_a_host_without_its_datastore_starts_elsewhere_and_nowhere_twice(
    bench: &mut Bench,
) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    let talker = bench.talk("deb")?;
    std::thread::sleep(Duration::from_secs(2));
    let heard = talker.stop()?;
    bench.fleet.wires().cut("host-a", Wire::Datastore)?;
    let started = crate::wait::until(
        "host-b to start the VM of the host that is cut off",
        Duration::from_secs(180),
        || Ok((bench.exec("host-b", "vm start deb")?.status == 0).then_some(())),
        String::new,
    );
    bench.fleet.wires().mend("host-a", Wire::Datastore)?;
    started?;
    let talker = bench.talk("deb")?;
    std::thread::sleep(Duration::from_secs(2));
    bench.judge(talker, "deb")?;
    let faults = heard.compare(&guests::audit_journal(&bench.fleet.datastore(), "deb")?);
    expect(faults.is_empty(), || faults.join("; "))?;
    // It comes back by itself, and sees where the VM is now.
    expect(bench.settled_on("deb")? == "host-b", || "deb does not run on host-b".into())?;
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

pub(super) fn the_vm_of_a_dead_host_starts_elsewhere_after_the_expiry(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    let talker = bench.talk("deb")?;
    bench.listen(&talker)?;
    let heard = talker.stop()?;
    let machine = bench.fleet.machine("host-a")?;
    machine.process().kill()?;
    let early = bench.exec("host-b", "vm start deb")?;
    expect(early.status != 0 && early.output.contains("host-a"), || {
        format!("a VM was taken from a host whose lease had not expired: {}", early.output)
    })?;
    let started = crate::wait::until(
        "host-b to start the VM of the dead host",
        Duration::from_secs(180),
        || Ok((bench.exec("host-b", "vm start deb")?.status == 0).then_some(())),
        String::new,
    );
    bench.fleet.boot(std::slice::from_ref(&machine))?;
    started?;
    let talker = bench.talk("deb")?;
    bench.listen(&talker)?;
    bench.judge(talker, "deb")?;
    let faults = heard.compare(&guests::audit_journal(&bench.fleet.datastore(), "deb")?);
    expect(faults.is_empty(), || faults.join("; "))?;
    expect(bench.settled_on("deb")? == "host-b", || "deb does not run on host-b".into())?;
    Ok(Verdict::Passed)
}

fn break_moves(bench: &Bench, fault: impl Fn(&Bench, &str, &str) -> Result<()>) -> Result<Verdict> {
    break_moves_at(bench, &MOMENTS_MS, fault)
}

/// Starts a move at each of the moments, breaks it, waits until all is settled. The client's connection must live through
/// all of them, whichever host runs the VM in the end.
fn break_moves_at(
    bench: &Bench,
    moments_ms: &[u64],
    fault: impl Fn(&Bench, &str, &str) -> Result<()>,
) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    let talker = bench.talk("deb")?;
    guests::set_memory_load(bench.fleet.wires(), address("deb")?, 32, 800)?;
    for moment in moments_ms {
        let source = bench.settled_on("deb")?;
        let destination = if source == "host-a" { "host-b" } else { "host-a" };
        let mut line = SerialLine::open(&bench.fleet.machine(source)?)?;
        let token = line.type_command(&format!("vm migrate deb {destination}"))?;
        std::thread::sleep(Duration::from_millis(*moment));
        fault(bench, source, destination)?;
        let answer = line.finish(&token, MOVE_BOUND)?;
        drop(line);
        let now = bench.settled_on("deb")?;
        let verdict = if answer.status == 0 { "moved" } else { "failed" };
        println!("  broken after {moment} ms: {verdict}, runs on {now}");
        if answer.status != 0 {
            let told = answer.output.contains("error: ") && answer.output.contains("cause: ");
            expect(told, || format!("a move that failed does not say why: {}", answer.output))?;
        }
        expect(answer.status != 0 || now == destination, || format!("said to have moved, runs on {now}"))?;
        expect(!talker.has_failed(), || "the client lost its connection".into())?;
    }
    let memory = guests::memory_report(bench.fleet.wires(), address("deb")?)?;
    expect(memory.damaged == 0, || format!("{} of the guest's pages were damaged", memory.damaged))?;
    guests::set_memory_load(bench.fleet.wires(), address("deb")?, 0, 0)?;
    bench.listen(&talker)?;
    bench.judge(talker, "deb")?;
    Ok(Verdict::Passed)
}
