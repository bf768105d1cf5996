//! The pages that a guest wrote, in a memfd that its monitor fills.

use std::os::fd::OwnedFd;

use model::diagnosis::{Reason, chain};
use protocol::pages::PageSet;
use vmm::memory::DirtyBitmap;

use super::defect::defect;
use super::monitor;

/// A dirty log, as this process sees it.
#[derive(Debug)]
pub struct DirtyPages {
    bitmap: DirtyBitmap,
}

impl DirtyPages {
    /// A log of a guest with so many pages, nothing dirty, and the memfd for its monitor.
    ///
    /// # Errors
    /// No memory or descriptor is left.
    pub fn share(pages: u64) -> Result<(Self, OwnedFd), Reason> {
        let bytes = vec![0; usize::try_from(DirtyBitmap::bytes_for(pages)).unwrap_or(0)];
        let memfd = monitor::memfd_of("dirty", &bytes).map_err(|error| defect(error.to_string()))?;
        let ours = memfd.try_clone().map_err(|error| defect(error.to_string()))?;
        let bitmap = DirtyBitmap::shared(ours, pages).map_err(|error| defect(chain(&error)))?;
        Ok((Self { bitmap }, memfd))
    }

    /// Takes out what the monitor has harvested.
    pub fn take(&self) -> PageSet {
        let mut set = PageSet::empty(self.bitmap.pages());
        for index in 0..self.bitmap.words().len() {
            set.or_word(index, self.bitmap.take_word(index));
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_monitor_marked_is_taken_once() {
        let (ours, memfd) = DirtyPages::share(200).expect("a memfd");
        let monitors = DirtyBitmap::shared(memfd, 200).expect("the same");
        monitors.or_word(0, 1 << 5);
        monitors.or_word(3, 1 << 7);
        let dirty = ours.take();
        assert_eq!((dirty.count(), dirty.contains(5), dirty.contains(199)), (2, true, true));
        assert!(ours.take().is_empty());
    }
}
