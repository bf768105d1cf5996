//! A role of either host dies in the middle of a move: the VM goes on, on exactly one host.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use godwit::api::channel::Channel;
use godwit::api::host::{HostAnswer, HostRequest, VmState};
use godwit::api::lease::LeaseRequest;
use godwit::api::migrate::ToMigrate;
use godwit::api::vmm::VmmLife;
use model::receipt::Verdict;
use vmm::virtio::net::announcement::rarp;
use world::cable::listen;
use world::command::Command;
use world::lease_line::{LeaseLine, Word};
use world::two_hosts::{hold_in_commit, hold_in_pre_copy, may_move, migrate, runner, two_hosts, wait_for_phase};
use world::{Cable, Datastore, Host, engine_line, finish, is_locked, line, wait, wait_closely};

/// Of reverse ARP (RFC 903).
const ETHER_TYPE_RARP: u16 = 0x8035;
/// Keeps a move under way for seconds, however fast the machine is.
const SLOWLY: &str = "--bandwidth-max 250";
/// The connections that a control plane has to a monitor all the time: for its orders, and for what the monitor tells.
const OWN_SESSIONS: usize = 2;

/// Lets a move go on for a while, does something to it, and gives what the command said.
fn disturbed(from: &Host, to_name: &str, after_ms: u64, disturb: impl FnOnce()) -> (u8, String) {
    wait("it has settled", || from.state("witness") == VmState::Running);
    may_move(from, to_name);
    std::thread::scope(|scope| {
        let typed = format!("vm migrate witness {to_name} {SLOWLY}");
        let asked = scope.spawn(move || from.ask(&typed));
        wait_closely("it is moving", || from.state("witness") == VmState::MovingOut);
        std::thread::sleep(std::time::Duration::from_millis(after_ms));
        assert_eq!(from.state("witness"), VmState::MovingOut, "after {after_ms} ms");
        disturb();
        let (status, answer) = asked.join().expect("the command ended");
        (status, line(&answer))
    })
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
        wait_closely("it is moving", || from.state("witness") == VmState::MovingOut);
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
fn a_stunned_vm_whose_engine_died_waits_for_its_lease_and_goes_on_when_it_answers() {
    let Some((datastore, _cable, a, b)) = two_hosts("settle") else { return };
    let disk = datastore.path("vms/witness/disk.img");
    let own = |a: &Host| a.sessions_of_monitors() == OWN_SESSIONS;
    // Who looked at the VM before, its console and the check of a move, had connections of their own.
    wait("only its control plane has connections", || own(&a));
    let (leases, moving) = hold_in_commit(&a, &b);
    assert!(a.sessions_of_monitors() > OWN_SESSIONS, "the engine has a connection");
    world::kill(a.migrate_pid());
    // What the engine left (a dirty log, slowed vCPUs) ends with it, however long the lease does not tell.
    wait("the monitor knows", || own(&a));
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
fn a_vm_that_was_paused_before_its_engine_heard_of_its_disks_stays_paused_and_its_move_ends_well() {
    let Some((_datastore, _cable, a, mut b)) = two_hosts("unheard") else { return };
    let (unheard, is_heard) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, heard) = (Arc::clone(&unheard), Arc::clone(&is_heard));
    engine_line::cut_into(&mut b, move |word| {
        if matches!(word, ToMigrate::DisksOpen(..)) && !heard.load(Ordering::Relaxed) {
            // A question that changes nothing.
            *word = ToMigrate::Nic;
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    may_move(&a, "host-b");
    let command = Command::typed(&a, "vm migrate witness host-b");
    wait_closely("its disks are open", || unheard.load(Ordering::Relaxed) > 0);
    b.kill_control_plane();
    b.start_control_plane();
    wait("the control plane after it finds the VM to be its own", || b.state("witness") == VmState::Running);
    b.done("vm pause witness");
    is_heard.store(true, Ordering::Relaxed);
    let HostAnswer::Migrated(receipt) = command.end() else { panic!("{}", a.log("migrate")) };
    assert_eq!(receipt.verdict, Verdict::Moved, "{receipt:?}");
    assert_eq!(b.state("witness"), VmState::Paused);
    assert_eq!(b.life("witness"), VmmLife::Paused);
    b.done("vm resume witness");
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
fn a_silent_vm_that_has_arrived_is_announced_on_by_the_control_plane_that_adopts_it() {
    let Some(mut cable) = Cable::lay("announces") else { return };
    let outside = cable.join_guests("gwup", "10.9.0.1/24");
    let Some(datastore) = Datastore::with_witness("announces") else { return };
    // Nobody told the witness of an address there: it leaves its NIC alone.
    datastore.add_nic("witness", "lan");
    let network = "[vswitch.gwlan]\nuplink = \"gwup\"\n[port_group.lan]\nvswitch = \"gwlan\"\n";
    let [a, mut b] = Host::boot_two_with(&datastore, &cable, network);
    a.done("vm start witness");
    migrate(&a, "host-b");
    b.kill_control_plane();
    // Opened now, it hears nothing of what the dead one had announced.
    let wire = listen(&outside, "lan", ETHER_TYPE_RARP);
    b.start_control_plane();
    let mut buffer = [0; 2048];
    let mut frame = Vec::new();
    wait("it is announced again", || {
        frame = wire.receive(&mut buffer).expect("it hears").unwrap_or_default().to_vec();
        !frame.is_empty()
    });
    let mac = <[u8; 6]>::try_from(&frame[6..12]).expect("six bytes");
    assert_eq!(frame[..], rarp(mac), "a guest's MAC address asks for itself");
    assert!(std::ptr::eq(runner(&a, &b), &raw const b));
}
