//! The control plane, the lease role and monitors as processes, with the witness as a guest: a VM's whole life.

mod world;

use godwit::api::host::{HostAnswer, VmState};
use world::{Datastore, Host, line, wait};

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
fn a_dead_hosts_vm_starts_elsewhere_after_the_expiry() {
    let Some(datastore) = Datastore::with_witness("dead") else { return };
    let (mut a, b) = (Host::boot(&datastore, "host-a", 1), Host::boot(&datastore, "host-b", 2));
    assert_eq!(a.ask("vm start witness").0, 0);
    a.power_off();
    let (status, said) = b.ask("vm start witness");
    assert!(status == 1 && line(&said).contains("host-a holds its lease"), "{said:?}");
    wait("the lease of host-a expires", || b.ask("vm start witness").0 == 0);
    b.serial("witness").wait_for("witness: ready");
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
fn a_broken_vm_toml_is_told_with_all_its_errors() {
    let Some(datastore) = Datastore::with_witness("broken") else { return };
    datastore.write("vms/bad/vm.toml", "[vm]\nname = \"bad\"\ncpus = 0\nmemory = \"1 GB\"\n[boot]\nkernle = \"x\"\n");
    let host = Host::boot(&datastore, "host-a", 1);
    let (status, refusal) = host.ask("vm start bad");
    let HostAnswer::Refused(refusal) = refusal else { panic!("{refusal:?}") };
    assert_eq!((status, refusal.reasons.len()), (1, 4), "{refusal}");
    assert_eq!(host.state("bad"), VmState::Broken);
}
