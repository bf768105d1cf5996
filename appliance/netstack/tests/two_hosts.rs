//! Two stacks over a veth: what the migration stack promises its caller.

mod world;

use std::time::{Duration, Instant};

use bytes::Bytes;
use netstack::stream::RECORD_MAX;
use netstack::{CloseReason, Event, SendError};
use world::direction::Nature;
use world::{Wire, connect, run, transfer, until};

#[test]
fn hosts_that_know_each_other_talk_in_order_and_exchange_whole_records() {
    if world::cannot_run() {
        return;
    }
    for ipv6 in [false, true] {
        let wire = Wire::new(1500, 1500);
        let (mut a, mut b) = wire.hosts(ipv6);
        let ids = connect(&mut a, &mut b);
        for number in 0..1000u32 {
            a.stack.send_control(ids.0, &number.to_le_bytes()).unwrap();
        }
        b.stack.send_control(ids.1, b"back").unwrap();
        let (mut next, mut back) = (0u32, false);
        until(&mut a, &mut b, "control messages", |a, b| {
            while let Some(message) = b.stack.recv_control(ids.1, Instant::now()) {
                assert_eq!(message[..], next.to_le_bytes());
                next += 1;
            }
            while let Some(message) = a.stack.recv_control(ids.0, Instant::now()) {
                assert_eq!(&message[..], b"back");
                back = true;
            }
            (next == 1000 && back).then_some(())
        });
        transfer(&mut a, &mut b, ids, 200, 100_000);
    }
}

#[test]
fn a_gibibyte_of_records_arrives_whole() {
    if world::cannot_run() {
        return;
    }
    let wire = Wire::new(9000, 9000);
    let (mut a, mut b) = wire.hosts(false);
    let ids = connect(&mut a, &mut b);
    transfer(&mut a, &mut b, ids, 4096, 256 << 10);
    let counters = a.stack.counters();
    assert!(counters.sent_bytes / counters.sent_frames > 20_000, "batches were not offloaded: {counters:?}");
    assert_eq!(b.stack.counters().dropped_by_socket, 0);
}

#[test]
fn a_wire_that_is_carried_delays_and_loses_and_records_arrive_whole_over_it() {
    if world::cannot_run() {
        return;
    }
    let round_trip = Duration::from_millis(4);
    let wire = Wire::carried(Nature::new(1, round_trip).losing(10_000), 1);
    let (mut a, mut b) = wire.hosts(false);
    let ids = connect(&mut a, &mut b);
    transfer(&mut a, &mut b, ids, 64, 256 << 10);
    let (seen, tally) = (a.estimates(ids.0), wire.tally().expect("it is carried"));
    // 16 MiB are 11,000 frames at least.
    assert!(tally.carried > 10_000 && tally.lost > 50, "{tally:?}");
    assert!(seen.rtt_min >= round_trip && seen.packets_lost > 50, "{seen:?}");
}

#[test]
fn a_link_that_goes_down_in_the_middle_is_told_by_name() {
    if world::cannot_run() {
        return;
    }
    let wire = Wire::new(1500, 1500);
    let (mut a, mut b) = wire.hosts(false);
    let ids = connect(&mut a, &mut b);
    let record = Bytes::from(vec![7; RECORD_MAX]);
    let (mut received, mut cut) = (0, false);
    let reason = until(&mut a, &mut b, "the loss to be told", |a, b| {
        while let Ok(()) = a.stack.send_record(ids.0, record.clone()) {}
        while b.stack.recv_record(ids.1, Instant::now()).is_some() {
            received += 1;
        }
        // The kernel may tell late that a new link is up: one that was never seen up does not go down.
        if received > 20 && a.stack.link().up && !cut {
            run(&format!("ip -n {} link set mig0 down", wire.b));
            cut = true;
        }
        a.closed()
    });
    assert_eq!(reason, CloseReason::LinkDown { nic: "mig0".to_owned() });
    assert_eq!(reason.to_string(), "the link of migration NIC mig0 went down");
    let down = |event: &Event| matches!(event, Event::Link(state) if !state.up);
    assert!(a.events.iter().any(down), "the link's state was not told: {:?}", a.events);
    // And the NIC serves again once the link is back.
    run(&format!("ip -n {} link set mig0 up", wire.b));
    a.events.clear();
    b.events.clear();
    let again = connect(&mut a, &mut b);
    transfer(&mut a, &mut b, again, 20, 100_000);
    assert_eq!(a.stack.send_record(ids.0, record), Err(SendError::NotConnected));
}
