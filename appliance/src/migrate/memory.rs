//! A guest's memory as the migration sees it: a memfd, page by page.
//!
//! It is read and written by pread and pwrite, a run of pages at a time, and not through a mapping: a page that is new to
//! the file is not zeroed before it is overwritten, a hole that is read stays a hole, no page fault is taken a page, and
//! memory that fails (or a file that shrinks) is an error and not a signal that ends every move of this host.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use protocol::pages::PAGE_BYTES;
use rustix::fs::SeekFrom;

/// The memory of a guest.
#[derive(Debug)]
pub struct GuestRam {
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
}

impl AsFd for GuestRam {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl GuestRam {
    /// Takes a memfd of `bytes` bytes.
    ///
    /// # Errors
    /// [`RamError`].
    pub fn over(memfd: OwnedFd, bytes: u64) -> Result<Self, RamError> {
        let file = File::from(memfd);
        let found = file.metadata()?.len();
        if found != bytes {
            return Err(RamError::Size { found, wanted: bytes });
        }
        Ok(Self { file, pages: bytes / PAGE_BYTES as u64 })
    }

    /// How many pages it has.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many of them exist in memory: a page that the guest never touched is a hole in the file.
    pub fn touched_pages(&self) -> u64 {
        // st_blocks counts 512 bytes each (stat(2)). What cannot be asked is all of it.
        let bytes = self.file.metadata().map_or(u64::MAX, |metadata| metadata.blocks().saturating_mul(512));
        (bytes / PAGE_BYTES as u64).min(self.pages)
    }

    /// Copies whole pages out, from page `first` on. A guest that writes them meanwhile marks them dirty, and they are
    /// copied again.
    ///
    /// # Errors
    /// The memory failed, or ends before.
    pub fn read(&self, first: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, first * PAGE_BYTES as u64)
    }

    /// Writes whole pages, from page `first` on.
    ///
    /// # Errors
    /// No memory is left, or pages beyond the end.
    pub fn write(&self, first: u64, bytes: &[u8]) -> io::Result<()> {
        let beyond = first.saturating_add((bytes.len() / PAGE_BYTES) as u64) > self.pages;
        if beyond {
            // The file would grow.
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.file.write_all_at(bytes, first * PAGE_BYTES as u64)
    }

    /// The first page at or after `page` that was ever touched; none if there is none. What lies before it is zero and
    /// takes no memory.
    ///
    /// It is looked for and not the end of the stretch that it begins: the kernel walks a stretch page by page to its end,
    /// and who asks for each window of a guest's memory would have it walk half of that memory for each.
    pub fn touched_from(&self, page: u64) -> Option<u64> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(page * PAGE_BYTES as u64)) {
            Ok(offset) => Some(offset / PAGE_BYTES as u64),
            Err(rustix::io::Errno::NXIO) => None,
            // A file that does not know its holes has none.
            Err(_) => Some(page),
        }
    }
}

/// Whether a page is all zero.
pub fn is_zero(page: &[u8]) -> bool {
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
        GuestRam::over(memfd, pages * 4096).expect("its memory")
    }

    #[test]
    fn what_was_never_touched_is_known_and_stays_so_when_it_is_read() {
        let ram = ram(1024);
        assert_eq!(ram.touched_from(0), None);
        ram.write(600, &[7; PAGE_BYTES]).expect("a page");
        assert_eq!(ram.touched_from(0), Some(600));
        assert_eq!(ram.touched_from(600), Some(600));
        assert_eq!(ram.touched_from(601), None);
        let mut pages = vec![1; 1024 * PAGE_BYTES];
        ram.read(0, &mut pages).expect("all pages");
        assert_eq!(pages.iter().filter(|byte| **byte != 0).count(), PAGE_BYTES);
        assert_eq!((ram.touched_from(0), ram.touched_from(601)), (Some(600), None));
    }

    #[test]
    fn memory_beyond_the_end_is_an_error_and_makes_it_no_longer() {
        let ram = ram(4);
        assert!(ram.write(3, &[7; 2 * PAGE_BYTES]).is_err());
        assert!(ram.write(u64::MAX, &[7; PAGE_BYTES]).is_err());
        assert!(ram.read(3, &mut [0; 2 * PAGE_BYTES]).is_err());
        assert_eq!(ram.touched_from(0), None);
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
