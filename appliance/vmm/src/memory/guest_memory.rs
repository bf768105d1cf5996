//! Guest RAM as the VMM maps it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use vm_memory::bitmap::AtomicBitmap;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};

use super::layout::{InvalidSize, Layout};

/// Guest RAM, mapped shared from its memfd. Every write that goes through it marks its pages in the bitmap of the
/// region; what writes through a raw pointer (an io_uring read) marks them itself, by
/// `region.bitmap().mark_dirty(offset, length)` or the `bitmap()` of the volatile slice.
pub type GuestMemory = GuestMemoryMmap<AtomicBitmap>;

/// Why guest RAM could not be mapped.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The size is not one that a machine can have.
    #[error(transparent)]
    Size(#[from] InvalidSize),
    /// The memfd is shorter or longer than the machine's RAM.
    #[error("the memory descriptor has {found} bytes; the machine wants {wanted}")]
    Descriptor {
        /// Its length in bytes.
        found: u64,
        /// The length it must have.
        wanted: u64,
    },
    /// The descriptor cannot be looked at or duplicated.
    #[error("the memory descriptor cannot be used")]
    Unusable(#[source] io::Error),
    /// The mapping failed.
    #[error("guest memory cannot be mapped")]
    Map(#[source] vm_memory::mmap::FromRangesError),
}

/// Maps the RAM of a machine from its memfd, whose length must be exactly the machine's RAM.
///
/// # Errors
/// [`MemoryError`].
pub fn map(layout: &Layout, memfd: &OwnedFd) -> Result<GuestMemory, MemoryError> {
    let duplicate = || memfd.try_clone().map(File::from).map_err(MemoryError::Unusable);
    let found = duplicate()?.metadata().map_err(MemoryError::Unusable)?.len();
    let wanted = layout.memory_bytes();
    if found != wanted {
        return Err(MemoryError::Descriptor { found, wanted });
    }
    let mut ranges = Vec::new();
    for range in layout.ranges() {
        let file = FileOffset::new(duplicate()?, range.offset);
        ranges.push((GuestAddress(range.start), range.bytes as usize, Some(file)));
    }
    GuestMemory::from_ranges_with_files(ranges).map_err(MemoryError::Map)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
    use vm_memory::Bytes;

    use super::*;

    fn memfd(bytes: u64) -> OwnedFd {
        let fd = memfd_create("guest", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, bytes).unwrap();
        fd
    }

    #[test]
    fn the_offset_in_the_memfd_is_linear_across_the_hole() {
        let layout = Layout::new((3 << 30) + (64 << 20)).unwrap();
        let fd = memfd(layout.memory_bytes());
        let memory = map(&layout, &fd).unwrap();
        memory.write_slice(b"low", GuestAddress(0x1000)).unwrap();
        memory.write_slice(b"high", GuestAddress((4 << 30) + 0x2000)).unwrap();
        let file = File::from(fd);
        let mut seen = [0; 4];
        file.read_exact_at(&mut seen, (3 << 30) + 0x2000).unwrap();
        assert_eq!(&seen, b"high");
        file.read_exact_at(&mut seen[..3], 0x1000).unwrap();
        assert_eq!(&seen[..3], b"low");
        assert!(memory.write_slice(b"x", GuestAddress(3 << 30)).is_err());
    }

    #[test]
    fn a_memfd_of_another_length_is_refused() {
        let layout = Layout::new(64 << 20).unwrap();
        for bytes in [0, (64 << 20) - 4096, (64 << 20) + 4096] {
            assert!(matches!(map(&layout, &memfd(bytes)), Err(MemoryError::Descriptor { .. })));
        }
    }
}
