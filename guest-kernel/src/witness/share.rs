//! Which CPU has which pages.
//!
//! CPUs take blocks of 64 pages in turn, so that the first so many pages of memory, which are the working set, are spread
//! over all of them, and two CPUs seldom meet in a cache line of the version table.

const BLOCK: u64 = 64;

/// One CPU's pages.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Number of the CPU, below `cpus`.
    pub cpu: u64,
    /// How many CPUs share.
    pub cpus: u64,
}

impl Share {
    /// The page that is this CPU's number `index`.
    #[inline]
    pub fn page(&self, index: u64) -> u64 {
        (index / BLOCK * self.cpus + self.cpu) * BLOCK + index % BLOCK
    }

    /// How many of the first `pages` pages are this CPU's.
    pub fn count(&self, pages: u64) -> u64 {
        let round = BLOCK * self.cpus;
        pages / round * BLOCK + (pages % round).saturating_sub(self.cpu * BLOCK).min(BLOCK)
    }

    /// This CPU's part of a number that is shared out: a rate, for instance.
    pub fn part(&self, total: u64) -> u64 {
        total / self.cpus + u64::from(self.cpu < total % self.cpus)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_exactly_one_owner() {
        for (cpus, pages) in [(1, 1000), (2, 1000), (3, 64), (3, 65), (4, 255), (7, 4481), (5, 0)] {
            let mut owners = std::vec![0; pages as usize];
            for cpu in 0..cpus {
                let share = Share { cpu, cpus };
                (0..share.count(pages)).for_each(|index| owners[share.page(index) as usize] += 1);
            }
            assert!(owners.iter().all(|owner| *owner == 1), "{cpus} CPUs, {pages} pages");
        }
    }

    #[test]
    fn parts_add_up() {
        assert_eq!((0..3).map(|cpu| Share { cpu, cpus: 3 }.part(20_000)).sum::<u64>(), 20_000);
    }
}
