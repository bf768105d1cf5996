//! What proves that every page arrived: a table of the hash of each page's last version, kept on both sides.
//!
//! The source's table holds what it sent, the destination's what lies in its memory after storing. Each table has
//! a digest, a sum over its entries that follows every change at once, so that comparing all of a guest's memory
//! inside the stun costs the comparison of 16 bytes. The hash is XXH3-128: the peers are authenticated and the
//! records travel inside TLS, so that the hash guards against defects, not against attackers.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use crate::pages::PAGE_BYTES;

/// The hash of one page's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PageHash(pub u128);

impl PageHash {
    /// The hash of a page's bytes.
    pub fn of(page: &[u8]) -> Self {
        Self(xxh3_128(page))
    }

    /// The hash of a page of zeros.
    pub fn zero() -> Self {
        static ZERO: std::sync::LazyLock<PageHash> = std::sync::LazyLock::new(|| PageHash::of(&[0; PAGE_BYTES]));
        *ZERO
    }

    /// The hash of several pages' hashes in their order: what a page record carries.
    pub fn of_all(hashes: impl IntoIterator<Item = Self>) -> Self {
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        for hash in hashes {
            hasher.update(&hash.0.to_le_bytes());
        }
        Self(hasher.digest128())
    }
}

/// The digest of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest(pub u128);

/// The number of a round; rounds count from 1, and 0 stands for a page that never travelled.
pub type RoundNumber = u16;

/// For each page of a guest the round of its last version: what says whether one that comes is newer.
#[derive(Clone, Debug)]
pub struct Rounds(Vec<RoundNumber>);

impl Rounds {
    /// Those of a guest with `pages` pages, of which none has travelled. Takes 2 bytes a page.
    pub fn new(pages: u64) -> Self {
        Self(vec![0; pages as usize])
    }

    /// The round of a page's last version; 0 for one that never travelled, and for one beyond the guest's end.
    pub fn of(&self, page: u64) -> RoundNumber {
        self.0.get(page as usize).copied().unwrap_or(0)
    }

    /// Whether a version of `round` is newer than the last. False for pages beyond the guest's end.
    pub fn accepts(&self, page: u64, round: RoundNumber) -> bool {
        self.0.get(page as usize).is_some_and(|known| round > *known)
    }

    /// Records a page's version. An older or equal round changes nothing, and the answer is false.
    pub fn set(&mut self, page: u64, round: RoundNumber) -> bool {
        let newer = self.accepts(page, round);
        if newer {
            self.0[page as usize] = round;
        }
        newer
    }
}

/// For each page of a guest the hash of its last version and the round that it came with. A page that never
/// travelled has round 0 and is a page of zeros, as in fresh memory.
#[derive(Clone, Debug)]
pub struct PageTable {
    hashes: Vec<u128>,
    rounds: Rounds,
    digest: u128,
    arrived: u64,
}

impl PageTable {
    /// The table of a guest with `pages` pages, of which none has travelled. Takes 18 bytes a page.
    pub fn new(pages: u64) -> Self {
        let hashes = vec![PageHash::zero().0; pages as usize];
        Self { hashes, rounds: Rounds::new(pages), digest: 0, arrived: 0 }
    }

    /// How many pages the guest has.
    pub fn pages(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// How many pages have travelled at least once.
    pub fn arrived(&self) -> u64 {
        self.arrived
    }

    /// Records a page's version. An older or equal round changes nothing, and the answer is false.
    pub fn set(&mut self, page: u64, round: RoundNumber, hash: PageHash) -> bool {
        let before = self.rounds.of(page);
        if !self.rounds.set(page, round) {
            return false;
        }
        let index = page as usize;
        if before == 0 {
            self.arrived += 1;
        } else {
            self.digest = self.digest.wrapping_sub(share(page, before, self.hashes[index]));
        }
        self.digest = self.digest.wrapping_add(share(page, round, hash.0));
        self.hashes[index] = hash.0;
        true
    }

    /// The hash of a page's last version; a page beyond the end has none.
    pub fn hash(&self, page: u64) -> Option<PageHash> {
        self.hashes.get(page as usize).copied().map(PageHash)
    }

    /// The digest of every page's last version and round.
    pub fn digest(&self) -> Digest {
        Digest(self.digest)
    }
}

/// What one page adds to the digest: which page, which version, what content.
fn share(page: u64, round: RoundNumber, hash: u128) -> u128 {
    let mut bytes = [0; 26];
    bytes[..8].copy_from_slice(&page.to_le_bytes());
    bytes[8..10].copy_from_slice(&round.to_le_bytes());
    bytes[10..].copy_from_slice(&hash.to_le_bytes());
    xxh3_128(&bytes)
}

/// The digest of a guest's whole memory, hashed in ascending order: for the depth `full`.
#[derive(Clone, Debug, Default)]
pub struct MemoryDigest {
    sum: u128,
    next: u64,
}

impl MemoryDigest {
    /// Adds the next pages.
    pub fn extend(&mut self, hashes: &[PageHash]) {
        for hash in hashes {
            self.sum = self.sum.wrapping_add(share(self.next, 0, hash.0));
            self.next += 1;
        }
    }

    /// The first page that was not yet added.
    pub fn next_page(&self) -> u64 {
        self.next
    }

    /// The digest of what was added.
    pub fn digest(&self) -> Digest {
        Digest(self.sum)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_late_page_of_an_older_round_never_replaces_a_newer_one() {
        let mut table = PageTable::new(4);
        assert!(table.set(1, 2, PageHash(22)));
        assert!(!table.set(1, 1, PageHash(11)));
        assert!(!table.set(1, 2, PageHash(33)), "nor does a double");
        assert_eq!(table.hash(1), Some(PageHash(22)));
    }

    #[test]
    fn a_page_that_did_not_arrive_shows_in_the_digest_even_if_its_content_is_the_same() {
        let (mut source, mut destination) = (PageTable::new(4), PageTable::new(4));
        source.set(0, 1, PageHash::zero());
        assert_ne!(source.digest(), destination.digest());
        destination.set(0, 1, PageHash::zero());
        assert_eq!(source.digest(), destination.digest());
        source.set(0, 2, PageHash::zero());
        assert_ne!(source.digest(), destination.digest(), "the last version has not arrived");
    }

    proptest! {
        #[test]
        fn the_digest_depends_on_the_last_versions_and_not_on_the_order(
            versions in prop::collection::vec((0u64..16, 1u16..5, 0u128..3), 0..60),
            seed in any::<u64>(),
        ) {
            // A page has one content a round.
            let versions: Vec<_> = versions.iter().map(|(p, r, h)| (*p, *r, PageHash(h ^ u128::from(*r) << 8 ^ u128::from(*p) << 16))).collect();
            let mut unique = std::collections::BTreeMap::new();
            versions.iter().for_each(|(p, r, h)| { unique.insert((*p, *r), *h); });
            let mut forward = PageTable::new(16);
            let mut shuffled = PageTable::new(16);
            let mut order: Vec<_> = unique.iter().collect();
            order.iter().for_each(|((p, r), h)| { forward.set(*p, *r, **h); });
            order.sort_by_key(|((p, r), _)| xxh3_128(&(seed ^ p << 8 ^ u64::from(*r)).to_le_bytes()));
            order.iter().for_each(|((p, r), h)| { shuffled.set(*p, *r, **h); });
            prop_assert_eq!(forward.digest(), shuffled.digest());
            prop_assert_eq!(forward.arrived(), shuffled.arrived());
        }
    }
}
