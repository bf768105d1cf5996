//! Sets of guest pages, in words of 64 pages: what is dirty, what is to be sent, what one record covers.
//!
//! A page's index is its offset in the guest's memfd divided by 4096. Page 0 is the least significant bit of word 0.

/// Bytes of a guest page.
pub const PAGE_BYTES: usize = 4096;
/// Pages of a window: the pages of one word.
pub const WINDOW_PAGES: u64 = 64;

/// Up to 64 pages that lie in one word of a bitmap: what one page record can cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first page of the word, a multiple of 64.
    pub first: u64,
    /// Bit `i` stands for page `first + i`; at least one is set.
    pub pages: u64,
}

impl Window {
    /// How many pages it holds.
    pub fn count(&self) -> u64 {
        u64::from(self.pages.count_ones())
    }

    /// Its pages as runs of neighbours, ascending: the first page and how many.
    pub fn runs(&self) -> impl Iterator<Item = (u64, usize)> + use<> {
        let (base, mut left) = (self.first, self.pages);
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let skipped = left.trailing_zeros();
            let count = (left >> skipped).trailing_ones();
            // A shift by all 64 bits is none in Rust: such a run is the last.
            left &= u64::MAX.checked_shl(skipped + count).unwrap_or(0);
            Some((base + u64::from(skipped), count as usize))
        })
    }

    /// Its pages in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + use<> {
        let first = self.first;
        bits(self.pages).map(move |bit| first + bit)
    }
}

/// The places of the set bits of a word, ascending.
pub(crate) fn bits(mut word: u64) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        let bit = u64::from(word.trailing_zeros());
        (word != 0).then(|| {
            word &= word - 1;
            bit
        })
    })
}

/// A set of the pages of one guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    pages: u64,
    count: u64,
}

impl PageSet {
    /// The empty set of a guest with `pages` pages.
    pub fn empty(pages: u64) -> Self {
        Self { words: vec![0; pages.div_ceil(WINDOW_PAGES) as usize], pages, count: 0 }
    }

    /// All pages of a guest with `pages` pages.
    pub fn full(pages: u64) -> Self {
        let mut set = Self::empty(pages);
        for index in 0..set.words.len() {
            set.or_word(index, u64::MAX);
        }
        set
    }

    /// How many pages the guest has.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many pages are in the set.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether no page is in the set.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds the pages of word `index`. Pages beyond the guest's end are ignored.
    pub fn or_word(&mut self, index: usize, bits: u64) {
        let beyond = (index as u64 + 1).saturating_mul(WINDOW_PAGES).saturating_sub(self.pages);
        let valid = if beyond >= WINDOW_PAGES { 0 } else { u64::MAX >> beyond };
        if let Some(word) = self.words.get_mut(index) {
            let added = bits & valid & !*word;
            *word |= added;
            self.count += u64::from(added.count_ones());
        }
    }

    /// Adds one page. A page beyond the guest's end is ignored.
    pub fn insert(&mut self, page: u64) {
        self.or_word((page / WINDOW_PAGES) as usize, 1 << (page % WINDOW_PAGES));
    }

    /// Whether the page is in the set.
    pub fn contains(&self, page: u64) -> bool {
        self.words.get((page / WINDOW_PAGES) as usize).is_some_and(|word| word >> (page % WINDOW_PAGES) & 1 == 1)
    }

    /// Adds all pages of another set of the same guest.
    pub fn union(&mut self, other: &Self) {
        for (index, word) in other.words.iter().enumerate().filter(|(_, word)| **word != 0) {
            self.or_word(index, *word);
        }
    }

    /// The windows that hold pages, ascending.
    pub fn windows(&self) -> impl Iterator<Item = Window> + '_ {
        let words = self.words.iter().enumerate().filter(|(_, word)| **word != 0);
        words.map(|(index, word)| Window { first: index as u64 * WINDOW_PAGES, pages: *word })
    }
}

/// Takes the windows out of a set, from its first page to its last, a batch at a time.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    set: PageSet,
    next_word: usize,
}

impl Sweep {
    /// Starts at the first page.
    pub fn new(set: PageSet) -> Self {
        Self { set, next_word: 0 }
    }

    /// How many pages were not yet taken.
    pub fn left(&self) -> u64 {
        self.set.count
    }

    /// The next windows, of at least one and about `pages` pages together; empty when none is left.
    pub fn take(&mut self, pages: u64) -> Vec<Window> {
        let (mut windows, mut taken) = (Vec::new(), 0);
        while taken < pages && self.set.count > 0 {
            let Some(word) = self.set.words.get_mut(self.next_word) else { break };
            let bits = std::mem::take(word);
            if bits != 0 {
                let window = Window { first: self.next_word as u64 * WINDOW_PAGES, pages: bits };
                taken += window.count();
                self.set.count -= window.count();
                windows.push(window);
            }
            self.next_word += 1;
        }
        windows
    }

    /// What was not taken.
    pub fn into_rest(self) -> PageSet {
        self.set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_last_word_holds_no_page_beyond_the_guests_end() {
        let set = PageSet::full(70);
        assert_eq!(set.count(), 70);
        assert_eq!(set.windows().last(), Some(Window { first: 64, pages: 0x3f }));
    }

    proptest! {
        #[test]
        fn the_runs_of_a_window_are_its_pages(first in 0u64..1000, pages in prop_oneof![any::<u64>(), Just(u64::MAX), Just(1 << 63)]) {
            let window = Window { first: first * 64, pages };
            let runs: Vec<_> = window.runs().collect();
            let in_runs = runs.iter().flat_map(|(first, count)| *first..first + *count as u64);
            prop_assert_eq!(in_runs.collect::<Vec<_>>(), window.iter().collect::<Vec<_>>());
            prop_assert!(runs.windows(2).all(|pair| pair[0].0 + (pair[0].1 as u64) < pair[1].0), "neighbours in two runs");
        }

        #[test]
        fn a_sweep_takes_every_page_once(pages in prop::collection::btree_set(0u64..1000, 0..200), step in 1u64..100) {
            let mut set = PageSet::empty(1000);
            pages.iter().for_each(|page| set.insert(*page));
            let (mut sweep, mut taken) = (Sweep::new(set), Vec::new());
            while sweep.left() > 0 {
                let windows = sweep.take(step);
                prop_assert!(!windows.is_empty());
                taken.extend(windows.iter().flat_map(Window::iter));
            }
            prop_assert_eq!(taken, pages.into_iter().collect::<Vec<_>>());
        }
    }
}
