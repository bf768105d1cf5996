//! Whole migrations between two hosts of this machine: real processes, two network namespaces, a veth between them, the
//! witness as the guest, which verifies every page of its working set for ever.

mod world;

use std::os::unix::fs::FileExt as _;

use godwit::api::channel::Channel;
use godwit::api::host::{HostAnswer, HostRequest, VmState};
use godwit::api::lease::LeaseRequest;
use godwit::api::vmm::VmmLife;
use model::receipt::{Receipt, Verdict};
use world::lease_line::{self, LeaseLine, Word};
use world::{Cable, Datastore, Host, finish, is_locked, line, wait};

/// Two hosts that know each other, the datastore that they share, and the witness, which runs on the first.
fn two_hosts(name: &str) -> Option<(Datastore, Cable, Host, Host)> {
    two_hosts_joined_by(Cable::lay(name)?, name)
}

/// The same on a cable that is there.
fn two_hosts_joined_by(cable: Cable, name: &str) -> Option<(Datastore, Cable, Host, Host)> {
    let datastore = Datastore::with_witness(name)?;
    datastore.add_disk("witness");
    let [a, b] = Host::boot_two(&datastore, &cable);
    assert_eq!(a.ask("vm start witness").0, 0);
    a.serial("witness").wait_for("bad=0");
    Some((datastore, cable, a, b))
}

/// Waits until nothing stands in the way of a move: engines come up, and hosts learn each other's keys. Gives what the check says.
fn may_move(from: &Host, to_name: &str) -> String {
    let mut said = String::new();
    wait("nothing stands in the way", || {
        let (status, answer) = from.ask(&format!("vm migrate witness {to_name} --check"));
        if line(&answer) != said {
            said = line(&answer);
            println!("{said}");
        }
        status == 0
    });
    said
}

/// Moves the witness, waiting until it has settled after the last move and the hosts know each other's keys.
fn migrate(from: &Host, to_name: &str) -> Receipt {
    wait("it has settled", || from.state("witness") == VmState::Running);
    may_move(from, to_name);
    match from.ask(&format!("vm migrate witness {to_name}")) {
        (0, HostAnswer::Migrated(receipt)) => *receipt,
        (_, answer) => panic!("{}\n--- migrate of the source\n{}", line(&answer), from.log("migrate")),
    }
}

#[test]
fn who_asks_before_a_move_is_told_what_the_guest_dirties_and_what_the_move_would_be_like() {
    let Some((_datastore, _cable, a, _b)) = two_hosts("forecast") else { return };
    let said = may_move(&a, "host-b");
    assert!(said.contains("the move") && said.contains("it dirties ") && !said.contains("it dirties 0 B/s"), "{said}");
    // The check has let go of the guest: it moves.
    let receipt = migrate(&a, "host-b");
    assert_eq!(receipt.verdict, Verdict::Moved, "{receipt:?}");
    assert!(receipt.predicted_moved_us.is_some_and(|us| us > 0), "{receipt:?}");
}

#[test]
fn a_running_guest_moves_there_and_back_and_every_page_arrives() {
    let Some((datastore, _cable, a, b)) = two_hosts("move") else { return };
    for (from, to, name) in [(&a, &b, "host-b"), (&b, &a, "host-a"), (&a, &b, "host-b")] {
        let receipt = migrate(from, name);
        assert_eq!(receipt.verdict, Verdict::Moved, "{receipt:?}");
        assert!(receipt.audit.done && receipt.audit.different_pages == 0, "{:?}", receipt.audit);
        let last = receipt.rounds.last().expect("a round");
        // A guest that wrote nothing since the round before has a last round without a page, which takes no time.
        let took = last.us > 0 || last.pages == 0;
        assert!(receipt.last_round_in_stun() && took && last.us <= receipt.stun.last_pages_us, "{receipt:?}");
        assert!((1..receipt.stun.total_us).contains(&receipt.stun.messages_us()), "{:?}", receipt.stun);
        println!("{}", toml::to_string(&receipt).expect("a receipt is TOML"));
        wait("it runs there", || to.state("witness") == VmState::Running);
        assert_ne!(from.state("witness"), VmState::Running);
        let mut serial = to.serial("witness");
        serial.wait_for("bad=0");
        assert!(is_locked(&datastore.path("vms/witness/disk.img")), "the disk's lock came along");
    }
}

/// Keeps a move under way for seconds, however fast the machine is.
const SLOWLY: &str = "--bandwidth-max 250";

/// Lets a move go on for a while, does something to it, and gives what the command said.
fn disturbed(from: &Host, to_name: &str, after_ms: u64, disturb: impl FnOnce()) -> (u8, String) {
    wait("it has settled", || from.state("witness") == VmState::Running);
    may_move(from, to_name);
    std::thread::scope(|scope| {
        let typed = format!("vm migrate witness {to_name} {SLOWLY}");
        let asked = scope.spawn(move || from.ask(&typed));
        std::thread::sleep(std::time::Duration::from_millis(after_ms));
        assert_eq!(from.state("witness"), VmState::MovingOut, "after {after_ms} ms");
        disturb();
        let (status, answer) = asked.join().expect("the command ended");
        (status, line(&answer))
    })
}

/// The VM runs on exactly one of the hosts, which is given, and its memory is whole.
fn runner<'a>(a: &'a Host, b: &'a Host) -> &'a Host {
    let live = |host: &Host| matches!(host.state("witness"), VmState::Running);
    wait("it runs on exactly one host", || live(a) != live(b));
    let runner = if live(a) { a } else { b };
    let mut serial = runner.serial("witness");
    serial.wait_for("witness: t=");
    serial.wait_for("bad=0");
    runner
}

#[test]
fn a_guest_that_resets_itself_while_it_moves_arrives_as_it_comes_out_of_it() {
    let Some((_datastore, _cable, a, b)) = two_hosts("reset") else { return };
    // On the way back the monitor is one that took a state over, and has what its guest boots from all the same.
    for (mark, from, to, name) in [("report_ms 401", &a, &b, "host-b"), ("report_ms 402", &b, &a, "host-a")] {
        wait("it has settled", || from.state("witness") == VmState::Running);
        let mut serial = from.serial("witness");
        // While it fills its memory anew it outruns the link.
        may_move(from, name);
        let typed = format!("vm migrate witness {name} --on-no-convergence wait");
        let (lease, moving) = lease_line::hold_in_pre_copy(from, to, &typed);
        // What the port keeps of earlier output may hold an earlier start: a word that was never said marks it.
        serial.type_line(mark);
        serial.wait_for(&format!("witness: ok {mark}"));
        serial.type_line("b");
        serial.wait_for("witness: start ");
        lease.mend();
        let (_, answer) = finish(&moving);
        let HostAnswer::Migrated(receipt) = answer else { panic!("{}\n{}", line(&answer), from.log("vmm")) };
        assert_eq!(receipt.verdict, Verdict::Moved, "{receipt:?}");
        assert!(receipt.audit.done && receipt.audit.different_pages == 0, "{:?}", receipt.audit);
        wait("it runs there", || to.state("witness") == VmState::Running);
        let mut serial = to.serial("witness");
        let audit = serial.audit();
        assert!(audit.contains(" bad=0 "), "{audit}");
    }
}

#[test]
fn a_migration_process_that_is_killed_leaves_the_vm_on_one_host_and_the_next_move_succeeds() {
    let Some((_datastore, _cable, mut a, mut b)) = two_hosts("kill") else { return };
    migrate(&a, "host-b");
    migrate(&b, "host-a");
    for (round, after_ms) in [150, 400, 900, 1800].into_iter().enumerate() {
        let victim = if round % 2 == 0 { a.migrate_pid() } else { b.migrate_pid() };
        let at_a = std::ptr::eq(runner(&a, &b), &raw const a);
        let (from, to) = if at_a { (&a, "host-b") } else { (&b, "host-a") };
        let said = disturbed(from, to, after_ms, || world::kill(victim));
        println!("killed after {after_ms} ms: {said:?}");
        a.restart_migrate();
        b.restart_migrate();
        runner(&a, &b);
    }
    let at_a = matches!(a.state("witness"), VmState::Running);
    let (from, to) = if at_a { (&a, "host-b") } else { (&b, "host-a") };
    assert_eq!(migrate(from, to).verdict, Verdict::Moved);
    runner(&a, &b);
}

#[test]
fn a_control_plane_that_dies_while_a_vm_moves_in_leaves_it_on_one_host_and_no_monitor_astray() {
    let Some((_datastore, _cable, mut a, mut b)) = two_hosts("control") else { return };
    for after_ms in [100, 300, 700, 1500] {
        let at_a = std::ptr::eq(runner(&a, &b), &raw const a);
        let (from, to, name) = if at_a { (&a, &mut b, "host-b") } else { (&b, &mut a, "host-a") };
        let said = disturbed(from, name, after_ms, || to.restart_control_plane());
        println!("killed after {after_ms} ms: {said:?}");
        let runner = runner(&a, &b);
        let (idle, runs) = if std::ptr::eq(runner, &raw const a) { (&b, &a) } else { (&a, &b) };
        wait("no monitor is astray", || idle.monitor_processes().is_empty() && runs.monitor_processes().len() == 1);
    }
}

#[test]
fn a_control_plane_that_dies_while_its_vm_moves_away_lists_it_where_it_runs() {
    let Some((_datastore, _cable, mut a, mut b)) = two_hosts("away") else { return };
    for after_ms in [100, 400, 700] {
        let at_a = std::ptr::eq(runner(&a, &b), &raw const a);
        let (from, to, name) = if at_a { (&mut a, &b, "host-b") } else { (&mut b, &a, "host-a") };
        wait("it has settled", || from.state("witness") == VmState::Running);
        may_move(from, name);
        let command = from.begin(&format!("vm migrate witness {name} {SLOWLY}"));
        std::thread::sleep(std::time::Duration::from_millis(after_ms));
        assert_eq!(from.state("witness"), VmState::MovingOut, "after {after_ms} ms");
        from.restart_control_plane();
        drop(command);
        // The engines finish the move, or not: in the end one host has a monitor, and both say which.
        wait("it runs on exactly one host, which both know", || {
            let monitors = [from.monitor_processes().len(), to.monitor_processes().len()];
            let states = [from.state("witness"), to.state("witness")];
            let elsewhere = |state: &VmState| matches!(state, VmState::Elsewhere(_));
            (monitors == [1, 0] && states[0] == VmState::Running && elsewhere(&states[1]))
                || (monitors == [0, 1] && states[1] == VmState::Running && elsewhere(&states[0]))
        });
        println!(
            "killed after {after_ms} ms: it runs on {}",
            if from.state("witness") == VmState::Running { "its source" } else { "its destination" }
        );
        runner(&a, &b);
    }
    // What was adopted in an earlier round is looked after for some seconds more, and must not be taken for what runs now.
    std::thread::sleep(std::time::Duration::from_secs(3));
    for host in [&a, &b] {
        assert_eq!(host.recorded_monitors(), host.monitor_processes(), "the next control plane would not find it");
    }
}

#[test]
fn a_control_plane_that_comes_back_in_the_middle_of_a_move_goes_on_with_it_and_lets_nobody_else_at_the_vm() {
    let Some((_datastore, _cable, mut a, b)) = two_hosts("goes-on") else { return };
    let (lease, _command) = hold_in_pre_copy(&a, &b);
    a.restart_control_plane();
    assert_eq!(a.state("witness"), VmState::MovingOut);
    let (status, refusal) = a.ask("vm pause witness");
    assert!(status == 1 && line(&refusal).contains("is being moved away"), "{refusal:?}");
    wait_for_phase(&a, "pre-copy");
    lease.mend();
    wait("it runs there", || b.state("witness") == VmState::Running);
    wait("the source lists it", || a.migrations().iter().any(|row| row.state == "moved"));
    assert!(std::ptr::eq(runner(&a, &b), &raw const b));
}

#[test]
fn a_vm_whose_engine_dies_after_its_control_plane_did_goes_on_running() {
    let Some((_datastore, _cable, mut a, b)) = two_hosts("both-die") else { return };
    let (leases, _command) = hold_in_commit(&a, &b);
    a.restart_control_plane();
    world::kill(a.migrate_pid());
    assert_eq!((a.state("witness"), a.life("witness")), (VmState::MovingOut, VmmLife::Paused));
    leases[0].mend();
    wait("it goes on", || a.state("witness") == VmState::Running && a.life("witness") == VmmLife::Running);
    leases[1].mend();
    assert!(std::ptr::eq(runner(&a, &b), &raw const a));
    wait("nothing is left at the destination", || b.monitor_processes().is_empty());
}

#[test]
fn a_cut_cable_leaves_the_vm_on_its_source_and_says_so() {
    let Some(cable) = Cable::lay_through_switches("cut", 9000) else { return };
    let Some((_datastore, cable, a, b)) = two_hosts_joined_by(cable, "cut") else { return };
    let (lease, moving) = hold_in_pre_copy(&a, &b);
    cable.plugged(false);
    let said = line(&finish(&moving).1);
    cable.plugged(true);
    lease.mend();
    assert!(said.contains("it is still running on host-a") && said.contains("network migration-nic"), "{said}");
    assert!(std::ptr::eq(runner(&a, &b), &raw const a));
    migrate(&a, "host-b");
    runner(&a, &b);
}

/// Waits until a move from a host is in this phase.
fn wait_for_phase(from: &Host, phase: &str) {
    wait(phase, || from.migrations().iter().any(|row| row.state.starts_with(phase)));
}

/// Begins a move that stays in its rounds.
fn hold_in_pre_copy(from: &Host, to: &Host) -> (LeaseLine, Channel<HostRequest, HostAnswer>) {
    may_move(from, "host-b");
    lease_line::hold_in_pre_copy(from, to, "vm migrate witness host-b")
}

/// Begins a move whose commit neither host learns the outcome of: its VM stands still until the lines are mended.
fn hold_in_commit(from: &Host, to: &Host) -> ([LeaseLine; 2], Channel<HostRequest, HostAnswer>) {
    may_move(from, "host-b");
    let leases = [LeaseLine::cut_into(from), LeaseLine::cut_into(to)];
    for lease in &leases {
        lease.becomes(|request| match request {
            LeaseRequest::Commit { .. } | LeaseRequest::Resolve { .. } => Word::IsUnknown,
            _ => Word::Passes,
        });
    }
    let moving = from.begin("vm migrate witness host-b");
    wait_for_phase(from, "commit");
    (leases, moving)
}

#[test]
fn a_host_that_ends_gives_its_moves_up_and_shuts_its_guests_down() {
    let Some((_datastore, _cable, mut a, b)) = two_hosts("ending") else { return };
    let (_lease, _command) = hold_in_pre_copy(&a, &b);
    a.ask_to_end();
    assert!(a.wait_for_end().success());
    let log = a.whole_log("host");
    assert!(log.contains("is given up, because this host ends"), "{log}");
    assert!(log.contains("VM witness ended: its guest shut down") && !log.contains("was killed"), "{log}");
    wait("nothing is left of it", || a.monitor_processes().is_empty() && b.monitor_processes().is_empty());
    assert_eq!(b.ask("vm start witness").0, 0, "its lease was given up");
}

#[test]
fn a_host_that_ends_while_a_vm_moves_in_leaves_it_on_its_source() {
    let Some((_datastore, _cable, a, mut b)) = two_hosts("ending-in") else { return };
    let (_lease, moving) = hold_in_pre_copy(&a, &b);
    b.ask_to_end();
    assert!(b.wait_for_end().success());
    let refusal = line(&finish(&moving).1);
    assert!(refusal.contains("it was cancelled on host-b"), "{refusal}");
    assert!(refusal.contains("it is still running on host-a"), "{refusal}");
    assert_eq!((a.state("witness"), a.life("witness")), (VmState::Running, VmmLife::Running));
    wait("nothing is left at the destination", || b.monitor_processes().is_empty());
}

#[test]
fn a_kill_ends_a_vm_in_the_middle_of_its_move() {
    let Some((_datastore, _cable, a, b)) = two_hosts("kill-out") else { return };
    let (lease, moving) = hold_in_pre_copy(&a, &b);
    for command in ["vm pause witness", "vm stop witness", "vm migrate witness host-b"] {
        let (status, refusal) = a.ask(command);
        assert!(status == 1 && line(&refusal).contains("is being moved away"), "{command}: {refusal:?}");
    }
    let (status, said) = a.ask("vm kill witness");
    assert!(status == 0 && line(&said).contains("was killed"), "{said:?}");
    assert!(line(&finish(&moving).1).contains("it was cancelled"), "the move says why it ended");
    wait("nothing is left of it", || a.monitor_processes().is_empty() && b.monitor_processes().is_empty());
    assert_eq!(a.last_end("witness"), "it was killed on the console");
    let log = b.whole_log("host");
    assert!(log.contains("VM witness did not come here from host-a"), "{log}");
    assert!(!log.contains("still running"), "what it is at its source, this host does not know: {log}");
    lease.mend();
    assert_eq!(b.ask("vm start witness").0, 0, "its lease was given up");
}

#[test]
fn a_vm_whose_move_is_committed_is_not_killed_at_its_source() {
    let Some((_datastore, _cable, a, b)) = two_hosts("kill-late") else { return };
    let (lease, moving) = hold_in_pre_copy(&a, &b);
    // The destination's engine commits, and waits for the disks that its control plane is to open.
    let frozen = b.freeze_control_plane();
    lease.mend();
    wait_for_phase(&a, "resume");
    let (status, refusal) = a.ask("vm kill witness");
    assert!(status == 1 && line(&refusal).contains("its move is committed: it is host-b's"), "{refusal:?}");
    frozen.thaw();
    assert!(matches!(finish(&moving).1, HostAnswer::Migrated(receipt) if receipt.verdict == Verdict::Moved));
    assert!(std::ptr::eq(runner(&a, &b), &raw const b));
}

#[test]
fn a_vm_whose_monitor_dies_between_the_commit_and_the_resume_can_be_started_anywhere() {
    let Some((_datastore, _cable, a, b)) = two_hosts("late-death") else { return };
    let (lease, moving) = die_after_the_commit(&a, &b);
    lease.mend();
    let told = line(&finish(&moving).1);
    assert!(told.contains("does not run there") && told.contains("vm start witness"), "{told}");
    starts_at_its_source_again(&a, &b);
}

#[test]
fn a_lease_that_came_with_a_commit_of_which_nobody_learned_in_time_is_given_up_with_the_dead_vm() {
    let Some((_datastore, _cable, a, b)) = two_hosts("unlearned") else { return };
    let (lease, moving) = die_after_the_commit(&a, &b);
    wait("the destination asks no more", || b.migrations().iter().any(|row| row.state == "failed"));
    lease.mend();
    finish(&moving);
    starts_at_its_source_again(&a, &b);
}

/// Kills the monitor at the destination when the commit is made and the engine there does not know it yet.
fn die_after_the_commit(a: &Host, b: &Host) -> (LeaseLine, Channel<HostRequest, HostAnswer>) {
    may_move(a, "host-b");
    let lease = LeaseLine::cut_into(b);
    lease.becomes(|request| match request {
        LeaseRequest::Commit { .. } => Word::AnswerIsLost,
        LeaseRequest::Resolve { .. } => Word::IsUnknown,
        _ => Word::Passes,
    });
    let moving = a.begin("vm migrate witness host-b");
    wait_for_phase(b, "commit");
    b.monitor_processes().into_iter().for_each(world::kill);
    wait("its monitor is gone", || b.monitor_processes().is_empty());
    (lease, moving)
}

fn starts_at_its_source_again(a: &Host, b: &Host) {
    wait("both say that it is stopped", || [a, b].iter().all(|host| host.state("witness") == VmState::Stopped));
    assert_eq!(a.ask("vm start witness").0, 0, "its lease was given up");
    assert!(std::ptr::eq(runner(a, b), a));
}

#[test]
fn a_stunned_vm_whose_engine_died_waits_for_its_lease_and_goes_on_when_it_answers() {
    let Some((datastore, _cable, a, b)) = two_hosts("settle") else { return };
    let disk = datastore.path("vms/witness/disk.img");
    let (leases, moving) = hold_in_commit(&a, &b);
    world::kill(a.migrate_pid());
    wait("it waits", || a.vm("witness").waits_for.is_some_and(|what| what.contains("its lease")));
    assert_eq!((a.state("witness"), a.life("witness")), (VmState::MovingOut, VmmLife::Paused));
    assert!(!is_locked(&disk), "the destination may take it");
    leases[0].mend();
    let (said, answer) = finish(&moving);
    assert!(said.iter().any(|said| said.contains("waits for its lease")), "{said:?}");
    assert!(line(&answer).contains("it is still running on host-a"), "{answer:?}");
    assert_eq!((a.state("witness"), a.life("witness")), (VmState::Running, VmmLife::Running));
    assert!(is_locked(&disk), "it is taken back");
    leases[1].mend();
    assert!(std::ptr::eq(runner(&a, &b), &raw const a));
    wait("nothing is left at the destination", || b.monitor_processes().is_empty());
}

/// Damages what hosts wrote about the first VM into the lease area; what was there.
fn damage_lease(datastore: &Datastore) -> (Vec<u8>, u64) {
    let path = datastore.path("godwit/lease");
    let (_, area) = godwit::lease::area::open(&path).expect("an area");
    let bank = area.geometry.vm(protocol::lease::layout::Place(0)).extent();
    let mut before = vec![0; bank.bytes];
    std::fs::File::open(&path).expect("it is there").read_exact_at(&mut before, bank.offset).expect("read");
    write_lease(datastore, &(vec![0xA5; bank.bytes], bank.offset));
    (before, bank.offset)
}

fn write_lease(datastore: &Datastore, (bytes, offset): &(Vec<u8>, u64)) {
    let file = std::fs::File::options().write(true).open(datastore.path("godwit/lease")).expect("it is there");
    file.write_all_at(bytes, *offset).expect("written");
    file.sync_all().expect("on the disk");
}

/// The VM stands still on this host, and people are told what to do.
fn stands_still(host: &Host) {
    wait("it stands still", || host.state("witness") == VmState::Paused);
    wait("it is told", || {
        host.vm("witness").waits_for.is_some_and(|what| {
            what.contains("the lease of VM witness is damaged") && what.contains("then lease break witness")
        })
    });
    assert_eq!(host.life("witness"), VmmLife::Paused);
    let (status, refused) = host.ask("vm resume witness");
    assert!(status == 1 && line(&refused).contains("is damaged"), "{refused:?}");
    assert_eq!(host.life("witness"), VmmLife::Paused);
}

#[test]
fn a_move_whose_lease_is_damaged_in_its_commit_ends_with_the_vm_standing_on_both_hosts_until_the_lease_tells() {
    let Some((datastore, _cable, mut a, mut b)) = two_hosts("damaged") else { return };
    let (leases, moving) = hold_in_commit(&a, &b);
    wait_for_phase(&b, "commit");
    let before = damage_lease(&datastore);
    leases.iter().for_each(LeaseLine::mend);
    let told = line(&finish(&moving).1);
    for part in [
        "whether VM witness was migrated is not known",
        "it is stopped on host-a",
        "the lease of VM witness is damaged",
        "vm kill witness, then lease break witness",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    [&a, &b].into_iter().for_each(stands_still);
    let (status, refused) = a.ask("vm migrate witness host-b");
    assert!(status == 1 && line(&refused).contains("stands still"), "{refused:?}");
    a.restart_control_plane();
    b.restart_control_plane();
    [&a, &b].into_iter().for_each(stands_still);
    // The damage passes.
    write_lease(&datastore, &before);
    let runner = runner(&a, &b);
    let idle = if std::ptr::eq(runner, &raw const a) { &b } else { &a };
    wait("nothing is left on the other", || idle.monitor_processes().is_empty());
    assert_eq!(runner.monitor_processes().len(), 1);
}

#[test]
fn a_vm_that_stands_still_at_its_destination_ends_when_another_host_holds_the_new_lease() {
    let Some((datastore, _cable, a, b)) = two_hosts("mended") else { return };
    let (leases, moving) = hold_in_commit(&a, &b);
    wait_for_phase(&b, "commit");
    damage_lease(&datastore);
    world::kill(b.migrate_pid());
    leases.iter().for_each(LeaseLine::mend);
    finish(&moving);
    [&a, &b].into_iter().for_each(stands_still);
    // Its lease cannot be given up yet.
    a.ask("vm kill witness");
    wait("it ended there", || a.monitor_processes().is_empty());
    let (status, refused) = a.ask("lease break witness");
    assert!(status == 1 && line(&refused).contains("these live: host-b"), "{refused:?}");
    a.done("lease break witness --force");
    assert_eq!(b.life("witness"), VmmLife::Paused, "nobody holds it yet");
    a.done("vm start witness");
    wait("it ends at the destination", || b.monitor_processes().is_empty());
    assert!(b.last_end("witness").contains("host-a took its lease"), "{}", b.last_end("witness"));
    assert!(std::ptr::eq(runner(&a, &b), &raw const a));
}

#[test]
fn a_vm_that_came_with_a_commit_stands_still_where_its_lease_is_damaged_before_it_runs() {
    let Some((datastore, _cable, a, b)) = two_hosts("committed") else { return };
    let (lease, moving) = hold_in_pre_copy(&a, &b);
    // The destination's engine commits, and waits for the disks that its control plane is to open.
    let frozen = b.freeze_control_plane();
    lease.mend();
    wait_for_phase(&a, "resume");
    let before = damage_lease(&datastore);
    frozen.thaw();
    let told = line(&finish(&moving).1);
    assert!(told.contains("was moved to host-b, but does not run there") && told.contains("is damaged"), "{told}");
    wait("it left its source", || a.monitor_processes().is_empty());
    // It is the only copy.
    stands_still(&b);
    write_lease(&datastore, &before);
    assert!(std::ptr::eq(runner(&a, &b), &raw const b));
}

#[test]
fn the_receipt_of_a_move_outlives_the_control_plane_that_began_it() {
    let Some((_datastore, _cable, mut a, b)) = two_hosts("receipt") else { return };
    let (lease, _command) = hold_in_pre_copy(&a, &b);
    let id = a.migrations().into_iter().find(|row| row.state.starts_with("pre-copy")).expect("it is under way").id;
    a.kill_control_plane();
    lease.mend();
    wait("it moved", || b.migrations().iter().any(|row| row.id == id && row.state == "moved"));
    a.start_control_plane();
    for host in [&a, &b] {
        let mut shown = None;
        wait("the receipt is there", || {
            shown = match host.ask(&format!("migration show {id}")).1 {
                HostAnswer::Migration(receipt) => Some(receipt),
                _ => None,
            };
            shown.is_some()
        });
        let receipt = shown.expect("it is there");
        assert!(receipt.verdict == Verdict::Moved && receipt.audit.done, "{receipt:?}");
    }
    assert!(a.migrations().iter().any(|row| row.id == id && row.state == "moved"), "the source lists it");
    assert!(std::ptr::eq(runner(&a, &b), &raw const b));
}

#[test]
fn a_source_that_died_after_the_commit_leaves_its_receipt_to_the_destination() {
    let Some((datastore, _cable, mut a, b)) = two_hosts("orphan") else { return };
    may_move(&a, "host-b");
    let lease = LeaseLine::cut_into(&a);
    // Without its lease the source does not learn that it may go on: it dies in the commit.
    lease.becomes(|request| match request {
        LeaseRequest::Resolve { .. } => Word::IsUnknown,
        _ => Word::Passes,
    });
    let commits = LeaseLine::cut_into(&b);
    commits.becomes(|request| match request {
        LeaseRequest::Commit { .. } | LeaseRequest::Resolve { .. } => Word::IsUnknown,
        _ => Word::Passes,
    });
    let _command = a.begin("vm migrate witness host-b");
    // What the source hands over has arrived: its own word of the phase comes while it may still be on its way.
    wait_for_phase(&b, "commit");
    a.power_off();
    commits.mend();
    wait("it runs there", || b.state("witness") == VmState::Running);
    let moved = || b.migrations().into_iter().find(|row| row.state == "moved");
    wait("the move is over", || moved().is_some());
    let id = moved().expect("it is over").id;
    let receipt = format!("vms/witness/receipts/{id}.toml");
    wait("the receipt is on the datastore", || datastore.path(&receipt).exists());
}

#[test]
fn a_migration_nic_that_appears_late_comes_up_and_the_host_tells_the_truth_meanwhile() {
    let Some(datastore) = Datastore::with_witness("late-nic") else { return };
    let Some(cable) = Cable::lay("late-nic") else { return };
    let (a, b) = (Host::boot_at_nic(&datastore, &cable, 0, "mig1"), Host::boot_at(&datastore, &cable, 1));
    let told = || line(&a.ask("network migration-nic").1);
    wait("the missing NIC is told", || told().contains("no Ethernet interface mig1"));
    let checks = line(&a.ask("host check").1);
    assert!(checks.contains("FAIL  migration stack"), "{checks}");
    assert_eq!(a.ask("vm start witness").0, 0);
    let (status, refusal) = a.ask("vm migrate witness host-b");
    assert!(status == 1 && line(&refusal).contains("the migration stack of host-a is not up"), "{refusal:?}");
    cable.rename(0, "mig0", "mig1");
    wait("the stack comes up", || a.stack_is_up());
    wait("the check sees it", || line(&a.ask("host check").1).contains("ok    migration stack: up"));
    a.serial("witness").wait_for("bad=0");
    assert_eq!(migrate(&a, "host-b").verdict, Verdict::Moved);
    runner(&a, &b);
}

#[test]
fn a_move_takes_no_more_of_the_link_than_it_may() {
    let Some(datastore) = Datastore::with_witness("paced") else { return };
    let Some(cable) = Cable::lay("paced") else { return };
    datastore.add("paced", 1, "32 MiB", "seed=7 rate=200 set=8M scan=500 nap=on report_ms=500", "stun_ms_max = 5000");
    let [a, b] = Host::boot_two(&datastore, &cable);
    assert_eq!(a.ask("vm start paced").0, 0);
    a.serial("paced").wait_for("witness: ready");
    wait("nothing stands in the way", || a.ask("vm migrate paced host-b --check").0 == 0);
    let (status, answer) = a.ask("vm migrate paced host-b --bandwidth-max 40");
    let HostAnswer::Migrated(receipt) = answer else { panic!("{status}: {}", line(&answer)) };
    let (_, with_guest) = receipt.rounds.split_last().expect("there were rounds");
    assert!(with_guest[0].bytes > 4 << 20, "{receipt:?}");
    for round in with_guest.iter().filter(|round| round.bytes > 1 << 20) {
        // The pace makes up for 20 ms that were missed, and the first record of a round does not wait.
        let allowed = 5_000_000 * (round.us + 20_000) / 1_000_000 + model::limits::MIGRATION_RECORD_BYTES_MAX;
        assert!(round.bytes <= allowed, "{} bytes in {} us", round.bytes, round.us);
    }
    assert_eq!(b.state("paced"), VmState::Running);
}
