//! Memory that is rewritten page by page at a rate, and checked before each rewrite.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::words::MemoryReport;

const PAGE_WORDS: usize = 512;

/// What to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Pages in the working set.
    pub pages: usize,
    /// Pages rewritten a second; 0 rests.
    pub pages_per_second: u32,
}

/// Time between two spells of writing.
const PERIOD: Duration = Duration::from_millis(20);

/// A load that runs on a thread of its own.
#[derive(Clone, Default)]
pub struct Dirtier {
    shared: Arc<Mutex<(Load, MemoryReport)>>,
    changed: Arc<Condvar>,
}

impl Dirtier {
    /// Changes the load.
    pub fn set(&self, load: Load) {
        self.lock().0 = load;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, (Load, MemoryReport)> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it went so far.
    pub fn report(&self) -> MemoryReport {
        self.lock().1
    }

    /// Works for ever; while there is nothing to do, it sleeps.
    pub fn run(&self) {
        let mut pages = Pages::default();
        let mut last = Instant::now();
        let mut due = 0.0;
        loop {
            let load = self.lock().0;
            pages.resize(load.pages);
            // What was missed while the guest stood still is not made up for.
            due = (due + last.elapsed().as_secs_f64().min(0.1) * f64::from(load.pages_per_second)).min(100_000.0);
            last = Instant::now();
            let whole = due as u64;
            due -= whole as f64;
            pages.rewrite(if load.pages == 0 { 0 } else { whole });
            let mut shared = self.lock();
            shared.1 = pages.report();
            if load.pages == 0 || load.pages_per_second == 0 {
                let unchanged = |shared: &mut (Load, MemoryReport)| shared.0 == load;
                drop(self.changed.wait_while(shared, unchanged));
            } else {
                drop(shared);
                std::thread::sleep(PERIOD);
            }
        }
    }
}

/// The working set. A page's words follow from its place and its version.
#[derive(Default)]
struct Pages {
    words: Vec<u64>,
    versions: Vec<u32>,
    next: usize,
    writes: u64,
    damaged: u64,
}

impl Pages {
    fn resize(&mut self, pages: usize) {
        if pages == self.versions.len() {
            return;
        }
        *self = Self { writes: self.writes, damaged: self.damaged, ..Self::default() };
        self.words = vec![0; pages * PAGE_WORDS];
        self.versions = vec![0; pages];
        for page in 0..pages {
            fill(&mut self.words[page * PAGE_WORDS..][..PAGE_WORDS], page, 0);
        }
    }

    fn rewrite(&mut self, count: u64) {
        for _ in 0..count {
            let page = self.next;
            self.next = (self.next + 1) % self.versions.len();
            let words = &mut self.words[page * PAGE_WORDS..][..PAGE_WORDS];
            if !is_filled(words, page, self.versions[page]) {
                self.damaged += 1;
            }
            self.versions[page] = self.versions[page].wrapping_add(1);
            fill(words, page, self.versions[page]);
            self.writes += 1;
        }
    }

    fn report(&self) -> MemoryReport {
        MemoryReport { pages: self.versions.len() as u64, writes: self.writes, damaged: self.damaged }
    }
}

fn word(page: usize, version: u32, at: usize) -> u64 {
    let seed = (page as u64) << 32 | u64::from(version);
    (seed ^ (at as u64) << 17).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

fn fill(words: &mut [u64], page: usize, version: u32) {
    words.iter_mut().enumerate().for_each(|(at, place)| *place = word(page, version, at));
}

fn is_filled(words: &[u64], page: usize, version: u32) -> bool {
    words.iter().enumerate().all(|(at, value)| *value == word(page, version, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_that_rests_begins_when_it_is_wanted_and_ends() {
        let dirtier = Dirtier::default();
        let worker = dirtier.clone();
        std::thread::spawn(move || worker.run());
        let wait = |holds: &dyn Fn(MemoryReport) -> bool| {
            let deadline = Instant::now() + Duration::from_secs(60);
            while !holds(dirtier.report()) {
                assert!(Instant::now() < deadline, "{:?}", dirtier.report());
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        for _ in 0..3 {
            let before = dirtier.report().writes;
            dirtier.set(Load { pages: 4, pages_per_second: 1_000 });
            wait(&|report| report.pages == 4 && report.writes > before);
            dirtier.set(Load::default());
            wait(&|report| report.pages == 0);
        }
    }

    #[test]
    fn every_page_is_rewritten_in_turn_and_stays_sound() {
        let mut pages = Pages::default();
        pages.resize(4);
        pages.rewrite(10);
        assert_eq!(pages.report(), MemoryReport { pages: 4, writes: 10, damaged: 0 });
        assert_eq!(pages.versions, [3, 3, 2, 2]);
    }

    #[test]
    fn a_page_of_an_older_version_counts_as_damaged() {
        let mut pages = Pages::default();
        pages.resize(4);
        let old = pages.words[..PAGE_WORDS].to_vec();
        pages.rewrite(4);
        pages.words[..PAGE_WORDS].copy_from_slice(&old);
        pages.rewrite(4);
        assert_eq!(pages.report().damaged, 1);
    }

    #[test]
    fn one_flipped_bit_counts_as_damaged() {
        let mut pages = Pages::default();
        pages.resize(2);
        pages.words[PAGE_WORDS + 500] ^= 1 << 40;
        pages.rewrite(2);
        assert_eq!(pages.report().damaged, 1);
    }
}
