//! The directory: which place of the area belongs to which VM.
//!
//! It is a table that is never changed in place. Whoever wants a change writes a whole new table into one of the two
//! copies of its own slot, one that no block mentions, and proposes "this copy, with this digest" as the next epoch of
//! the directory's Disk Paxos. So two hosts that give out a place at once cannot both succeed, a host that dies leaves
//! the table before, and one that was frozen can only write where nobody looks.
//!
//! Each use of a place has a tenancy of its own, the epoch that gave it out; blocks of an older use mean nothing.

use std::collections::VecDeque;

use model::limits;
use model::names::VmName;
use xxhash_rust::xxh3::xxh3_128;

use super::identity::{Epoch, Incarnation, Tenancy, Value};
use super::layout::{Area, Extent};
use super::patience::Patience;
use super::paxos::{Outvoted, Unusable, View, Write};
use super::round::{Ask, Ended, Round, Seat, Turn};
use super::table::{Home, Table};
use super::vm_lease::LeaseError;
use crate::time::Instant;

/// What is wanted of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Where a VM's lease is, if anywhere, for who only looks at it.
    Look,
    /// Where a VM's lease is, if anywhere, for who decides something by it: not before what an earlier process of this boot may have written has
    /// settled. What it began to give up would be taken for held.
    Find,
    /// The same, and a place if it has none.
    Add,
    /// Another place instead of `damaged`, if it still has that one. Answered with `damaged` itself where that was not proposed, because
    /// the look at the hosts on whose strength it is asked for had become too old.
    Replace {
        /// The place that is damaged.
        damaged: Home,
        /// When the look began that showed that nobody runs the VM; none where a person vouches for it.
        looked: Option<Instant>,
    },
    /// Its place is free again.
    Remove,
}

/// What the directory wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryEffect {
    /// Read the directory's bank, or write the own block of it.
    Ask(Ask),
    /// Read a table.
    ReadTable(Extent),
    /// Write a table.
    WriteTable(u64, Vec<u8>),
    /// The answer for a VM.
    Answer(VmName, Result<Option<Home>, LeaseError>),
}

/// The directory as one host sees and changes it: one want after the other.
#[derive(Debug, Default)]
pub struct Directory {
    cache: Option<(Epoch, Table)>,
    wants: VecDeque<(VmName, Change)>,
    /// Somebody wants to look since the table was last held against the wants.
    unserved: bool,
    /// The own block and tables might be written when the blocks were last read.
    may_write: bool,
    /// The table that was written last for a [`Change::Replace`], which is the first of the wants, and when its look began.
    looked: Option<(Value, Instant)>,
    step: Step,
    patience: Patience,
    effects: VecDeque<DirectoryEffect>,
}

#[derive(Debug, Default)]
enum Step {
    #[default]
    Idle,
    ReadBlocks,
    ReadTable(Box<View>, u128, Epoch),
    WriteTable(Box<View>, Value),
    Round(Box<Round>),
    Publish,
    Pause(Instant),
}

impl Directory {
    /// Asks for a VM's place.
    pub fn want(&mut self, vm: VmName, change: Change) {
        self.unserved |= change == Change::Look;
        self.wants.push_back((vm, change));
    }

    /// The table as it was last read.
    pub fn table(&self) -> Option<&Table> {
        self.cache.as_ref().map(|(_, table)| table)
    }

    /// Forgets all that was asked and known: the life is over.
    pub fn reset(&mut self) {
        *self = Self::default();
    }

    /// Begins to work if there is work. The own block and tables may not be written before `free_at`, nor anything be decided by what they say.
    /// Who only looks is answered before: to list leases must not take as long as what an earlier process wrote takes to settle.
    pub fn handle_timeout(&mut self, now: Instant, free_at: Instant) {
        if now >= self.poll_timeout(free_at) {
            self.may_write = now >= free_at;
            self.read_blocks();
        }
    }

    /// When [`Directory::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self, free_at: Instant) -> Instant {
        let work_at = if self.unserved { Instant::ZERO } else { free_at };
        match self.step {
            Step::Pause(until) => until.max(work_at),
            Step::Idle if !self.wants.is_empty() => work_at,
            _ => Instant::NEVER,
        }
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<DirectoryEffect> {
        self.effects.pop_front()
    }

    /// Goes on after an I/O. `chance` is any number.
    pub fn ended(&mut self, now: Instant, area: Area, me: Incarnation, chance: u64, ended: Ended<'_>) {
        let seat = Seat { area, bank: area.geometry.directory(), tenancy: Tenancy(0), me, unix_s: 0 };
        match (std::mem::take(&mut self.step), ended) {
            (Step::ReadBlocks, Ended::Read(bytes)) => match seat.view(bytes) {
                Ok(view) => self.surveyed(seat, view),
                Err(unusable) => self.unusable(now, unusable),
            },
            (Step::ReadTable(view, digest, epoch), Ended::Read(bytes)) => {
                match Table::decode(bytes, digest, area.geometry.vms()) {
                    Some(table) => {
                        self.cache = Some((epoch, table));
                        self.serve(seat, &view);
                    }
                    // Its author may have written over it since: by then a later epoch is decided.
                    None => self.failed(now, LeaseError::DirectoryUnreadable),
                }
            }
            (Step::WriteTable(view, value), Ended::Written) => self.begin_round(seat, &view, value),
            (Step::Round(round), ended) => self.turn(now, seat, chance, round.ended(ended)),
            (Step::Publish, Ended::Written) => self.read_blocks(),
            _ => self.failed(now, LeaseError::Storage),
        }
    }

    fn read_blocks(&mut self) {
        self.step = Step::ReadBlocks;
        self.effects.push_back(DirectoryEffect::Ask(Ask::Read));
    }

    fn surveyed(&mut self, seat: Seat, view: View) {
        let empty = || Table::empty(seat.area.geometry.vms());
        match view.decided() {
            None => self.cache = Some((Epoch(0), empty())),
            Some((epoch, _)) if self.cache.as_ref().is_some_and(|(cached, _)| *cached == epoch) => {}
            Some((epoch, Value::Table { author, copy, digest })) => {
                self.step = Step::ReadTable(Box::new(view), digest, epoch);
                let extent = seat.area.geometry.table(author, copy);
                return self.effects.push_back(DirectoryEffect::ReadTable(extent));
            }
            Some((_, Value::Holder(_))) => return self.give_up(LeaseError::DirectoryUnreadable),
        }
        self.serve(seat, &view);
    }

    /// Answers what the table answers; begins the first change that is left.
    fn serve(&mut self, seat: Seat, view: &View) {
        let Some((epoch, table)) = &self.cache else { return };
        let mut left = VecDeque::new();
        for (vm, change) in std::mem::take(&mut self.wants) {
            let home = table.find(&vm);
            let served = match change {
                Change::Look => true,
                _ if !self.may_write => false,
                Change::Find => true,
                Change::Add => home.is_some(),
                Change::Replace { damaged, .. } => home != Some(damaged),
                Change::Remove => home.is_none(),
            };
            if served {
                self.effects.push_back(DirectoryEffect::Answer(vm, Ok(home)));
            } else {
                left.push_back((vm, change));
            }
        }
        self.wants = left;
        self.unserved = false;
        self.looked = None;
        let Some((vm, change)) = self.wants.front() else {
            // Who asks next has patience of their own: what failed for others is no sign of a datastore that is away.
            return self.patience.forget_failures();
        };
        if !self.may_write {
            return;
        }
        // What somebody proposed may be chosen already: complete it before asking for anything else.
        if let Some((_, value)) = view.accepted() {
            return self.begin_round(seat, view, value);
        }
        let (mut table, tenancy) = (table.clone(), Tenancy(epoch.next().0));
        let has_room = match change {
            Change::Remove => {
                table.remove(vm);
                true
            }
            Change::Replace { .. } => table.replace(vm, tenancy),
            Change::Look | Change::Find | Change::Add => table.add(vm, tenancy),
        };
        if !has_room {
            let (vm, _) = self.wants.pop_front().expect("it is the front");
            return self.effects.push_back(DirectoryEffect::Answer(vm, Err(LeaseError::DirectoryFull)));
        }
        let looked = if let Change::Replace { looked, .. } = *change { looked } else { None };
        let value = self.write_table(seat, view, &table);
        self.looked = looked.map(|looked| (value, looked));
    }

    fn write_table(&mut self, seat: Seat, view: &View, table: &Table) -> Value {
        let author = seat.me.slot;
        // The copy that is decided stays as it is. The other cannot be proposed by anybody: only its author proposes
        // it, and nothing is accepted in the epoch under way.
        let decided_first = matches!(view.decided(), Some((_, Value::Table { author: a, copy: 0, .. })) if a == author);
        let copy = u8::from(decided_first);
        let extent = seat.area.geometry.table(author, copy);
        let bytes = table.encode(extent);
        let value = Value::Table { author, copy, digest: xxh3_128(&bytes) };
        self.step = Step::WriteTable(Box::new(view.clone()), value);
        self.effects.push_back(DirectoryEffect::WriteTable(extent.offset, bytes));
        value
    }

    fn begin_round(&mut self, seat: Seat, view: &View, value: Value) {
        let (round, ask) = Round::begin(seat, view, value);
        self.step = Step::Round(round);
        self.effects.push_back(DirectoryEffect::Ask(ask));
    }

    fn turn(&mut self, now: Instant, seat: Seat, chance: u64, turn: Turn) {
        match turn {
            Turn::Ask(round, ask) => {
                self.step = Step::Round(round);
                self.effects.push_back(DirectoryEffect::Ask(ask));
            }
            Turn::Prepared(prepared) if self.is_stale(now, prepared.value()) => self.refuse_replacement(),
            Turn::Prepared(prepared) => {
                let (round, ask) = Round::finish(seat, prepared);
                self.step = Step::Round(round);
                self.effects.push_back(DirectoryEffect::Ask(ask));
            }
            Turn::Decided(decided) => {
                self.patience = Patience::default();
                self.step = Step::Publish;
                let publish: Write = decided.publish();
                self.effects.push_back(DirectoryEffect::Ask(Ask::Write(publish)));
            }
            Turn::Outvoted(Outvoted::Decided) => self.read_blocks(),
            Turn::Outvoted(_) => {
                self.step = Step::Pause(self.patience.outvoted(now, chance));
            }
            Turn::Failed => self.failed(now, LeaseError::Storage),
            Turn::Unusable(unusable) => self.unusable(now, unusable),
        }
    }

    /// Whether this value gives a VM another place on the strength of a look after which a host may have come and found the old one
    /// readable. What was proposed before is completed whatever its age: it may be chosen already.
    fn is_stale(&self, now: Instant, value: Value) -> bool {
        // A host whose slot was free when the look began has a life, and can look a place up, after its wait at the earliest.
        let holds = |looked| limits::with_drift(now.since(looked).millis() + 1) <= limits::LEASE_CLAIM_WAIT_MS;
        self.looked.is_some_and(|(replaces, looked)| replaces == value && !holds(looked))
    }

    /// Nothing is proposed: who asked has to look at the hosts again.
    fn refuse_replacement(&mut self) {
        self.step = Step::Idle;
        if let Some((vm, Change::Replace { damaged, .. })) = self.wants.pop_front() {
            self.effects.push_back(DirectoryEffect::Answer(vm, Ok(Some(damaged))));
        }
    }

    fn unusable(&mut self, now: Instant, unusable: Unusable) {
        let error = match unusable {
            Unusable::Corrupt(slots) => LeaseError::DirectoryCorrupt(slots),
            Unusable::Reused => LeaseError::DirectoryUnreadable,
        };
        self.failed(now, error);
    }

    fn failed(&mut self, now: Instant, error: LeaseError) {
        match self.patience.failed(now) {
            Some(until) => self.step = Step::Pause(until),
            None => self.give_up(error),
        }
    }

    /// Nobody who asked gets an answer.
    fn give_up(&mut self, error: LeaseError) {
        self.patience.forget_failures();
        self.step = Step::Idle;
        for (vm, _) in std::mem::take(&mut self.wants) {
            self.effects.push_back(DirectoryEffect::Answer(vm, Err(error.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::{AreaId, Generation, HostId, Slot};
    use super::super::layout::Geometry;
    use super::super::register;
    use super::*;
    use crate::time::Duration;

    fn told(disk: &mut [u8], area: Area, slot: u16, vm: &VmName, change: Change) -> Option<Home> {
        told_where_io_takes(Duration::ZERO, disk, area, slot, vm, change)
    }

    fn replace(damaged: Home, looked: Option<Instant>) -> Change {
        Change::Replace { damaged, looked }
    }

    /// What the directory says of `vm` to the host in this slot, on this disk, each of whose I/Os takes `io`.
    fn told_where_io_takes(
        io: Duration,
        disk: &mut [u8],
        area: Area,
        slot: u16,
        vm: &VmName,
        change: Change,
    ) -> Option<Home> {
        let me = Incarnation { slot: Slot(slot), generation: Generation(1), host: HostId(slot.into()) };
        let (mut directory, mut now, bank) = (Directory::default(), Instant::ZERO, area.geometry.directory());
        let read = |disk: &[u8], Extent { offset, bytes }| disk[offset as usize..][..bytes].to_vec();
        directory.want(vm.clone(), change);
        loop {
            let Some(effect) = directory.poll_effect() else {
                now = directory.poll_timeout(now);
                directory.handle_timeout(now, now);
                continue;
            };
            now += io;
            let (offset, data) = match effect {
                DirectoryEffect::Answer(_, home) => return home.expect("nothing fails"),
                DirectoryEffect::Ask(Ask::Read) => {
                    directory.ended(now, area, me, 0, Ended::Read(&read(disk, bank.extent())));
                    continue;
                }
                DirectoryEffect::ReadTable(extent) => {
                    directory.ended(now, area, me, 0, Ended::Read(&read(disk, extent)));
                    continue;
                }
                DirectoryEffect::Ask(Ask::Write(Write { slot, block, sequence })) => {
                    register::write(bank, area.id, slot, sequence, &block)
                }
                DirectoryEffect::WriteTable(offset, data) => (offset, data),
            };
            disk[offset as usize..][..data.len()].copy_from_slice(&data);
            directory.ended(now, area, me, 0, Ended::Written);
        }
    }

    #[test]
    fn a_damaged_place_is_replaced_once_however_many_hosts_want_it() {
        let area = Area { id: AreaId(3), geometry: Geometry::new(512, 3, 4).expect("valid") };
        let (mut disk, vm) = (vec![0; area.geometry.area_bytes() as usize], "web".parse().expect("valid"));
        let damaged = told(&mut disk, area, 0, &vm, Change::Add).expect("a place");
        let new = told(&mut disk, area, 1, &vm, replace(damaged, None)).expect("a place");
        assert_ne!(new, damaged);
        assert!(new.1 > damaged.1, "what was written there in an earlier use means nothing");
        assert_eq!(told(&mut disk, area, 2, &vm, replace(damaged, None)), Some(new), "it may be held there by now");
        assert_eq!(told(&mut disk, area, 0, &vm, Change::Find), Some(new));
    }

    #[test]
    fn a_place_is_replaced_only_while_no_host_can_have_come_since_the_look_or_where_a_person_vouches() {
        let area = Area { id: AreaId(3), geometry: Geometry::new(512, 3, 4).expect("valid") };
        let (mut disk, vm) = (vec![0; area.geometry.area_bytes() as usize], "web".parse().expect("valid"));
        let damaged = told(&mut disk, area, 0, &vm, Change::Add).expect("a place");
        let slow = Duration::from_millis(limits::LEASE_CLAIM_WAIT_MS / 4);
        let mut ask = |io, change| told_where_io_takes(io, &mut disk, area, 1, &vm, change).expect("a place");
        // The blocks, the table, its successor, the promise, and the look at the others'.
        assert_eq!(ask(slow, replace(damaged, Some(Instant::ZERO))), damaged, "a host may have come meanwhile");
        assert_eq!(ask(Duration::ZERO, Change::Find), damaged, "nothing was proposed that could be decided later");
        let new = ask(Duration::ZERO, replace(damaged, Some(Instant::ZERO)));
        assert_ne!(new, damaged);
        assert_ne!(ask(slow, replace(new, None)), new, "a person says that it runs nowhere");
    }

    #[test]
    fn errors_that_passed_do_not_add_up_against_who_asks_later() {
        let area = Area { id: AreaId(3), geometry: Geometry::new(512, 3, 4).expect("valid") };
        let me = Incarnation { slot: Slot(0), generation: Generation(1), host: HostId(1) };
        let empty = vec![0; area.geometry.directory().extent().bytes];
        let (mut directory, vm) = (Directory::default(), "web".parse::<VmName>().expect("valid"));
        let mut now = Instant::ZERO;
        // Far more than one who asks bears alone.
        for _ in 0..20 {
            directory.want(vm.clone(), Change::Find);
            let mut failed = false;
            loop {
                now = directory.poll_timeout(now).max(now);
                directory.handle_timeout(now, now);
                match directory.poll_effect().expect("something to do") {
                    DirectoryEffect::Ask(Ask::Read) if !failed => {
                        failed = true;
                        directory.ended(now, area, me, 0, Ended::Failed);
                    }
                    DirectoryEffect::Ask(Ask::Read) => directory.ended(now, area, me, 0, Ended::Read(&empty)),
                    answer => break assert_eq!(answer, DirectoryEffect::Answer(vm.clone(), Ok(None))),
                }
                if directory.effects.is_empty() && !matches!(directory.step, Step::Pause(_)) {
                    panic!("it waits for nothing");
                }
            }
        }
    }

    #[test]
    fn who_only_looks_does_not_wait_for_what_an_earlier_process_wrote_and_who_decides_does() {
        let area = Area { id: AreaId(3), geometry: Geometry::new(512, 3, 4).expect("valid") };
        let me = Incarnation { slot: Slot(0), generation: Generation(1), host: HostId(1) };
        let (mut disk, vm) = (vec![0; area.geometry.area_bytes() as usize], "web".parse::<VmName>().expect("valid"));
        let home = told(&mut disk, area, 1, &vm, Change::Add);
        let (mut directory, free_at) = (Directory::default(), Instant::ZERO + Duration::from_millis(10_000));
        // What it does at `now`, until it waits: whom it answered, and whether it began to write.
        let work = |directory: &mut Directory, now| {
            let (mut answers, mut writes) = (Vec::new(), false);
            directory.handle_timeout(now, free_at);
            while let Some(effect) = directory.poll_effect() {
                let Extent { offset, bytes } = match effect {
                    DirectoryEffect::Answer(vm, home) => {
                        answers.push((vm, home.expect("nothing fails")));
                        continue;
                    }
                    DirectoryEffect::Ask(Ask::Read) => area.geometry.directory().extent(),
                    DirectoryEffect::ReadTable(extent) => extent,
                    DirectoryEffect::WriteTable(..) | DirectoryEffect::Ask(Ask::Write(_)) => {
                        writes = true;
                        break;
                    }
                };
                let read = disk[offset as usize..][..bytes].to_vec();
                directory.ended(now, area, me, 0, Ended::Read(&read));
            }
            (answers, writes)
        };
        let (now, other) = (Instant::ZERO, "db".parse::<VmName>().expect("valid"));
        directory.want(vm.clone(), Change::Look);
        assert_eq!(work(&mut directory, now), (vec![(vm.clone(), home)], false));
        directory.want(other, Change::Add);
        directory.want(vm.clone(), Change::Find);
        assert_eq!(work(&mut directory, now), (vec![], false), "an earlier process may still write");
        assert_eq!(directory.poll_timeout(free_at), free_at, "nothing is to be done before");
        directory.want(vm.clone(), Change::Look);
        assert_eq!(work(&mut directory, now), (vec![(vm.clone(), home)], false), "behind who waits");
        assert_eq!(work(&mut directory, free_at), (vec![(vm, home)], true));
    }
}
