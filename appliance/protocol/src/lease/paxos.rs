//! Disk Paxos (Gafni and Lamport 2003) on one disk: one instance for each epoch, typed by phase.
//!
//! ```text
//!   View --promise--> Promising --read--> Prepared --accept--> Accepting --read--> Decided
//!                        |  (write, then read all)      |  (write, then read all)
//!                        `-------- Outvoted <-----------'
//! ```
//! Each phase writes the host's own block and then reads the blocks of all. A phase fails if another block shows a
//! higher ballot. Whoever reads a higher epoch learns that the epoch is decided. A value is chosen as soon as one
//! phase 2 ends well, whether or not anybody still lives who knows it: a higher ballot finds and completes it.
//!
//! A decision cannot be had without its phases:
//! ```compile_fail
//! use protocol::lease::paxos::Promising;
//! fn skip(promising: Promising) { promising.accept(0); }
//! ```
//! and what was decided cannot be taken back:
//! ```compile_fail
//! use protocol::lease::paxos::{Decided, Prepared};
//! fn back(decided: Decided) -> Prepared { decided.abort() }
//! ```

use super::identity::{Ballot, Epoch, Incarnation, Slot, Tenancy, Value};
use super::layout::{Area, Bank};
use super::record::Block;
use super::register;

/// All blocks of one use of a place, as one read saw them.
#[derive(Clone, Debug)]
pub struct View {
    me: Slot,
    tenancy: Tenancy,
    /// By slot; none where the host never took part in this use.
    blocks: Vec<Option<Block>>,
    my_sequence: u64,
}

/// Why a read cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The blocks of these slots are lost: what their hosts accepted is unknown, so nothing may be decided.
    #[error("both copies of the records of {} are corrupt", slots_text(.0))]
    Corrupt(Vec<Slot>),
    /// The place belongs to another VM by now.
    #[error("the place has been given to another VM")]
    Reused,
}

/// Slots for a person: the first of them, and how many more there are.
pub fn slots_text(slots: &[Slot]) -> String {
    const NAMED: usize = 4;
    let named: Vec<String> = slots.iter().take(NAMED).map(Slot::to_string).collect();
    let more = slots.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("slot{} {}{more}", if slots.len() == 1 { "" } else { "s" }, named.join(", "))
}

/// Why a phase did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outvoted {
    /// Another proposer is ahead: wait a little and start again above it.
    Higher,
    /// The epoch is decided: look again.
    Decided,
    /// My own block does not hold what I wrote: somebody else writes it, or an old write of mine came late.
    Foreign,
}

impl View {
    /// What `bytes`, read from the whole `bank`, say to the host in slot `me`.
    ///
    /// # Errors
    /// [`Unusable`].
    pub fn parse(area: Area, bank: Bank, me: Slot, tenancy: Tenancy, bytes: &[u8]) -> Result<Self, Unusable> {
        let mut view = Self { me, tenancy, blocks: Vec::with_capacity(usize::from(bank.slots())), my_sequence: 0 };
        let mut corrupt = Vec::new();
        for slot in (0..bank.slots()).map(Slot) {
            let Ok(register) = register::read::<Block>(bank, area.id, slot, bytes) else {
                corrupt.push(slot);
                continue;
            };
            if register.value.as_ref().is_some_and(|block| block.tenancy > tenancy) {
                return Err(Unusable::Reused);
            }
            // No host wrote it: nobody has such a slot, and whoever waited for a sign of life from it would wait for ever.
            let values =
                |block: &Block| [block.accepted.map(|(_, value)| value), block.decided.map(|(_, value)| value)];
            let now = register.value.as_ref().filter(|block| block.tenancy == tenancy);
            if now.is_some_and(|block| values(block).into_iter().flatten().any(|value| value.slot().0 >= bank.slots()))
            {
                corrupt.push(slot);
                continue;
            }
            if slot == me {
                view.my_sequence = register.sequence;
            }
            view.blocks.push(register.value.filter(|block| block.tenancy == tenancy));
        }
        if corrupt.is_empty() { Ok(view) } else { Err(Unusable::Corrupt(corrupt)) }
    }

    /// The last epoch that is known to be decided, and its value.
    pub fn decided(&self) -> Option<(Epoch, Value)> {
        self.blocks.iter().flatten().filter_map(|block| block.decided).max_by_key(|(epoch, _)| *epoch)
    }

    /// The epoch that is decided last, 0 if none is.
    pub fn decided_epoch(&self) -> Epoch {
        self.decided().map_or(Epoch(0), |(epoch, _)| epoch)
    }

    /// The value of the highest ballot of the epoch under way, if any host wrote one: it may be chosen already.
    pub fn accepted(&self) -> Option<(Ballot, Value)> {
        let current = self.decided_epoch().next();
        self.blocks.iter().flatten().filter(|b| b.epoch == current).filter_map(|b| b.accepted).max_by_key(|a| a.0)
    }

    /// Whether any host has entered a ballot of the epoch after the last decided one.
    pub fn is_contested(&self) -> bool {
        let current = self.decided_epoch().next();
        self.blocks.iter().flatten().any(|block| block.epoch == current)
    }

    /// Since when the holder of `epoch` holds the VM, as its own block says: seconds since 1970 on its wall clock.
    pub fn held_since(&self, epoch: Epoch, who: Incarnation) -> Option<u64> {
        let (block, value) = (self.block(who.slot)?, Value::Holder(who));
        let told = block.epoch == epoch && block.accepted.is_some_and(|(_, accepted)| accepted == value);
        let told = told || block.decided == Some((epoch, value));
        Some(block.held_since).filter(|since| told && *since > 0)
    }

    /// The block of a slot.
    pub fn block(&self, slot: Slot) -> Option<&Block> {
        self.blocks.get(usize::from(slot.0))?.as_ref()
    }

    /// My own block, blank if I never took part, and the sequence number of its next write.
    pub fn mine(&self) -> (Block, u64) {
        let block = self.block(self.me).cloned().unwrap_or_else(|| Block::blank(self.tenancy));
        (block, self.my_sequence + 1)
    }

    /// Phase 1 for the epoch after the last decided one, with a ballot above all others, wishing for `wish`.
    #[must_use]
    pub fn promise(&self, wish: Value) -> Promising {
        let epoch = self.decided_epoch().next();
        let highest = self.blocks.iter().flatten().filter(|b| b.epoch == epoch).map(|b| b.promised).max();
        let (mut block, sequence) = self.mine();
        if block.epoch != epoch {
            block.accepted = None;
        }
        block.epoch = epoch;
        block.promised = highest.unwrap_or_default().above(self.me);
        block.decided = self.decided();
        Promising { write: Write { slot: self.me, block, sequence }, wish }
    }

    /// The highest ballot above `mine`, or the decision, that another host's block shows.
    fn outvotes(&self, write: &Write) -> Result<(), Outvoted> {
        if self.decided_epoch() >= write.block.epoch {
            return Err(Outvoted::Decided);
        }
        if self.my_sequence != write.sequence || self.block(self.me) != Some(&write.block) {
            return Err(Outvoted::Foreign);
        }
        let others = self.blocks.iter().flatten().filter(|block| block.epoch == write.block.epoch);
        match others.map(|block| block.promised).max() {
            Some(highest) if highest > write.block.promised => Err(Outvoted::Higher),
            _ => Ok(()),
        }
    }
}

/// A block to be written as write number `sequence` of its register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The writer.
    pub slot: Slot,
    /// What to write.
    pub block: Block,
    /// The number of the write.
    pub sequence: u64,
}

/// Phase 1: [`Promising::write`] is to be written, then all blocks read.
#[derive(Clone, Debug)]
pub struct Promising {
    write: Write,
    wish: Value,
}

impl Promising {
    /// What to write.
    pub fn write(&self) -> &Write {
        &self.write
    }

    /// Judges a read that began after the write was done.
    ///
    /// # Errors
    /// [`Outvoted`].
    pub fn read(self, view: &View) -> Result<Prepared, Outvoted> {
        view.outvotes(&self.write)?;
        let value = view.accepted().map_or(self.wish, |(_, value)| value);
        Ok(Prepared { write: self.write, value })
    }
}

/// Phase 1 is over: as long as nobody enters a higher ballot, one write and one read decide [`Prepared::value`].
#[derive(Clone, Debug)]
pub struct Prepared {
    write: Write,
    value: Value,
}

impl Prepared {
    /// What phase 2 will decide: the wish, or what may have been chosen before.
    pub fn value(&self) -> Value {
        self.value
    }

    /// The epoch that is at stake.
    pub fn epoch(&self) -> Epoch {
        self.write.block.epoch
    }

    /// Phase 2; `unix_s` is what the wall clock shows, seconds since 1970: a host that comes to hold the VM notes it.
    #[must_use]
    pub fn accept(self, unix_s: u64) -> Accepting {
        let mut write = self.write;
        let before = write.block.decided.filter(|(epoch, _)| *epoch > write.block.given_up);
        let goes_on = before.is_some_and(|(_, value)| value == self.value);
        if self.value.holder().is_some_and(|holder| holder.slot == write.slot) && !goes_on {
            write.block.held_since = unix_s;
        }
        write.block.accepted = Some((write.block.promised, self.value));
        write.sequence += 1;
        Accepting { write, value: self.value }
    }
}

/// Phase 2: [`Accepting::write`] is to be written, then all blocks read. From the write on the outcome is open until
/// it is read.
#[derive(Clone, Debug)]
pub struct Accepting {
    write: Write,
    value: Value,
}

impl Accepting {
    /// What to write.
    pub fn write(&self) -> &Write {
        &self.write
    }

    /// Judges a read that began after the write was done.
    ///
    /// # Errors
    /// [`Outvoted`]: the value may nevertheless be chosen; look again.
    pub fn read(self, view: &View) -> Result<Decided, Outvoted> {
        view.outvotes(&self.write)?;
        Ok(Decided { write: self.write, value: self.value })
    }
}

/// The epoch is decided. Telling the others ([`Decided::publish`]) spares them the work of finding out.
#[derive(Clone, Debug)]
pub struct Decided {
    write: Write,
    value: Value,
}

impl Decided {
    /// The value.
    pub fn value(&self) -> Value {
        self.value
    }

    /// The epoch.
    pub fn epoch(&self) -> Epoch {
        self.write.block.epoch
    }

    /// What to write so that everybody sees the decision.
    pub fn publish(self) -> Write {
        let mut write = self.write;
        write.block.decided = Some((write.block.epoch, self.value));
        write.sequence += 1;
        write
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::identity::{AreaId, Generation, HostId};
    use super::super::layout::{Geometry, Place};
    use super::*;

    fn area() -> Area {
        Area { id: AreaId(3), geometry: Geometry::new(512, 3, 1).expect("valid") }
    }

    fn host(slot: u16) -> Value {
        Value::Holder(Incarnation { slot: Slot(slot), generation: Generation(1), host: HostId(slot.into()) })
    }

    /// A disk of one bank.
    struct Disk(Vec<u8>);

    impl Disk {
        fn bank() -> Bank {
            area().geometry.vm(Place(0))
        }

        fn new() -> Self {
            Self(vec![0; Self::bank().extent().bytes])
        }

        fn view(&self, me: u16) -> View {
            View::parse(area(), Self::bank(), Slot(me), Tenancy(1), &self.0).expect("readable")
        }

        fn write(&mut self, write: &Write) {
            let (offset, data) = register::write(Self::bank(), area().id, write.slot, write.sequence, &write.block);
            let start = (offset - Self::bank().extent().offset) as usize;
            self.0[start..start + data.len()].copy_from_slice(&data);
        }

        /// Decides the next epoch for a host, alone, at `unix_s`.
        fn decide(&mut self, me: u16, unix_s: u64) -> Epoch {
            let accepting = self.prepare(me).accept(unix_s);
            self.write(accepting.write());
            let decided = accepting.read(&self.view(me)).expect("alone");
            let epoch = decided.epoch();
            self.write(&decided.publish());
            epoch
        }

        fn prepare(&mut self, me: u16) -> Prepared {
            let promising = self.view(me).promise(host(me));
            self.write(promising.write());
            promising.read(&self.view(me)).expect("nobody else is there")
        }
    }

    #[test]
    fn a_value_that_may_be_chosen_is_completed_by_whoever_comes_next() {
        let mut disk = Disk::new();
        let accepting = disk.prepare(0).accept(7);
        disk.write(accepting.write());
        // Host 0 dies here: it has decided, and nobody knows.
        let prepared = disk.prepare(1);
        assert_eq!((prepared.value(), prepared.epoch()), (host(0), Epoch(1)));
        let accepting = prepared.accept(7);
        disk.write(accepting.write());
        let decided = accepting.read(&disk.view(1)).expect("alone");
        disk.write(&decided.publish());
        assert_eq!(disk.view(2).decided(), Some((Epoch(1), host(0))));
    }

    #[test]
    fn a_holder_tells_since_when_it_holds_the_vm_without_a_break() {
        let incarnation = |slot| host(slot).holder().expect("a holder");
        let mut disk = Disk::new();
        let first = disk.decide(0, 100);
        assert_eq!(disk.view(2).held_since(first, incarnation(0)), Some(100));
        let again = disk.decide(0, 200);
        assert_eq!(disk.view(2).held_since(again, incarnation(0)), Some(100), "it won the next epoch and held on");
        let (mut block, sequence) = disk.view(0).mine();
        block.given_up = again;
        disk.write(&Write { slot: Slot(0), block, sequence });
        let anew = disk.decide(0, 300);
        assert_eq!(disk.view(2).held_since(anew, incarnation(0)), Some(300), "it had given it up");
        let moved = disk.decide(1, 400);
        assert_eq!(disk.view(2).held_since(moved, incarnation(1)), Some(400));
        assert_eq!(disk.view(2).held_since(moved, incarnation(0)), None, "it does not hold it any more");
    }

    #[test]
    fn a_block_that_names_a_slot_which_the_area_has_not_is_damaged() {
        let mut disk = Disk::new();
        disk.decide(0, 100);
        let (mut block, sequence) = disk.view(0).mine();
        let nobody =
            Value::Holder(Incarnation { slot: Slot(Disk::bank().slots()), ..host(0).holder().expect("a holder") });
        block.decided = Some((Epoch(1), nobody));
        disk.write(&Write { slot: Slot(0), block, sequence });
        let view = View::parse(area(), Disk::bank(), Slot(1), Tenancy(1), &disk.0);
        assert!(matches!(view, Err(Unusable::Corrupt(slots)) if slots == [Slot(0)]));
    }

    #[test]
    fn a_commit_that_comes_after_a_higher_ballot_does_not_decide() {
        let mut disk = Disk::new();
        let destination = disk.prepare(1);
        let source = disk.prepare(0).accept(7);
        disk.write(source.write());
        let late = destination.accept(7);
        disk.write(late.write());
        assert_eq!(late.read(&disk.view(1)).map(|d| d.value()), Err(Outvoted::Higher));
        assert_eq!(source.read(&disk.view(0)).expect("the higher ballot").value(), host(0));
    }

    #[test]
    fn a_block_that_does_not_read_back_is_no_ground_for_a_decision() {
        let mut disk = Disk::new();
        let before = disk.0.clone();
        let accepting = disk.prepare(0).accept(7);
        disk.write(accepting.write());
        disk.0 = before;
        assert_eq!(accepting.read(&disk.view(0)).map(|d| d.value()), Err(Outvoted::Foreign));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_view_panic(
            bytes in prop::collection::vec(any::<u8>(), 3 * 1_024), zero in prop::collection::vec(any::<bool>(), 6),
        ) {
            let mut bytes = bytes;
            for (sector, zero) in bytes.chunks_exact_mut(512).zip(zero) {
                if zero {
                    sector.fill(0);
                }
            }
            if let Ok(view) = View::parse(area(), Disk::bank(), Slot(0), Tenancy(1), &bytes) {
                let _ = view.promise(host(0)).read(&view);
            }
        }
    }
}
