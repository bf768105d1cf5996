//! Moves of a VM that somebody talks to: a client outside counts what it hears of them.

mod world;

use std::net::Ipv4Addr;

use godwit::api::host::HostAnswer;
use model::receipt::Verdict;
use world::command::Command;
use world::echo::EchoClient;
use world::{Cable, Datastore, Host, line, wait};

const MOVES: usize = 6;
const WITNESS: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const NETWORK: &str = "[vswitch.gwlan]\nuplink = \"gwup\"\n[port_group.lan]\nvswitch = \"gwlan\"\n";

#[test]
fn a_connection_outlasts_moves_without_a_byte_lost_and_datagrams_come_once_and_in_order() {
    let Some(datastore) = Datastore::with_witness("echo") else { return };
    let Some(mut cable) = Cable::lay("echo") else { return };
    let namespace = cable.join_guests("gwup", "10.9.0.1/24");
    let cmdline = "seed=5 rate=500 set=4M scan=1000 nap=on tick_hz=500 report_ms=500 journal=100 echo=10.9.0.2/24";
    datastore.add("talker", 1, "32 MiB", cmdline, "stun_ms_max = 5000");
    let disk = datastore.add_disk("talker");
    datastore.add_nic("talker", "lan");
    let hosts = Host::boot_two_with(&datastore, &cable, NETWORK);
    hosts[0].done("vm start talker");
    hosts[0].serial("talker").wait_for("witness: ready");
    wait("nothing stands in the way", || hosts[0].ask("vm migrate talker host-b --check").0 == 0);
    let client = EchoClient::start(&namespace, WITNESS);
    client.wait_for_answers();
    for round in 0..MOVES {
        let (from, to) = (&hosts[round % 2], ["host-b", "host-a"][round % 2]);
        match Command::typed(from, &format!("vm migrate talker {to}")).end() {
            HostAnswer::Migrated(receipt) if receipt.verdict == Verdict::Moved => {}
            other => panic!("round {round}: {}", line(&other)),
        }
        client.wait_for_answers();
    }
    let [udp, tcp] = client.end();
    println!("UDP: {udp:?}\nTCP: {tcp:?}");
    for heard in [&udp, &tcp] {
        let verdict = &heard.verdict;
        assert_eq!(
            (verdict.duplicates, verdict.reordered, verdict.strange, verdict.clock_back),
            (0, 0, 0, 0),
            "{heard:?}"
        );
    }
    assert_eq!((tcp.connections, tcp.verdict.lost), (1, 0), "{tcp:?}");
    // A datagram that finds nobody is gone: in the stun of a move, and in one that was called off before it. Between moves none is.
    assert!(udp.verdict.losses <= 2 * MOVES as u64, "{udp:?}");
    let mut serial = hosts[MOVES % 2].serial("talker");
    serial.audit_whole("talker");
    serial.journal_whole("talker", &disk, 1);
}
