//! Records on their way into memory: what was admitted is stored a moment later, in its order, whatever else the destination is told meanwhile.

use std::collections::VecDeque;

use protocol::destination::{Input, PagesStored};
use protocol::verify::Rounds;
use protocol::wire::{PagePlan, ValidatedRecord};

use super::destination_side::DestinationDoing;
use super::engine::Engine;
use super::guest::{self, PAGES};
use super::host::Side;
use super::invariants::{Kept, broken};
use super::world::World;

/// What a migration process has to store, until it dies or lets go of the memory.
#[derive(Debug)]
pub struct Storing {
    /// Whose memory it is.
    vmm: u64,
    rounds: Rounds,
    waiting: VecDeque<ValidatedRecord<Vec<u8>>>,
}

impl Storing {
    /// Into the fresh memory of this VMM.
    pub fn new(vmm: u64) -> Self {
        Self { vmm, rounds: Rounds::new(PAGES), waiting: VecDeque::new() }
    }

    /// Whether everything that was admitted is stored.
    pub fn is_done(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl World {
    pub(super) fn record_arrives(&mut self, side: Side, generation: u64, record: Vec<u8>) -> Kept {
        let now = self.queue.now();
        if !self.link.carries || self.host(side).generation != generation {
            return Ok(());
        }
        let host = self.host(side);
        let (Engine::Destination(destination), Some(storing)) = (&mut host.engine, &mut host.storing) else {
            return Ok(());
        };
        match destination.admit(now, record) {
            Ok(Some(record)) => storing.waiting.push_back(record),
            Ok(None) => return Ok(()),
            Err(error) => return broken("every_record_is_understood", error.to_string()),
        }
        self.destination_will(DestinationDoing::Store);
        Ok(())
    }

    /// Stores what waits longest.
    pub(super) fn stores(&mut self, generation: u64) -> Kept {
        let host = self.host(Side::Destination);
        if host.generation != generation {
            return Ok(());
        }
        let Some(storing) = &mut host.storing else { return Ok(()) };
        let Some(record) = storing.waiting.pop_front() else { return Ok(()) };
        // The memory outlives its VMM while somebody holds it.
        let mut vmm = host.vmm.as_mut().filter(|vmm| vmm.id == storing.vmm);
        let (round, mut stored) = (record.round(), Vec::new());
        for plan in record.pages().filter(|plan| storing.rounds.set(plan.page(), round)) {
            let version = match plan {
                PagePlan::Zero { .. } => 0,
                PagePlan::Content { offset, .. } => guest::version(&record.content_bytes()[offset..]),
            };
            vmm.iter_mut().for_each(|vmm| vmm.pages[plan.page() as usize] = version);
            stored.push((plan.page(), guest::hash(version)));
        }
        self.destination_hears(generation, Input::PagesStored(PagesStored { round, covered: record.count(), stored }))
    }
}
