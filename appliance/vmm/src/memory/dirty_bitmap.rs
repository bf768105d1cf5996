//! Which pages of guest RAM were written: a value that two processes can share.
//!
//! One bit a page of the memfd, in words of 64 pages, page 0 in the least significant bit of word 0. The words are
//! atomic because the VMM sets bits while `migrate`, in another process, takes them out.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::{FileOffset, MmapRegion};

/// The dirty bitmap of a machine's RAM.
#[derive(Debug)]
pub struct DirtyBitmap {
    pages: u64,
    mapping: MmapRegion<()>,
}

/// Why a bitmap could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BitmapError {
    /// A bitmap of no pages, or of more than an address space holds.
    #[error("a dirty bitmap cannot have {0} pages")]
    Pages(u64),
    /// The shared descriptor is too short.
    #[error("the descriptor of the dirty bitmap has {found} bytes; {wanted} are needed")]
    Descriptor {
        /// Its length in bytes.
        found: u64,
        /// The least length it must have.
        wanted: u64,
    },
    /// The descriptor cannot be looked at.
    #[error("the descriptor of the dirty bitmap cannot be used")]
    Unusable(#[source] io::Error),
    /// The mapping failed.
    #[error("the dirty bitmap cannot be mapped")]
    Map(#[source] vm_memory::mmap::MmapRegionError),
}

const PAGES_MAX: u64 = 1 << 36;

impl DirtyBitmap {
    /// Bytes that the words for `pages` pages take, a whole number of memory pages: the length a shared memfd needs.
    pub fn bytes_for(pages: u64) -> u64 {
        (pages.div_ceil(64) * 8).next_multiple_of(super::PAGE_BYTES)
    }

    /// A clean bitmap in private memory.
    ///
    /// # Errors
    /// [`BitmapError`].
    pub fn new(pages: u64) -> Result<Self, BitmapError> {
        let bytes = Self::checked_bytes(pages)?;
        let mapping = MmapRegion::new(bytes as usize).map_err(BitmapError::Map)?;
        Ok(Self { pages, mapping })
    }

    /// The bitmap that lies in `memfd`, as it is: whoever maps the same descriptor sees the same bits.
    ///
    /// # Errors
    /// [`BitmapError`]; the descriptor must have at least [`Self::bytes_for`] bytes.
    pub fn shared(memfd: OwnedFd, pages: u64) -> Result<Self, BitmapError> {
        let wanted = Self::checked_bytes(pages)?;
        let file = File::from(memfd);
        let found = file.metadata().map_err(BitmapError::Unusable)?.len();
        if found < wanted {
            return Err(BitmapError::Descriptor { found, wanted });
        }
        let mapping = MmapRegion::from_file(FileOffset::new(file, 0), wanted as usize).map_err(BitmapError::Map)?;
        Ok(Self { pages, mapping })
    }

    fn checked_bytes(pages: u64) -> Result<u64, BitmapError> {
        if pages == 0 || pages > PAGES_MAX {
            return Err(BitmapError::Pages(pages));
        }
        Ok(Self::bytes_for(pages))
    }

    /// How many pages it covers.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The words. Bits beyond the last page are always clear unless another process set them; [`Self::count`] and
    /// [`Self::take_runs`] ignore them.
    pub fn words(&self) -> &[AtomicU64] {
        let words = self.pages.div_ceil(64) as usize;
        // SAFETY: the mapping is page-aligned, readable and writable, at least `bytes_for(pages)` long (checked in
        // both constructors), and lives as long as `self`. All access to it, here and in the other process, is by
        // atomics, and every bit pattern is a valid u64.
        unsafe { std::slice::from_raw_parts(self.mapping.as_ptr().cast::<AtomicU64>(), words) }
    }

    /// Marks one page. Pages beyond the end are ignored.
    pub fn set(&self, page: u64) {
        if page < self.pages {
            self.words()[(page / 64) as usize].fetch_or(1 << (page % 64), Ordering::AcqRel);
        }
    }

    /// Marks every page.
    pub fn set_all(&self) {
        for (index, word) in self.words().iter().enumerate() {
            word.fetch_or(self.valid_bits(index), Ordering::AcqRel);
        }
    }

    /// Whether a page is marked.
    pub fn is_set(&self, page: u64) -> bool {
        page < self.pages && self.words()[(page / 64) as usize].load(Ordering::Acquire) & (1 << (page % 64)) != 0
    }

    /// ORs 64 pages from `word_index * 64` on. Words beyond the end and bits beyond the last page are ignored.
    pub fn or_word(&self, word_index: usize, bits: u64) {
        if bits != 0
            && let Some(word) = self.words().get(word_index)
        {
            word.fetch_or(bits & self.valid_bits(word_index), Ordering::AcqRel);
        }
    }

    /// Clears 64 pages and gives what was set.
    pub fn take_word(&self, word_index: usize) -> u64 {
        self.words().get(word_index).map_or(0, |word| {
            // A plain load first: most words are clear, and a locked instruction on each would cost more than all else.
            if word.load(Ordering::Relaxed) == 0 { 0 } else { word.swap(0, Ordering::AcqRel) }
        }) & self.valid_bits(word_index)
    }

    /// How many pages are marked.
    pub fn count(&self) -> u64 {
        let words = self.words().iter().enumerate();
        words.map(|(index, word)| u64::from((word.load(Ordering::Acquire) & self.valid_bits(index)).count_ones())).sum()
    }

    /// Takes all marks out and calls `run` for each stretch of marked pages: first page, count of pages.
    pub fn take_runs(&self, mut run: impl FnMut(u64, u64)) {
        let mut open: Option<(u64, u64)> = None;
        for index in 0..self.words().len() {
            let mut bits = self.take_word(index);
            let base = index as u64 * 64;
            while bits != 0 {
                let first = u64::from(bits.trailing_zeros());
                let length = u64::from((bits >> first).trailing_ones());
                bits &= if first + length == 64 { (1 << first) - 1 } else { !(((1 << length) - 1) << first) };
                match &mut open {
                    Some((start, count)) if *start + *count == base + first => *count += length,
                    _ => {
                        if let Some((start, count)) = open.replace((base + first, length)) {
                            run(start, count);
                        }
                    }
                }
            }
        }
        if let Some((start, count)) = open {
            run(start, count);
        }
    }

    /// Clears everything.
    pub fn clear(&self) {
        for word in self.words() {
            word.store(0, Ordering::Release);
        }
    }

    fn valid_bits(&self, word_index: usize) -> u64 {
        let from = word_index as u64 * 64;
        match self.pages.saturating_sub(from) {
            0 => 0,
            rest if rest >= 64 => u64::MAX,
            rest => (1 << rest) - 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    #[test]
    fn two_mappings_of_one_descriptor_are_one_bitmap() {
        let fd = memfd_create("dirty", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, DirtyBitmap::bytes_for(1000)).unwrap();
        let one = DirtyBitmap::shared(fd.try_clone().unwrap(), 1000).unwrap();
        let other = DirtyBitmap::shared(fd, 1000).unwrap();
        one.set(999);
        assert!(other.is_set(999));
        other.take_runs(|first, count| assert_eq!((first, count), (999, 1)));
        assert_eq!(one.count(), 0);
    }

    #[test]
    fn a_descriptor_that_is_too_short_is_refused() {
        let fd = memfd_create("dirty", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, 4095).unwrap();
        assert!(matches!(DirtyBitmap::shared(fd, 64), Err(BitmapError::Descriptor { .. })));
        assert!(matches!(DirtyBitmap::new(0), Err(BitmapError::Pages(0))));
        assert!(matches!(DirtyBitmap::new(u64::MAX), Err(BitmapError::Pages(_))));
    }

    #[test]
    fn nothing_beyond_the_last_page_is_ever_set() {
        let bitmap = DirtyBitmap::new(70).unwrap();
        bitmap.set_all();
        assert_eq!(bitmap.count(), 70);
        bitmap.clear();
        bitmap.or_word(1, u64::MAX);
        bitmap.or_word(2, u64::MAX);
        bitmap.set(70);
        assert_eq!(bitmap.count(), 6);
    }

    proptest! {
        #[test]
        fn runs_are_exactly_the_pages_that_were_set(pages in 1u64..400, marks in proptest::collection::btree_set(0u64..400, 0..300)) {
            let bitmap = DirtyBitmap::new(pages).unwrap();
            for page in &marks {
                bitmap.set(*page);
            }
            let wanted: BTreeSet<u64> = marks.into_iter().filter(|page| *page < pages).collect();
            prop_assert_eq!(bitmap.count(), wanted.len() as u64);
            let mut seen = BTreeSet::new();
            let mut end = None;
            bitmap.take_runs(|first, count| {
                assert!(count > 0 && end.is_none_or(|end| first > end), "runs are maximal and in order");
                end = Some(first + count);
                seen.extend(first..first + count);
            });
            prop_assert_eq!(seen, wanted);
            prop_assert_eq!(bitmap.count(), 0);
        }
    }
}
