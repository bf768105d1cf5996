//! Who may connect, and what is told when they may not. On the simulated link: virtual time, no root.

mod world;

use std::net::SocketAddr;
use std::time::Duration;

use netstack::stack::TransportLimits;
use netstack::{Allowed, CloseReason, Event, KeyPair, Stack, StackConfig, StackError};
use world::direction::Nature;
use world::link::{End, Link};
use world::simulated::{Pair, Simulated, peer};

const SECONDS: Duration = Duration::from_secs(20);

fn nature() -> Nature {
    Nature::new(10, Duration::from_micros(200))
}

fn closed(events: &[Event]) -> Option<CloseReason> {
    events.iter().find_map(|event| match event {
        Event::Closed { reason, .. } => Some(reason.clone()),
        _ => None,
    })
}

fn is_connected(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Event::Connected { .. }))
}

#[test]
fn an_unknown_key_is_refused_and_both_sides_learn_what_to_do() {
    let mut pair = Pair::new(nature(), 1, &TransportLimits::default());
    let key = pair.b.public_key();
    let now = pair.now();
    pair.a.connect(peer(), key, now).unwrap();
    pair.until(SECONDS, |pair| closed(&pair.events_a).is_some());
    let address = peer();
    assert_eq!(closed(&pair.events_a), Some(CloseReason::OurKeyRefused { address }));
    assert!(pair.events_b.is_empty(), "an unauthenticated caller became an event: {:?}", pair.events_b);
    assert_eq!(pair.b.open_connections(), 0);
}

#[test]
fn a_peer_with_another_key_than_published_is_not_talked_to() {
    let mut pair = Pair::new(nature(), 1, &TransportLimits::default());
    pair.b.allowed().insert(pair.a.public_key());
    let now = pair.now();
    let expected = KeyPair::generate().unwrap().public();
    pair.a.connect(peer(), expected, now).unwrap();
    pair.until(SECONDS, |pair| closed(&pair.events_a).is_some());
    let address = peer();
    assert_eq!(closed(&pair.events_a), Some(CloseReason::PeerKeyUnknown { address, expected }));
    assert!(!is_connected(&pair.events_b), "{:?}", pair.events_b);
}

#[test]
fn a_host_discovered_later_may_connect_and_one_taken_off_the_list_may_not() {
    let mut pair = Pair::new(nature(), 1, &TransportLimits::default());
    let (ours, key) = (pair.a.public_key(), pair.b.public_key());
    for (allowed, expected) in [(false, false), (true, true), (false, false)] {
        pair.b.allowed().replace(allowed.then_some(ours));
        pair.events_a.clear();
        let now = pair.now();
        let id = pair.a.connect(peer(), key, now).unwrap();
        pair.until(SECONDS, |pair| is_connected(&pair.events_a) || closed(&pair.events_a).is_some());
        assert_eq!(is_connected(&pair.events_a), expected, "{:?}", pair.events_a);
        let now = pair.now();
        pair.a.close(id, 0, "", now);
        pair.a.forget(id, now);
    }
}

#[test]
fn a_crowd_of_strangers_takes_no_memory_and_keeps_no_friend_out() {
    let mut pair = Pair::new(nature(), 1, &TransportLimits::default());
    let key = pair.b.public_key();
    for round in 0..10 {
        for _ in 0..16 {
            let now = pair.now();
            pair.a.connect(peer(), key, now).unwrap();
        }
        pair.until(SECONDS, |pair| pair.a.open_connections() == 0);
        for event in std::mem::take(&mut pair.events_a) {
            let Event::Closed { connection, reason } = event else { panic!("{event:?}") };
            assert!(matches!(reason, CloseReason::OurKeyRefused { .. } | CloseReason::Busy { .. }), "{reason}");
            let now = pair.now();
            pair.a.forget(connection, now);
        }
        assert_eq!(pair.b.open_connections(), 0, "round {round}");
    }
    pair.b.allowed().insert(pair.a.public_key());
    let now = pair.now();
    pair.a.connect(peer(), key, now).unwrap();
    pair.until(SECONDS, |pair| is_connected(&pair.events_a) && is_connected(&pair.events_b));
}

#[test]
fn a_close_carries_its_reason_to_the_peer() {
    let mut world = Simulated::connected(nature(), 1, &TransportLimits::default());
    let (now, from) = (world.now(), world.from);
    world.a.close(from, 7, "the operator cancelled", now);
    world.until(SECONDS, |world| closed(&world.events_b).is_some());
    let expected = CloseReason::ByPeer { code: 7, reason: "the operator cancelled".to_owned() };
    assert_eq!(closed(&world.events_b), Some(expected));
    assert_eq!(closed(&world.events_a), Some(CloseReason::ByUs));
}

#[test]
fn a_restarted_peer_is_told_from_a_silent_one() {
    let limits = TransportLimits::default();
    for restarted in [true, false] {
        let mut world = Simulated::connected(nature(), 1, &limits);
        let now = world.now();
        if restarted {
            world.restart_b(&limits);
        } else {
            world.a.port_mut().hides_link = true;
            world.b.port_mut().hides_link = true;
            world.link.borrow_mut().cut(false);
        }
        world.until(SECONDS, |world| closed(&world.events_a).is_some());
        let reason = closed(&world.events_a).unwrap();
        let address = peer();
        if restarted {
            assert_eq!(reason, CloseReason::PeerRestarted { address });
            assert!(world.now() - now < limits.idle_timeout);
        } else {
            assert!(world.now() - now < limits.idle_timeout + Duration::from_millis(100));
            assert_eq!(reason, CloseReason::Silent { address, silence: limits.idle_timeout });
        }
    }
}

#[test]
fn what_has_no_way_out_is_refused_at_once() {
    let link = Link::new(nature(), 1);
    let now = link.borrow().now;
    let stack = |config: StackConfig| {
        Stack::new(End::new(&link, 0), config, KeyPair::generate().unwrap(), Allowed::default(), now)
    };
    let config = StackConfig::new(world::address(1, false), 24, world::PORT);
    let mut ours = stack(config.clone()).unwrap();
    let key = ours.public_key();
    let elsewhere: SocketAddr = "192.0.2.1:7474".parse().unwrap();
    let error = ours.connect(elsewhere, key, now).unwrap_err();
    assert_eq!(error.to_string(), "no route to 192.0.2.1:7474: it is outside 10.74.0.1/24 and there is no gateway");
    let ourselves = SocketAddr::new(world::address(1, false), world::PORT);
    assert!(matches!(ours.connect(ourselves, key, now), Err(StackError::OurselvesAsPeer(_))));
    let gateway = Some("10.75.0.1".parse().unwrap());
    assert!(matches!(stack(StackConfig { gateway, ..config.clone() }), Err(StackError::BadGateway(_))));
    assert!(matches!(stack(StackConfig { port: 0, ..config.clone() }), Err(StackError::BadPort)));
    assert!(matches!(stack(StackConfig { prefix: 32, ..config }), Err(StackError::BadAddress { .. })));
}
