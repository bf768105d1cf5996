//! The comparison of all memory after the resume.
//!
//! For each page the source's frozen memory says what it should be. Two things are compared with that: what was stored
//! here before the commit (this finds a page that the source forgot to send, even if the guest has written it since),
//! and what lies in memory now, for pages that the guest has not written since (this finds a page that was
//! overwritten here after it had been stored).

use std::collections::VecDeque;

use model::receipt;

use crate::pages::PageSet;
use crate::verify::{PageHash, PageTable};

/// The audit of one guest.
#[derive(Debug)]
pub struct Audit {
    table: PageTable,
    written: PageSet,
    /// Stretches that the source told of and that were not yet hashed here.
    told: VecDeque<(u64, Vec<PageHash>)>,
    /// The stretch that is being compared: the source's hashes, and ours once they came.
    current: Option<(u64, Vec<PageHash>, Option<Vec<PageHash>>)>,
    next: u64,
    result: receipt::Audit,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Hash this stretch.
    Hashes {
        /// The first page.
        first: u64,
        /// How many.
        count: u64,
    },
    /// Harvest the dirty log.
    Harvest,
    /// The source has to say more.
    Word,
    /// It is done.
    Nothing,
}

impl Audit {
    /// Begins with what was stored before the commit; the dirty log is on since then.
    pub fn new(table: PageTable) -> Self {
        let written = PageSet::empty(table.pages());
        Self { table, written, told: VecDeque::new(), current: None, next: 0, result: receipt::Audit::default() }
    }

    /// The source told of a stretch; stretches follow each other without a gap. The answer is false if it does not
    /// fit.
    pub fn told(&mut self, first: u64, hashes: Vec<PageHash>) -> bool {
        let waiting: u64 = self.told.iter().map(|(_, hashes)| hashes.len() as u64).sum();
        let current = self.current.as_ref().map_or(0, |(_, hashes, _)| hashes.len() as u64);
        let expected = self.next + current + waiting;
        if first != expected || first + hashes.len() as u64 > self.table.pages() {
            return false;
        }
        self.told.push_back((first, hashes));
        true
    }

    /// What to do next, after each change.
    pub fn wanted(&mut self) -> Wanted {
        if self.current.is_none() {
            self.current = self.told.pop_front().map(|(first, hashes)| (first, hashes, None));
        }
        match &self.current {
            Some((first, hashes, None)) => Wanted::Hashes { first: *first, count: hashes.len() as u64 },
            Some((_, _, Some(_))) => Wanted::Harvest,
            None if self.next == self.table.pages() => Wanted::Nothing,
            None => Wanted::Word,
        }
    }

    /// Hashes of what lies in memory came.
    pub fn hashed(&mut self, at: u64, ours: Vec<PageHash>) {
        if let Some((first, theirs, slot)) = &mut self.current
            && *first == at
            && theirs.len() == ours.len()
        {
            *slot = Some(ours);
        }
    }

    /// A harvest, made after those hashes, came: the stretch is compared.
    pub fn harvested(&mut self, dirty: &PageSet) {
        self.written.union(dirty);
        let Some((first, theirs, Some(ours))) = self.current.take() else { return };
        for (page, (their, our)) in (first..).zip(theirs.iter().zip(&ours)) {
            let stored_right = self.table.hash(page) == Some(*their);
            // KVM logs a page as dirty when it is first read, too, if it maps it writable then. A page that is as it
            // should be was not rewritten, whatever the log says.
            let rewritten = our != their && self.written.contains(page);
            if !stored_right || (!rewritten && our != their) {
                self.result.different_pages += 1;
            }
            if rewritten {
                self.result.rewritten_pages += 1;
            } else {
                self.result.compared_pages += 1;
            }
        }
        self.next = first + theirs.len() as u64;
    }

    /// What was found; `done` once all pages were compared.
    pub fn result(&self) -> receipt::Audit {
        receipt::Audit { done: self.next == self.table.pages(), ..self.result }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Hashes by their first page.
    type Stretches = BTreeMap<u64, Vec<PageHash>>;

    fn hashes(range: std::ops::Range<u128>) -> Vec<PageHash> {
        range.map(PageHash).collect()
    }

    fn stored(pages: u64) -> PageTable {
        let mut table = PageTable::new(pages);
        (0..pages).for_each(|page| {
            table.set(page, 1, PageHash(u128::from(page)));
        });
        table
    }

    fn run(table: PageTable, theirs: &Stretches, ours: &Stretches, written: &[u64]) -> receipt::Audit {
        let pages = table.pages();
        let mut audit = Audit::new(table);
        for (first, hashes) in theirs {
            assert!(audit.told(*first, hashes.clone()));
        }
        loop {
            match audit.wanted() {
                Wanted::Hashes { first, .. } => audit.hashed(first, ours[&first].clone()),
                Wanted::Harvest => {
                    let mut dirty = PageSet::empty(pages);
                    written.iter().for_each(|page| dirty.insert(*page));
                    audit.harvested(&dirty);
                }
                Wanted::Word | Wanted::Nothing => return audit.result(),
            }
        }
    }

    #[test]
    fn equal_memory_passes_and_what_the_guest_wrote_is_not_compared() {
        let theirs = Stretches::from([(0, hashes(0..2)), (2, hashes(2..4))]);
        let ours = Stretches::from([(0, vec![PageHash(0), PageHash(77)]), (2, hashes(2..4))]);
        let expected = receipt::Audit { done: true, compared_pages: 3, rewritten_pages: 1, different_pages: 0 };
        assert_eq!(run(stored(4), &theirs, &ours, &[1]), expected);
    }

    #[test]
    fn a_page_that_is_logged_as_dirty_and_is_as_it_should_be_counts_as_compared() {
        let theirs = Stretches::from([(0, hashes(0..4))]);
        let expected = receipt::Audit { done: true, compared_pages: 4, rewritten_pages: 0, different_pages: 0 };
        assert_eq!(run(stored(4), &theirs, &theirs.clone(), &[1, 2]), expected);
    }

    #[test]
    fn a_page_that_the_source_forgot_to_send_is_found_even_if_the_guest_wrote_it_since() {
        let theirs = Stretches::from([(0, vec![PageHash(0), PageHash(99)])]);
        let ours = Stretches::from([(0, vec![PageHash(0), PageHash(55)])]);
        assert_eq!(run(stored(2), &theirs, &ours, &[1]).different_pages, 1);
    }

    #[test]
    fn a_page_that_was_overwritten_here_after_it_was_stored_is_found() {
        let theirs = Stretches::from([(0, hashes(0..2))]);
        let ours = Stretches::from([(0, vec![PageHash(0), PageHash(55)])]);
        assert_eq!(run(stored(2), &theirs, &ours, &[]).different_pages, 1);
    }

    #[test]
    fn an_audit_is_done_only_when_every_page_was_compared() {
        let theirs = Stretches::from([(0, hashes(0..2))]);
        let audit = run(stored(4), &theirs, &theirs.clone(), &[]);
        assert!(!audit.done);
        let mut audit = Audit::new(stored(4));
        assert!(!audit.told(1, hashes(1..2)), "a gap");
        assert!(!audit.told(0, hashes(0..5)), "beyond the end");
    }
}
