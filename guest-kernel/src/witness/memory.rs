//! Which pages there are, their versions, and writing and checking one.

use heapless::Vec;

use crate::boot::start_info::Range;
use crate::witness::content::{Content, PAGE_BYTES, PAGE_WORDS, Recipe, Write};

/// Most ranges that owned memory consists of.
pub const REGIONS_MAX: usize = 32;

/// Whole pages, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Address of the first.
    pub base: u64,
    /// How many.
    pub pages: u64,
}

/// The pages that the witness owns, numbered from 0 across the regions, and the version of each.
pub struct Memory {
    regions: Vec<Region, REGIONS_MAX>,
    pages: u64,
    versions: *mut u32,
    recipe: Recipe,
}

// SAFETY: a page and its version are used by the CPU alone whose share they are (see `Share`).
unsafe impl Sync for Memory {}
// SAFETY: as above; nothing is bound to a CPU.
unsafe impl Send for Memory {}

/// A page that is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Number of the page.
    pub page: u64,
    /// Its address.
    pub address: u64,
    /// The version it should have.
    pub version: u32,
    /// First word that differs.
    pub word: usize,
    /// Words that differ.
    pub words: usize,
    /// What stands there.
    pub found: u64,
    /// What should stand there.
    pub expected: u64,
    /// What the page seems to be.
    pub likeness: Likeness,
}

/// What a damaged page looks like, which tells the kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// All of it is another version of the same page: a write was lost (older) or the version table is older (newer).
    Version(u32),
    /// All of it is zero: the page never arrived.
    Zero,
    /// All of it is the current version of another page: it went to the wrong place.
    Page(u64),
    /// So many bits of it are flipped.
    Bits(u32),
}

/// How far back and ahead versions are compared with a damaged page.
const VERSIONS_COMPARED: u32 = 4096;

impl Memory {
    /// Memory made of `regions`, whose versions, one for each page, stand at `versions`.
    ///
    /// # Safety
    /// The regions and the table are valid for reads and writes as long as this value lives and are used by nothing else,
    /// and the table is all zeros.
    pub unsafe fn new(regions: &[Region], versions: *mut u32, recipe: Recipe) -> Self {
        let regions: Vec<Region, REGIONS_MAX> = regions.iter().copied().take(REGIONS_MAX).collect();
        let pages = regions.iter().map(|region| region.pages).sum();
        Self { regions, pages, versions, recipe }
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// What content follows from.
    pub fn recipe(&self) -> Recipe {
        self.recipe
    }

    /// Address of `page`.
    ///
    /// # Panics
    /// If there is no such page.
    #[inline]
    pub fn address(&self, page: u64) -> u64 {
        let mut left = page;
        for region in &self.regions {
            if left < region.pages {
                return region.base + left * PAGE_BYTES as u64;
            }
            left -= region.pages;
        }
        panic!("page {page} of {}", self.pages)
    }

    /// The version that `page` should have.
    #[inline]
    pub fn version(&self, page: u64) -> u32 {
        assert!(page < self.pages);
        // SAFETY: the table has an entry for each page.
        unsafe { self.versions.add(page as usize).read_volatile() }
    }

    /// Gives `page` its first content, version 0. Zero content is written only where there is something else, so that
    /// memory which was never written stays unwritten.
    pub fn fill(&self, page: u64) {
        let words = self.address(page) as *mut u64;
        let keys = self.recipe.keys(page, 0);
        // SAFETY: a page of ours; its owner calls.
        unsafe {
            self.versions.add(page as usize).write_volatile(0);
            if self.recipe.content != Content::Zero || !keys.matches(words) {
                keys.write_page(words);
            }
        }
    }

    /// Gives `page` its next version.
    #[inline]
    pub fn dirty(&self, page: u64) {
        let version = self.version(page).wrapping_add(1);
        let words = self.address(page) as *mut u64;
        let keys = self.recipe.keys(page, version);
        // SAFETY: a page of ours; its owner calls.
        unsafe {
            match self.recipe.write {
                Write::Page => keys.write_page(words),
                Write::Line => keys.write_line(words),
            }
            self.versions.add(page as usize).write_volatile(version);
        }
    }

    /// Compares `page` with what should stand there.
    #[inline]
    pub fn check(&self, page: u64) -> Result<(), Damage> {
        let version = self.version(page);
        let keys = self.recipe.keys(page, version);
        // SAFETY: a page of ours; its owner calls.
        if unsafe { keys.matches(self.address(page) as *const u64) } {
            Ok(())
        } else {
            Err(self.examine(page, version))
        }
    }

    /// Writes the version that `page` should have once more, so that one damage is counted once.
    pub fn mend(&self, page: u64) {
        // SAFETY: a page of ours; its owner calls.
        unsafe { self.recipe.keys(page, self.version(page)).write_page(self.address(page) as *mut u64) };
    }

    /// Flips bit `bit` (0 to 32,767) of `page` behind the witness's back: what a verification must find.
    pub fn poke(&self, page: u64, bit: usize) {
        let word = (self.address(page) as *mut u64).wrapping_add(bit / 64 % PAGE_WORDS);
        // SAFETY: a word of a page of ours. Another CPU that checks the page at this moment sees it before or after.
        unsafe { word.write_volatile(word.read_volatile() ^ 1 << (bit % 64)) };
    }

    #[cold]
    fn examine(&self, page: u64, version: u32) -> Damage {
        let address = self.address(page);
        // SAFETY: a page of ours, read word by word.
        let words: [u64; PAGE_WORDS] =
            core::array::from_fn(|index| unsafe { (address as *const u64).add(index).read_volatile() });
        let keys = self.recipe.keys(page, version);
        let different = |index: &usize| words[*index] != keys.word(*index);
        let word = (0..PAGE_WORDS).find(different).unwrap_or(0);
        Damage {
            page,
            address,
            version,
            word,
            words: (0..PAGE_WORDS).filter(different).count(),
            found: words[word],
            expected: keys.word(word),
            likeness: self.likeness(page, version, &words),
        }
    }

    fn likeness(&self, page: u64, version: u32, words: &[u64; PAGE_WORDS]) -> Likeness {
        let is = |page, version| {
            let keys = self.recipe.keys(page, version);
            keys.word(0) == words[0] && (0..PAGE_WORDS).all(|index| keys.word(index) == words[index])
        };
        if words.iter().all(|word| *word == 0) {
            return Likeness::Zero;
        }
        let (oldest, newest) = (version.saturating_sub(VERSIONS_COMPARED), version.saturating_add(VERSIONS_COMPARED));
        if let Some(other) = (oldest..=newest).find(|other| is(page, *other)) {
            return Likeness::Version(other);
        }
        if let Some(other) = (0..self.pages).find(|other| is(*other, self.version(*other))) {
            return Likeness::Page(other);
        }
        let keys = self.recipe.keys(page, version);
        Likeness::Bits(words.iter().enumerate().map(|(index, word)| (word ^ keys.word(index)).count_ones()).sum())
    }
}

/// What is left of `ram` when `taken` is left out: whole pages, at most `pages_max`.
pub fn regions(ram: &[Range], taken: &[Range], pages_max: u64) -> Vec<Region, REGIONS_MAX> {
    let page = PAGE_BYTES as u64;
    let mut regions = Vec::new();
    let mut left = pages_max;
    for range in ram {
        let mut start = range.start.next_multiple_of(page);
        while start < range.end {
            // The next taken range at or after `start` ends this region.
            let next = taken.iter().filter(|t| t.end > start && t.start < t.end).min_by_key(|t| t.start);
            let end = next.map_or(range.end, |t| t.start.min(range.end)) / page * page;
            let pages = (end.saturating_sub(start) / page).min(left);
            if pages > 0 && regions.push(Region { base: start, pages }).is_err() {
                return regions;
            }
            left -= pages;
            start = next.map_or(range.end, |t| t.end.max(start)).next_multiple_of(page);
        }
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        memory: Memory,
        _pages: std::vec::Vec<[u64; PAGE_WORDS]>,
        _versions: std::vec::Vec<u32>,
    }

    fn bench(recipe: Recipe) -> Bench {
        let mut pages = std::vec![[0xdead_u64; PAGE_WORDS]; 20];
        let mut versions = std::vec![0; 19];
        let base = pages.as_mut_ptr() as u64;
        // A hole of one page, to see that numbers go on across it.
        let regions = [Region { base, pages: 11 }, Region { base: base + 12 * 4096, pages: 8 }];
        // SAFETY: the vectors live as long as the memory and are not touched otherwise.
        let memory = unsafe { Memory::new(&regions, versions.as_mut_ptr(), recipe) };
        (0..memory.pages()).for_each(|page| memory.fill(page));
        Bench { memory, _pages: pages, _versions: versions }
    }

    const RECIPE: Recipe = Recipe { seed: 1, content: Content::Random, write: Write::Page };

    fn copy(bench: &Bench, from: u64, to: u64) {
        let (from, to) = (bench.memory.address(from) as *const u64, bench.memory.address(to) as *mut u64);
        // SAFETY: two pages of the bench.
        unsafe { to.copy_from_nonoverlapping(from, PAGE_WORDS) };
    }

    #[test]
    fn what_was_written_checks_in_every_way_of_writing() {
        for content in [Content::Random, Content::Uniform, Content::Zero] {
            for write in [Write::Page, Write::Line] {
                let bench = bench(Recipe { seed: 3, content, write });
                (0..500).for_each(|round| bench.memory.dirty(round % 7));
                assert!((0..19).all(|page| bench.memory.check(page).is_ok()));
                assert_eq!((0..19).map(|page| u64::from(bench.memory.version(page))).sum::<u64>(), 500);
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_found_and_named() {
        let bench = bench(RECIPE);
        bench.memory.poke(15, 4096 * 8 - 1);
        let damage = bench.memory.check(15).unwrap_err();
        assert_eq!((damage.page, damage.word, damage.words), (15, 511, 1));
        assert_eq!((damage.found ^ damage.expected, damage.likeness), (1 << 63, Likeness::Bits(1)));
        bench.memory.mend(15);
        assert_eq!(bench.memory.check(15), Ok(()));
    }

    #[test]
    fn a_lost_write_looks_like_the_older_version() {
        let bench = bench(RECIPE);
        (0..5).for_each(|_| bench.memory.dirty(3));
        bench.memory.dirty(4);
        copy(&bench, 3, 18);
        bench.memory.dirty(3);
        copy(&bench, 18, 3);
        assert_eq!(bench.memory.check(3).unwrap_err().likeness, Likeness::Version(5));
    }

    #[test]
    fn a_page_that_never_arrived_and_one_that_went_astray_are_told_apart() {
        let bench = bench(RECIPE);
        // SAFETY: a page of the bench.
        unsafe { (bench.memory.address(2) as *mut u64).write_bytes(0, PAGE_WORDS) };
        assert_eq!(bench.memory.check(2).unwrap_err().likeness, Likeness::Zero);
        copy(&bench, 7, 12);
        assert_eq!(bench.memory.check(12).unwrap_err().likeness, Likeness::Page(7));
    }

    #[test]
    fn owned_memory_leaves_out_what_is_taken_and_is_whole_pages() {
        let ram = [Range { start: 0x100, end: 0x9fc00 }, Range { start: 0x100000, end: 0x800000 }];
        let taken = [
            Range { start: 0x6000, end: 0x6038 },
            Range { start: 0, end: 0 },
            Range { start: 0x5ff0, end: 0x6001 },
            Range { start: 0x100000, end: 0x180000 },
        ];
        let all = regions(&ram, &taken, u64::MAX);
        assert_eq!(
            &all[..],
            [
                Region { base: 0x1000, pages: 4 },
                Region { base: 0x7000, pages: 0x98 },
                Region { base: 0x180000, pages: 0x680 }
            ]
        );
        assert_eq!(regions(&ram, &taken, 6).iter().map(|region| region.pages).sum::<u64>(), 6);
    }
}
