//! Choices made by a seed.
//!
//! The generator is written out here (xoshiro256**, Blackman and Vigna 2018, seeded by SplitMix64) because a failing
//! seed is kept for ever: it must mean the same world after any update of any package.

use protocol::time::Duration;

/// A stream of choices that one seed fixes.
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

impl Rng {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        let mut mix = seed;
        let state = std::array::from_fn(|_| {
            mix = mix.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = mix;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Self { state }
    }

    /// A stream of its own for one part of the world, so that one part's appetite does not change another's luck.
    #[must_use]
    pub fn fork(&mut self) -> Self {
        Self::new(self.next_u64())
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let t = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= t;
        *d = d.rotate_left(45);
        result
    }

    /// A number below `bound`; 0 if `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `least..=most`.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least).saturating_add(1))
    }

    /// An index into something of `len` elements; 0 if there are none.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// True with a probability of `ppm` parts in a million.
    pub fn chance(&mut self, ppm: u64) -> bool {
        self.below(1_000_000) < ppm
    }

    /// A span in `least..=most`, evenly spread.
    pub fn span(&mut self, least: Duration, most: Duration) -> Duration {
        Duration::from_nanos(self.between(least.nanos(), most.nanos()))
    }

    /// A span whose frequency halves with each doubling, from about `least` to `most`: mostly short, sometimes very
    /// long, as latencies are.
    pub fn latency(&mut self, least: Duration, most: Duration) -> Duration {
        let ratio = (most.nanos() / least.nanos().max(1)).max(1);
        let doublings = self.below(u64::from(ratio.ilog2()) + 1) as u32;
        let base = least.nanos().saturating_mul(1 << doublings);
        Duration::from_nanos(self.between(base, base.saturating_mul(2)).min(most.nanos()))
    }

    /// Puts `items` into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.index(i + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_for_ever() {
        let mut rng = Rng::new(42);
        let first: Vec<u64> = (0..3).map(|_| rng.next_u64()).collect();
        // The reference implementation's values for this seeding.
        assert_eq!(first, [1_546_998_764_402_558_742, 6_990_951_692_964_543_102, 12_544_586_762_248_559_009]);
    }

    #[test]
    fn choices_stay_in_their_range_and_reach_both_ends() {
        let mut rng = Rng::new(1);
        let drawn: Vec<u64> = (0..1_000).map(|_| rng.between(3, 7)).collect();
        assert!(drawn.iter().all(|n| (3..=7).contains(n)) && drawn.contains(&3) && drawn.contains(&7));
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(10));
        assert!((0..1_000).map(|_| rng.latency(least, most)).all(|span| span >= least && span <= most));
    }
}
