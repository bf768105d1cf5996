//! How many moves go on at once: 4 on a migration link of 1 Gbit/s, 8 from 10 Gbit/s on; the others wait in order.
//!
//! A host counts incoming and outgoing moves alike, because they share the link. An outgoing move that finds no
//! slot waits and starts by itself; an incoming one is refused by the check `slot`. It gives its slot back as soon as
//! its VM runs here, and so before its source does: a host that empties itself into another asks for no more than are
//! free.

use std::collections::VecDeque;

use model::limits;

use crate::wire::MigrationId;

/// The turn of a move that asked for a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// It may start now.
    Now,
    /// So many wait before it.
    After(usize),
}

/// The slots of one host.
#[derive(Clone, Debug)]
pub struct Slots {
    limit: usize,
    taken: Vec<MigrationId>,
    waiting: VecDeque<MigrationId>,
}

impl Slots {
    /// The slots of a host whose migration link has this speed; unknown counts as slow.
    pub fn new(link_mbits: Option<u32>) -> Self {
        Self { limit: limit_of(link_mbits), taken: Vec::new(), waiting: VecDeque::new() }
    }

    /// How many moves may go on at once.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// How many slots are free for a move that comes from outside: none while others wait here.
    pub fn free(&self) -> usize {
        if self.waiting.is_empty() { self.limit.saturating_sub(self.taken.len()) } else { 0 }
    }

    /// The moves that have a slot, in the order in which they got it.
    pub fn running(&self) -> &[MigrationId] {
        &self.taken
    }

    /// The moves that wait, in order.
    pub fn waiting(&self) -> impl Iterator<Item = MigrationId> + '_ {
        self.waiting.iter().copied()
    }

    /// Asks for a slot; asking again changes nothing.
    pub fn ask(&mut self, id: MigrationId) -> Turn {
        if self.taken.contains(&id) {
            return Turn::Now;
        }
        if let Some(place) = self.waiting.iter().position(|waiting| *waiting == id) {
            return Turn::After(place);
        }
        if self.free() > 0 {
            self.taken.push(id);
            return Turn::Now;
        }
        self.waiting.push_back(id);
        Turn::After(self.waiting.len() - 1)
    }

    /// A move ended, or does not want to wait any longer. Gives the moves that start now.
    pub fn leave(&mut self, id: MigrationId) -> Vec<MigrationId> {
        self.taken.retain(|taken| *taken != id);
        self.waiting.retain(|waiting| *waiting != id);
        self.fill()
    }

    /// The link has another speed now. Moves that go on keep their slot. Gives the moves that start now.
    pub fn link_changed(&mut self, link_mbits: Option<u32>) -> Vec<MigrationId> {
        self.limit = limit_of(link_mbits);
        self.fill()
    }

    fn fill(&mut self) -> Vec<MigrationId> {
        let room = self.limit.saturating_sub(self.taken.len()).min(self.waiting.len());
        let starting: Vec<_> = self.waiting.drain(..room).collect();
        self.taken.extend(&starting);
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

    #[test]
    fn four_moves_share_a_gigabit_and_eight_ten() {
        assert_eq!(Slots::new(Some(1_000)).limit(), 4);
        assert_eq!(Slots::new(Some(2_500)).limit(), 4);
        assert_eq!(Slots::new(None).limit(), 4);
        assert_eq!(Slots::new(Some(10_000)).limit(), 8);
        assert_eq!(Slots::new(Some(40_000)).limit(), 8);
    }

    #[test]
    fn the_fifth_move_waits_and_starts_in_its_turn() {
        let mut slots = Slots::new(Some(1_000));
        for id in ids(0..4) {
            assert_eq!(slots.ask(id), Turn::Now);
        }
        assert_eq!(slots.ask(MigrationId(4)), Turn::After(0));
        assert_eq!(slots.ask(MigrationId(5)), Turn::After(1));
        assert_eq!(slots.ask(MigrationId(5)), Turn::After(1), "asking again keeps the place");
        assert_eq!(slots.free(), 0);
        assert_eq!(slots.leave(MigrationId(2)), ids(4..5));
        assert_eq!(slots.leave(MigrationId(5)), []);
        assert_eq!(slots.leave(MigrationId(0)), []);
        assert_eq!(slots.running().len(), 3);
    }

    #[test]
    fn a_faster_link_starts_those_who_wait() {
        let mut slots = Slots::new(Some(1_000));
        ids(0..7).into_iter().for_each(|id| {
            slots.ask(id);
        });
        assert_eq!(slots.link_changed(Some(10_000)), ids(4..7));
    }
}
