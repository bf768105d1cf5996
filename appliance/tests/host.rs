//! The control plane, the lease role and monitors as processes, with the witness as a guest: a VM's whole life.

mod world;

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use godwit::api::host::{Flaw, HostAnswer, HostRequest, LeaseRow, LeaseState, RunsHere, VmHolder, VmState};
use godwit::api::lease::LeaseRequest;
use model::names::VmName;
use world::lease_line::{LeaseLine, Word};
use world::{Datastore, Host, finish, freeze, is_locked, line, wait};

#[test]
fn a_vm_starts_from_its_datastore_is_paused_goes_on_and_is_killed() {
    let Some(datastore) = Datastore::with_witness("life") else { return };
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm check witness").0, 0);
    let (status, said) = host.ask("vm start witness");
    assert_eq!(status, 0, "{said:?}");
    let mut serial = host.serial("witness");
    serial.wait_for("witness: ready");
    assert_eq!(host.state("witness"), VmState::Running);
    let (status, again) = host.ask("vm start witness");
    assert!(status == 1 && line(&again).contains("runs on this host"), "{again:?}");
    assert_eq!(host.ask("vm pause witness").0, 0);
    assert_eq!(host.state("witness"), VmState::Paused);
    assert_eq!(host.ask("vm resume witness").0, 0);
    serial.type_line("r");
    serial.wait_for("bad=0");
    assert_eq!(host.ask("vm kill witness").0, 0);
    assert_eq!(host.state("witness"), VmState::Stopped);
    assert!(line(&host.ask("vm stop witness").1).contains("does not run on this host"));
}

#[test]
fn a_monitor_has_no_privileges_and_sees_no_network() {
    let Some(datastore) = Datastore::with_witness("confined") else { return };
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    let pid = host.pid("witness").expect("it runs");
    let of = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("readable");
    let status = of("status");
    let line = |name: &str| status.lines().find(|line| line.starts_with(name)).expect("there").to_owned();
    assert_eq!(line("CapEff"), "CapEff:\t0000000000000000");
    assert_eq!(line("CapBnd"), "CapBnd:\t0000000000000000");
    assert_eq!(line("NoNewPrivs"), "NoNewPrivs:\t1");
    assert!(!line("Uid").contains("\t0\t"), "{}", line("Uid"));
    let links = of("net/dev");
    assert!(links.lines().skip(2).all(|link| link.trim_start().starts_with("lo:")), "{links}");
}

#[test]
fn a_vm_runs_on_the_processors_of_its_affinity_only_and_not_where_they_are_not() {
    let Some(datastore) = Datastore::with_witness("affinity") else { return };
    let host = Host::boot(&datastore, "host-a", 1);
    let config = datastore.path("vms/witness/vm.toml");
    let text = std::fs::read_to_string(&config).expect("it is there");
    let pinned_to = |cpus: &str| {
        std::fs::write(&config, text.replacen("[vm]", &format!("[vm]\ncpu_affinity = [{cpus}]"), 1)).expect("written");
    };
    pinned_to("0, 4095");
    let (status, refusal) = host.ask("vm start witness");
    assert!(status == 1 && line(&refusal).contains("this host has no processor 4095"), "{refusal:?}");
    pinned_to("0");
    assert_eq!(host.ask("vm start witness").0, 0);
    let pid = host.pid("witness").expect("it runs");
    let threads: Vec<_> = std::fs::read_dir(format!("/proc/{pid}/task")).expect("readable").flatten().collect();
    let mut pinned = 0;
    for thread in threads {
        // One that only begins the others may have ended meanwhile.
        let Ok(status) = std::fs::read_to_string(thread.path().join("status")) else { continue };
        pinned += 1;
        let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("there");
        assert_eq!(allowed.trim(), "0", "{status}");
    }
    assert!(pinned > 1, "its vCPU has a thread");
}

#[test]
fn a_guest_that_shuts_down_gives_its_lease_up_and_one_that_resets_runs_again() {
    let Some(datastore) = Datastore::with_witness("ends") else { return };
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    let mut serial = host.serial("witness");
    serial.wait_for("witness: ready");
    let before = host.pid("witness");
    serial.type_line("b");
    wait("the guest runs again", || host.pid("witness").is_some_and(|pid| Some(pid) != before));
    assert_eq!(host.epoch("witness"), 1, "the lease was never given up");
    let mut serial = host.serial("witness");
    serial.wait_for("witness: ready");
    assert_eq!(host.ask("vm stop witness").0, 0);
    wait("the guest shuts down", || host.state("witness") == VmState::Stopped);
    assert!(host.last_end("witness").contains("shut down"), "{}", host.last_end("witness"));
    assert_eq!(host.ask("vm start witness").0, 0);
    let mut serial = host.serial("witness");
    serial.wait_for("witness: ready");
    serial.type_line("t");
    wait("the guest crashes", || host.state("witness") == VmState::Stopped);
    assert!(host.last_end("witness").contains("triple fault"), "{}", host.last_end("witness"));
}

#[test]
fn two_hosts_that_start_a_vm_at_once_run_it_once_and_the_other_says_who() {
    let Some(datastore) = Datastore::with_witness("race") else { return };
    let (a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    let (at_a, at_b) = std::thread::scope(|scope| {
        let at_a = scope.spawn(|| a.ask("vm start witness"));
        let at_b = scope.spawn(|| b.ask("vm start witness"));
        (at_a.join().expect("answered"), at_b.join().expect("answered"))
    });
    let (winner, refusal) = if at_a.0 == 0 { ("host-a", &at_b) } else { ("host-b", &at_a) };
    assert_eq!((at_a.0 + at_b.0, refusal.0), (1, 1), "{at_a:?} {at_b:?}");
    assert!(line(&refusal.1).contains(&format!("{winner} holds its lease")), "{refusal:?}");
    assert!(line(&refusal.1).contains(&format!("it is on {winner}")), "{refusal:?}");
}

#[test]
fn a_control_plane_that_is_restarted_finds_its_vms_running() {
    let Some(datastore) = Datastore::with_witness("adopt") else { return };
    let mut host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    host.serial("witness").wait_for("witness: ready");
    let before = host.pid("witness");
    host.restart_control_plane();
    wait("the VM is adopted", || host.state("witness") == VmState::Running);
    assert_eq!(host.pid("witness"), before, "it is the same process");
    host.serial("witness").wait_for("witness: t=");
    assert_eq!(host.ask("vm kill witness").0, 0);
    wait("it is gone", || host.state("witness") == VmState::Stopped);
}

#[test]
fn a_vm_runs_only_with_the_locks_of_its_disks_and_waits_for_them() {
    let Some(datastore) = Datastore::with_witness("locks") else { return };
    let disk = datastore.add_disk("witness");
    let host = Host::boot(&datastore, "host-a", 1);
    let other = std::fs::File::options().write(true).open(&disk).expect("it is there");
    other.lock().expect("locked");
    let command = host.begin("vm start witness");
    wait("it says what it waits for", || match command.receive().expect("the control plane answers").0 {
        HostAnswer::TakenUp => false,
        HostAnswer::Progress { doing, .. } => doing.contains("waiting for a disk") && doing.contains("disk.img"),
        answer => panic!("{answer:?}"),
    });
    command.send(&HostRequest::Cancel, &[]).expect("sent");
    let refusal = line(&finish(&command).1);
    assert!(refusal.contains("it was cancelled") && refusal.contains("another has it locked"), "{refusal}");
    let command = host.begin("vm start witness");
    wait(
        "it waits",
        || matches!(command.receive(), Ok((HostAnswer::Progress { doing, .. }, _)) if doing.contains("waiting for a disk")),
    );
    drop(other);
    let started = line(&finish(&command).1);
    assert!(started.contains("runs on this host"), "{started}");
    assert!(is_locked(&disk));
    assert_eq!(host.ask("vm kill witness").0, 0);
    assert!(!is_locked(&disk));
}

#[test]
fn a_control_plane_that_dies_while_it_makes_a_vm_leaves_neither_its_monitor_nor_its_lease() {
    let Some(datastore) = Datastore::with_witness("half-made") else { return };
    let (mut a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    let lease = LeaseLine::cut_into(&a);
    // The monitor is there, and the control plane waits for its lease role before it goes on to the record.
    let (asked, goes_on) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (is_asked, may_go_on) = (Arc::clone(&asked), Arc::clone(&goes_on));
    lease.becomes(move |request| {
        if matches!(request, LeaseRequest::Guard(_)) {
            is_asked.store(true, Ordering::Relaxed);
            wait("the control plane is gone", || may_go_on.load(Ordering::Relaxed));
        }
        Word::Passes
    });
    let _command = a.begin("vm start witness");
    wait("the monitor is to be guarded", || asked.load(Ordering::Relaxed));
    assert_eq!(a.monitor_processes().len(), 1);
    a.kill_control_plane();
    goes_on.store(true, Ordering::Relaxed);
    lease.mend();
    a.start_control_plane();
    wait("its monitor ends", || a.monitor_processes().is_empty());
    wait("another host may start it", || b.ask("vm start witness").0 == 0);
}

#[test]
fn a_vm_that_another_host_holds_is_refused_before_its_files_are_asked_for() {
    let Some(datastore) = Datastore::with_witness("held-elsewhere") else { return };
    let (a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    assert_eq!(a.ask("vm start witness").0, 0);
    // A file that answers nobody, as a server lets it where it was delegated to a host that died.
    let kernel = datastore.path("vms/witness/witness.elf");
    std::fs::remove_file(&kernel).expect("removed");
    assert!(std::process::Command::new("mkfifo").arg(&kernel).status().expect("started").success());
    let (status, refusal) = b.ask("vm start witness");
    assert_eq!(status, 1);
    assert!(line(&refusal).contains("host-a holds its lease"), "{refusal:?}");
    assert!(!line(&refusal).contains("did not answer"), "{refusal:?}");
}

#[test]
fn a_dead_hosts_vm_starts_elsewhere_after_the_expiry() {
    let Some(datastore) = Datastore::with_witness("dead") else { return };
    let (mut a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    let shown = |command: &str| line(&b.ask(command).1);
    assert!(shown("lease list").contains("no host holds a VM"));
    assert!(shown("lease show witness").contains("nobody holds it"));
    assert_eq!(a.ask("vm start witness").0, 0);
    assert!(line(&a.ask("lease show witness").1).contains("host-a, this host"));
    a.power_off();
    let (status, said) = b.ask("vm start witness");
    assert!(status == 1 && line(&said).contains("host-a holds its lease"), "{said:?}");
    assert!(shown("lease list").contains("renewed"), "{}", shown("lease list"));
    assert!(shown("lease show witness").contains("only host-a may run it"), "{}", shown("lease show witness"));
    wait("the lease of host-a expires", || shown("lease list").contains("over"));
    assert!(shown("lease show witness").contains("takes it over"), "{}", shown("lease show witness"));
    let (status, said) = b.ask("vm start witness");
    assert_eq!(status, 0, "{said:?}");
    assert!(line(&said).contains("it was taken from host-a: its host lease had expired"), "{said:?}");
    b.serial("witness").wait_for("witness: ready");
}

#[test]
fn a_lease_that_is_broken_by_force_ends_the_vm_where_it_ran_and_any_host_may_start_it() {
    let Some(datastore) = Datastore::with_witness("broken-lease") else { return };
    datastore.add_disk("witness");
    let (a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    assert_eq!(a.ask("vm start witness").0, 0);
    a.serial("witness").wait_for("witness: ready");
    let shown = line(&b.ask("vm show witness").1);
    assert!(shown.contains("held by host-a since 2"), "{shown}");
    let (status, said) = b.ask("lease break witness");
    assert!(status == 1 && line(&said).contains("host-a holds it in epoch 1"), "{said:?}");
    assert!(line(&a.ask("lease break witness").1).contains("runs on this host"));
    assert_eq!(a.state("witness"), VmState::Running);
    let (status, said) = b.ask("lease break witness --force");
    assert_eq!(status, 0, "{said:?}");
    // It waits for the lock of the disk, which host-a lets go of with its monitor.
    let (status, said) = b.ask("vm start witness");
    assert_eq!(status, 0, "{said:?}");
    b.serial("witness").wait_for("witness: ready");
    wait("host-a tells", || a.last_end("witness").contains("host-b took its lease"));
    assert_eq!(a.state("witness"), VmState::Elsewhere("host-b".parse().expect("valid")));
    let (status, said) = a.ask("lease break witness");
    assert!(status == 1 && line(&said).contains("host-b holds it in epoch 3"), "{said:?}");
}

#[test]
fn a_vm_that_wants_it_is_started_once_by_a_boot_of_a_host_and_again_by_the_next_boot_after_a_crash() {
    let Some(datastore) = Datastore::with_witness("autostart") else { return };
    datastore.add("other", 1, "64 MiB", "", "");
    datastore.autostarts("witness");
    let mut a = Host::boot(&datastore, "host-a", 1);
    let running = |host: &Host| host.state("witness") == VmState::Running;
    wait("it starts", || running(&a));
    assert_eq!(a.state("other"), VmState::Stopped);
    let b = Host::boot(&datastore, "host-b", 2);
    wait("the next host has looked at it", || b.has_started_what_wants_it("lab"));
    assert!(running(&a) && !running(&b), "it runs already");
    assert_eq!(a.ask("vm kill witness").0, 0);
    a.restart_control_plane();
    wait("the new control plane answers", || a.state("other") == VmState::Stopped);
    std::thread::sleep(std::time::Duration::from_secs(3));
    assert_eq!(a.state("witness"), VmState::Stopped, "it is no boot");
    assert_eq!(a.ask("vm start witness").0, 0);
    a.lose_memory();
    let a = Host::boot(&datastore, "host-a", 9);
    wait("it runs again", || running(&a));
    // The power fails for all of them, and another host is back first: that the VM's host is dead, it knows after a while.
    a.lose_memory();
    b.lose_memory();
    let b = Host::boot(&datastore, "host-b", 8);
    wait("it runs on the host that is back", || running(&b));
}

#[test]
fn a_host_in_maintenance_stays_in_it_over_a_reboot_and_a_restart_until_somebody_ends_it() {
    let Some(datastore) = Datastore::with_witness("maintenance") else { return };
    datastore.autostarts("witness");
    let a = Host::boot(&datastore, "host-a", 1);
    wait("it starts", || a.state("witness") == VmState::Running);
    let (status, told) = a.ask("host maintenance enter");
    assert!(status == 0 && line(&told).contains("still here: witness;"), "{told:?}");
    let record = datastore.path("hosts/host-a/record.toml");
    wait("it is written down", || std::fs::read_to_string(&record).is_ok_and(|text| text.contains("on = true")));
    a.lose_memory();
    let mut a = Host::boot(&datastore, "host-a", 2);
    for _ in 0..2 {
        let (status, refusal) = a.ask("vm start witness");
        assert!(status == 1 && line(&refusal).contains("host-a is in maintenance"), "{refusal:?}");
        a.restart_control_plane();
    }
    assert!(!a.has_started_what_wants_it("lab"));
    assert_eq!(a.ask("host maintenance exit").0, 0);
    wait("what wants to run is started", || a.state("witness") == VmState::Running);
}

#[test]
fn a_host_that_has_another_identity_after_a_reboot_shows_what_it_lost_as_its_own() {
    let Some(datastore) = Datastore::with_witness("rebooted") else { return };
    let a = Host::boot(&datastore, "host-a", 1);
    assert_eq!(a.ask("vm start witness").0, 0);
    a.lose_memory();
    let a = Host::boot(&datastore, "host-a", 9);
    wait("it knows itself", || a.state("witness") == VmState::LostHere);
    assert_eq!(a.ask("vm start witness").0, 0);
}

#[test]
fn a_host_that_was_frozen_kills_its_vm_when_it_wakes_and_says_why() {
    let Some(datastore) = Datastore::with_witness("frozen-host") else { return };
    let (a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    assert_eq!(a.ask("vm start witness").0, 0);
    let frozen = a.freeze();
    wait("the lease of host-a expires", || b.ask("vm start witness").0 == 0);
    frozen.thaw();
    wait("host-a tells", || a.last_end("witness").contains("could not renew its lease"));
    let at_b = VmState::Elsewhere("host-b".parse().expect("valid"));
    wait("host-a has a new life and sees who runs the VM", || a.state("witness") == at_b);
    assert_eq!(b.state("witness"), VmState::Running);
}

#[test]
fn a_vm_ends_before_another_host_may_run_it_though_the_lease_role_stands_still() {
    let Some(datastore) = Datastore::with_witness("lease-role-stands-still") else { return };
    datastore.add("other", 1, "64 MiB", "", "");
    let (mut a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    assert_eq!(a.ask("vm start witness").0, 0);
    // Of a monitor that it adopts, a control plane does not learn how it ended.
    a.restart_control_plane();
    wait("it is adopted", || a.state("witness") == VmState::Running);
    assert_eq!(a.ask("vm start other").0, 0);
    let stopped = a.freeze_lease_role();
    wait("the lease of host-a expires", || b.ask("vm start witness").0 == 0);
    assert!(a.monitor_processes().is_empty(), "they run on both hosts");
    for vm in ["witness", "other"] {
        wait("host-a tells", || a.last_end(vm).contains("its monitor ended itself"));
    }
    stopped.thaw();
    let at_b = VmState::Elsewhere("host-b".parse().expect("valid"));
    wait("host-a has a new life and sees who runs the VM", || a.state("witness") == at_b);
    assert_eq!(b.state("witness"), VmState::Running);
}

#[test]
fn a_broken_vm_toml_is_told_with_all_its_errors_and_the_files_that_are_not_there() {
    let Some(datastore) = Datastore::with_witness("broken") else { return };
    let text = "[vm]\nname = \"worse\"\ncpus = 0\nmemory = \"1 GB\"\ncpu_baseline = \"host\"\n\
                [boot]\nkernle = \"x\"\ninitrd = \"gone.img\"\n[[disk]]\nfile = \"lost.img\"\n";
    datastore.write("vms/bad/vm.toml", text);
    let host = Host::boot(&datastore, "host-a", 1);
    let (status, refusal) = host.ask("vm start bad");
    let HostAnswer::Refused(refusal) = refusal else { panic!("{refusal:?}") };
    assert_eq!((status, refusal.reasons.len()), (1, 7), "{refusal}");
    let (status, checks) = host.ask("vm check bad");
    assert_eq!(status, 1);
    for reason in &refusal.reasons {
        assert!(line(&checks).contains(&reason.cause), "{} in {}", reason.cause, line(&checks));
    }
    for file in ["vms/bad/gone.img", "vms/bad/lost.img"] {
        assert!(refusal.reasons.iter().any(|reason| reason.cause.starts_with(file)), "{refusal}");
    }
    assert_eq!(host.state("bad"), VmState::Broken(Flaw::Errors));
    let row = host.vm("bad").row;
    assert_eq!((row.cpus, row.memory), (None, None), "what cannot be read is not nothing");
}

#[test]
fn while_the_lease_role_stands_still_what_is_known_without_it_is_told_and_nobody_waits_for_it() {
    let Some(datastore) = Datastore::with_witness("still") else { return };
    datastore.add("other", 1, "64 MiB", "", "");
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    let frozen = host.freeze_lease_role();
    // What decides may take as long as the role may; none of these may. The role is found to stand still in three seconds; what has several
    // questions finds it once.
    let most = Duration::from_secs(15);
    let told = |typed: &str| {
        let began = Instant::now();
        let (status, answer) = host.ask(typed);
        assert!(began.elapsed() < most, "{typed}: {} s", began.elapsed().as_secs());
        let text = line(&answer);
        for part in ["the lease role does not answer", "log show lease", "not one that is stopped"] {
            assert!(text.contains(part), "{typed}: {part}: {text}");
        }
        (status, answer)
    };
    let (_, HostAnswer::Vms(rows)) = told("vm list") else { panic!("no list") };
    let states: Vec<_> = rows.into_iter().map(|row| (row.name, row.state)).collect();
    assert_eq!(states, [("other".to_owned(), VmState::Unheard), ("witness".to_owned(), VmState::Running)]);
    let (_, HostAnswer::Vm(other)) = told("vm show other") else { panic!("not shown") };
    assert_eq!((other.row.state, other.holder), (VmState::Unheard, VmHolder::Unheard));
    let (_, HostAnswer::Vm(witness)) = told("vm show witness") else { panic!("not shown") };
    assert_eq!((witness.row.state, witness.holder), (VmState::Running, VmHolder::Unheard));
    let (_, HostAnswer::Leases(rows)) = told("lease list") else { panic!("no list") };
    let here = RunsHere { holder: "host-a".parse().expect("valid"), epoch: 1 };
    let vm = |row: &LeaseRow| row.vm.clone().expect("it is known").to_string();
    let states: Vec<_> = rows.iter().map(|row| (vm(row), &row.state)).collect();
    let expected = [LeaseState::Unheard(Some(here)), LeaseState::Unheard(None)];
    assert_eq!(states, [("witness".to_owned(), &expected[0]), ("other".to_owned(), &expected[1])]);
    assert_eq!(told("vm start other").0, 1);
    assert_eq!(told("host check").0, 1);
    frozen.thaw();
    wait("it answers again", || host.state("other") == VmState::Stopped);
}

#[test]
fn a_damaged_lease_keeps_its_vm_from_starting_and_says_what_mends_it() {
    let Some(datastore) = Datastore::with_witness("damaged-lease") else { return };
    datastore.add("other", 1, "64 MiB", "", "");
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    assert_eq!(host.ask("vm kill witness").0, 0);
    let (file, area) = godwit::lease::area::open(&datastore.path("godwit/lease")).expect("an area");
    drop(file);
    let bank = area.geometry.vm(protocol::lease::layout::Place(0)).extent();
    let file = std::fs::File::options().write(true).open(datastore.path("godwit/lease")).expect("it is there");
    file.write_all_at(&vec![0xA5; bank.bytes], bank.offset).expect("written");
    file.sync_all().expect("on the disk");
    let (status, said) = host.ask("vm start witness");
    let told = line(&said);
    assert_eq!(status, 1, "{told}");
    for part in ["the lease of VM witness is damaged", "corrupt in both copies", "lease break witness"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(host.ask("vm start other").0, 0, "the leases of other VMs are sound");
    let (_, list) = host.ask("vm list");
    assert!(line(&list).contains("a lease is damaged"), "{}", line(&list));
    assert_eq!((host.state("witness"), host.state("other")), (VmState::LeaseDamaged, VmState::Running));
    let HostAnswer::Leases(rows) = host.ask("lease list").1 else { panic!("no list") };
    let lives: Vec<_> =
        rows.iter().map(|row| (row.vm.as_ref().map(VmName::as_str), row.state == LeaseState::Damaged)).collect();
    assert_eq!(lives, [(Some("other"), false), (Some("witness"), true)]);
    let (status, checks) = host.ask("host check");
    let told = line(&checks);
    assert!(status == 1 && told.contains("the lease of VM witness is damaged"), "{told}");
    assert!(!told.contains("VM other is damaged"), "{told}");
    host.done("lease break witness");
    host.done("vm start witness");
    datastore.add("new", 1, "64 MiB", "", "");
    host.done("vm start new");
    let told = line(&host.ask("host check").1);
    assert!(told.contains("none is damaged"), "the damaged place is nobody's: {told}");
    // The lease of one that runs.
    let place = u16::try_from(model::limits::LEASE_VMS_MAX).expect("small") - 1;
    let bank = area.geometry.vm(protocol::lease::layout::Place(place)).extent();
    file.write_all_at(&vec![0xA5; bank.bytes], bank.offset).expect("written");
    file.sync_all().expect("on the disk");
    let told = line(&host.ask("vm migrate witness host-b").1);
    assert!(told.contains("the lease of VM witness is damaged") && told.contains("vm stop witness"), "{told}");
    let (status, said) = host.ask("vm kill witness");
    let told = line(&said);
    assert!(status == 0 && told.contains("VM witness was killed") && told.contains("lease break witness"), "{told}");
    host.done("lease break witness");
}

#[test]
fn a_lease_area_that_is_damaged_while_a_host_runs_is_named_with_its_mend_wherever_one_looks() {
    let Some(datastore) = Datastore::with_witness("damaged-area") else { return };
    datastore.add("other", 1, "64 MiB", "", "");
    let host = Host::boot(&datastore, "host-a", 1);
    host.done("vm start witness");
    let file = std::fs::File::options().write(true).open(datastore.path("godwit/lease")).expect("it is there");
    file.write_all_at(&[0xA5; 4_096], 0).expect("written");
    let cause = "godwit/lease on datastore lab is no lease area, or its header is damaged";
    wait("it is seen", || line(&host.ask("datastore show lab").1).contains(cause));
    for command in ["datastore show lab", "host check", "vm start other", "vm migrate witness host-b"] {
        let told = line(&host.ask(command).1);
        assert!(told.contains(cause) && told.contains("move its file godwit/lease away"), "{command}: {told}");
        assert_eq!(told.matches(cause).count(), 1, "{command}: {told}");
        assert!(!told.contains("data/godwit"), "{command}: {told}");
    }
    assert!(!line(&host.ask("host check").1).contains("none is damaged"), "that is not known");
    assert_eq!(host.state("witness"), VmState::Running);
    assert_eq!(
        host.whole_log("host").matches(&format!("host error: {cause}")).count(),
        1,
        "{}",
        host.whole_log("host")
    );
}

#[test]
fn a_kernel_that_is_none_is_found_by_the_check_already() {
    let Some(datastore) = Datastore::with_witness("no-kernel") else { return };
    datastore.add("text", 1, "64 MiB", "", "");
    datastore.write("vms/text/witness.elf", "a page that says that the file is not here any more");
    let host = Host::boot(&datastore, "host-a", 1);
    let (status, checks) = host.ask("vm check text");
    let told = "vms/text/witness.elf on datastore lab: the kernel is neither a Linux bzImage nor an ELF image";
    assert!(status == 1 && line(&checks).contains(told), "{}", line(&checks));
    let (status, refusal) = host.ask("vm start text");
    assert!(status == 1 && line(&refusal).contains(told), "{}", line(&refusal));
    assert_eq!(host.epoch("text"), 0, "it never had a lease");
}

#[test]
fn vms_are_not_denied_while_their_datastore_does_not_answer() {
    let Some(datastore) = Datastore::with_witness("denied") else { return };
    datastore.add("idle", 1, "64 MiB", "", "");
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    let states = || match host.ask("vm list").1 {
        HostAnswer::Vms(rows) => rows.into_iter().map(|row| (row.name, row.state)).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(states(), [("idle".to_owned(), VmState::Stopped), ("witness".to_owned(), VmState::Running)]);
    let here = datastore.path("");
    let away = here.parent().expect("it lies in a folder").join("away");
    std::fs::rename(&here, &away).expect("moved aside");
    // In its place, so that nobody makes the folder anew.
    std::fs::write(here.parent().expect("a folder").join("data"), "").expect("written");
    wait("it is lost", || line(&host.ask("datastore list").1).contains("lost"));
    assert_eq!(states(), [("idle".to_owned(), VmState::Unknown), ("witness".to_owned(), VmState::Running)]);
    assert!(line(&host.ask("vm list").1).contains("note:  of the VMs on datastore lab only what this host itself"));
    let (status, HostAnswer::Leases(rows)) = host.ask("lease list") else { panic!("no list") };
    let epochs = rows.iter().map(|row| match &row.state {
        LeaseState::Unknown { runs, why } => {
            assert!(why.cause.contains("datastore lab"), "{}", why.cause);
            (row.vm.as_ref().map(VmName::as_str), runs.as_ref().map(|here| here.epoch))
        }
        other => panic!("the lease cannot tell: {other:?}"),
    });
    assert_eq!(epochs.collect::<Vec<_>>(), [(Some("witness"), Some(1)), (Some("idle"), None)]);
    assert_eq!(status, 1);
    let shown = host.vm("witness");
    assert_eq!((shown.row.state, shown.epoch), (VmState::Running, 1));
    let (_, checks) = host.ask("host check");
    for unknown in ["VM leases: unknown", "hosts: unknown", "clones: unknown"] {
        assert!(line(&checks).contains(unknown), "{unknown}: {}", line(&checks));
    }
    std::fs::remove_file(here.parent().expect("a folder").join("data")).expect("removed");
    std::fs::rename(&away, &here).expect("moved back");
    wait("it is back", || line(&host.ask("datastore list").1).contains("available"));
    assert_eq!(states()[0].1, VmState::Stopped);
}

#[test]
fn a_start_right_after_boot_waits_for_the_host_lease_and_shows_it_and_can_be_given_up() {
    let Some(datastore) = Datastore::with_witness("early") else { return };
    let mut host = Host::boot_without_lease(&datastore, "host-a", 1);
    let given_up = host.begin("vm start witness");
    wait("it waits", || host.vm("witness").waits_for.is_some_and(|what| what.contains("lease on datastore lab")));
    given_up.send(&HostRequest::Cancel, &[]).expect("heard");
    let (said, answer) = finish(&given_up);
    assert!(said.iter().any(|said| said.contains("waiting for the host lease")), "{said:?}");
    assert!(line(&answer).contains("it was cancelled"), "{answer:?}");
    assert_eq!(host.ask("vm list").0, 0, "nothing is left of it");
    let patient = host.begin("vm start witness");
    wait("it waits", || host.vm("witness").waits_for.is_some());
    host.start_lease();
    let (_, answer) = finish(&patient);
    assert!(matches!(&answer, HostAnswer::Done(line) if line.contains("runs on this host")), "{answer:?}");
    host.serial("witness").wait_for("witness: ready");
}

#[test]
fn a_lost_answer_of_the_lease_leaves_the_vm_to_whoever_starts_it_next() {
    let Some(datastore) = Datastore::with_witness("lost") else { return };
    let (a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    let lease = LeaseLine::cut_into(&a);
    let loses = |request: &LeaseRequest| match request {
        LeaseRequest::Acquire(_) => Word::AnswerIsLost,
        LeaseRequest::GiveUp(_) => Word::IsUnknown,
        _ => Word::Passes,
    };
    lease.becomes(loses);
    let (status, refusal) = a.ask("vm start witness");
    assert!(status == 1 && line(&refusal).contains("it gives it up by itself"), "{refusal:?}");
    let (status, refusal) = b.ask("vm start witness");
    assert!(status == 1 && line(&refusal).contains("host-a holds its lease"), "{refusal:?}");
    lease.mend();
    wait("host-a gives it up", || b.ask("vm start witness").0 == 0);
    assert_eq!(b.ask("vm kill witness").0, 0);
    lease.becomes(loses);
    assert_eq!(a.ask("vm start witness").0, 1);
    lease.mend();
    let (status, said) = a.ask("vm start witness");
    assert_eq!(status, 0, "the next start here simply succeeds: {said:?}");
    a.serial("witness").wait_for("witness: ready");
}

#[test]
fn two_consoles_never_work_on_a_vm_at_once_and_a_kill_is_always_possible() {
    let Some(datastore) = Datastore::with_witness("consoles") else { return };
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    host.serial("witness").wait_for("witness: ready");
    // A monitor that does not answer keeps the first command at its question.
    let frozen = world::freeze(host.pid("witness").expect("it runs"));
    let pausing = host.begin("vm pause witness");
    wait("it is being paused", || host.state("witness") == VmState::Pausing);
    for command in ["vm pause witness", "vm resume witness", "vm stop witness", "vm migrate witness host-b"] {
        let (status, refusal) = host.ask(command);
        let told =
            line(&refusal).contains("is being paused by another command") && line(&refusal).contains("try again");
        assert!(status == 1 && told, "{command}: {refusal:?}");
    }
    frozen.thaw();
    assert!(matches!(finish(&pausing).1, HostAnswer::Done(_)));
    assert_eq!(host.state("witness"), VmState::Paused);
    let _frozen = world::freeze(host.pid("witness").expect("it is paused"));
    let resuming = host.begin("vm resume witness");
    wait("it is being resumed", || host.state("witness") == VmState::Resuming);
    assert_eq!(host.ask("vm kill witness").0, 0);
    assert_eq!(host.state("witness"), VmState::Stopped);
    assert!(line(&finish(&resuming).1).contains("was not resumed"));
    assert_eq!(host.state("witness"), VmState::Stopped, "what failed does not bring it back");
    assert_eq!(host.last_end("witness"), "it was killed on the console");
}

#[test]
fn a_host_that_is_being_shut_down_begins_nothing_new() {
    let Some(datastore) = Datastore::with_witness("closing") else { return };
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    let mut serial = host.serial("witness");
    serial.wait_for("witness: ready");
    // A guest that hangs does not hear its power button, so that the host waits.
    serial.type_line("h");
    host.ask_to_end();
    wait("the host ends", || host.whole_log("host").contains("the host ends"));
    for command in ["vm start witness", "vm migrate witness host-b"] {
        let (status, refusal) = host.ask(command);
        assert!(status == 1 && line(&refusal).contains("host-a is being shut down"), "{command}: {refusal:?}");
    }
}

#[test]
fn the_log_tells_of_a_datastore_without_a_lease_once_while_another_is_well() {
    let Some(datastore) = Datastore::with_witness("troubled") else { return };
    datastore.write("other/godwit/lease", &"no lease area".repeat(1_000));
    let more = format!("[datastore.other]\nkind = \"directory\"\npath = \"{}\"\n", datastore.path("other").display());
    let host = Host::boot_with(&datastore, "host-a", 1, &more);
    let told = || host.whole_log("host").matches("lease on datastore other:").count();
    wait("it is told", || told() > 0);
    // The good one is renewed every other second; both are looked at every second.
    let renewed_ms = || {
        let shown = line(&host.ask("datastore show lab").1);
        let ms = shown.split("renewed ").nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned);
        ms.and_then(|ms| ms.parse::<u64>().ok()).expect("the lease is held")
    };
    for _ in 0..3 {
        let mut before = 0;
        wait("the good one is renewed", || {
            let now = renewed_ms();
            std::mem::replace(&mut before, now) > now
        });
    }
    assert_eq!(told(), 1, "{}", host.log("host"));
}

#[test]
fn a_host_without_a_migration_nic_says_so_and_what_its_vm_does() {
    let Some(datastore) = Datastore::with_witness("no-nic") else { return };
    let host = Host::boot(&datastore, "host-a", 1);
    assert_eq!(host.ask("vm start witness").0, 0);
    let (_, checks) = host.ask("host check");
    assert!(line(&checks).contains("migration stack: none configured"), "{}", line(&checks));
    assert!(line(&host.ask("network migration-nic").1).contains("[migration_nic]"));
    let refused = || line(&host.ask("vm migrate witness host-b").1);
    assert!(refused().contains("host-a has no migration NIC configured"), "{}", refused());
    assert!(refused().contains("it is still running on host-a"), "{}", refused());
    assert_eq!(host.ask("vm pause witness").0, 0);
    assert!(refused().contains("it is still paused on host-a"), "{}", refused());
    assert_eq!(host.state("witness"), VmState::Paused, "a refused move leaves it as it was");
}

#[test]
fn an_order_that_was_given_up_while_the_control_plane_stood_still_is_never_carried_out() {
    let datastore = Datastore::empty("given-up");
    let host = Host::boot(&datastore, "host-a", 1);
    let in_maintenance = || line(&host.ask("host show").1).contains("maintenance");
    assert!(!in_maintenance());
    let frozen = freeze(host.control_plane_pid());
    // Its console is gone; Ctrl-C was pressed and its console waits; the console itself found that nobody took it up.
    drop(host.begin("host maintenance enter"));
    let cancelled = host.begin("host maintenance enter");
    cancelled.send(&HostRequest::Cancel, &[]).expect("sent");
    let told = host.types("host maintenance enter");
    assert!(told.contains("stands still") && told.contains("was not carried out, and will not be"), "{told}");
    frozen.thaw();
    let answer = line(&finish(&cancelled).1);
    assert!(answer.contains("it was cancelled before it was taken up"), "{answer}");
    let given_up = "host maintenance enter: it was given up before it was taken up";
    wait("it has come to all three", || host.whole_log("host").matches(given_up).count() == 3);
    assert!(!in_maintenance(), "none was carried out");
    host.done("host maintenance enter");
    assert!(in_maintenance(), "one that is waited for is");
}
