//! What `vm migrate --check` says of the link between two hosts of this machine.

mod world;

use godwit::api::host::HostAnswer;
use world::{Cable, Datastore, Host, line, wait};

/// Two hosts that know each other, on a datastore where the witness runs on the first.
fn two_hosts(name: &str, cable: &Cable) -> Option<(Datastore, Host, Host)> {
    let datastore = Datastore::with_witness(name)?;
    let [a, b] = Host::boot_two(&datastore, cable);
    assert_eq!(a.ask("vm start witness").0, 0);
    Some((datastore, a, b))
}

/// What a command says once the engines have learned each other's keys.
fn said(host: &Host, typed: &str, awaited: &str) -> String {
    let mut said = String::new();
    wait(awaited, || {
        let now = line(&host.ask(typed).1);
        if now != said {
            println!("{now}");
            said = now;
        }
        said.contains(awaited)
    });
    said
}

#[test]
fn a_check_tells_the_speed_of_both_nics_and_what_was_measured_between_them() {
    let Some(cable) = Cable::lay("told") else { return };
    let Some((_datastore, a, _b)) = two_hosts("told", &cable) else { return };
    let said = said(&a, "vm migrate witness host-b --check", "ok    migration link: ");
    for well in [
        "the VM: it is still running on host-a",
        "versions",
        "storage",
        "port groups",
        "cpu features",
        "memory",
        "slot",
    ] {
        assert!(said.contains(&format!("ok    {well}")), "{well}: {said}");
    }
    // A veth says that it carries 10 Gbit/s.
    assert!(said.contains("both NICs 10000 Mbit/s full duplex, MTU 1500; "), "{said}");
    assert!(said.contains(" Mbit/s measured, packets of 1500 bytes arrive, round trip "), "{said}");
}

#[test]
fn a_slow_link_whose_nics_do_not_show_it_is_a_warning() {
    let Some(cable) = Cable::lay_through_switches("slow", 9000) else { return };
    if !cable.carries("80mbit") {
        return;
    }
    let Some((_datastore, a, _b)) = two_hosts("slow", &cable) else { return };
    let said = said(&a, "vm migrate witness host-b --check", "warn  migration link: ");
    assert!(!said.contains("FAIL"), "{said}");
    let measured = said.split("cause: ").nth(1).and_then(|cause| cause.split(' ').next()?.parse::<u64>().ok());
    assert!(measured.is_some_and(|mbits| (20..=100).contains(&mbits)), "{said}");
}

#[test]
fn a_switch_that_carries_less_than_the_nics_is_named_and_force_moves_all_the_same() {
    let Some(cable) = Cable::lay_through_switches("narrow", 1500) else { return };
    let Some((_datastore, a, b)) = two_hosts("narrow", &cable) else { return };
    let said_of_path = said(&a, "vm migrate witness host-b --check", "frames of 9000 bytes");
    assert!(
        said_of_path.contains("are lost between host-a and host-b; the largest that arrive have 1"),
        "{said_of_path}"
    );
    assert!(
        said_of_path.contains("hint:  raise the MTU of the switch between them to 9000, or set mtu = 1"),
        "{said_of_path}"
    );
    for line in ["FAIL  migration link: ", "ok    memory: ", "the VM: it is still running on host-a"] {
        assert!(said_of_path.contains(line), "{line}: {said_of_path}");
    }
    let (status, answer) = a.ask("vm migrate witness host-b --force");
    assert!(status == 0 && matches!(answer, HostAnswer::Migrated(_)), "{}", line(&answer));
    b.serial("witness").wait_for("bad=0");
}

#[test]
fn nics_of_different_mtu_are_named_with_the_value_that_mends_it() {
    let Some(cable) = Cable::lay("unlike") else { return };
    cable.set_mtu(1, 1400);
    let Some((_datastore, a, _b)) = two_hosts("unlike", &cable) else { return };
    let said = said(&a, "vm migrate witness host-b --check", "has an MTU of");
    assert!(said.contains("the migration NIC of host-a has an MTU of 1500, that of host-b of 1400"), "{said}");
    assert!(said.contains("set mtu = 1400 in [migration_nic] of host-a, or mtu = 1500 in that of host-b"), "{said}");
}
