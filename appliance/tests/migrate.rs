//! Whole migrations between two hosts of this machine: real processes, two network namespaces, a veth between them, the
//! witness as the guest, which verifies every page of its working set for ever.

mod world;

use godwit::api::host::{HostAnswer, VmState};
use godwit::api::vmm::VmmLife;
use model::receipt::Verdict;
use world::two_hosts::{hold_in_pre_copy, may_move, migrate, runner, two_hosts, two_hosts_joined_by, wait_for_phase};
use world::{Cable, Datastore, Host, finish, is_locked, lease_line, line, wait};

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
