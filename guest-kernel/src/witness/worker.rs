//! The order of work of one CPU: fill its share, then dirty what is due and verify with the time that is left.

use core::sync::atomic::Ordering::{Relaxed, Release};

use crate::witness::clock::{Counter, Ratchet};
use crate::witness::damages::Damages;
use crate::witness::memory::Memory;
use crate::witness::orders::{Orders, Pattern, Verify};
use crate::witness::pace::{FLAT_OUT, Pace};
use crate::witness::share::Share;
use crate::witness::tally::{Tally, add};

/// Pages between two looks at the TSC: a few microseconds.
const BATCH: u64 = 8;
/// Pages a step dirties and verifies at most, so that the serial line is served in between.
const STEP: u64 = 64;

/// What the CPUs share.
#[derive(Debug)]
pub struct Common {
    /// What is to be done.
    pub orders: Orders,
    /// The TSC of all CPUs.
    pub tsc: Ratchet,
    /// What was found.
    pub damages: Damages,
}

impl Common {
    /// Nothing to do, nothing found.
    pub const fn new() -> Self {
        Self { orders: Orders::new(), tsc: Ratchet::new(), damages: Damages::new() }
    }
}

impl Default for Common {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether a step found anything to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more.
    Busy,
    /// Nothing is due.
    Idle,
}

/// One CPU at work.
pub struct Worker<'a, C> {
    memory: &'a Memory,
    share: Share,
    common: &'a Common,
    tally: &'a Tally,
    counter: C,
    last: u64,
    /// Pages of the share.
    count: u64,
    filled: u64,
    scanned: u64,
    cursor: u64,
    random: u64,
    dirtying: Pace,
    scanning: Pace,
    edition: u64,
    audit: u64,
    auditing: bool,
}

impl<'a, C: Counter> Worker<'a, C> {
    /// A worker that begins with filling its share; `hz` is the frequency of `counter`.
    pub fn new(memory: &'a Memory, share: Share, common: &'a Common, tally: &'a Tally, counter: C, hz: u64) -> Self {
        let now = counter.read();
        Self {
            memory,
            share,
            common,
            tally,
            last: now,
            counter,
            count: share.count(memory.pages()),
            filled: 0,
            scanned: 0,
            cursor: 0,
            random: memory.recipe().seed ^ (share.cpu + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            dirtying: Pace::new(0, hz, now),
            scanning: Pace::new(0, hz, now),
            edition: 0,
            audit: 0,
            auditing: false,
        }
    }

    /// Does a little of what is due.
    pub fn step(&mut self) -> Step {
        let now = self.common.tsc.look(|| self.counter.read());
        self.note(now);
        self.follow_orders(now);
        if self.filled < self.count {
            self.fill();
            return Step::Busy;
        }
        let verify = self.common.orders.verify();
        let dirtied = self.dirtying.take(now, STEP);
        self.dirty(dirtied, verify == Verify::On);
        let scanned = match verify {
            _ if self.auditing => STEP,
            Verify::Off => 0,
            _ => self.scanning.take(now, STEP),
        };
        self.scan(scanned);
        if dirtied + scanned > 0 { Step::Busy } else { Step::Idle }
    }

    /// The sum of the versions of all pages of the share.
    fn versions(&mut self) -> u64 {
        let mut sum = 0;
        for index in 0..self.filled {
            sum += u64::from(self.memory.version(self.share.page(index)));
            if index.is_multiple_of(1024) {
                self.look();
            }
        }
        sum
    }

    fn follow_orders(&mut self, now: u64) {
        let edition = self.common.orders.edition();
        if edition != self.edition {
            self.edition = edition;
            let part = |rate| if rate == FLAT_OUT { rate } else { self.share.part(rate) };
            let (rate, scan) = (part(self.common.orders.rate()), part(self.common.orders.scan()));
            if rate != self.dirtying.rate() {
                self.dirtying.set_rate(rate, now);
            }
            if scan != self.scanning.rate() {
                self.scanning.set_rate(scan, now);
            }
        }
        let audit = self.common.orders.audit();
        if audit != self.audit {
            (self.audit, self.auditing, self.scanned) = (audit, true, 0);
        }
    }

    /// The TSC at the latest look.
    pub fn now(&self) -> u64 {
        self.last
    }

    /// Looks at the TSC: between two batches of pages, and by whoever else holds the CPU up.
    #[inline]
    pub fn look(&mut self) {
        let now = self.counter.read();
        self.note(now);
    }

    #[inline]
    fn note(&mut self, now: u64) {
        self.tally.gap.note(now.saturating_sub(self.last));
        self.last = now;
    }

    fn fill(&mut self) {
        let end = (self.filled + STEP).min(self.count);
        while self.filled < end {
            self.memory.fill(self.share.page(self.filled));
            self.filled += 1;
            if self.filled.is_multiple_of(BATCH) {
                self.look();
            }
        }
        self.tally.filled.store(self.filled, Relaxed);
    }

    fn dirty(&mut self, count: u64, check: bool) {
        let set = self.share.count(self.common.orders.set_pages().min(self.memory.pages()));
        if set == 0 {
            return;
        }
        let pattern = self.common.orders.pattern();
        for done in 1..=count {
            let index = self.next(pattern, set);
            let page = self.share.page(index);
            if check {
                self.check(page);
            }
            self.memory.dirty(page);
            if done.is_multiple_of(BATCH) {
                self.look();
            }
        }
        add(&self.tally.dirtied, count);
    }

    #[inline]
    fn next(&mut self, pattern: Pattern, set: u64) -> u64 {
        // xorshift64*, and the upper half scaled to the set.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        let random = self.random.wrapping_mul(0x2545_f491_4f6c_dd1d);
        let below = |bound: u64| ((u128::from(random) * u128::from(bound)) >> 64) as u64;
        match pattern {
            Pattern::Random => below(set),
            Pattern::Hot if random & 0xffff < 0xe666 => below((set / 16).max(1)),
            Pattern::Hot => below(set),
            Pattern::Sequential => {
                self.cursor = if self.cursor + 1 < set { self.cursor + 1 } else { 0 };
                self.cursor
            }
        }
    }

    fn scan(&mut self, count: u64) {
        for done in 1..=count {
            if self.scanned < self.count {
                self.check(self.share.page(self.scanned));
                self.scanned += 1;
                add(&self.tally.verified, 1);
            }
            if self.scanned == self.count {
                self.end_round();
            }
            if done.is_multiple_of(BATCH) {
                self.look();
            }
        }
    }

    fn end_round(&mut self) {
        self.scanned = 0;
        add(&self.tally.passes, 1);
        if self.auditing {
            self.auditing = false;
            self.tally.versions.store(self.versions(), Relaxed);
            self.tally.versions_due.store(self.tally.dirtied.load(Relaxed), Relaxed);
            self.tally.audited.store(self.audit, Release);
            self.look();
        }
    }

    #[inline]
    fn check(&mut self, page: u64) {
        if let Err(damage) = self.memory.check(page) {
            add(&self.tally.bad, 1);
            self.common.damages.note(damage);
            self.memory.mend(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::witness::content::{Content, PAGE_WORDS, Recipe, Write};
    use crate::witness::memory::Region;
    use std::cell::Cell;

    /// 1 GHz; each look takes a microsecond.
    struct Steady(Cell<u64>);
    impl Counter for &Steady {
        fn read(&self) -> u64 {
            self.0.set(self.0.get() + 1000);
            self.0.get()
        }
    }

    fn with_worker(pages: u64, check: impl FnOnce(&mut Worker<&Steady>, &Memory, &Common, &Tally, &Steady)) {
        let mut storage = std::vec![[0u64; PAGE_WORDS]; pages as usize];
        let mut versions = std::vec![0u32; pages as usize];
        let region = Region { base: storage.as_mut_ptr() as u64, pages };
        let recipe = Recipe { seed: 1, content: Content::Random, write: Write::Page };
        // SAFETY: both vectors outlive the memory.
        let memory = unsafe { Memory::new(&[region], versions.as_mut_ptr(), recipe) };
        let (common, tally, steady) = (Common::new(), Tally::new(), Steady(Cell::new(0)));
        let mut worker = Worker::new(&memory, Share { cpu: 0, cpus: 1 }, &common, &tally, &steady, 1_000_000_000);
        common.orders.set_verify(Verify::On);
        common.orders.set_scan(FLAT_OUT);
        common.orders.set_set(pages);
        check(&mut worker, &memory, &common, &tally, &steady);
    }

    #[test]
    fn everything_is_filled_then_verified_round_and_round() {
        with_worker(100, |worker, _, _, tally, _| {
            (0..2 + 4).for_each(|_| assert_eq!(worker.step(), Step::Busy));
            assert_eq!((tally.filled.load(Relaxed), tally.verified.load(Relaxed)), (100, 256));
            assert_eq!((tally.passes.load(Relaxed), tally.bad.load(Relaxed)), (2, 0));
        });
    }

    #[test]
    fn a_page_damaged_outside_the_working_set_is_found_once() {
        with_worker(100, |worker, memory, common, tally, _| {
            common.orders.set_set(10);
            common.orders.set_rate(FLAT_OUT);
            (0..2).for_each(|_| _ = worker.step());
            memory.poke(77, 5);
            (0..20).for_each(|_| _ = worker.step());
            assert_eq!(tally.bad.load(Relaxed), 1);
            assert_eq!(common.damages.take().map(|damage| damage.page), Some(77));
            assert_eq!(common.damages.take(), None);
        });
    }

    #[test]
    fn a_damage_is_found_even_if_the_page_is_overwritten_before_the_round_comes_to_it() {
        with_worker(64, |worker, memory, common, tally, _| {
            common.orders.set_scan(0);
            worker.step();
            memory.poke(33, 5);
            common.orders.set_pattern(Pattern::Sequential);
            common.orders.set_rate(FLAT_OUT);
            worker.step();
            assert_eq!(tally.bad.load(Relaxed), 1);
        });
    }

    #[test]
    fn an_audit_verifies_everything_once_even_with_verification_off() {
        with_worker(100, |worker, memory, common, tally, _| {
            common.orders.set_verify(Verify::Off);
            (0..5).for_each(|_| _ = worker.step());
            assert_eq!(tally.verified.load(Relaxed), 0);
            memory.poke(99, 1);
            let number = common.orders.start_audit();
            while tally.audited.load(Relaxed) != number {
                assert_eq!(worker.step(), Step::Busy);
            }
            assert_eq!((tally.bad.load(Relaxed), tally.passes.load(Relaxed)), (1, 1));
        });
    }

    #[test]
    fn versions_add_up_to_what_was_dirtied_in_every_pattern() {
        for pattern in [Pattern::Random, Pattern::Sequential, Pattern::Hot] {
            with_worker(1000, |worker, _, common, tally, _| {
                common.orders.set_pattern(pattern);
                common.orders.set_rate(FLAT_OUT);
                (0..200).for_each(|_| _ = worker.step());
                assert!(tally.dirtied.load(Relaxed) > 10_000);
                assert_eq!(worker.versions(), tally.dirtied.load(Relaxed));
                assert_eq!(tally.bad.load(Relaxed), 0);
            });
        }
    }

    #[test]
    fn a_stun_stands_in_the_gap() {
        with_worker(64, |worker, _, common, tally, steady| {
            common.orders.set_scan(0);
            (0..5).for_each(|_| _ = worker.step());
            assert_eq!(tally.gap.take().0, 1000);
            steady.0.set(steady.0.get() + 70_000_000);
            assert_eq!(worker.step(), Step::Idle);
            assert_eq!(tally.gap.take(), (70_001_000, 70_001_000));
        });
    }
}
