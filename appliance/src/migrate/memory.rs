//! A guest's memory as the migration sees it: a memfd, page by page.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use protocol::pages::PAGE_BYTES;
use rustix::fs::SeekFrom;
use vm_memory::{FileOffset, MmapRegion, VolatileMemory as _, VolatileSlice};

/// One page's bytes.
pub type Page = [u8; PAGE_BYTES];

/// The memory of a guest.
#[derive(Debug)]
pub struct GuestRam {
    region: MmapRegion<()>,
    file: File,
    pages: u64,
}

/// Why memory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The memfd has another size than it should have.
    #[error("the memory has {found} bytes and not {wanted}")]
    Size {
        /// Its size.
        found: u64,
        /// What it should be.
        wanted: u64,
    },
    /// It cannot be looked at.
    #[error("the memory cannot be read")]
    Unusable(#[from] io::Error),
    /// It cannot be mapped.
    #[error("the memory cannot be mapped")]
    Map(#[from] vm_memory::mmap::MmapRegionError),
}

impl GuestRam {
    /// Maps a memfd of `bytes` bytes.
    ///
    /// # Errors
    /// [`RamError`].
    pub fn map(memfd: OwnedFd, bytes: u64) -> Result<Self, RamError> {
        let file = File::from(memfd);
        let found = file.metadata()?.len();
        if found != bytes {
            return Err(RamError::Size { found, wanted: bytes });
        }
        let length = usize::try_from(bytes).map_err(|_| RamError::Size { found, wanted: bytes })?;
        let region = MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), length)?;
        Ok(Self { region, file, pages: bytes / PAGE_BYTES as u64 })
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// # Panics
    /// The page lies beyond the end: the machines never name such a page.
    fn slice(&self, page: u64) -> VolatileSlice<'_> {
        let offset = usize::try_from(page).map(|page| page * PAGE_BYTES);
        offset.ok().and_then(|offset| self.region.get_slice(offset, PAGE_BYTES).ok()).expect("a page of this guest")
    }

    /// Copies a page out. A guest that writes it meanwhile marks it dirty, and it is copied again.
    pub fn read(&self, page: u64, into: &mut Page) {
        self.slice(page).copy_to(&mut into[..]);
    }

    /// Writes a page.
    pub fn write(&self, page: u64, bytes: &[u8]) {
        self.slice(page).copy_from(&bytes[..PAGE_BYTES]);
    }

    /// The next stretch at or after `page` that was ever touched, first page and end; none if there is none. What lies
    /// before it is zero and takes no memory, as long as nobody reads it.
    pub fn touched_from(&self, page: u64) -> Option<(u64, u64)> {
        let whole = PAGE_BYTES as u64;
        let first = match rustix::fs::seek(&self.file, SeekFrom::Data(page * whole)) {
            Ok(offset) => offset / whole,
            Err(rustix::io::Errno::NXIO) => return None,
            // A file that does not know its holes has none.
            Err(_) => return Some((page, self.pages)),
        };
        let end = rustix::fs::seek(&self.file, SeekFrom::Hole(first * whole));
        Some((first, end.map_or(self.pages, |offset| offset.div_ceil(whole).min(self.pages))))
    }
}

/// Whether a page is all zero.
pub fn is_zero(page: &Page) -> bool {
    let (words, _) = page.as_chunks::<64>();
    words.iter().all(|line| {
        let (eights, _) = line.as_chunks::<8>();
        eights.iter().fold(0, |sum, eight| sum | u64::from_ne_bytes(*eight)) == 0
    })
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn ram(pages: u64) -> GuestRam {
        let memfd = memfd_create("test", MemfdFlags::CLOEXEC).expect("a memfd");
        ftruncate(&memfd, pages * 4096).expect("a size");
        GuestRam::map(memfd, pages * 4096).expect("a mapping")
    }

    #[test]
    fn what_was_never_touched_is_known_without_touching_it() {
        let ram = ram(1024);
        assert_eq!(ram.touched_from(0), None);
        ram.write(600, &[7; PAGE_BYTES]);
        let (first, end) = ram.touched_from(0).expect("a stretch");
        assert!(first <= 600 && end > 600 && end - first < 1024, "{first}..{end}");
        assert_eq!(ram.touched_from(end), None);
    }

    #[test]
    fn a_single_byte_makes_a_page_not_zero() {
        let mut page = [0; PAGE_BYTES];
        assert!(is_zero(&page));
        for at in [0, 1, 63, 64, 4095] {
            page[at] = 1;
            assert!(!is_zero(&page), "{at}");
            page[at] = 0;
        }
    }
}
