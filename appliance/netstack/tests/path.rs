//! Records and control messages on paths that lose, reorder, and carry less than they should. Virtual time, no root.

mod world;

use std::time::{Duration, Instant};

use bytes::Bytes;
use netstack::probe::{PathReport, Probe};
use netstack::stack::TransportLimits;
use netstack::stream::RECORD_MAX;
use netstack::{Event, SendError};
use smoltcp::wire::{Ipv4Packet, TcpPacket, UdpPacket};
use world::direction::{Direction, Nature};
use world::simulated::{Pair, Simulated};
use world::super_frame::SuperFrame;

const MINUTE: Duration = Duration::from_secs(60);

/// Sends records and control messages both ways over `nature`; each must arrive once, whole; messages in order.
fn everything_arrives(nature: Nature, seed: u64) {
    let mut world = Simulated::connected(nature, seed, &TransportLimits::default());
    let length = |number: u64| 1 + (number as usize * 7919 + 8) % RECORD_MAX;
    let (count, messages) = (30u64, 100u32);
    let (mut sent, mut said, mut heard) = ([0u64; 2], [0u32; 2], [0u32; 2]);
    let mut seen = [vec![false; count as usize], vec![false; count as usize]];
    world.until(MINUTE * 10, |world| {
        let now = world.now();
        for end in 0..2 {
            let id = if end == 0 { world.from } else { world.to };
            let stack = if end == 0 { &mut world.pair.a } else { &mut world.pair.b };
            while sent[end] < count {
                let number = sent[end];
                let buffer = stack.buffer(id).unwrap();
                match stack.send_record(id, world::record(number, length(number).max(8), buffer)) {
                    Ok(()) => sent[end] += 1,
                    Err(SendError::Full) => break,
                    Err(error) => panic!("seed {seed}: {error}"),
                }
            }
            while said[end] < messages && u64::from(said[end]) <= sent[end] * 4 {
                stack.send_control(id, &said[end].to_le_bytes()).unwrap();
                said[end] += 1;
            }
            while let Some(message) = stack.recv_control(id, now) {
                assert_eq!(message[..], heard[end].to_le_bytes(), "seed {seed}: out of order");
                heard[end] += 1;
            }
            while let Some(record) = stack.recv_record(id, now) {
                let number = u64::from_le_bytes(record[..8].try_into().unwrap());
                let expected = world::record(number, length(number).max(8), bytes::BytesMut::new());
                assert!(record == expected, "seed {seed}: record {number} is damaged");
                let twice = std::mem::replace(&mut seen[end][number as usize], true);
                assert!(!twice, "seed {seed}: record {number} came twice");
            }
        }
        heard == [messages; 2] && seen.iter().all(|seen| seen.iter().all(|seen| *seen))
    });
}

/// What becomes of frames of 1,226 bytes, 1,250 on the line, that are all sent at once: how many microseconds each travels.
fn travelled(nature: Nature, seed: u64, count: usize) -> (Direction, Vec<u128>) {
    let start = Instant::now();
    let mut direction = Direction::new(nature, seed, start);
    (0..count).for_each(|_| direction.carry([&[0; 14], &[0; 1212]], start));
    let mut arrived = Vec::new();
    while let Some(next) = direction.next_arrival() {
        assert_eq!(
            direction.deliver(next - Duration::from_nanos(1), |_, _| ()),
            None,
            "a frame came before it was due"
        );
        arrived.extend(direction.deliver(next, |_, at| (at - start).as_micros()));
    }
    (direction, arrived)
}

#[test]
fn the_link_of_these_tests_delays_by_its_rate_and_length_and_loses_what_its_seed_says() {
    let nature = Nature { queue: MINUTE, ..Nature::new(1, Duration::from_millis(10)) };
    let (_, arrived) = travelled(nature, 1, 3);
    assert_eq!(arrived, [5_010, 5_020, 5_030], "10 us of the line each at 1 Gbit/s, and 5 ms of the way");
    let full = Nature { queue: Duration::from_micros(20), ..nature };
    let (direction, arrived) = travelled(full, 1, 9);
    assert_eq!((direction.overflowed, arrived), (6, vec![5_010, 5_020, 5_030]));

    let (direction, arrived) = travelled(nature.losing(10_000), 1, 100_000);
    assert_eq!(direction.lost as usize + arrived.len(), 100_000);
    assert!((800..1_200).contains(&direction.lost), "{} of 100,000 lost, of a hundred one", direction.lost);
    assert!(travelled(nature.losing(10_000), 1, 100_000).1 == arrived, "the same seed loses others");
    assert!(travelled(nature.losing(10_000), 2, 100_000).1 != arrived, "another seed loses the same");
}

/// A batch of `body` bytes to be cut into pieces of 1000, as a TAP gives it; `kind` as its header says it, of a protocol of IPv4.
fn batch(kind: u8, protocol: u8, transport: &[u8], body: usize) -> Vec<u8> {
    let mut bytes = vec![1, kind, 0xff, 0xff, 0xe8, 3, 34, 0, 16, 0];
    bytes.extend([[2; 6], [4; 6]].concat());
    bytes.extend([0x08, 0x00, 0x45, 0, 0, 0, 0xff, 0xff, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    bytes.extend(transport);
    bytes.extend((0..body).map(|at| at as u8));
    bytes
}

#[test]
fn the_frames_of_a_batch_are_as_if_each_had_been_sent_alone() {
    let whole: Vec<u8> = (0..2_500).map(|at| at as u8).collect();
    // Source, destination, sequence, acknowledgement, 20 bytes long with CWR, ACK, PSH and FIN, window, checksum, urgent.
    let tcp = [1, 1, 2, 2, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 9, 0x50, 0x99, 1, 0, 0, 0, 0, 0];
    let bytes = batch(1, 6, &tcp, 2_500);
    let sent = SuperFrame::read(&bytes).unwrap();
    assert_eq!(sent.lengths(), [1_054, 1_054, 554]);
    for (pieces, id, sequence, flags) in
        [(0..1, 0xffff, -1, 0x90), (1..2, 0, 999, 0x10), (1..3, 0, 999, 0x19), (0..3, 0xffff, -1, 0x99)]
    {
        let (mut put, body) = (Vec::new(), &whole[pieces.start * 1_000..2_500.min(pieces.end * 1_000)]);
        sent.pieces(pieces.clone(), &mut put);
        let cut = if pieces.len() == 1 { [0, 0, 0, 0, 0] } else { [1, 54, 0, 0xe8, 3] };
        assert_eq!((put[0], &put[1..6], &put[6..10]), (1, &cut[..], &[34, 0, 16, 0][..]), "{pieces:?}");
        let ip = Ipv4Packet::new_checked(&put[24..]).unwrap();
        assert!(ip.verify_checksum() && usize::from(ip.total_len()) == put.len() - 24, "{pieces:?}");
        let segment = TcpPacket::new_checked(ip.payload()).unwrap();
        assert_eq!((ip.ident(), segment.seq_number().0, ip.payload()[13]), (id, sequence, flags), "{pieces:?}");
        assert!(segment.payload() == body, "{pieces:?}");
    }
    let bytes = batch(5, 17, &[1, 1, 2, 2, 9, 9, 0, 0], 2_500);
    let mut put = Vec::new();
    SuperFrame::read(&bytes).unwrap().pieces(2..3, &mut put);
    let ip = Ipv4Packet::new_checked(&put[24..]).unwrap();
    let datagram = UdpPacket::new_checked(ip.payload()).unwrap();
    assert!(ip.verify_checksum() && datagram.payload() == &whole[2_000..]);
    let alone = batch(0, 17, &[1, 1, 2, 2, 9, 9, 0, 0], 700);
    let mut put = Vec::new();
    SuperFrame::read(&alone).unwrap().pieces(0..1, &mut put);
    assert!(put == alone, "a frame that is none of several is left as it is");
}

#[test]
fn records_arrive_whole_and_messages_in_order_over_a_path_that_loses_and_reorders() {
    for seed in 0..4 {
        let nature = Nature { late_ppm: 20_000, ..Nature::new(1, Duration::from_millis(1)) };
        everything_arrives(nature.losing([0, 1_000, 10_000, 50_000][seed as usize % 4]), seed);
    }
}

#[test]
fn what_was_said_last_has_arrived_when_a_finished_connection_may_be_closed() {
    for seed in 0..20 {
        let nature = Nature::new(1, Duration::from_millis(1)).losing(200_000);
        let mut world = Simulated::connected(nature, seed, &TransportLimits::default());
        let (from, to) = (world.from, world.to);
        world.a.send_control(from, b"cancel").unwrap();
        world.a.finish(from);
        assert_eq!(world.a.send_control(from, b"more"), Err(SendError::NotConnected));
        let mut heard = None;
        world.until(MINUTE, |world| {
            let now = world.now();
            let is_flushed = world.a.is_flushed(from);
            if is_flushed {
                world.a.close(from, 0, "done", now);
            }
            heard = heard.take().or_else(|| world.b.recv_control(to, now));
            is_flushed && heard.is_some()
        });
        assert_eq!(heard.as_deref(), Some(&b"cancel"[..]), "seed {seed}");
    }
}

#[test]
fn mangled_frames_do_no_more_harm_than_lost_ones() {
    for seed in 0..4 {
        everything_arrives(Nature { mangled_ppm: 20_000, ..Nature::new(1, Duration::from_millis(1)) }, seed);
    }
}

#[test]
fn a_slow_receiver_holds_its_sender_back_and_loses_nothing() {
    let limits =
        TransportLimits { receive_window_bytes: 4 << 20, records_waiting_max: 8, ..TransportLimits::default() };
    let mut world = Simulated::connected(Nature::new(10, Duration::from_micros(200)), 3, &limits);
    let record = Bytes::from(vec![1; RECORD_MAX]);
    let mut taken = 0u64;
    // The receiver's application takes nothing for a second.
    let (mut accepted, until) = (0u64, world.now() + Duration::from_secs(1));
    world.until(MINUTE, |world| {
        while world.pair.a.send_record(world.from, record.clone()).is_ok() {
            accepted += 1;
        }
        world.now() >= until
    });
    let held = accepted * RECORD_MAX as u64;
    // What it holds: its window, records that wait, and what the sender may queue beyond.
    let bound = (4 << 20) + 16 * RECORD_MAX as u64 + (40 << 20);
    assert!(held < bound, "{held} bytes were taken from a sender whose receiver takes nothing");
    assert!(!world.events_b.iter().any(|event| matches!(event, Event::Closed { .. })));
    world.until(MINUTE, |world| {
        let now = world.now();
        while world.pair.b.recv_record(world.to, now).is_some() {
            taken += 1;
        }
        taken == accepted
    });
    assert!(world.events_a.iter().any(|event| matches!(event, Event::Writable(_))), "room again was not told");
}

#[test]
fn hosts_that_are_slow_to_answer_are_no_queue_and_do_not_starve_the_sender() {
    let mut world = Simulated::connected(Nature::new(10, Duration::from_micros(200)), 11, &TransportLimits::default());
    let record = Bytes::from(vec![1; RECORD_MAX]);
    let send_for = |world: &mut Simulated, time: Duration| {
        let (start, before) = (world.now(), world.pair.a.estimates(world.from).unwrap().delivered_bytes);
        world.until(MINUTE, |world| {
            let now = world.now();
            while world.pair.a.send_record(world.from, record.clone()).is_ok() {}
            while world.pair.b.recv_record(world.to, now).is_some() {}
            now >= start + time
        });
        let delivered = world.pair.a.estimates(world.from).unwrap().delivered_bytes - before;
        delivered as f64 / (world.now() - start).as_secs_f64()
    };
    // First the path shows how short its round trip can be; then both processors have other work.
    send_for(&mut world, Duration::from_millis(100));
    world.pair.set_busy(Duration::from_millis(10));
    send_for(&mut world, Duration::from_secs(2));
    let rate = send_for(&mut world, Duration::from_secs(2));
    // Two hosts that each answer after 5 ms in the mean: the least window gives this much, a starved one a tenth.
    assert!(rate > 8e6, "{:.1} MB/s", rate / 1e6);
}

fn probed(nature: Nature, peer_mtu: u16) -> PathReport {
    probed_while_busy(nature, peer_mtu, Duration::ZERO)
}

/// The same while each host looks at the wire only after a random time of up to `busy`.
fn probed_while_busy(nature: Nature, peer_mtu: u16, busy: Duration) -> PathReport {
    let limits = TransportLimits::default();
    let mut world = Simulated::of(Pair::with_mtus(nature, [nature.mtu, peer_mtu], 5, &limits));
    let told = world.events_a.iter().find_map(|event| match event {
        Event::Connected { peer_mtu, .. } => Some(*peer_mtu),
        _ => None,
    });
    assert_eq!(told, Some(peer_mtu));
    world.pair.set_busy(busy);
    let mut probe = Probe::new(world.from, peer_mtu, world.now());
    let mut report = None;
    world.until(MINUTE, |world| {
        let now = world.now();
        report = probe.advance(&mut world.a, now);
        report.is_some()
    });
    report.unwrap()
}

#[test]
fn a_probe_measures_rate_and_round_trip_of_a_good_path() {
    for gbits in [1, 10] {
        let nature = Nature { mtu: 9000, path_mtu: 9000, ..Nature::new(gbits, Duration::from_millis(1)) };
        let report = probed(nature, 9000);
        assert_eq!(report.path_mtu, Some(9000));
        let measured = report.bandwidth_bytes as f64 * 8e-9;
        assert!((0.8..1.1).contains(&(measured / gbits as f64)), "{measured} of {gbits} Gbit/s");
        assert!((1_000..1_300).contains(&report.rtt_min.as_micros()), "{:?}", report.rtt_min);
    }
}

#[test]
fn the_mtu_of_a_narrow_path_is_found_before_the_first_page() {
    let nature = Nature { mtu: 9000, path_mtu: 1500, ..Nature::new(10, Duration::from_micros(200)) };
    let carries = probed(nature, 9000).path_mtu;
    assert!(carries.is_some_and(|carries| (1492..=1500).contains(&carries)), "{carries:?}");
    let peer_differs = Nature { mtu: 9000, path_mtu: 9000, ..nature };
    assert_eq!(probed(peer_differs, 1500).path_mtu, Some(1500));
}

#[test]
fn hosts_that_do_not_answer_for_a_while_are_no_narrow_path() {
    let nature = Nature { mtu: 9000, path_mtu: 9000, ..Nature::new(10, Duration::from_micros(200)) };
    let report = probed_while_busy(nature, 9000, Duration::from_millis(1_500));
    assert!(report.path_mtu.is_none_or(|mtu| mtu == 9000), "{report:?}");
}

#[test]
fn loss_below_three_per_cent_does_not_slow_a_local_link() {
    for (gbits, ppm) in [(1, 10_000), (10, 1_000), (10, 10_000)] {
        let mut world = Simulated::connected(
            Nature::new(gbits, Duration::from_micros(200)).losing(ppm),
            9,
            &TransportLimits::default(),
        );
        let bytes = (gbits as usize) << 24;
        let took = world.transfer(bytes, MINUTE);
        let share = bytes as f64 * 8e-9 / took.as_secs_f64() / gbits as f64;
        assert!(share > 0.8, "{gbits} Gbit/s with {ppm} ppm lost: {share:.2} of the line");
    }
}

#[test]
fn the_last_pages_arrive_at_once_after_silence() {
    let nature = Nature::new(10, Duration::from_micros(200)).losing(10_000);
    let mut world = Simulated::connected(nature, 11, &TransportLimits::default());
    world.transfer(64 << 20, MINUTE);
    for _ in 0..40 {
        let until = world.now() + Duration::from_millis(20);
        world.until(MINUTE, |world| world.now() >= until);
        let took = world.transfer(2 << 20, MINUTE);
        assert!(took < Duration::from_millis(15), "{took:?} for 2 MiB");
    }
}

#[test]
fn two_connections_share_a_link() {
    let mut world = Simulated::connected(Nature::new(1, Duration::from_micros(500)), 4, &TransportLimits::default());
    let second = world.connect_again();
    let ends = [(world.from, world.to), second];
    let record = Bytes::from(vec![1; RECORD_MAX]);
    let until = world.now() + Duration::from_secs(1);
    world.until(MINUTE, |world| {
        let now = world.now();
        for (from, to) in ends {
            while world.a.send_record(from, record.clone()).is_ok() {}
            while world.b.recv_record(to, now).is_some() {}
        }
        now >= until
    });
    let delivered = ends.map(|(id, _)| world.a.estimates(id).unwrap().delivered_bytes);
    let (least, most) = (delivered[0].min(delivered[1]), delivered[0].max(delivered[1]));
    assert!(least * 4 > most, "one starves the other: {delivered:?}");
    assert!(least + most > 90_000_000, "{delivered:?}");
}

#[test]
fn a_connection_outlives_every_outage_that_is_shorter_than_its_patience() {
    let limits = TransportLimits::default();
    for outage_ms in [200, 1_000, 2_000, 3_000, 3_900, 4_300, 4_600] {
        let mut world = Simulated::connected(Nature::new(1, Duration::from_micros(200)), outage_ms, &limits);
        // In the middle of a load: all that may be under way is.
        let record = Bytes::from(vec![1; RECORD_MAX]);
        let load = |world: &mut Simulated, time: Duration| {
            let until = world.now() + time;
            world.until(MINUTE, |world| {
                let now = world.now();
                while world.pair.a.send_record(world.from, record.clone()).is_ok() {}
                while world.pair.b.recv_record(world.to, now).is_some() {}
                now >= until
            });
        };
        load(&mut world, Duration::from_millis(300));
        world.link.borrow_mut().cut(false);
        load(&mut world, Duration::from_millis(outage_ms));
        world.link.borrow_mut().cut(true);
        let before = world.a.estimates(world.from).unwrap().delivered_bytes;
        load(&mut world, Duration::from_secs(2));
        let closed = |event: &&Event| matches!(event, Event::Closed { .. });
        assert_eq!(world.events_a.iter().find(closed), None, "{outage_ms} ms");
        let delivered = world.a.estimates(world.from).unwrap().delivered_bytes - before;
        assert!(delivered > 1 << 20, "{delivered} bytes after an outage of {outage_ms} ms");
    }
}
