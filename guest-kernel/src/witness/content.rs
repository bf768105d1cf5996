//! What stands in a page: a function of seed, page and version, cheap to write and to check, and incompressible.

/// Bytes of a page.
pub const PAGE_BYTES: usize = 4096;
/// 64-bit words of a page.
pub const PAGE_WORDS: usize = PAGE_BYTES / 8;
/// Words of the first cache line, which is all that a touch rewrites.
pub const LINE_WORDS: usize = 8;

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

/// What pages are filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Incompressible words.
    Random,
    /// One word over and over: compresses, is not zero.
    Uniform,
    /// Zeros, whatever the version.
    Zero,
}

/// How much of a page each new version rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// All of it.
    Page,
    /// The first cache line: the most pages per second, for dirty logging flat out.
    Line,
}

/// Everything besides page and version that content follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The seed.
    pub seed: u64,
    /// What pages are filled with.
    pub content: Content,
    /// How much a new version rewrites.
    pub write: Write,
}

const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The keys of one version of one page: for its first line and for the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keys {
    head: u64,
    body: u64,
    /// Added from word to word.
    step: u64,
    /// Zero for a page of zeros, one otherwise.
    factor: u64,
}

impl Recipe {
    /// Keys of `version` of `page`.
    #[inline]
    pub const fn keys(&self, page: u64, version: u32) -> Keys {
        let base = mix(self.seed ^ mix(page.wrapping_mul(STEP).wrapping_add(1)));
        let head = mix(base.wrapping_add(version as u64));
        let body = match self.write {
            Write::Page => head,
            Write::Line => mix(base),
        };
        match self.content {
            Content::Random => Keys { head, body, step: STEP, factor: FACTOR },
            Content::Uniform => Keys { head, body, step: 0, factor: FACTOR },
            Content::Zero => Keys { head: 0, body: 0, step: 0, factor: 0 },
        }
    }
}

impl Keys {
    /// The word at `index` of the page.
    #[inline(always)]
    pub const fn word(&self, index: usize) -> u64 {
        let key = if index < LINE_WORDS { self.head } else { self.body };
        let value = key.wrapping_add(self.step.wrapping_mul(index as u64));
        let value = (value ^ (value >> 32)).wrapping_mul(self.factor);
        value ^ (value >> 29)
    }

    /// Writes the first line.
    ///
    /// # Safety
    /// `page` is a page that the caller alone uses.
    #[inline]
    pub unsafe fn write_line(&self, page: *mut u64) {
        for index in 0..LINE_WORDS {
            // SAFETY: within the page.
            unsafe { page.add(index).write(self.word(index)) };
        }
    }

    /// Writes the page.
    ///
    /// # Safety
    /// `page` is a page that the caller alone uses.
    #[inline]
    pub unsafe fn write_page(&self, page: *mut u64) {
        for index in 0..PAGE_WORDS {
            // SAFETY: within the page.
            unsafe { page.add(index).write(self.word(index)) };
        }
    }

    /// True if every word of the page is as it should be. The words are read as the machine has them now, whatever the
    /// compiler believes to have been written.
    ///
    /// # Safety
    /// `page` is a page that the caller alone uses.
    #[inline]
    pub unsafe fn matches(&self, page: *const u64) -> bool {
        let mut difference = 0;
        for index in 0..PAGE_WORDS {
            // SAFETY: within the page.
            difference |= unsafe { page.add(index).read_volatile() } ^ self.word(index);
        }
        difference == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const RECIPE: Recipe = Recipe { seed: 7, content: Content::Random, write: Write::Page };

    fn page(recipe: Recipe, page: u64, version: u32) -> [u64; PAGE_WORDS] {
        let mut words = [1; PAGE_WORDS];
        // SAFETY: a page of our own.
        unsafe { recipe.keys(page, version).write_page(words.as_mut_ptr()) };
        words
    }

    fn is(recipe: Recipe, words: &[u64; PAGE_WORDS], page: u64, version: u32) -> bool {
        // SAFETY: a page of our own.
        unsafe { recipe.keys(page, version).matches(words.as_ptr()) }
    }

    #[test]
    fn another_page_version_or_seed_never_passes_for_this_one() {
        let words = page(RECIPE, 5, 3);
        assert!(is(RECIPE, &words, 5, 3));
        assert!(!is(RECIPE, &words, 5, 2) && !is(RECIPE, &words, 5, 4) && !is(RECIPE, &words, 4, 3));
        assert!(!is(Recipe { seed: 8, ..RECIPE }, &words, 5, 3));
    }

    #[test]
    fn every_single_flipped_bit_is_seen() {
        for recipe in [RECIPE, Recipe { content: Content::Zero, ..RECIPE }, Recipe { write: Write::Line, ..RECIPE }] {
            let mut words = page(recipe, 9, 1);
            for bit in 0..PAGE_BYTES * 8 {
                words[bit / 64] ^= 1 << (bit % 64);
                assert!(!is(recipe, &words, 9, 1), "bit {bit}");
                words[bit / 64] ^= 1 << (bit % 64);
            }
        }
    }

    #[test]
    fn no_word_is_repeated_in_many_pages() {
        let mut seen = HashSet::new();
        for number in 0..64 {
            for version in 0..4 {
                assert!(page(RECIPE, number, version).iter().all(|word| seen.insert(*word)));
            }
        }
    }

    #[test]
    fn bytes_are_spread_evenly_enough_that_no_entropy_coder_gains() {
        let mut counts = [0u32; 256];
        for number in 0..256 {
            page(RECIPE, number, 0)
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .for_each(|b| counts[usize::from(b)] += 1);
        }
        let total = 256.0 * PAGE_BYTES as f64;
        let entropy: f64 = counts.iter().map(|&n| f64::from(n) / total).map(|p| -p * p.log2()).sum();
        assert!(entropy > 7.999, "{entropy}");
    }

    #[test]
    fn a_touch_changes_the_first_line_and_checks_as_the_new_version() {
        let recipe = Recipe { write: Write::Line, ..RECIPE };
        let mut words = page(recipe, 2, 0);
        let before = words;
        // SAFETY: a page of our own.
        unsafe { recipe.keys(2, 1).write_line(words.as_mut_ptr()) };
        assert!(is(recipe, &words, 2, 1) && !is(recipe, &words, 2, 0));
        assert_eq!(before[LINE_WORDS..], words[LINE_WORDS..]);
    }

    #[test]
    fn zero_content_is_zero_in_every_version() {
        assert_eq!(page(Recipe { content: Content::Zero, ..RECIPE }, 3, 9), [0; PAGE_WORDS]);
    }
}
