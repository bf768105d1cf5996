//! How many moves go on at once: 4 on a migration link of 1 Gbit/s, 8 from 10 Gbit/s on; the others wait in order.
//!
//! A host counts incoming and outgoing moves alike, because they share the link. An outgoing move that finds no slot
//! waits and starts by itself. An incoming one that finds none is refused by the check `slot`, and its source puts it back
//! into its own queue: after a while the first of those that wait for that host asks again, and the others follow when it
//! got in. A move that waits for another host holds nothing here, so two hosts that are full of moves to each other do not
//! wait for ever. A move gives its slot back as soon as its VM runs here, and so before its source does: a host that empties
//! itself into another asks for no more than are free.

use std::collections::BTreeMap;

use model::limits;
use model::names::HostName;

use crate::time::{Duration, Instant};
use crate::wire::MigrationId;

/// The turn of a move that asked for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It may start now.
    Now,
    /// So many wait before it.
    After(usize),
}

/// A move away that has a slot or waits for one.
#[derive(Clone, Debug)]
struct Asked {
    id: MigrationId,
    to: HostName,
    /// Its place in the order in which moves were asked for.
    place: u64,
}

/// A host that had no slot for a move.
#[derive(Clone, Copy, Debug)]
struct Full {
    /// When it is asked again.
    again: Instant,
    /// The move that asks it again.
    asking: Option<MigrationId>,
}

impl Full {
    fn is_to_be_asked(&self, now: Instant) -> bool {
        self.asking.is_none() && self.again <= now
    }
}

/// The slots of one host.
#[derive(Clone, Debug)]
pub struct Slots {
    limit: usize,
    /// The moves away that have a slot.
    away: Vec<Asked>,
    /// The moves to here that have one.
    to_here: Vec<MigrationId>,
    /// The moves away that wait, in the order in which they were asked for.
    waiting: Vec<Asked>,
    full: BTreeMap<HostName, Full>,
    places: u64,
}

impl Slots {
    /// The slots of a host whose migration link has this speed; unknown counts as slow.
    pub fn new(link_mbits: Option<u32>) -> Self {
        Self {
            limit: limit_of(link_mbits),
            away: Vec::new(),
            to_here: Vec::new(),
            waiting: Vec::new(),
            full: BTreeMap::new(),
            places: 0,
        }
    }

    /// Asks for a slot for a move to that host.
    pub fn ask(&mut self, id: MigrationId, to: &HostName) -> Turn {
        let asked = Asked { id, to: to.clone(), place: self.places };
        self.places += 1;
        if self.free() > 0 && !self.is_full(to) {
            self.away.push(asked);
            return Turn::Now;
        }
        self.waiting.push(asked);
        Turn::After(self.waiting.len() - 1)
    }

    /// A move to here asks for a slot; how many were free for it. It has one unless there was none.
    pub fn admit(&mut self, id: MigrationId) -> usize {
        let free = self.free();
        if free > 0 {
            self.to_here.push(id);
        }
        free
    }

    /// How many slots are free.
    pub fn free(&self) -> usize {
        self.limit.saturating_sub(self.away.len() + self.to_here.len())
    }

    /// Whether that host had no slot when it was last asked.
    pub fn is_full(&self, host: &HostName) -> bool {
        self.full.contains_key(host)
    }

    /// A move ended, or does not want to wait any longer. Gives the moves that start now.
    pub fn leave(&mut self, id: MigrationId, now: Instant) -> Vec<MigrationId> {
        if let Some(Asked { to, .. }) = self.take_from_away(id) {
            match self.full.get_mut(&to) {
                Some(full) if full.asking == Some(id) => drop(self.full.remove(&to)),
                // Its slot there is free too, or was taken by another already.
                Some(full) => full.again = now,
                None => {}
            }
        }
        self.to_here.retain(|here| *here != id);
        self.waiting.retain(|waiting| waiting.id != id);
        self.fill(now)
    }

    /// The destination of a move away has no slot for it: the move waits again, in its old place, and nothing is begun to
    /// that host for a while. Gives the moves that start now.
    pub fn put_back(&mut self, id: MigrationId, now: Instant) -> Vec<MigrationId> {
        if let Some(back) = self.take_from_away(id) {
            // The migration's number is random: two hosts that refuse each other drift apart.
            let spread = id.0 % limits::MIGRATION_FULL_MS;
            let again = now + Duration::from_millis(limits::MIGRATION_FULL_MS + spread);
            let full = self.full.entry(back.to.clone()).or_insert(Full { again, asking: None });
            if full.asking == Some(id) {
                *full = Full { again, asking: None };
            }
            let before = self.waiting.partition_point(|waiting| waiting.place < back.place);
            self.waiting.insert(before, back);
        }
        self.fill(now)
    }

    /// A move away got in at its destination. Gives the moves that start now.
    pub fn got_in(&mut self, id: MigrationId, now: Instant) -> Vec<MigrationId> {
        let known = self.full.len();
        self.full.retain(|_, full| full.asking != Some(id));
        if self.full.len() < known { self.fill(now) } else { Vec::new() }
    }

    /// Time passed. Gives the moves that start now, because their destinations are to be asked again.
    pub fn wake(&mut self, now: Instant) -> Vec<MigrationId> {
        let one_begins = self.free() > 0 && self.full.values().any(|full| full.is_to_be_asked(now));
        if one_begins { self.fill(now) } else { Vec::new() }
    }

    /// The link has another speed now. Moves that go on keep their slot. Gives the moves that start now.
    pub fn link_changed(&mut self, link_mbits: Option<u32>, now: Instant) -> Vec<MigrationId> {
        self.limit = limit_of(link_mbits);
        self.fill(now)
    }

    fn take_from_away(&mut self, id: MigrationId) -> Option<Asked> {
        let index = self.away.iter().position(|away| away.id == id)?;
        Some(self.away.remove(index))
    }

    fn fill(&mut self, now: Instant) -> Vec<MigrationId> {
        let mut starting = Vec::new();
        for asked in std::mem::take(&mut self.waiting) {
            let has_room = self.free() > 0;
            let begins = match self.full.get_mut(&asked.to) {
                Some(full) if has_room && full.is_to_be_asked(now) => {
                    full.asking = Some(asked.id);
                    true
                }
                Some(_) => false,
                None => has_room,
            };
            if begins {
                starting.push(asked.id);
                self.away.push(asked);
            } else {
                self.waiting.push(asked);
            }
        }
        // Nobody wants to know any more.
        let waiting = &self.waiting;
        self.full.retain(|to, full| {
            full.asking.is_some() || full.again > now || waiting.iter().any(|waiting| waiting.to == *to)
        });
        starting
    }
}

fn limit_of(link_mbits: Option<u32>) -> usize {
    let slots = if link_mbits.is_some_and(|mbits| mbits >= 10_000) {
        limits::MIGRATION_SLOTS_10G
    } else {
        limits::MIGRATION_SLOTS_1G
    };
    slots as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<u64>) -> Vec<MigrationId> {
        range.map(MigrationId).collect()
    }

    fn host(name: &str) -> HostName {
        name.parse().expect("valid")
    }

    /// Slots of a slow link, with so many moves to host-b asked for.
    fn asked(moves: u64) -> Slots {
        let mut slots = Slots::new(Some(1_000));
        for id in ids(0..moves) {
            slots.ask(id, &host("host-b"));
        }
        slots
    }

    const NOW: Instant = Instant::from_nanos(1_000_000_000_000);
    /// A host that is full is not asked before the first and is after the second.
    const PAUSE_LEAST: Duration = Duration::from_millis(limits::MIGRATION_FULL_MS - 1);
    const PAUSE_MOST: Duration = Duration::from_millis(2 * limits::MIGRATION_FULL_MS);

    #[test]
    fn four_moves_share_a_gigabit_and_eight_ten() {
        let limit = |mbits| Slots::new(mbits).free();
        assert_eq!([Some(1_000), Some(2_500), None].map(limit), [4; 3]);
        assert_eq!([Some(10_000), Some(40_000)].map(limit), [8; 2]);
    }

    #[test]
    fn the_fifth_move_waits_and_starts_in_its_turn() {
        let mut slots = asked(3);
        assert_eq!(slots.ask(MigrationId(3), &host("host-b")), Turn::Now);
        assert_eq!(slots.ask(MigrationId(4), &host("host-b")), Turn::After(0));
        assert_eq!(slots.ask(MigrationId(5), &host("host-c")), Turn::After(1));
        assert_eq!(slots.free(), 0);
        assert_eq!(slots.leave(MigrationId(2), NOW), ids(4..5));
        assert_eq!(slots.leave(MigrationId(5), NOW), []);
        assert_eq!(slots.leave(MigrationId(0), NOW), []);
        assert_eq!(slots.free(), 1);
    }

    #[test]
    fn a_faster_link_starts_those_who_wait() {
        assert_eq!(asked(7).link_changed(Some(10_000), NOW), ids(4..7));
    }

    #[test]
    fn moves_to_here_take_slots_too() {
        let mut slots = asked(3);
        assert_eq!(slots.admit(MigrationId(10)), 1);
        assert_eq!(slots.admit(MigrationId(11)), 0);
        assert_eq!(slots.ask(MigrationId(3), &host("host-b")), Turn::After(0));
        assert_eq!(slots.leave(MigrationId(11), NOW), [], "it had none");
        assert_eq!(slots.leave(MigrationId(10), NOW), ids(3..4));
    }

    /// Of four moves to host-b two were refused, and a fifth waits.
    fn refused_twice() -> Slots {
        let mut slots = asked(5);
        assert_eq!(slots.put_back(MigrationId(3), NOW), []);
        assert_eq!(slots.put_back(MigrationId(1), NOW), []);
        slots
    }

    #[test]
    fn nothing_is_begun_to_a_host_that_is_full_and_moves_to_others_are() {
        let mut slots = refused_twice();
        assert!(slots.is_full(&host("host-b")));
        assert_eq!(slots.ask(MigrationId(5), &host("host-b")), Turn::After(3));
        assert_eq!(slots.ask(MigrationId(6), &host("host-c")), Turn::Now);
        assert_eq!(slots.wake(NOW + PAUSE_LEAST), [], "too early");
    }

    #[test]
    fn the_first_in_the_queue_asks_a_full_host_again_and_the_others_follow_when_it_got_in() {
        let mut slots = refused_twice();
        let later = NOW + PAUSE_MOST;
        assert_eq!(slots.wake(later), ids(1..2));
        assert_eq!(slots.wake(later), [], "one asks");
        assert_eq!(slots.put_back(MigrationId(1), later), []);
        assert_eq!(slots.wake(later), [], "it was refused again");
        assert_eq!(slots.wake(later + PAUSE_MOST), ids(1..2));
        assert_eq!(slots.got_in(MigrationId(1), later + PAUSE_MOST), ids(3..4));
        assert!(!slots.is_full(&host("host-b")));
        assert_eq!(slots.leave(MigrationId(0), later), ids(4..5));
    }

    #[test]
    fn a_full_host_is_asked_again_when_a_move_to_it_has_ended_or_the_one_that_asks_has() {
        let mut slots = refused_twice();
        assert_eq!(slots.leave(MigrationId(0), NOW), ids(1..2), "its slot is free there");
        assert_eq!(slots.leave(MigrationId(2), NOW), [], "one asks already");
        assert_eq!(slots.leave(MigrationId(1), NOW), ids(3..5), "the next find out for themselves");
    }

    #[test]
    fn a_host_that_nobody_waits_for_is_not_full_for_ever() {
        let mut slots = asked(1);
        slots.put_back(MigrationId(0), NOW);
        assert_eq!(slots.leave(MigrationId(0), NOW), []);
        slots.wake(NOW + PAUSE_MOST);
        assert_eq!(slots.ask(MigrationId(1), &host("host-b")), Turn::Now);
    }

    #[test]
    fn two_hosts_that_are_full_of_moves_to_each_other_both_empty_themselves() {
        // Each side's moves begin, find the other side full, and go back; whoever asks first after that gets in.
        let (mut a, mut b) = (asked(6), Slots::new(Some(1_000)));
        for id in ids(100..106) {
            b.ask(id, &host("host-a"));
        }
        let mut now = NOW;
        let (mut running_a, mut running_b) = (ids(0..4), ids(100..104));
        let mut done = 0;
        for _ in 0..1_000 {
            let mut begin = |here: &mut Slots, there: &mut Slots, running: &mut Vec<MigrationId>| {
                for id in std::mem::take(running) {
                    if there.admit(id) > 0 {
                        done += 1;
                        running.extend(here.got_in(id, now));
                        running.extend(here.leave(id, now));
                        there.leave(id, now);
                    } else {
                        running.extend(here.put_back(id, now));
                    }
                }
                running.extend(here.wake(now));
            };
            begin(&mut a, &mut b, &mut running_a);
            begin(&mut b, &mut a, &mut running_b);
            now += Duration::from_millis(100);
        }
        assert_eq!(done, 12);
    }
}
