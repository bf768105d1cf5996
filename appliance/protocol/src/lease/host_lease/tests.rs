//! What this host's own lease promises, step by step. The whole of it is tested by simulation.

use model::limits;

use super::{Fence, HostIdentity, HostLease, Note, OwnEffect, Remembered, Standing};
use crate::lease::identity::{AreaId, BootId, Generation, HostId, Incarnation, Slot};
use crate::lease::layout::{Area, Geometry};
use crate::lease::record::{DECLARED_MAX, HostRecord, Watchdog};
use crate::lease::register;
use crate::lease::watch::Watch;
use crate::time::{Duration, Instant};

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(1_000_000 + ms)
}

fn area() -> Area {
    Area { id: AreaId(1), geometry: Geometry::new(512, 4, 1).expect("valid") }
}

/// A host lease and the disk under it.
struct Bench {
    lease: HostLease,
    watch: Watch,
    disk: Vec<u8>,
}

fn identity(host: u128, name: &str) -> HostIdentity {
    HostIdentity {
        host: HostId(host),
        boot: BootId(host),
        name: name.parse().expect("a name"),
        watchdog: Watchdog::None,
    }
}

impl Bench {
    fn new(host: u128, name: &str, inherited: Option<Remembered>) -> Self {
        let disk = vec![0; area().geometry.hosts().extent().bytes];
        Self { lease: HostLease::new(identity(host, name), inherited, at(0)), watch: Watch::default(), disk }
    }

    fn put(&mut self, slot: Slot, sequence: u64, record: &HostRecord) {
        let bank = area().geometry.hosts();
        let (offset, data) = register::write(bank, area().id, slot, sequence, record);
        let start = (offset - bank.extent().offset) as usize;
        self.disk[start..start + data.len()].copy_from_slice(&data);
    }

    fn look(&mut self, ms: u64) {
        self.watch.observe(area(), at(ms), at(ms), &self.disk);
        self.lease.handle_hosts(at(ms), at(ms), &self.watch);
    }

    /// All effects; writes land if `land`, and their tickets come back.
    fn effects(&mut self, land: bool) -> (Vec<u64>, Vec<OwnEffect>) {
        let (mut tickets, mut others) = (Vec::new(), Vec::new());
        while let Some(effect) = self.lease.poll_effect() {
            match effect {
                OwnEffect::Write { ticket, slot, sequence, record } => {
                    tickets.push(ticket);
                    if land {
                        self.put(slot, sequence, &record);
                    }
                }
                other => others.push(other),
            }
        }
        (tickets, others)
    }

    /// Claims a slot at 0 ms and is live at 1,600 ms; returns the ticket of the first renewal.
    fn live(host: u128, name: &str) -> (Self, u64) {
        let mut bench = Self::new(host, name, None);
        bench.look(0);
        let (tickets, _) = bench.effects(true);
        bench.lease.handle_written(at(50), tickets[0], true);
        bench.lease.handle_timeout(at(1_550));
        bench.look(1_600);
        assert!(bench.lease.life(at(1_600)).is_some());
        let (tickets, _) = bench.effects(true);
        (bench, tickets[0])
    }

    fn fences(&mut self) -> Option<Fence> {
        let (_, effects) = self.effects(true);
        effects.into_iter().find_map(|effect| if let OwnEffect::Fence(why) = effect { Some(why) } else { None })
    }
}

const FENCE_MS: u64 = limits::LEASE_RENEWAL_MS + limits::LEASE_IO_BOUND_MS;

#[test]
fn the_fence_is_counted_from_the_start_of_the_last_renewal_that_succeeded() {
    let (mut bench, renewal) = Bench::live(1, "host-a");
    // Begun at 1,600 ms, ended at 5,000 ms: what counts is 1,600.
    bench.lease.handle_written(at(5_000), renewal, true);
    bench.effects(true);
    bench.lease.handle_timeout(at(1_600 + FENCE_MS - 1));
    assert_eq!(bench.fences(), None);
    assert!(bench.lease.life(at(1_600 + FENCE_MS)).is_none(), "nobody may start a VM at that moment");
    bench.lease.handle_timeout(at(1_600 + FENCE_MS));
    assert_eq!(bench.fences(), Some(Fence::NotRenewed));
}

#[test]
fn a_success_that_is_learned_of_too_late_does_not_save_a_life() {
    let (mut bench, renewal) = Bench::live(1, "host-a");
    // The claim was begun at 0 ms; the process was stopped and hears of the renewal only now.
    bench.lease.handle_written(at(FENCE_MS), renewal, true);
    assert_eq!(bench.fences(), Some(Fence::NotRenewed));
}

#[test]
fn a_life_that_was_fenced_never_goes_on() {
    let (mut bench, _) = Bench::live(1, "host-a");
    let before = bench.lease.life(at(1_600)).expect("live");
    bench.lease.handle_timeout(at(FENCE_MS));
    assert_eq!(bench.lease.standing(), Standing::Fencing(Fence::NotRenewed));
    bench.effects(true);
    bench.look(8_000);
    assert_eq!(bench.lease.standing(), Standing::Fencing(Fence::NotRenewed), "its VMs are not dead yet");
    bench.lease.handle_killed();
    bench.look(8_100);
    let (tickets, _) = bench.effects(true);
    bench.lease.handle_written(at(8_110), tickets[0], true);
    bench.look(9_700);
    let after = bench.lease.life(at(9_700)).expect("live again, without waiting for an expiry of its own");
    assert_eq!((after.slot, after.generation), (before.slot, Generation(before.generation.0 + 1)));
}

#[test]
fn of_two_hosts_that_claim_one_slot_the_one_that_was_overwritten_looks_for_another() {
    let (mut first, mut second) = (Bench::new(1, "host-a", None), Bench::new(5, "host-b", None));
    first.look(0);
    second.look(0);
    let (a, _) = first.effects(true);
    let (b, _) = second.effects(true);
    first.lease.handle_written(at(10), a[0], true);
    second.lease.handle_written(at(20), b[0], true);
    // Both chose slot 1 of 4; the second write is what is on the disk.
    first.disk.clone_from(&second.disk);
    for bench in [&mut first, &mut second] {
        bench.look(1_600);
    }
    assert!(first.lease.life(at(1_600)).is_none());
    assert!(second.lease.life(at(1_600)).is_some());
    first.look(1_700);
    let (tickets, _) = first.effects(true);
    first.lease.handle_written(at(1_710), tickets[0], true);
    first.look(3_300);
    assert_ne!(
        first.lease.life(at(3_300)).expect("another slot").slot,
        second.lease.life(at(3_300)).expect("its slot").slot
    );
}

#[test]
fn a_claim_whose_write_took_too_long_is_void() {
    let mut bench = Bench::new(1, "host-a", None);
    bench.look(0);
    let (tickets, _) = bench.effects(true);
    bench.lease.handle_written(at(limits::LEASE_CLAIM_IO_MS + 1), tickets[0], true);
    bench.look(5_000);
    assert!(bench.lease.life(at(5_000)).is_none());
}

#[test]
fn a_host_that_finds_its_name_in_use_waits_and_takes_nothing() {
    let (other, _) = Bench::live(1, "host-a");
    let mut bench = Bench::new(2, "host-a", None);
    bench.disk.clone_from(&other.disk);
    bench.look(0);
    let (tickets, _) = bench.effects(true);
    assert!(tickets.is_empty(), "the slot of its name must expire first");
    bench.look(limits::LEASE_EXPIRY_MS);
    assert_eq!(bench.effects(true).0.len(), 1, "now it is dead");
}

#[test]
fn a_successor_fences_at_its_predecessors_deadline_although_the_datastore_does_not_answer() {
    let renewed_at = at(0).nanos();
    let left = Remembered { slot: Slot(2), generation: Generation(4), renewed_at };
    let mut bench = Bench::new(1, "host-a", Some(left));
    assert_eq!(bench.lease.poll_timeout(), at(0), "it feeds the watchdog first");
    bench.lease.handle_timeout(at(FENCE_MS - 1));
    assert_eq!(bench.fences(), None);
    bench.lease.handle_timeout(at(FENCE_MS));
    assert_eq!(bench.fences(), Some(Fence::Predecessor));
}

#[test]
fn a_successor_goes_on_with_the_life_and_the_deadline_of_its_predecessor() {
    let (mut before, renewal) = Bench::live(1, "host-a");
    before.lease.handle_written(at(1_650), renewal, true);
    let mut left = None;
    while let Some(effect) = before.lease.poll_effect() {
        if let OwnEffect::Remember(remembered) = effect {
            left = remembered;
        }
    }
    let mut bench = Bench::new(1, "host-a", left);
    bench.disk.clone_from(&before.disk);
    bench.look(5_000);
    // The renewal that its predecessor remembered began at 1,600 ms, whatever this process does meanwhile.
    assert!(bench.lease.life(at(1_600 + FENCE_MS - 1)).is_some());
    assert!(bench.lease.life(at(1_600 + FENCE_MS)).is_none());
    let (_, effects) = bench.effects(true);
    assert!(effects.contains(&OwnEffect::Rest), "what its predecessor wrote may still land");
}

#[test]
fn a_host_that_another_saw_expire_fences_as_soon_as_it_reads_so() {
    let (mut bench, renewal) = Bench::live(1, "host-a");
    bench.lease.handle_written(at(1_650), renewal, true);
    bench.effects(true);
    let life = bench.lease.life(at(1_700)).expect("live");
    let mut record = HostRecord {
        declared_dead: vec![(life.slot, Generation(life.generation.0 + 1))],
        ..other("host-b", limits::LEASE_EXPIRY_MS)
    };
    bench.put(Slot(3), 1, &record);
    bench.look(2_000);
    assert_eq!(bench.fences(), None, "that is another life");
    record.declared_dead = vec![(life.slot, life.generation)];
    bench.put(Slot(3), 2, &record);
    bench.look(2_100);
    assert_eq!(bench.fences(), Some(Fence::DeclaredDead));
}

#[test]
fn a_death_that_is_declared_again_is_not_the_first_to_make_room_for_others() {
    let (mut bench, renewal) = Bench::live(1, "host-a");
    let declare = |bench: &mut Bench, slot: u16| {
        bench.lease.declare_dead(Incarnation { slot: Slot(slot), generation: Generation(1), host: HostId(9) });
    };
    let most = DECLARED_MAX as u16;
    (1..=most).chain([1, most + 1]).for_each(|slot| declare(&mut bench, slot));
    bench.lease.handle_written(at(1_650), renewal, true);
    bench.lease.handle_timeout(at(1_600 + limits::LEASE_RENEWAL_MS));
    let written = std::iter::from_fn(|| bench.lease.poll_effect()).find_map(|effect| match effect {
        OwnEffect::Write { record, .. } => Some(record.declared_dead),
        _ => None,
    });
    let mut slots: Vec<u16> = written.expect("it renews").iter().map(|(slot, _)| slot.0).collect();
    slots.sort_unstable();
    assert_eq!(slots, [1].into_iter().chain(3..=most + 1).collect::<Vec<_>>());
}

/// A record of another host.
fn other(name: &str, expiry_ms: u64) -> HostRecord {
    HostRecord {
        host: HostId(2),
        boot: BootId(2),
        generation: Generation(1),
        name: name.parse().expect("a name"),
        renewed_at: 0,
        expiry_ms: expiry_ms as u32,
        watchdog: Watchdog::None,
        left: false,
        declared_dead: Vec::new(),
    }
}

#[test]
fn a_host_that_counts_on_a_shorter_expiry_keeps_this_one_away_for_as_long_as_it_lives() {
    let mut bench = Bench::new(1, "host-a", None);
    bench.put(Slot(3), 1, &other("host-b", limits::LEASE_EXPIRY_MS - 1));
    bench.look(0);
    let (tickets, effects) = bench.effects(true);
    let told = effects.contains(&OwnEffect::Note(Note::ShorterExpiry(Slot(3), limits::LEASE_EXPIRY_MS as u32 - 1)));
    assert!(tickets.is_empty() && told, "{effects:?}");
    bench.look(limits::LEASE_EXPIRY_MS);
    assert_eq!(bench.effects(true).0.len(), 1, "it is over");
}

#[test]
fn a_slot_of_this_hosts_own_last_boot_and_a_host_with_a_longer_expiry_keep_nobody_away() {
    let mut bench = Bench::new(1, "host-a", None);
    bench.put(Slot(3), 1, &other("host-b", 2 * limits::LEASE_EXPIRY_MS));
    bench.put(Slot(1), 1, &other("host-a", limits::LEASE_EXPIRY_MS - 1));
    bench.look(0);
    let (tickets, effects) = bench.effects(true);
    let waits = effects.contains(&OwnEffect::Note(Note::WaitingForOldLife(Slot(1))));
    assert!(tickets.is_empty() && waits, "the last boot's life has to expire first, and that is told: {effects:?}");
    bench.look(limits::LEASE_EXPIRY_MS);
    assert_eq!(bench.effects(true).0.len(), 1, "the slot of the last boot is claimed");
}

#[test]
fn the_watchdog_starves_while_a_fence_is_under_way() {
    let (mut bench, _) = Bench::live(1, "host-a");
    bench.lease.handle_timeout(at(FENCE_MS));
    bench.effects(true);
    for ms in [8_000, 9_000, 10_000] {
        bench.lease.handle_timeout(at(ms));
        let (_, effects) = bench.effects(true);
        assert!(!effects.contains(&OwnEffect::FeedWatchdog), "at {ms} ms");
    }
    bench.lease.handle_killed();
    let (_, effects) = bench.effects(true);
    assert!(effects.contains(&OwnEffect::FeedWatchdog));
}
