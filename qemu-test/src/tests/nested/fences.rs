//! The fences of a host that loses its lease (DESIGN.md, section 7): its own clock, its watchdog, and the locks of the storage.
//! Whatever of the host is left, its VM runs elsewhere, its disk has lost nothing, and nothing old lands in it.

use std::time::{Duration, Instant};

use guest_load::journal::MAGIC;

use crate::error::{LabError, Result};
use crate::guests::Hearing;
use crate::held_frames::HeldFrames;
use crate::machine::HostSpec;
use crate::tests::nested::bench::{Bench, expect, says};
use crate::tests::nested::guest::HOSTS;
use crate::tests::tally::Verdict;
use crate::wait;
use crate::wire::Wire;

/// How long a fence, or a start that waits for it, may take.
const FENCE_BOUND: Duration = Duration::from_secs(180);
/// What host-a says of itself, as host-b has it.
const RECORD: &str = "/run/godwit/datastore/lab/hosts/host-a/record.toml";
/// An outage that a lease survives.
const BRIEFLY: Duration = Duration::from_secs(5);
/// The first fence: a host that is cut off from the datastore ends its VMs before another may start them.
pub(super) fn the_vm_of_a_host_without_its_datastore_starts_elsewhere_and_nowhere_twice(
    bench: &mut Bench,
) -> Result<Verdict> {
    let heard = heard_on(bench, "host-a")?;
    bench.fleet.wires().cut("host-a", Wire::Datastore)?;
    let started = taken_over(bench);
    let said = bench.exec("host-a", "vm list");
    bench.fleet.wires().mend("host-a", Wire::Datastore)?;
    started?;
    let said = said?.output;
    expect(!said.contains("running here"), || format!("host-a calls a VM running that it has killed: {said}"))?;
    expect(said.contains("deb "), || format!("host-a denies its VM while its datastore is away: {said}"))?;
    went_on(bench, &[heard])?;
    let log = bench.done("host-a", "log show lease")?;
    let last = log.lines().rev().find(|line| line.contains("connections to the server were")).unwrap_or_default();
    expect(last.ends_with(" were ended") && !last.contains(": 0 connections"), || {
        format!("host-a could have sent again what it had sent before the cut: {log}")
    })?;
    // It comes back by itself, and sees where the VM is now.
    expect(bench.settled_on("deb")? == "host-b", || "deb does not run on host-b".into())?;
    Ok(Verdict::Passed)
}

/// Shorter than a lease can do without: nobody is fenced, and no client loses its connection.
pub(super) fn a_datastore_that_is_away_for_five_seconds_costs_no_vm(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    let talker = bench.talk("deb")?;
    bench.listen(&talker)?;
    let made_anew =
        || Ok::<_, LabError>(bench.done("host-a", "log show lease")?.matches("can be reached again").count());
    let before = made_anew()?;
    bench.fleet.wires().cut("host-a", Wire::Datastore)?;
    std::thread::sleep(BRIEFLY);
    bench.fleet.wires().mend("host-a", Wire::Datastore)?;
    bench.listen(&talker)?;
    expect(made_anew()? > before, || "host-a left its connection to TCP's pauses".into())?;
    let server = bench.fleet.server();
    server.freeze()?;
    std::thread::sleep(BRIEFLY);
    server.thaw()?;
    bench.listen(&talker)?;
    expect(!talker.has_failed(), || "the client lost its connection".into())?;
    bench.judge(talker, "deb")?;
    expect(bench.settled_on("deb")? == "host-a", || "deb does not run where it ran".into())?;
    Ok(Verdict::Passed)
}

/// Longer than any lease: every host ends its VMs, its console answers all the time, and when the server answers again, all is
/// well by itself.
pub(super) fn a_server_that_hangs_fences_its_hosts_and_they_come_back_by_themselves(
    bench: &mut Bench,
) -> Result<Verdict> {
    let heard = heard_on(bench, "host-a")?;
    let server = bench.fleet.server();
    server.freeze()?;
    std::thread::sleep(Duration::from_millis(model::limits::LEASE_EXPIRY_MS + 8_000));
    let said = HOSTS.map(|host| bench.exec(host, "datastore list"));
    let listed = bench.exec("host-a", "vm list");
    let [leases, hosts] = ["lease list", "host list"].map(|command| bench.exec("host-a", command));
    server.thaw()?;
    for said in said {
        let said = said?.output;
        expect(said.contains("lost for"), || {
            format!("a datastore that does not answer is not told to be lost: {said}")
        })?;
    }
    let listed = listed?.output;
    expect(listed.contains("deb ") && !listed.contains("running here"), || {
        format!("host-a calls a VM running that it has killed, or denies it: {listed}")
    })?;
    expect(listed.contains("only what this host itself does"), || {
        format!("host-a does not say why it knows no more of its VMs: {listed}")
    })?;
    let (leases, hosts) = (leases?, hosts?.output);
    expect(leases.status != 0 && leases.output.contains("datastore lab does not answer"), || {
        format!("host-a does not say that it knows no lease: {}", leases.output)
    })?;
    expect(hosts.contains("it is this host that sees no other") && !hosts.contains("silent"), || {
        format!("host-a takes others for silent while it sees none: {hosts}")
    })?;
    for host in HOSTS {
        bench.comes_back(host)?;
    }
    bench.start_in_the_end("deb", "host-b")?;
    went_on(bench, &[heard])?;
    expect(bench.settled_on("deb")? == "host-b", || "deb does not run on host-b".into())?;
    Ok(Verdict::Passed)
}

/// Its opens and locks are gone, and the hosts claim them again in the grace period. So the VM goes on; or its host fenced itself,
/// and it starts elsewhere. With or without a client, the guest writes its journal all the time.
pub(super) fn a_restart_of_the_server_takes_nothing_from_a_vm_that_it_was_promised(
    bench: &mut Bench,
) -> Result<Verdict> {
    let before = heard_on(bench, "host-a")?;
    let host = if survives_a_restart(bench)? {
        "host-a"
    } else {
        bench.start_in_the_end("deb", "host-b")?;
        "host-b"
    };
    expect(bench.settled_on("deb")? == host, || format!("deb does not run on {host}"))?;
    went_on(bench, &[before])?;
    Ok(Verdict::Passed)
}

/// The first fence alone: a VM without disks has no locks on the storage, and its host no watchdog.
pub(super) fn the_clock_alone_ends_a_vm_before_another_host_may_run_it(bench: &mut Bench) -> Result<Verdict> {
    bench.end("witness")?;
    bench.done("host-a", "vm start witness")?;
    bench.fleet.wires().cut("host-a", Wire::Datastore)?;
    let cut = Instant::now();
    // Looked at by its processes: its host's console does not know what the datastore does not tell.
    let ended = || {
        let ended =
            || Ok(if bench.monitors("witness")?.contains(&"host-a") { Err("it runs".to_owned()) } else { Ok(()) });
        wait::until("host-a to end the VM", FENCE_BOUND, ended).map(|()| Instant::now())
    };
    let (ended, started) = std::thread::scope(|scope| {
        let ended = scope.spawn(ended);
        let started = wait::until("host-b to start the VM", FENCE_BOUND, || {
            let begun = Instant::now();
            let answer = bench.exec("host-b", "vm start witness")?;
            Ok(if answer.status == 0 { Ok(begun) } else { Err(answer.output) })
        });
        (ended.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), started)
    });
    bench.fleet.wires().mend("host-a", Wire::Datastore)?;
    let (ended, started) = (ended?, started?);
    let after = |moment: Instant| moment.duration_since(cut).as_secs_f64();
    println!("  ended {:.1} s after the cut, started elsewhere after {:.1} s", after(ended), after(started));
    expect(ended <= started, || "the VM was started before it had ended where it ran".into())?;
    expect(bench.settled_on("witness")? == "host-b", || "the witness does not run on host-b".into())?;
    bench.end("witness")?;
    Ok(Verdict::Passed)
}

/// A host that was cut off for longer than its lease and for less than the server keeps its locks has killed its VMs, and with
/// the cable come the unlocks of their disks: they start elsewhere, although the server never gave that host up.
pub(super) fn the_vm_of_a_host_that_had_its_datastore_back_after_the_fence_starts_elsewhere(
    bench: &mut Bench,
) -> Result<Verdict> {
    let heard = heard_on(bench, "host-a")?;
    bench.fleet.wires().cut("host-a", Wire::Datastore)?;
    std::thread::sleep(Duration::from_millis(model::limits::LEASE_EXPIRY_MS + 8_000));
    bench.fleet.wires().mend("host-a", Wire::Datastore)?;
    bench.start_in_the_end("deb", "host-b")?;
    went_on(bench, &[heard])?;
    expect(bench.settled_on("deb")? == "host-b", || "deb does not run on host-b".into())?;
    Ok(Verdict::Passed)
}

pub(super) fn the_vm_of_a_dead_host_starts_elsewhere_after_the_expiry(bench: &mut Bench) -> Result<Verdict> {
    let heard = heard_on(bench, "host-a")?;
    let machine = bench.fleet.machine("host-a")?;
    machine.process().kill()?;
    let early = bench.exec("host-b", "vm start deb")?;
    expect(early.status != 0 && early.output.contains("host-a"), || {
        format!("a VM was taken from a host whose lease had not expired: {}", early.output)
    })?;
    let started = gives_up_what_host_a_had(bench).and_then(|()| taken_over(bench));
    bench.fleet.boot(std::slice::from_ref(&machine))?;
    started?;
    went_on(bench, &[heard])?;
    expect(bench.settled_on("deb")? == "host-b", || "deb does not run on host-b".into())?;
    Ok(Verdict::Passed)
}

/// The second fence: nothing on the host counts the time of its lease, because its lease role stands still.
pub(super) fn a_host_whose_lease_role_hangs_is_reset_and_its_vm_starts_elsewhere(bench: &mut Bench) -> Result<Verdict> {
    bench.end("deb")?;
    let mut spec = HostSpec::usual(3);
    spec.words.push("godwit.watchdog=/dev/watchdog0".into());
    bench.with_host(spec, |bench, _| {
        bench.done("host-c", "vm start deb")?;
        let talker = bench.talk("deb")?;
        bench.listen(&talker)?;
        let heard = talker.stop()?;
        bench.fleet.order("host-c", "stop lease")?;
        let hung = Instant::now();
        let started = bench.start_in_the_end("deb", "host-b")?;
        println!("  started elsewhere {:.1} s after the role hung: {}", hung.elapsed().as_secs_f64(), started.trim());
        went_on(bench, &[heard])?;
        // Its lease role answers again, which nobody let go on: the watchdog did.
        bench.wait_for_state("host-c", "deb", "elsewhere host-b")
    })?;
    expect(bench.settled_on("deb")? == "host-b", || "deb does not run on host-b".into())?;
    Ok(Verdict::Passed)
}

/// The third fence: a host that stood still together with its clock believes its leases good when it goes on; what it sends
/// the server then must not land in a disk that another host has the lock of by now.
pub(super) fn a_host_frozen_with_its_clock_writes_nothing_after_the_take_over(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    let talker = bench.talk("deb")?;
    bench.listen(&talker)?;
    // Ended first: an answer that is under way would never come. The guest writes without a client too.
    let before = talker.stop()?;
    let machine = bench.fleet.machine("host-a")?;
    machine.freeze()?;
    // What the thawed VM says to clients until it is killed, no fence of the storage can hold: none listens meanwhile.
    let meanwhile = taken_over(bench).and_then(|_| {
        let talker = bench.talk("deb")?;
        bench.listen(&talker)?;
        talker.stop()
    });
    machine.thaw()?;
    let meanwhile = meanwhile?;
    expect(bench.settled_on("deb")? == "host-b", || "deb does not run on host-b".into())?;
    went_on(bench, &[before, meanwhile])?;
    let log = bench.done("host-a", "log show lease")?;
    expect(log.contains("it stood still, its clock included"), || format!("host-a does not say what happened: {log}"))?;
    let serial = bench.serial_log("host-a")?;
    let told = "its VMs here are killed, and another host may run them: deb";
    expect(says(&serial, told), || format!("nobody at the console of host-a is told what happened:\n{serial}"))?;
    Ok(Verdict::Passed)
}

/// What a host sent before it lost its lease, and the network delivers when another runs the VM: a server that gave the host up
/// refuses it.
pub(super) fn what_the_network_held_back_lands_in_no_disk_after_the_take_over(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    let talker = bench.talk("deb")?;
    bench.listen(&talker)?;
    // The guest goes on writing until its disk does not answer any more.
    let held = HeldFrames::of(bench.fleet.wires(), "host-a", Wire::Datastore)?;
    std::thread::sleep(Duration::from_secs(3));
    let before = talker.stop()?;
    let taken = taken_over(bench).and_then(|_| {
        let talker = bench.talk("deb")?;
        bench.listen(&talker)?;
        Ok(talker)
    });
    let delivered = held.deliver()?;
    let talker = taken?;
    let holds = |frame: &Vec<u8>| frame.windows(MAGIC.len()).any(|bytes| bytes == MAGIC);
    let writes = delivered.iter().filter(|frame| holds(frame)).count();
    println!("  {} frames were delivered late, {writes} of them with records of the journal", delivered.len());
    expect(writes > 0, || "no write of the guest was held back".into())?;
    bench.judge(talker, "deb")?;
    went_on(bench, &[before])?;
    expect(bench.settled_on("deb")? == "host-b", || "deb does not run on host-b".into())?;
    Ok(Verdict::Passed)
}

/// Waits until host-b has told the server that host-a is dead, which nobody asked it to, and reads what that host may have had delegated: its record.
fn gives_up_what_host_a_had(bench: &Bench) -> Result<()> {
    let told =
        "the server of datastore lab gave up what it kept (locks, delegations) for host-a, whose host lease expired";
    bench.says_in_the_end("host-b", "log show host", told)?;
    let read = bench.fleet.order("host-b", &format!("show {RECORD}"))?;
    expect(read.status == 0 && read.output.contains("host-a"), || {
        format!("the record of a dead host answers nobody: {}", read.output)
    })
}

/// Starts the VM of a lost host on host-b as soon as its lease lets it. No lock of the lost host is waited for: its server is told that
/// it is dead, whatever the server's lease time.
fn taken_over(bench: &Bench) -> Result<String> {
    let waits = || Ok::<_, LabError>(bench.done("host-b", "log show host")?.matches("waits for a disk").count());
    let before = waits()?;
    let started = bench.start_in_the_end("deb", "host-b")?;
    expect(waits()? == before, || "host-b waited for a lock that the lost host had left".into())?;
    Ok(started)
}

/// Sees to it that the VM runs on this host; what a client then hears of it.
pub(super) fn heard_on(bench: &Bench, host: &str) -> Result<Hearing> {
    bench.bring("deb", host)?;
    let talker = bench.talk("deb")?;
    bench.listen(&talker)?;
    talker.stop()
}

/// The VM answers a new client, and its journal holds what it said to that one and to those of before.
pub(super) fn went_on(bench: &Bench, before: &[Hearing]) -> Result<()> {
    let talker = bench.talk("deb")?;
    bench.judge(talker, "deb")?;
    before.iter().try_for_each(|heard| bench.nothing_is_lost(heard, "deb").map(|_| ()))
}

/// Restarts the server under a VM on host-a, and tells whether the VM went on. A host's NFS client may take nearly as long
/// to claim all again as its host lease bears without a renewal: where it did not go on, host-a must have fenced itself.
fn survives_a_restart(bench: &Bench) -> Result<bool> {
    let fences = || Ok(bench.done("host-a", "log show lease")?.matches("the host lease is lost").count());
    let fences_before = fences()?;
    let talker = bench.talk("deb")?;
    bench.fleet.server().restart()?;
    // The disks may go on at once, and the lease area hang until the host fences itself.
    std::thread::sleep(Duration::from_millis(model::limits::LEASE_EXPIRY_MS));
    bench.listen(&talker)?;
    let heard = match talker.stop() {
        Ok(heard) => heard,
        Err(error) if fences()? == fences_before => return Err(error),
        Err(_) => {
            println!("  host-a could not renew its lease in time");
            return Ok(false);
        }
    };
    println!("  the VM went on, longest wait {:.0} ms", heard.longest_silence.as_secs_f64() * 1e3);
    bench.nothing_is_lost(&heard, "deb").map(|_| true)
}
