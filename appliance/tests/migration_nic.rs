//! The migration NIC of two hosts of this machine: what is measured over it, what is told of it, and what it outlives.

mod world;

use godwit::api::host::{HostAnswer, MigrationNicDetail, PingDetail};
use model::receipt::Verdict;
use world::command::Command;
use world::{Cable, Datastore, Host, line, wait};

/// Two hosts that know each other.
fn two_hosts(name: &str, cable: &Cable) -> Option<(Datastore, Host, Host)> {
    let datastore = Datastore::with_witness(name)?;
    let [a, b] = Host::boot_two(&datastore, cable);
    Some((datastore, a, b))
}

/// The migration NIC, as its host tells of it.
fn nic(host: &Host) -> MigrationNicDetail {
    match host.ask("network migration-nic").1 {
        HostAnswer::MigrationNic(nic) => *nic,
        other => panic!("{other:?}"),
    }
}

/// What the first host measures to the second, once their engines have learned each other's keys.
fn measured(from: &Host, to: &str) -> PingDetail {
    let mut path = None;
    wait("it is measured", || match from.ask(&format!("network ping {to}")).1 {
        HostAnswer::Ping(measured) => {
            path = Some(*measured);
            true
        }
        refused => {
            println!("{}", line(&refused));
            false
        }
    });
    path.expect("it was")
}

#[test]
fn a_ping_measures_round_trip_bandwidth_and_mtu_and_leaves_nothing_behind() {
    let Some(cable) = Cable::lay("ping") else { return };
    let Some((_datastore, a, b)) = two_hosts("ping", &cable) else { return };
    let (there, here) = (measured(&a, "host-b"), measured(&b, "host-a"));
    let held = [&a, &b].map(|host| (host, host.held_at_rest()));
    for (path, host) in [(&there, "host-b"), (&here, "host-a")] {
        assert_eq!((path.host.as_str(), path.path_mtu, path.mtu_here, path.mtu_there), (host, Some(1500), 1500, 1500));
        assert!(path.rtt_us > 0 && path.bandwidth_bytes_per_s > 0, "{path:?}");
        assert_eq!(path.problems, []);
    }
    let mut command = Command::typed(&a, "network ping host-b");
    command.wait_for("hello");
    command.wait_for("probe");
    assert!(matches!(command.end(), HostAnswer::Ping(_)));
    wait("no connection is left", || [&a, &b].iter().all(|host| nic(host).connections == 0));
    assert!(a.migrations().is_empty() && b.migrations().is_empty(), "it is no move");
    held.iter().for_each(|(host, held)| host.lets_go_of_all_since(held));
}

#[test]
fn a_ping_that_cannot_be_is_refused_with_what_mends_it() {
    let Some(cable) = Cable::lay("no-ping") else { return };
    let Some((datastore, a, b)) = two_hosts("no-ping", &cable) else { return };
    measured(&a, "host-b");
    let refusal = |host: &Host, typed: &str, cause: &str| {
        let (status, answer) = host.ask(typed);
        let told = line(&answer);
        assert!(status == 1 && told.contains(cause) && told.contains("\nhint:  "), "{cause}: {told}");
    };
    refusal(&a, "network ping host-c", "no host host-c with a migration NIC shares a datastore with this one");
    refusal(
        &a,
        "network ping host-a",
        "error: the migration link from host-a to host-a was not measured\ncause: host-a is this host",
    );
    let bare = Host::boot(&datastore, "host-d", 0xd0);
    refusal(&bare, "network ping host-b", "host-d has no migration NIC configured");
    // It is there, and says nothing.
    let silent = world::freeze(b.migrate_pid());
    refusal(&a, "network ping host-b", "no answer from 10.99.0.2:");
    let command = Command::typed(&a, "network ping host-b");
    command.press_ctrl_c();
    let cancelled = line(&command.end());
    assert!(cancelled.contains("cause: it was cancelled\nhint:  network ping host-b"), "{cancelled}");
    silent.thaw();
    measured(&a, "host-b");
}

#[test]
fn a_path_across_a_router_is_measured_and_carries_a_move() {
    let Some(cable) = Cable::lay_through_router("router", 9000) else { return };
    let Some((_datastore, a, b)) = two_hosts("router", &cable) else { return };
    let path = measured(&a, "host-b");
    assert_eq!((path.path_mtu, path.problems.len()), (Some(9000), 0), "{path:?}");
    assert_eq!(path.address.split(':').next(), Some("10.98.0.2"), "{path:?}");
    assert_eq!(a.ask("vm start witness").0, 0);
    a.serial("witness").wait_for("bad=0");
    let (_, answer) = a.ask("vm migrate witness host-b");
    let HostAnswer::Migrated(receipt) = answer else { panic!("{}", line(&answer)) };
    assert_eq!(receipt.verdict, Verdict::Moved);
    b.serial("witness").wait_for("bad=0");
}

#[test]
fn a_router_that_carries_less_than_the_nics_is_named_with_both_figures() {
    let Some(cable) = Cable::lay_through_router("narrow-router", 1500) else { return };
    let Some((_datastore, a, _b)) = two_hosts("narrow-router", &cable) else { return };
    let path = measured(&a, "host-b");
    let mtu = path.path_mtu.expect("it was found");
    assert!((1480..=1500).contains(&mtu), "{path:?}");
    let told = line(&HostAnswer::Ping(Box::new(path)));
    let cause = format!(
        "frames of 9000 bytes, the MTU of both migration NICs, are lost between host-a and host-b; the largest that arrive have {mtu}"
    );
    assert!(told.contains(&cause), "{told}");
    assert!(told.contains("hint:  raise the MTU of the switch between them to 9000, or set mtu = "), "{told}");
    assert_eq!(a.ask("network ping host-b").0, 1, "a program sees that something is wrong");
}
