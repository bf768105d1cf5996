//! Moves by the tens between two hosts of this machine, several VMs at once, and then a look at what is left over.

mod world;

use std::time::Duration;

use godwit::api::host::{HostAnswer, VmHolder, VmState};
use model::receipt::Verdict;
use world::command::Command;
use world::journal::judge;
use world::role_memory::RoleMemory;
use world::{Cable, Datastore, Host, finish, freeze_all, line, wait};

/// Moves of each VM.
const MOVES: usize = 8;

/// A VM that is moved.
struct Vm {
    name: &'static str,
    cpus: u8,
    verify: &'static str,
    paused: bool,
}

const VMS: [Vm; 4] = [
    Vm { name: "one", cpus: 1, verify: "audit", paused: false },
    Vm { name: "two", cpus: 2, verify: "full", paused: false },
    Vm { name: "eight", cpus: 8, verify: "audit", paused: false },
    Vm { name: "paused", cpus: 1, verify: "transfer", paused: true },
];

impl Vm {
    fn state(&self) -> VmState {
        if self.paused { VmState::Paused } else { VmState::Running }
    }
}

#[test]
fn thirty_two_moves_of_four_vms_at_once_lose_no_page_and_no_record_and_leave_nothing_over() {
    let Some(datastore) = Datastore::with_witness("many") else { return };
    let Some(cable) = Cable::lay("many") else { return };
    for Vm { name, cpus, verify, .. } in VMS {
        // They nap when nothing is due, so that twelve vCPUs leave something of two processors to the hosts.
        let cmdline = format!("seed={} rate=500 set=8M scan=500 nap=on report_ms=500 journal=200", name.len());
        datastore.add(name, cpus, "32 MiB", &cmdline, &format!("verify = \"{verify}\"\nstun_ms_max = 5000"));
    }
    let disks = VMS.map(|vm| datastore.add_disk(vm.name));
    let hosts = Host::boot_two(&datastore, &cable);
    // On each host a VM was started and is gone again: from here on everything that is made once was made.
    for (host, other) in [(&hosts[0], "host-b"), (&hosts[1], "host-a")] {
        host.done("vm start one");
        wait("nothing stands in the way", || host.ask(&format!("vm migrate one {other} --check")).0 == 0);
        host.done("vm kill one");
        wait("it is gone", || hosts.iter().all(|host| host.state("one") == VmState::Stopped));
    }
    let before = hosts.each_ref().map(Host::held_at_rest);

    let clocks_before = VMS.map(|vm| {
        hosts[0].done(&format!("vm start {}", vm.name));
        let mut serial = hosts[0].serial(vm.name);
        serial.wait_for("witness: ready");
        let clocks = serial.clocks();
        if vm.paused {
            hosts[0].done(&format!("vm pause {}", vm.name));
        }
        clocks
    });
    // For how long each clock stood still, and by how much it was told to be wrong then.
    let mut stood_still = [Duration::ZERO; VMS.len()];
    let mut told_wrong = [Duration::ZERO; VMS.len()];
    let mut memory = RoleMemory::default();
    for round in 0..MOVES {
        let (from, to, name) =
            if round % 2 == 0 { (&hosts[0], &hosts[1], "host-b") } else { (&hosts[1], &hosts[0], "host-a") };
        let moves = VMS.map(|vm| (Command::typed(from, &format!("vm migrate {} {name}", vm.name)), vm));
        for (index, (command, vm)) in moves.into_iter().enumerate() {
            let receipt = match command.end() {
                HostAnswer::Migrated(receipt) => receipt,
                other => panic!(
                    "{} in round {round}: {}\n{}\n{}",
                    vm.name,
                    line(&other),
                    from.log("migrate"),
                    to.log("migrate")
                ),
            };
            assert_eq!(receipt.verdict, Verdict::Moved, "{receipt:?}");
            assert_eq!(receipt.audit.done, vm.verify == "audit", "{receipt:?}");
            assert_eq!(receipt.stun.verify_us > 0, vm.verify == "full", "{:?}", receipt.stun);
            assert_eq!(receipt.audit.different_pages, 0, "{receipt:?}");
            let step = receipt.clock_step_us.expect("it was measured");
            // The clock stands still from the state's saving to its restoring.
            let stun = &receipt.stun;
            let still_us = stun.total_us.saturating_sub(stun.stop_us + stun.lease_us + stun.resume_us);
            println!("{} in round {round}: {step} us after {still_us} us", vm.name);
            told_wrong[index] += Duration::from_micros(step.unsigned_abs());
            stood_still[index] += Duration::from_micros(still_us);
            assert_eq!(to.state(vm.name), vm.state(), "{} in round {round}", vm.name);
        }
        memory.looked_at(&hosts, ((round + 1) * VMS.len()) as u64);
    }

    // Clocks that nobody sets lose nearly all of that.
    let [told, still] = [told_wrong, stood_still].map(|times| times.iter().sum::<Duration>());
    println!("the clocks stood still for {still:?} and are told to be wrong by {told:?}");
    assert!(told < still / 2, "by {told:?} after {still:?}: {told_wrong:?} after {stood_still:?}");
    let mut flushed = Vec::new();
    for (index, (vm, disk)) in VMS.iter().zip(&disks).enumerate() {
        if vm.paused {
            hosts[0].done(&format!("vm resume {}", vm.name));
        }
        let mut serial = hosts[0].serial(vm.name);
        serial.clocks().went_as_real_time_since(&clocks_before[index], stood_still[index] / 2);
        serial.audit_whole(vm.name);
        flushed.push(serial.journal_whole(vm.name, disk, 1));
    }
    for vm in VMS {
        hosts[0].done(&format!("vm kill {}", vm.name));
    }
    for vm in VMS {
        wait("nobody holds its lease", || hosts.iter().all(|host| host.vm(vm.name).holder == VmHolder::Nobody));
        assert_eq!(hosts[0].state(vm.name), VmState::Stopped);
    }
    disks.iter().zip(flushed).for_each(|(disk, flushed)| judge(disk, flushed));
    for (host, before) in hosts.iter().zip(&before) {
        host.lets_go_of_all_since(before);
    }
    for end in [0, 1] {
        assert_eq!(cable.links(end), ["mig0"], "no tap is left over");
    }
}

#[test]
fn moves_to_a_host_take_slots_too_and_its_own_move_waits_for_one() {
    let Some(datastore) = Datastore::with_witness("slots") else { return };
    let Some(cable) = Cable::lay("slots") else { return };
    // A veth says that it carries 10 Gbit/s, and that is 8 moves at once.
    let names: Vec<String> = (1..=8).map(|number| format!("in-{number}")).collect();
    for name in names.iter().map(String::as_str).chain(["out"]) {
        datastore.add(name, 1, "16 MiB", "seed=1 start=idle nap=on scan=100 report_ms=0", "stun_ms_max = 5000");
    }
    let [a, b] = Host::boot_two(&datastore, &cable);
    a.done("vm start out");
    names.iter().for_each(|name| b.done(&format!("vm start {name}")));
    wait("nothing stands in the way", || b.ask("vm migrate in-1 host-a --check").0 == 0);
    wait("nothing stands in the way", || a.ask("vm migrate out host-b --check").0 == 0);
    // Their monitors stand still, and so do the moves, with the memory reserved at their destination.
    let frozen = freeze_all(b.monitor_processes());
    let moves: Vec<Command> =
        names.iter().map(|name| Command::typed(&b, &format!("vm migrate {name} host-a"))).collect();
    let moves: Vec<Command> = moves
        .into_iter()
        .map(|mut command| {
            command.wait_for("reserve");
            command
        })
        .collect();
    let mut own = Command::typed(&a, "vm migrate out host-b");
    own.wait_for("queued");
    frozen.thaw();
    for command in moves.into_iter().chain([own]) {
        let answer = command.end();
        assert!(matches!(answer, HostAnswer::Migrated(_)), "{}", line(&answer));
    }
    assert_eq!(b.state("out"), VmState::Running);
}

#[test]
fn moves_to_a_host_without_a_free_slot_are_queued_and_begin_by_themselves_even_where_they_cross() {
    let Some(datastore) = Datastore::with_witness("full") else { return };
    let Some(cable) = Cable::lay("full") else { return };
    // A veth says that it carries 10 Gbit/s, and that is 8 moves at once.
    let names = |side: &str| (1..=9).map(|number| format!("{side}-{number}")).collect::<Vec<_>>();
    let (from_a, from_b) = (names("a"), names("b"));
    for name in from_a.iter().chain(&from_b) {
        datastore.add(name, 1, "16 MiB", "seed=1 start=idle nap=on scan=100 report_ms=0", "stun_ms_max = 5000");
    }
    let [a, b] = Host::boot_two(&datastore, &cable);
    from_a.iter().for_each(|name| a.done(&format!("vm start {name}")));
    from_b.iter().for_each(|name| b.done(&format!("vm start {name}")));
    wait("nothing stands in the way", || b.ask("vm migrate b-1 host-a --check").0 == 0);
    wait("nothing stands in the way", || a.ask("vm migrate a-1 host-b --check").0 == 0);
    // Both engines hear of all moves before either can ask the other: each is full of its own.
    let frozen = freeze_all(vec![a.migrate_pid(), b.migrate_pid()]);
    let ways = [(&a, &from_a, "host-b"), (&b, &from_b, "host-a")];
    let typed = ways.map(|(host, names, to)| {
        names.iter().map(|name| host.begin(&format!("vm migrate {name} {to}"))).collect::<Vec<_>>()
    });
    wait("all moves are ordered", || [&a, &b].iter().all(|host| host.migrations().len() == from_a.len()));
    frozen.thaw();
    let (mut found_no_slot, mut waited_for_the_path) = (0, 0);
    for command in typed.iter().flatten() {
        let (told, answer) = finish(command);
        assert!(matches!(answer, HostAnswer::Migrated(_)), "{}", line(&answer));
        found_no_slot += usize::from(told.iter().any(|doing| doing.starts_with("queued: host-")));
        waited_for_the_path += usize::from(told.iter().any(|doing| doing.starts_with("queued: the path to host-")));
    }
    assert!(found_no_slot > 0, "no host was full for the other's moves");
    assert!(waited_for_the_path > 0, "moves that began at once measured the path at once");
    from_a.iter().for_each(|name| assert_eq!(b.state(name), VmState::Running, "{name}"));
    from_b.iter().for_each(|name| assert_eq!(a.state(name), VmState::Running, "{name}"));
}
