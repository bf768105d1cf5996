//! How many moves go on at once: 4 on a migration link of 1 Gbit/s, 8 from 10 Gbit/s on; the others wait in order.
//!
//! A host counts incoming and outgoing moves alike, because they share the link. An outgoing move that finds no slot
//! waits and starts by itself. An incoming one finds none either while moves away wait that could begin: the check `slot`
//! tells its source, which puts it back into its own queue and asks again later. A move that waits for another host holds
//! nothing here, so two hosts that are full of moves to each other do not wait for ever. A move gives its slot back as soon
//! as its VM runs here, and so before its source does: a host that empties itself into another asks for no more than are
//! free.

use std::collections::{BTreeMap, VecDeque};

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

/// The slots of one host.
#[derive(Clone, Debug)]
pub struct Slots {
    limit: usize,
    /// The moves away that have a slot.
    away: Vec<Asked>,
    /// The moves to here that have one.
    to_here: Vec<MigrationId>,
    /// The moves away that wait, in the order in which they were asked for.
    waiting: VecDeque<Asked>,
    /// The hosts that had no slot for a move, and when they are asked again.
    full: BTreeMap<HostName, Instant>,
    places: u64,
}

impl Slots {
    /// The slots of a host whose migration link has this speed; unknown counts as slow.
    pub fn new(link_mbits: Option<u32>) -> Self {
        Self {
            limit: limit_of(link_mbits),
            away: Vec::new(),
            to_here: Vec::new(),
            waiting: VecDeque::new(),
            full: BTreeMap::new(),
            places: 0,
        }
    }

    /// Asks for a slot for a move to that host.
    pub fn ask(&mut self, id: MigrationId, to: &HostName) -> Turn {
        let asked = Asked { id, to: to.clone(), place: self.places };
        self.places += 1;
        if self.may_begin(&asked) && self.free() > 0 {
            self.away.push(asked);
            return Turn::Now;
        }
        self.waiting.push_back(asked);
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

    /// How many slots are free for a move that comes from outside: none while moves wait here that could begin.
    pub fn free(&self) -> usize {
        if self.waiting.iter().any(|waiting| self.may_begin(waiting)) {
            return 0;
        }
        self.limit.saturating_sub(self.away.len() + self.to_here.len())
    }

    /// A move ended, or does not want to wait any longer. Gives the moves that start now.
    pub fn leave(&mut self, id: MigrationId) -> Vec<MigrationId> {
        self.away.retain(|away| away.id != id);
        self.to_here.retain(|here| *here != id);
        self.waiting.retain(|waiting| waiting.id != id);
        self.fill()
    }

    /// The destination of a move away has no slot for it: the move waits again, in its old place, and nothing is begun to
    /// that host for a while. Gives the moves that start now.
    pub fn put_back(&mut self, id: MigrationId, now: Instant) -> Vec<MigrationId> {
        if let Some(index) = self.away.iter().position(|away| away.id == id) {
            let back = self.away.remove(index);
            // The migration's number is random: two hosts that refuse each other do not ask at the same time again.
            let spread = id.0 % limits::MIGRATION_FULL_MS;
            self.full.insert(back.to.clone(), now + Duration::from_millis(limits::MIGRATION_FULL_MS + spread));
            let before = self.waiting.partition_point(|waiting| waiting.place < back.place);
            self.waiting.insert(before, back);
        }
        self.fill()
    }

    /// Time passed. Gives the moves that start now, because their destinations are to be asked again.
    pub fn wake(&mut self, now: Instant) -> Vec<MigrationId> {
        let full = self.full.len();
        self.full.retain(|_, again| *again > now);
        if self.full.len() < full { self.fill() } else { Vec::new() }
    }

    /// The link has another speed now. Moves that go on keep their slot. Gives the moves that start now.
    pub fn link_changed(&mut self, link_mbits: Option<u32>) -> Vec<MigrationId> {
        self.limit = limit_of(link_mbits);
        self.fill()
    }

    fn may_begin(&self, asked: &Asked) -> bool {
        !self.full.contains_key(&asked.to)
    }

    fn fill(&mut self) -> Vec<MigrationId> {
        let mut starting = Vec::new();
        for asked in std::mem::take(&mut self.waiting) {
            if self.away.len() + self.to_here.len() < self.limit && self.may_begin(&asked) {
                starting.push(asked.id);
                self.away.push(asked);
            } else {
                self.waiting.push_back(asked);
            }
        }
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

    const SECOND: Duration = Duration::from_millis(1_000);

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
        assert_eq!(slots.leave(MigrationId(2)), ids(4..5));
        assert_eq!(slots.leave(MigrationId(5)), []);
        assert_eq!(slots.leave(MigrationId(0)), []);
        assert_eq!(slots.free(), 1);
    }

    #[test]
    fn a_faster_link_starts_those_who_wait() {
        assert_eq!(asked(7).link_changed(Some(10_000)), ids(4..7));
    }

    #[test]
    fn moves_to_here_take_slots_too() {
        let mut slots = asked(3);
        assert_eq!(slots.admit(MigrationId(10)), 1);
        assert_eq!(slots.admit(MigrationId(11)), 0);
        assert_eq!(slots.ask(MigrationId(3), &host("host-b")), Turn::After(0));
        assert_eq!(slots.leave(MigrationId(11)), [], "it had none");
        assert_eq!(slots.leave(MigrationId(10)), ids(3..4));
    }

    #[test]
    fn a_move_whose_destination_is_full_waits_in_its_place_and_asks_again() {
        let mut slots = asked(6);
        let now = Instant::ZERO + SECOND;
        // Those that wait for the same host do not begin in its place, and one for another host does.
        slots.ask(MigrationId(6), &host("host-c"));
        assert_eq!(slots.put_back(MigrationId(1), now), ids(6..7));
        assert_eq!(slots.ask(MigrationId(7), &host("host-b")), Turn::After(3));
        assert_eq!(slots.leave(MigrationId(0)), []);
        assert_eq!(slots.wake(now + SECOND), [], "too early");
        assert_eq!(slots.wake(now + SECOND + SECOND), ids(1..2));
        assert_eq!(slots.leave(MigrationId(2)), ids(4..5));
    }

    #[test]
    fn what_waits_for_another_host_keeps_none_from_coming() {
        let mut slots = asked(5);
        assert_eq!(slots.free(), 0);
        for id in ids(0..4) {
            slots.put_back(id, Instant::ZERO);
        }
        assert_eq!(slots.free(), 4, "all five wait for host-b");
    }

    #[test]
    fn two_hosts_that_are_full_of_moves_to_each_other_both_empty_themselves() {
        // Each side's moves begin, find the other side full, and go back; whoever asks first after that gets in.
        let (mut a, mut b) = (asked(6), Slots::new(Some(1_000)));
        for id in ids(100..106) {
            b.ask(id, &host("host-a"));
        }
        let mut now = Instant::ZERO;
        let (mut running_a, mut running_b) = (ids(0..4), ids(100..104));
        let mut done = 0;
        for _ in 0..1_000 {
            let mut begin = |here: &mut Slots, there: &mut Slots, running: &mut Vec<MigrationId>| {
                for id in std::mem::take(running) {
                    if there.admit(id) > 0 {
                        done += 1;
                        running.extend(here.leave(id));
                        there.leave(id);
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
