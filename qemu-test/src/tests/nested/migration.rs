//! Moves that go well.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;

use crate::console::SerialLine;
use crate::error::{Doing, LabError, Result};
use crate::frames::Frames;
use crate::guests::{self, Echo};
use crate::tagged::{self, Tagged};
use crate::tests::nested::bench::{Bench, expect};
use crate::tests::nested::guest::{HOSTS, MOVE_BOUND, Way, address};
use crate::tests::tally::Verdict;
use crate::wait;
use crate::wire::Wire;

/// Several pre-copy rounds, and an end of them, whatever an emulated host carries today, also with two vCPUs on its one CPU.
const LOAD: Load = Load { mebibytes: 24, of_link_permille: 60 };
/// How long the guest may take to announce itself.
const ANNOUNCED_BOUND: Duration = Duration::from_secs(60);
/// Reverse ARP, by which a host announces a guest.
const RARP: [u8; 2] = [0x80, 0x35];
/// The address of the witness in the port group with a VLAN.
const WITNESS_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 77, 20, 31);
/// How long it may take until it answers, on an emulated host.
const WITNESS_BOUND: Duration = Duration::from_secs(120);
/// What a link of one Mbit/s carries a second, in bytes.
const BYTES_OF_MBIT: u64 = 1_000_000 / 8;
/// The same in pages.
const PAGES_OF_MBIT: u32 = (BYTES_OF_MBIT / 4096) as u32;

const CTRL_C: u8 = 3;

/// A load on a guest's memory that fits the link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// What the guest keeps rewriting, MiB.
    pub(super) mebibytes: u32,
    /// How much of what the migration link carries it rewrites, thousandths.
    pub(super) of_link_permille: u32,
}

pub(super) fn a_vm_moves_there_and_back_three_times_while_its_client_talks(bench: &mut Bench) -> Result<Verdict> {
    there_and_back(bench, "deb", 3)
}

pub(super) fn a_vm_with_two_vcpus_moves_there_and_back_three_times(bench: &mut Bench) -> Result<Verdict> {
    bench.end("deb")?;
    let outcome = there_and_back(bench, "deb2", 3);
    bench.end("deb2")?;
    outcome
}

/// Moves a VM so many times there and back, under load on its memory and with a client that talks all the time: each
/// move is audited, no page is damaged, the disk and the client have lost nothing.
pub(super) fn there_and_back(bench: &Bench, vm: &str, times: u32) -> Result<Verdict> {
    let Way { source, destination } = bench.way(vm)?;
    let talker = bench.talk(vm)?;
    bench.load_memory(vm, link_load(bench, vm, LOAD)?)?;
    for _ in 0..times {
        for (from, to) in [(source, destination), (destination, source)] {
            let frames = Frames::of(bench.fleet.wires(), &Wire::Guests.to_string())?;
            let receipt = bench.move_vm(vm, from, to)?;
            println!("  {from} to {to}: {}", summary(&receipt));
            check_receipt(&receipt)?;
            let rounds = rounds(&receipt);
            expect(rounds > 2, || format!("the load needed no more than {rounds} rounds"))?;
            expect(bench.settled_on(vm)? == to, || format!("{vm} does not run on {to}"))?;
            is_announced(frames, address(vm)?)?;
        }
    }
    bench.judge_memory(vm)?;
    bench.judge(talker, vm)?;
    Ok(Verdict::Passed)
}

/// The network heard where the guest is now: from its host by reverse ARP (RFC 903), and from the guest itself by an ARP packet that asks for its
/// own address (RFC 5227, 3).
fn is_announced(frames: Frames, address: Ipv4Addr) -> Result<()> {
    const ARP: [u8; 2] = [0x08, 0x06];
    // Behind 14 bytes of Ethernet: the sender's addresses at 8 and 14, the protocol address that is asked for at 24.
    let own = |frame: &[u8]| [28, 38].iter().all(|at| frame.get(*at..at + 4) == Some(&address.octets()[..]));
    wait::until("the announcements of a guest that moved", ANNOUNCED_BOUND, || {
        let by_host = frames.any(|frame| is_broadcast(frame, RARP));
        let by_guest = frames.any(|frame| is_broadcast(frame, ARP) && own(frame));
        Ok(if by_host && by_guest { Ok(()) } else { Err(format!("by its host: {by_host}, by itself: {by_guest}")) })
    })?;
    frames.end().map(drop)
}

/// Whether a frame of this kind is for everybody.
fn is_broadcast(frame: &[u8], ether_type: [u8; 2]) -> bool {
    frame.get(12..14) == Some(&ether_type[..]) && frame[..6] == [0xff; 6]
}

/// A load in MiB and pages a second, for a VM that can move.
pub(super) fn link_load(bench: &Bench, vm: &str, load: Load) -> Result<(u32, u32)> {
    let pages_per_second = link_mbits(bench, vm)? * PAGES_OF_MBIT * load.of_link_permille / 1000;
    println!("  load: {pages_per_second} pages/s");
    Ok((load.mebibytes, pages_per_second))
}

/// What the migration link carries, as the VM's host measures it, Mbit/s.
fn link_mbits(bench: &Bench, vm: &str) -> Result<u32> {
    let Way { source, destination } = bench.way(vm)?;
    bench.can_move(vm, source, destination)?;
    let said = bench.done(source, &format!("network ping {destination} --json"))?;
    let path: Value = serde_json::from_str(&said).doing("reading what network ping measured")?;
    let bytes_per_s = path.get("bandwidth_bytes_per_s").and_then(Value::as_u64);
    bytes_per_s
        .and_then(|bytes_per_s| u32::try_from(bytes_per_s / BYTES_OF_MBIT).ok())
        .filter(|mbits| *mbits > 0)
        .ok_or_else(|| LabError::Input(format!("no speed of the link is told: {said}")))
}

/// Ctrl-C at the console that asked for the move: the VM never left, and nothing of the attempt is in the next one's way.
pub(super) fn ctrl_c_cancels_a_move_and_the_vm_stays(bench: &mut Bench) -> Result<Verdict> {
    let Way { source, destination } = bench.way("deb")?;
    let talker = bench.talk("deb")?;
    bench.can_move("deb", source, destination)?;
    let moving = bench.fleet.order_when(source, "pre-copy", "processes")?;
    let mut line = SerialLine::open(&bench.fleet.machine(source)?)?;
    let command = format!("vm migrate deb {destination}");
    let token = line.type_command(&command)?;
    moving.wait(MOVE_BOUND)?;
    line.send(&[CTRL_C])?;
    let answer = line.finish(&token, MOVE_BOUND)?;
    drop(line);
    let told = answer.status != 0 && answer.output.contains("cancelled") && answer.output.contains(source);
    expect(told, || bench.unexpected(source, &format!("{command} and Ctrl-C"), &answer).to_string())?;
    expect(bench.settled_on("deb")? == source, || "deb does not run where it ran".into())?;
    check_receipt(&bench.move_vm("deb", source, destination)?)?;
    bench.judge(talker, "deb")?;
    Ok(Verdict::Passed)
}

pub(super) fn a_paused_vm_arrives_paused_and_goes_on_there(bench: &mut Bench) -> Result<Verdict> {
    let Way { source, destination } = bench.way("deb")?;
    let talker = bench.talk("deb")?;
    bench.listen(&talker)?;
    bench.done(source, "vm pause deb")?;
    check_receipt(&bench.move_vm("deb", source, destination)?)?;
    bench.wait_for_state(destination, "deb", "paused")?;
    bench.wait_for_state(source, "deb", &format!("elsewhere {destination}"))?;
    expect(bench.monitors("deb")? == [destination], || "deb has not one monitor, where it arrived".into())?;
    bench.done(destination, "vm resume deb")?;
    expect(bench.settled_on("deb")? == destination, || "deb does not run where it arrived".into())?;
    bench.judge(talker, "deb")?;
    Ok(Verdict::Passed)
}

/// What its kernel does then no guest does later: it measures clocks, brings up vCPUs and devices.
pub(super) fn a_guest_moves_while_it_boots_and_comes_up_where_it_arrived(bench: &mut Bench) -> Result<Verdict> {
    let (source, destination) = (HOSTS[0], HOSTS[1]);
    bench.end("deb")?;
    bench.done(source, "vm start deb")?;
    expect(!guests::answers(bench.fleet.wires(), address("deb")?)?, || "the guest had booted already".into())?;
    check_receipt(&bench.move_vm("deb", source, destination)?)?;
    let talker = bench.talk("deb")?;
    bench.judge(talker, "deb")?;
    expect(bench.settled_on("deb")? == destination, || "deb does not run where it arrived".into())?;
    Ok(Verdict::Passed)
}

/// A guest that looks for itself, at every page, at its clocks, its registers and its disk, and that somebody talks to by a port group with a VLAN.
pub(super) fn the_witness_moves_there_and_back_and_finds_everything_as_it_was(bench: &mut Bench) -> Result<Verdict> {
    let datastore = bench.fleet.datastore();
    guests::place_small_witness(&bench.home, &datastore, "small", 500)?;
    guests::equip_small_witness(&datastore, "small", tagged::PORT_GROUP, WITNESS_ADDRESS)?;
    bench.done("host-a", "vm start small")?;
    let _link = Tagged::plug(bench.fleet.wires())?;
    let mut echo = Echo::connect(bench.fleet.wires(), WITNESS_ADDRESS, WITNESS_BOUND)?;
    echo.ask()?;
    for (from, to) in [("host-a", "host-b"), ("host-b", "host-a")] {
        bench.can_move("small", from, to)?;
        let frames = Frames::of(bench.fleet.wires(), tagged::LINK)?;
        check_receipt(&bench.move_vm("small", from, to)?)?;
        echo.ask()?;
        wait::until("the host's announcement with the tag of its VLAN", ANNOUNCED_BOUND, || {
            Ok(if frames.any(|frame| is_broadcast(frame, RARP)) { Ok(()) } else { Err("it did not come".into()) })
        })?;
        frames.end()?;
        let said = bench.witness_of_all("small", to)?;
        let all = ["bad=0 ", "tsc_back=0 ", "clock_back=0 ", "timer_back=0 ", "registers_bad=0 "];
        expect(all.iter().all(|part| said.contains(part)), || format!("not all is as it was: {said}"))?;
        let said = bench.witness_of_journal("small", to)?;
        let whole = said.contains(" bad=0 ") && said.contains(" unanswered=0") && !said.contains(" flushed=0 ");
        expect(whole, || format!("the journal is not as it was: {said}"))?;
        echo.ask()?;
    }
    bench.end("small")?;
    let folder = datastore.join("vms/small");
    fs::remove_dir_all(&folder).at("removing", &folder)?;
    Ok(Verdict::Passed)
}

pub(super) fn the_check_alone_moves_nothing(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    bench.done("host-a", "vm migrate deb host-b --check")?;
    expect(bench.settled_on("deb")? == "host-a", || "the check moved the VM".into())?;
    Ok(Verdict::Passed)
}

pub(super) fn a_move_to_nowhere_is_refused_and_the_vm_stays(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    for to in ["host-z", "host-a"] {
        let command = format!("vm migrate deb {to}");
        let answer = bench.exec("host-a", &command)?;
        let explained = answer.status != 0 && answer.output.contains("still running on host-a");
        expect(explained, || bench.unexpected("host-a", &command, &answer).to_string())?;
    }
    std::thread::sleep(Duration::from_millis(500));
    expect(bench.settled_on("deb")? == "host-a", || "the VM left".into())?;
    Ok(Verdict::Passed)
}

/// Nothing comes, and what is there stays and can leave.
pub(super) fn a_host_in_maintenance_takes_no_vm_in(bench: &mut Bench) -> Result<Verdict> {
    bench.bring("deb", "host-a")?;
    bench.end("witness")?;
    bench.can_move("deb", "host-a", "host-b")?;
    bench.done("host-b", "host maintenance enter")?;
    let refused = (|| {
        for (host, command) in [("host-a", "vm migrate deb host-b --check"), ("host-b", "vm start witness")] {
            let answer = bench.exec(host, command)?;
            let told = answer.output.matches("host-b is in maintenance").count();
            let explained = answer.status != 0 && told == 1 && answer.output.contains("host maintenance exit");
            expect(explained, || bench.unexpected(host, command, &answer).to_string())?;
        }
        bench.says_in_the_end("host-a", "host list", "maintenance")?;
        let entered = bench.done("host-a", "host maintenance enter")?;
        expect(entered.contains("still here: deb;"), || format!("what is still there is not told: {entered}"))
    })();
    for host in HOSTS {
        bench.done(host, "host maintenance exit")?;
    }
    refused?;
    bench.can_move("deb", "host-a", "host-b")?;
    expect(bench.settled_on("deb")? == "host-a", || "the VM left".into())?;
    Ok(Verdict::Passed)
}

pub(super) fn check_receipt(receipt: &Value) -> Result<()> {
    let number = |path: &str| receipt.pointer(path).and_then(Value::as_u64);
    expect(receipt.get("verdict").and_then(Value::as_str) == Some("moved"), || format!("the receipt says: {receipt}"))?;
    expect(number("/audit/different_pages") == Some(0), || format!("the audit found different pages: {receipt}"))?;
    expect(receipt.pointer("/audit/done") == Some(&Value::Bool(true)), || format!("no audit was made: {receipt}"))?;
    expect(number("/stun/total_us").is_some_and(|stun| stun > 0), || format!("the receipt tells no stun: {receipt}"))
}

fn rounds(receipt: &Value) -> usize {
    receipt.get("rounds").and_then(Value::as_array).map_or(0, Vec::len)
}

pub(super) fn summary(receipt: &Value) -> String {
    let number = |path: &str| receipt.pointer(path).and_then(Value::as_u64).unwrap_or_default();
    format!(
        "{:.1} s, {} rounds, {:.0} MiB, stun {} ms",
        number("/total_us") as f64 / 1e6,
        rounds(receipt),
        number("/sent_bytes") as f64 / f64::from(1 << 20),
        number("/stun/total_us") / 1000
    )
}
