//! Compression of page records, where it pays: where the link and not the processor is what a move waits for, and where
//! the guest's pages become markedly shorter.

use std::time::{Duration, Instant};

use lz4_flex::block::{CompressTable, compress_into_with_table, get_maximum_output_size};
use netstack::stream::RECORD_MAX;

/// What one processor compresses, bytes a second, until it was measured.
const EXPECTED_BYTES_PER_S: u64 = 400_000_000;
/// A block that is longer than so many percent of the pages is not worth the receiver's time.
const WORTH_PERCENT: usize = 75;
/// Content that did not become shorter is left alone for twice as many records each time, up to so many.
const PAUSE_MAX: u32 = 64;
/// Where compressing was slower than expected, it is measured again after so many records: it may have been the wait for a
/// processor.
const MEASURE_AGAIN: u32 = 256;

/// Compresses the content of records, or leaves it as it is.
pub struct Compressor {
    thrift: Option<Thrift>,
    table: CompressTable,
    packed: Vec<u8>,
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").field("thrift", &self.thrift).finish_non_exhaustive()
    }
}

impl Default for Compressor {
    /// Compresses where it pays.
    fn default() -> Self {
        Self { thrift: Some(Thrift::default()), table: CompressTable::large(), packed: Vec::new() }
    }
}

impl Compressor {
    /// Compresses nothing, for comparison.
    pub fn never() -> Self {
        Self { thrift: None, ..Self::default() }
    }

    /// What the link carries as far as it is known, bytes a second; 0 where it is not.
    pub fn link_carries(&mut self, bytes_per_s: u64) {
        if let Some(thrift) = &mut self.thrift {
            thrift.link = bytes_per_s;
        }
    }

    /// The content as one lz4 block, if it is to travel so.
    pub fn pack(&mut self, content: &[u8]) -> Option<&[u8]> {
        let thrift = self.thrift.as_mut()?;
        if content.is_empty() || !thrift.wants() {
            return None;
        }
        self.packed.resize(get_maximum_output_size(RECORD_MAX), 0);
        let began = Instant::now();
        let length = compress_into_with_table(content, &mut self.packed, &mut self.table).ok()?;
        thrift.tried(content.len(), length, began.elapsed()).then(|| &self.packed[..length])
    }
}

/// Whether compressing pays. It does where it takes less than half of the time that the link takes for the same bytes: the
/// other half is for everything else that is done with them.
#[derive(Clone, Copy, Debug)]
struct Thrift {
    /// What the link carries, bytes a second.
    link: u64,
    /// What is compressed, bytes a second.
    feeds: u64,
    /// Records in a row that were tried in vain.
    in_vain: u32,
    /// Records that are left alone before the next is tried.
    pause: u32,
}

impl Default for Thrift {
    fn default() -> Self {
        Self { link: 0, feeds: EXPECTED_BYTES_PER_S, in_vain: 0, pause: 0 }
    }
}

impl Thrift {
    /// Whether the next record is to be tried.
    fn wants(&mut self) -> bool {
        if self.link == 0 {
            return false;
        }
        if self.pause > 0 {
            self.pause -= 1;
            return false;
        }
        self.keeps_up() || self.feeds < EXPECTED_BYTES_PER_S
    }

    fn keeps_up(&self) -> bool {
        self.link <= self.feeds / 2
    }

    /// A record was tried; whether it is to travel compressed.
    fn tried(&mut self, raw: usize, packed: usize, took: Duration) -> bool {
        let nanos = took.as_nanos().max(1);
        let feeds = u64::try_from(raw as u128 * 1_000_000_000 / nanos).unwrap_or(u64::MAX);
        // A try that was interrupted tells little, one that was not tells all.
        self.feeds = if feeds > self.feeds { feeds } else { (self.feeds * 7 + feeds) / 8 };
        let worth = packed * 100 <= raw * WORTH_PERCENT;
        self.in_vain = if worth { 0 } else { self.in_vain.saturating_add(1) };
        self.pause = match (worth, self.keeps_up()) {
            (true, true) => 0,
            (true, false) => MEASURE_AGAIN,
            (false, _) => 1_u32.checked_shl(self.in_vain).unwrap_or(PAUSE_MAX).min(PAUSE_MAX),
        };
        worth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RAW: usize = 256 << 10;
    const MS: Duration = Duration::from_millis(1);

    /// How many of so many records are tried, and how many travel compressed, if each becomes `packed` bytes in `took`.
    fn records(thrift: &mut Thrift, count: u32, packed: usize, took: Duration) -> (u32, u32) {
        let (mut tries, mut kept) = (0, 0);
        for _ in 0..count {
            if thrift.wants() {
                tries += 1;
                kept += u32::from(thrift.tried(RAW, packed, took));
            }
        }
        (tries, kept)
    }

    fn over(bytes_per_s: u64) -> Thrift {
        Thrift { link: bytes_per_s, ..Thrift::default() }
    }

    #[test]
    fn a_gigabit_is_slow_enough_to_compress_for() {
        assert_eq!(records(&mut over(117_000_000), 1000, RAW / 2, MS / 2), (1000, 1000));
    }

    #[test]
    fn a_link_that_is_faster_than_compression_is_never_made_to_wait_for_it() {
        assert_eq!(records(&mut over(1_200_000_000), 10_000, RAW / 2, MS / 2), (0, 0));
        assert_eq!(records(&mut over(0), 10_000, RAW / 2, MS / 2), (0, 0), "nor one of unknown speed");
    }

    #[test]
    fn content_that_does_not_become_shorter_is_left_alone_and_tried_again_now_and_then() {
        let mut thrift = over(100_000_000);
        let (tries, kept) = records(&mut thrift, 1000, RAW, MS / 2);
        assert_eq!(kept, 0);
        assert!((10..30).contains(&tries), "{tries} tries");
        assert_eq!(records(&mut thrift, 200, RAW * 8 / 10, MS / 2).1, 0, "a little shorter is not worth it");
        let (_, kept) = records(&mut thrift, 200, RAW / 4, MS / 2);
        assert!(kept >= 136, "compressed again after 64 records at most: {kept}");
    }

    #[test]
    fn a_processor_that_compresses_slowly_does_so_only_for_a_slow_link() {
        // 26 MB/s, as an emulated one.
        let slow = MS * 10;
        let mut thrift = over(50_000_000);
        records(&mut thrift, 10_000, RAW / 2, slow);
        let (tries, _) = records(&mut thrift, 10_000, RAW / 2, slow);
        assert!(tries <= 40, "{tries} tries of 10000");
        assert_eq!(records(&mut Thrift { link: 5_000_000, pause: 0, ..thrift }, 100, RAW / 2, slow).1, 100);
        // It was only interrupted: once it is quick again, so is the judgement.
        let (_, kept) = records(&mut thrift, 1000, RAW / 2, MS / 2);
        assert!(kept > 700, "{kept} of 1000");
    }

    #[test]
    fn what_is_packed_is_what_it_was() {
        let mut compressor = Compressor::default();
        compressor.link_carries(1);
        let mut content = vec![7; RAW];
        content[1000] = 8;
        let packed = compressor.pack(&content).expect("it is much shorter").to_vec();
        assert!(packed.len() < RAW / 50);
        assert_eq!(lz4_flex::block::decompress(&packed, RAW).expect("a block"), content);
        assert_eq!(Compressor::never().pack(&content), None);
    }
}
