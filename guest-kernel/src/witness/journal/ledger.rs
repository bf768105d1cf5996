//! What is written, flushed and read next, and what each slot must hold. It touches no disk: [`Ledger::order`] says what to
//! do, [`Ledger::answered`] takes what came of it.

use core::fmt;

use heapless::{Deque, Vec};

use crate::witness::journal::record::{Found, Record, Words, read};
use crate::witness::journal::survey::{Damage, Survey, compare};
use crate::witness::journal::{BURST, FLIGHTS_MAX, SLOTS_MAX};

/// Slots that are read back after each flush.
const READS: u64 = 2;
/// Damages that wait to be described; more are only counted.
const DESCRIBED: usize = 8;
/// A slot of which nobody knows what it holds: a damage in it was told already.
const UNKNOWN: u64 = u64::MAX;

/// What is asked of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Write a record into a slot.
    Write {
        /// The record.
        record: Record,
        /// Where.
        slot: usize,
    },
    /// Make durable what was written.
    Flush,
    /// Read a slot.
    Read {
        /// Which.
        slot: usize,
    },
}

/// What came of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// It was done; what a read gave.
    Done(&'a Words),
    /// The disk refused.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// All slots are read to learn what is there.
    Survey,
    Work,
    /// Everything is flushed, then all slots are read.
    Audit,
    /// The disk holds something else, or answered what nobody had asked: it is left alone.
    Stopped,
}

/// What was found on the disk at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Slots of the journal.
    pub slots: usize,
    /// The highest number of which anything is there.
    pub newest: u64,
    /// All up to this number had been flushed.
    pub flushed: u64,
    /// Slots with parts of records.
    pub torn: usize,
    /// Slots that are not as they have to be.
    pub bad: u64,
    /// Slots with something else. If there are any, the disk is not touched.
    pub foreign: usize,
}

/// What an audit found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Audit {
    /// Slots that were read.
    pub slots: usize,
    /// The highest number written; all up to it are flushed.
    pub flushed: u64,
    /// Damages since the start.
    pub bad: u64,
    /// Requests that were never answered; no slot was read because of them.
    pub unanswered: usize,
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { slots, newest, flushed, torn, bad, foreign } = self;
        write!(
            f,
            "journal start slots={slots} newest={newest} flushed={flushed} torn={torn} bad={bad} foreign={foreign}"
        )
    }
}

impl fmt::Display for Audit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { slots, flushed, bad, unanswered } = self;
        write!(f, "journal audit slots={slots} flushed={flushed} bad={bad} unanswered={unanswered}")
    }
}

/// Numbers of a journal since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Highest number of a record such that all up to it were written.
    pub written: u64,
    /// Highest number such that all up to it were flushed.
    pub flushed: u64,
    /// Slots that were read and compared.
    pub read: u64,
    /// Slots that were not as they should be.
    pub bad: u64,
    /// Requests that the disk refused; they are made again.
    pub refused: u64,
}

/// What is on the disk, as far as it is known, and what is under way.
#[derive(Debug)]
pub struct Ledger {
    seed: u64,
    slots: usize,
    phase: Phase,
    survey: Survey,
    /// The record that each slot holds.
    due: [u64; SLOTS_MAX],
    /// Slots that a request under way is about.
    busy: [bool; SLOTS_MAX],
    /// The next record.
    next: u64,
    /// Records that are written but not answered, with those that were refused.
    open: Vec<u64, FLIGHTS_MAX>,
    /// Of these, those that were refused and are written again.
    again: Deque<u64, FLIGHTS_MAX>,
    /// Up to which record the flush reaches that is under way.
    flushing: Option<u64>,
    /// Reads under way, and slots whose read was refused.
    reading: usize,
    reread: Deque<usize, FLIGHTS_MAX>,
    /// The next slot to be read, and how many more are to be.
    cursor: usize,
    reads_due: u64,
    counts: Counts,
    damages: Deque<Damage, DESCRIBED>,
    start: Option<Start>,
    audit: Option<Audit>,
}

impl Ledger {
    /// A journal of `slots` on a disk of which nothing is known yet.
    pub fn new(slots: usize, seed: u64) -> Self {
        Self {
            seed,
            slots,
            phase: Phase::Survey,
            survey: Survey::new(slots),
            due: [0; SLOTS_MAX],
            busy: [false; SLOTS_MAX],
            next: 1,
            open: Vec::new(),
            again: Deque::new(),
            flushing: None,
            reading: 0,
            reread: Deque::new(),
            cursor: 0,
            reads_due: slots as u64,
            counts: Counts::default(),
            damages: Deque::new(),
            start: None,
            audit: None,
        }
    }

    /// What is to be asked of the disk next, if anything; `may_write` says whether a new record is due. Each order is
    /// answered once, in any order.
    pub fn order(&mut self, may_write: bool) -> Option<Order> {
        let order = match self.phase {
            Phase::Stopped => None,
            Phase::Survey => self.read(),
            Phase::Work => self.flush(BURST).or_else(|| self.read()).or_else(|| self.write(may_write)),
            Phase::Audit if self.open.is_empty() && self.counts.flushed == self.written() => self.read(),
            Phase::Audit => self.write(false).or_else(|| self.flush(1)),
        };
        match order {
            Some(Order::Write { slot, .. } | Order::Read { slot }) => self.busy[slot] = true,
            Some(Order::Flush) | None => {}
        }
        order
    }

    /// All records up to this one are written.
    fn written(&self) -> u64 {
        self.open.iter().min().map_or(self.next, |open| *open) - 1
    }

    fn write(&mut self, may_write: bool) -> Option<Order> {
        let number = match self.again.pop_front() {
            Some(number) => number,
            // What is overwritten has to have been flushed, or a flushed record could be missing with its successor.
            None if may_write && self.next <= self.counts.flushed + self.slots as u64 => {
                if self.busy[self.slot(self.next)] || self.open.is_full() {
                    return None;
                }
                // There is room.
                let _ = self.open.push(self.next);
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        let record = Record { number, flushed: self.counts.flushed, seed: self.seed };
        Some(Order::Write { record, slot: self.slot(number) })
    }

    /// A flush, if this many records wait for one, or fewer wait and none is under way.
    fn flush(&mut self, records: u64) -> Option<Order> {
        let (written, flushed) = (self.written(), self.counts.flushed);
        let is_due = written > flushed && (written - flushed >= records || self.open.is_empty());
        if self.flushing.is_some() || !is_due {
            return None;
        }
        self.flushing = Some(written);
        Some(Order::Flush)
    }

    fn read(&mut self) -> Option<Order> {
        if let Some(slot) = self.reread.pop_front() {
            self.reading += 1;
            return Some(Order::Read { slot });
        }
        while self.reads_due > 0 && self.busy[self.cursor] {
            if self.phase != Phase::Work {
                return None;
            }
            self.pass();
        }
        if self.reads_due == 0 {
            return None;
        }
        let slot = self.cursor;
        self.pass();
        self.reading += 1;
        Some(Order::Read { slot })
    }

    fn pass(&mut self) {
        self.cursor = (self.cursor + 1) % self.slots;
        self.reads_due -= 1;
    }

    fn slot(&self, number: u64) -> usize {
        (number % self.slots as u64) as usize
    }

    /// Takes what came of an order.
    pub fn answered(&mut self, order: Order, answer: Answer) {
        match (order, answer) {
            (Order::Write { record, slot }, Answer::Done(_)) => {
                (self.busy[slot], self.due[slot]) = (false, record.number);
                self.open.retain(|open| *open != record.number);
                self.counts.written = self.written();
            }
            (Order::Write { record, .. }, Answer::Failed) => {
                self.counts.refused += 1;
                // It holds no more than are open. The slot stays busy: it holds the one or the other.
                let _ = self.again.push_back(record.number);
            }
            (Order::Flush, Answer::Done(_)) => {
                self.counts.flushed = self.flushing.take().unwrap_or(self.counts.flushed);
                if self.phase == Phase::Work {
                    self.reads_due = READS;
                }
            }
            (Order::Flush, Answer::Failed) => {
                self.counts.refused += 1;
                self.flushing = None;
            }
            (Order::Read { slot }, Answer::Done(words)) => self.found(slot, read(words)),
            (Order::Read { slot }, Answer::Failed) => {
                self.counts.refused += 1;
                self.reading -= 1;
                // It holds no more than can be under way. The slot stays busy.
                let _ = self.reread.push_back(slot);
            }
        }
    }

    fn found(&mut self, slot: usize, found: Found) {
        self.busy[slot] = false;
        self.reading -= 1;
        let is_last = self.reading == 0 && self.reads_due == 0 && self.reread.is_empty();
        if self.phase == Phase::Survey {
            self.survey.note(slot, found);
            if is_last {
                self.begin();
            }
            return;
        }
        self.counts.read += 1;
        if self.due[slot] != UNKNOWN
            && let Err(wrong) = compare(found, slot, self.slots, self.due[slot])
        {
            self.damage(Damage { slot, due: self.due[slot], wrong });
            self.due[slot] = UNKNOWN;
        }
        if is_last && self.phase == Phase::Audit {
            self.end_audit(0);
        }
    }

    fn damage(&mut self, damage: Damage) {
        self.counts.bad += 1;
        // Full if nobody takes them: they are counted all the same.
        let _ = self.damages.push_back(damage);
    }

    /// All slots were read: goes on behind what was flushed. What was written later is written again.
    fn begin(&mut self) {
        let (flushed, foreign) = (self.survey.flushed(), self.survey.foreign());
        self.phase = if foreign > 0 { Phase::Stopped } else { Phase::Work };
        for slot in 0..self.slots {
            self.due[slot] = self.survey.whole(slot).unwrap_or(UNKNOWN);
            if let Some(damage) = self.survey.damage(slot, flushed).filter(|_| foreign == 0) {
                self.damage(damage);
                self.due[slot] = UNKNOWN;
            }
        }
        self.next = flushed + 1;
        (self.counts.written, self.counts.flushed) = (flushed, flushed);
        let (newest, torn) = (self.survey.newest(), self.survey.torn());
        self.start = Some(Start { slots: self.slots, newest, flushed, torn, bad: self.counts.bad, foreign });
    }

    /// Has everything flushed and every slot read, and no record written meanwhile.
    pub fn audit(&mut self) {
        if self.phase == Phase::Work {
            self.phase = Phase::Audit;
            (self.cursor, self.reads_due) = (0, self.slots as u64);
        }
    }

    /// Ends an audit that waits for requests that are not answered.
    pub fn give_audit_up(&mut self) {
        if self.phase == Phase::Audit {
            self.end_audit(self.open.len() + usize::from(self.flushing.is_some()) + self.reading);
        }
    }

    fn end_audit(&mut self, unanswered: usize) {
        self.counts.bad += unanswered as u64;
        (self.phase, self.reads_due) = (Phase::Work, 0);
        let Counts { flushed, bad, .. } = self.counts;
        self.audit = Some(Audit { slots: self.slots, flushed, bad, unanswered });
    }

    /// The disk answered what nobody had asked: nothing is asked of it any more.
    pub fn stop(&mut self) {
        self.counts.bad += 1;
        self.phase = Phase::Stopped;
    }

    /// Whether an audit is under way.
    pub fn is_audited(&self) -> bool {
        self.phase == Phase::Audit
    }

    /// The numbers so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What was found at the start, once.
    pub fn take_start(&mut self) -> Option<Start> {
        self.start.take()
    }

    /// What an audit found, once.
    pub fn take_audit(&mut self) -> Option<Audit> {
        self.audit.take()
    }

    /// The next damage that was not described yet.
    pub fn take_damage(&mut self) -> Option<Damage> {
        self.damages.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witness::journal::record::RECORD_WORDS;
    use crate::witness::journal::survey::Wrong;
    use std::vec::Vec as List;

    const SLOTS: usize = 16;

    /// A disk of 16 slots; requests are answered in the order of a number generator's.
    struct Disk {
        slots: List<Words>,
        asked: List<Order>,
        random: usize,
    }

    impl Disk {
        fn new() -> Self {
            Self { slots: std::vec![[0; RECORD_WORDS]; SLOTS], asked: List::new(), random: 1 }
        }

        /// Takes orders until there are none, or `most` wait.
        fn take(&mut self, ledger: &mut Ledger, may_write: bool, most: usize) {
            while self.asked.len() < most
                && let Some(order) = ledger.order(may_write)
            {
                self.asked.push(order);
            }
        }

        /// Answers one of the orders that wait.
        fn answer(&mut self, ledger: &mut Ledger) -> Option<Order> {
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if self.asked.is_empty() {
                return None;
            }
            let order = self.asked.remove((self.random >> 33) % self.asked.len());
            if let Order::Write { record, slot } = order {
                record.write(&mut self.slots[slot]);
            }
            let words = if let Order::Read { slot } = order { self.slots[slot] } else { [0; RECORD_WORDS] };
            ledger.answered(order, Answer::Done(&words));
            Some(order)
        }

        /// Works until so many orders are answered.
        fn work(&mut self, ledger: &mut Ledger, orders: usize) {
            for _ in 0..orders {
                self.take(ledger, true, FLIGHTS_MAX);
                self.answer(ledger);
            }
        }

        fn audit(&mut self, ledger: &mut Ledger) -> Audit {
            ledger.audit();
            loop {
                self.take(ledger, false, FLIGHTS_MAX);
                self.answer(ledger).expect("an audit ends");
                if let Some(audit) = ledger.take_audit() {
                    return audit;
                }
            }
        }
    }

    fn started() -> (Ledger, Disk) {
        let (mut ledger, mut disk) = (Ledger::new(SLOTS, 7), Disk::new());
        disk.work(&mut ledger, SLOTS);
        assert_eq!(ledger.take_start().map(|start| (start.newest, start.bad)), Some((0, 0)));
        (ledger, disk)
    }

    #[test]
    fn records_are_written_in_order_flushed_and_read_back_round_and_round() {
        let (mut ledger, mut disk) = started();
        disk.work(&mut ledger, 2_000);
        let counts = ledger.counts();
        assert!(counts.flushed > 500 && counts.read > 100 && counts.bad == 0, "{counts:?}");
        let audit = disk.audit(&mut ledger);
        assert_eq!((audit.slots, audit.bad, audit.unanswered), (SLOTS, 0, 0));
        assert!(audit.flushed >= counts.flushed);
        disk.work(&mut ledger, 100);
        assert!(ledger.counts().flushed > audit.flushed, "it goes on behind an audit");
    }

    #[test]
    fn a_flush_reaches_no_further_than_what_was_written_when_it_was_asked_for() {
        let (mut ledger, mut disk) = started();
        let mut reach = None;
        for _ in 0..2_000 {
            let before = (ledger.flushing, ledger.written());
            if let Some(order) = ledger.order(true) {
                if order == Order::Flush {
                    assert_eq!(before.0, None, "one at a time");
                    reach = Some(before.1);
                }
                disk.asked.push(order);
                if disk.asked.len() < FLIGHTS_MAX {
                    continue;
                }
            }
            if disk.answer(&mut ledger) == Some(Order::Flush) {
                assert_eq!(Some(ledger.counts().flushed), reach);
            }
        }
        assert!(ledger.counts().flushed > 0);
    }

    #[test]
    fn no_record_is_overwritten_before_it_was_flushed() {
        let (mut ledger, mut disk) = started();
        for _ in 0..2_000 {
            if let Some(order) = ledger.order(true) {
                if let Order::Write { record, slot } = order {
                    assert!(record.number <= ledger.counts().flushed + SLOTS as u64);
                    assert_eq!(slot, record.number as usize % SLOTS);
                }
                disk.asked.push(order);
            }
            if disk.asked.len() > 8 {
                disk.answer(&mut ledger);
            }
        }
    }

    #[test]
    fn a_write_that_is_lost_behind_the_guests_back_is_found_and_counted_once() {
        let (mut ledger, mut disk) = started();
        disk.work(&mut ledger, 500);
        let flushed = disk.audit(&mut ledger).flushed;
        let slot = flushed as usize % SLOTS;
        Record { number: flushed - SLOTS as u64, flushed: 0, seed: 7 }.write(&mut disk.slots[slot]);
        assert_eq!(disk.audit(&mut ledger).bad, 1);
        let wrong = Wrong::Older(flushed - SLOTS as u64);
        assert_eq!(ledger.take_damage(), Some(Damage { slot, due: flushed, wrong }));
        assert_eq!(disk.audit(&mut ledger).bad, 1);
    }

    #[test]
    fn a_request_that_is_never_answered_stops_the_flushes_and_an_audit_tells_of_it() {
        let (mut ledger, mut disk) = started();
        disk.work(&mut ledger, 100);
        disk.take(&mut ledger, true, FLIGHTS_MAX);
        let lost = disk.asked.iter().position(|order| matches!(order, Order::Write { .. })).expect("one is in flight");
        disk.asked.remove(lost);
        disk.work(&mut ledger, 500);
        let stuck = ledger.counts().flushed;
        disk.work(&mut ledger, 500);
        assert_eq!(ledger.counts().flushed, stuck, "nothing is flushed beyond it");
        ledger.audit();
        disk.work(&mut ledger, 100);
        assert_eq!(ledger.take_audit(), None);
        ledger.give_audit_up();
        assert_eq!(ledger.take_audit().map(|audit| (audit.unanswered, audit.bad)), Some((1, 1)));
    }

    #[test]
    fn what_the_disk_refuses_is_asked_again() {
        let (mut ledger, mut disk) = started();
        let mut badly = |ledger: &mut Ledger, rounds| {
            for round in 0..rounds {
                disk.take(ledger, true, FLIGHTS_MAX);
                if round % 3 == 0 && !disk.asked.is_empty() {
                    let order = disk.asked.remove(0);
                    ledger.answered(order, Answer::Failed);
                }
                disk.answer(ledger);
            }
        };
        badly(&mut ledger, 1_000);
        ledger.audit();
        badly(&mut ledger, 200);
        let audit = ledger.take_audit().expect("it ends");
        assert!(audit.bad == 0 && audit.flushed > 100 && ledger.counts().refused > 100, "{audit:?}");
        assert!(ledger.counts().read >= SLOTS as u64, "every slot was read");
    }

    #[test]
    fn a_guest_that_starts_again_goes_on_behind_what_was_flushed_and_misses_what_is_missing() {
        let (mut ledger, mut disk) = started();
        disk.work(&mut ledger, 500);
        let flushed = ledger.counts().flushed;
        disk.asked.clear();
        let mut again = Ledger::new(SLOTS, 8);
        disk.work(&mut again, SLOTS);
        let start = again.take_start().expect("all is read");
        assert!(start.bad == 0 && start.flushed <= flushed && start.newest >= flushed, "{start:?} {flushed}");
        disk.work(&mut again, 500);
        assert_eq!(disk.audit(&mut again).bad, 0);

        disk.slots[5] = [0; RECORD_WORDS];
        let mut third = Ledger::new(SLOTS, 8);
        disk.asked.clear();
        disk.work(&mut third, SLOTS);
        assert_eq!(third.take_start().map(|start| start.bad), Some(1));
    }

    #[test]
    fn what_was_not_flushed_is_written_again_so_that_no_hole_stays() {
        let mut disk = Disk::new();
        // The host died when 20 was written and 19 was not.
        for number in (1..=18).chain([20]) {
            let flushed = if number > 16 { 16 } else { 0 };
            Record { number, flushed, seed: 7 }.write(&mut disk.slots[number as usize % SLOTS]);
        }
        let mut ledger = Ledger::new(SLOTS, 7);
        disk.work(&mut ledger, SLOTS);
        assert_eq!(ledger.take_start().map(|start| (start.newest, start.flushed, start.bad)), Some((20, 16, 0)));
        let Some(Order::Write { record, .. }) = ledger.order(true) else { panic!("a record is due") };
        assert_eq!(record.number, 17);
    }

    #[test]
    fn a_disk_that_holds_something_else_is_not_touched() {
        let (mut ledger, mut disk) = (Ledger::new(SLOTS, 7), Disk::new());
        disk.slots[9][0] = 0x1234;
        disk.work(&mut ledger, SLOTS);
        assert_eq!(ledger.take_start().map(|start| start.foreign), Some(1));
        assert_eq!(ledger.order(true), None);
    }
}
