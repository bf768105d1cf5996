//! The migration NIC of two hosts of this machine: what is measured over it, what is told of it, and what it outlives.

mod world;

use godwit::api::channel::Channel;
use godwit::api::host::{HostAnswer, HostRequest, MigrationNicDetail, PingDetail};
use model::receipt::Verdict;
use world::command::Command;
use world::lease_line::{self, LeaseLine};
use world::{Cable, Datastore, Host, finish, line, wait};

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
    let mut command = Command::typed(&a, "network ping host-b");
    command.wait_for("connect");
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

#[test]
fn the_migration_nic_shows_its_link_its_addresses_whom_it_reaches_and_what_it_carried() {
    let Some(cable) = Cable::lay("shown") else { return };
    let Some((_datastore, a, b)) = two_hosts("shown", &cable) else { return };
    let before = nic(&a);
    let mut after = nic(&a);
    // A measurement that has few moments of a crowded processor carries little, and the engine tells its counters twice a second.
    wait("what it carried is counted", || {
        measured(&a, "host-b");
        after = nic(&a);
        after.bytes_out > before.bytes_out + 1_000_000
    });
    assert!(after.bytes_out > before.bytes_out + 1_000_000 && after.frames_out > before.frames_out, "{after:?}");
    assert!(after.bytes_in > before.bytes_in && after.frames_in > before.frames_in, "{after:?}");
    assert!(after.link && after.mac.is_some() && after.speed_mbits == Some(10_000), "{after:?}");
    let told = line(&HostAnswer::MigrationNic(Box::new(after)));
    let there = line(&HostAnswer::MigrationNic(Box::new(nic(&b))));
    let mac = there.lines().find_map(|line| line.strip_prefix("MAC")).expect("it has one").trim();
    for shown in [
        "link         up",
        "speed        10000 Mbit/s",
        "MTU          1500",
        "VLAN         untagged",
        "address      10.99.0.1/24",
        "gateway      none",
        &format!("peer         host-b, 10.99.0.2 port 7780, at {mac}"),
        &format!("neighbour    10.99.0.2 at {mac}, "),
    ] {
        assert!(told.contains(shown), "{shown}: {told}");
    }
}

#[test]
fn a_peer_behind_a_router_is_shown_with_the_gateway_that_leads_to_it() {
    let Some(cable) = Cable::lay_through_router("shown-far", 9000) else { return };
    let Some((_datastore, a, _b)) = two_hosts("shown-far", &cable) else { return };
    measured(&a, "host-b");
    let told = line(&HostAnswer::MigrationNic(Box::new(nic(&a))));
    assert!(told.contains("gateway      10.99.0.254\n"), "{told}");
    let gateway = told.lines().find_map(|line| line.strip_prefix("neighbour    10.99.0.254 at ")).expect("resolved");
    let mac = gateway.split(',').next().expect("an address");
    assert!(told.contains(&format!("peer         host-b, 10.98.0.2 port 7780, by the gateway at {mac}")), "{told}");
}

#[test]
fn an_address_that_another_nic_uses_too_is_told_with_that_nic_and_borne_until_it_is_gone() {
    let Some(mut cable) = Cable::lay_through_switches("twice", 9000) else { return };
    let Some((_datastore, mut a, b)) = two_hosts("twice", &cable) else { return };
    measured(&a, "host-b");
    let other = cable.intrude("10.99.0.1/24");
    let cause = format!("the address 10.99.0.1 of the migration NIC is also used by the NIC {other}");
    let shown = |host: &Host| line(&host.ask("network migration-nic").1);
    wait("the conflict is shown", || {
        cable.intruder_asks_for("10.99.0.2");
        shown(&a).contains(&cause)
    });
    let checks = line(&a.ask("host check").1);
    assert!(checks.contains(&format!("warn  migration stack: up\ncause: {cause}\nhint:  ")), "{checks}");
    assert!(a.whole_log("host").contains(&format!("warning: {cause}")), "it is news");
    measured(&a, "host-b");
    // A stack that comes up finds by its own question that the other is there.
    a.restart_migrate();
    wait("the stack is up", || a.stack_is_up());
    wait("the conflict is found anew", || shown(&a).contains(&cause));
    cable.intruder_leaves();
    wait("it is over", || !shown(&a).contains("also used by"));
    wait("the check sees it", || line(&a.ask("host check").1).contains("ok    migration stack: up"));
    measured(&a, "host-b");
    measured(&b, "host-a");
}

/// Starts the witness and begins a move of it that stays in its rounds.
fn hold_in_pre_copy(from: &Host, to: &Host) -> (LeaseLine, Channel<HostRequest, HostAnswer>) {
    assert_eq!(from.ask("vm start witness").0, 0);
    wait("nothing stands in the way", || from.ask("vm migrate witness host-b --check").0 == 0);
    lease_line::hold_in_pre_copy(from, to, "vm migrate witness host-b")
}

fn moved((lease, moving): (LeaseLine, Channel<HostRequest, HostAnswer>), to: &Host) {
    lease.mend();
    let (_, answer) = finish(&moving);
    let HostAnswer::Migrated(receipt) = answer else { panic!("{}", line(&answer)) };
    assert_eq!(receipt.verdict, Verdict::Moved);
    to.serial("witness").wait_for("bad=0");
}

#[test]
fn a_move_outlives_a_flap_of_the_link_that_is_told() {
    let Some(cable) = Cable::lay_through_switches("flap", 9000) else { return };
    let Some((_datastore, a, b)) = two_hosts("flap", &cable) else { return };
    let under_way = hold_in_pre_copy(&a, &b);
    cable.plugged(false);
    wait("it is told", || a.whole_log("host").contains("warning: the link of migration NIC mig0 went down"));
    cable.plugged(true);
    wait("the end is told", || a.whole_log("host").contains("info: the link of migration NIC mig0 is up again"));
    moved(under_way, &b);
}

#[test]
fn a_move_that_ends_by_a_link_that_is_down_says_that_it_was_the_link() {
    let Some(cable) = Cable::lay_through_switches("down", 9000) else { return };
    let Some((_datastore, a, b)) = two_hosts("down", &cable) else { return };
    let (_lease, moving) = hold_in_pre_copy(&a, &b);
    cable.plugged(false);
    let said = line(&finish(&moving).1);
    assert!(said.contains("cause: the link of migration NIC mig0 went down"), "{said}");
    assert!(said.contains("it is still running on host-a"), "{said}");
    let (shown, checks) = (line(&a.ask("network migration-nic").1), line(&a.ask("host check").1));
    assert!(shown.contains("link         down") && shown.contains("is down\nhint:  look at its cable"), "{shown}");
    assert!(checks.contains("warn  migration stack: up\ncause: the link of migration NIC mig0 is down"), "{checks}");
}

#[test]
fn a_nic_that_is_unplugged_and_plugged_in_again_is_taken_up_and_a_move_goes_on() {
    let Some(cable) = Cable::lay_through_switches("replug", 9000) else { return };
    let Some((_datastore, a, b)) = two_hosts("replug", &cable) else { return };
    let before = nic(&a).mac;
    cable.unplug_nic();
    let checked = |host: &Host| line(&host.ask("host check").1);
    wait("it is told", || {
        checked(&a).contains("the migration stack of host-a is not up: the migration NIC mig0 is gone")
    });
    assert!(a.whole_log("host").contains("warning: the migration NIC mig0 is gone"), "it is news");
    let (status, refusal) = a.ask("network ping host-b");
    assert!(status == 1 && line(&refusal).contains("the migration NIC mig0 is gone"), "{refusal:?}");
    cable.plug_nic_in();
    wait("it is taken up", || checked(&a).contains("ok    migration stack: up") && a.stack_is_up());
    assert!(a.whole_log("host").contains("info: the migration NIC mig0 is back and taken up again"), "it is news");
    assert_ne!(nic(&a).mac, before, "it is another one");
    measured(&a, "host-b");
    wait("it is known again", || b.ask("network ping host-a").0 == 0);
    let under_way = hold_in_pre_copy(&a, &b);
    cable.unplug_nic();
    cable.plug_nic_in();
    wait("it is taken up", || a.whole_log("host").matches("is back and taken up again").count() == 2);
    moved(under_way, &b);
}
