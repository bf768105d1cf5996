//! Page records, and the memory that they are written into.

use std::sync::Arc;

use bytes::BytesMut;
use godwit::migrate::compression::Compressor;
use godwit::migrate::memory::GuestRam;
use godwit::migrate::records::{Sending, Step, Storage};
use protocol::pages::{PAGE_BYTES, PageSet};
use protocol::source::Batch;
use protocol::wire::{MigrationId, ValidatedRecord};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

use super::{Outcome, Prepared};

const PAGES: u64 = 256;
const MIGRATION: MigrationId = MigrationId(7);
/// A window of 64 pages unpacked, the plan of what is written where, and the hashes of a stretch of zeros.
const BYTES_MAX: usize = 8 << 20;

fn ram() -> Arc<GuestRam> {
    let memfd = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memfd");
    ftruncate(&memfd, PAGES * PAGE_BYTES as u64).expect("a size");
    Arc::new(GuestRam::over(memfd, PAGES * PAGE_BYTES as u64).expect("its memory"))
}

pub(super) fn prepare() -> Result<Prepared, String> {
    let ram = ram();
    let execute = move |input: &[u8]| {
        let Ok(record) = ValidatedRecord::parse(input, MIGRATION, PAGES) else { return Outcome::Refused };
        assert!(record.pages().all(|plan| plan.page() < PAGES), "a page outside of the guest's memory");
        assert_eq!(record.pages().count() as u64, record.count());
        // A page that an input before has written with a high round would be left out.
        let Ok(stored) = Storage::new(Arc::clone(&ram)).store(&record) else { return Outcome::Refused };
        let _ = record.proves(stored.stored.iter().map(|(_, hash)| *hash));
        Outcome::Taken
    };
    Ok(Prepared { inputs: records(), text: false, bytes_max: BYTES_MAX, execute: Box::new(execute) })
}

/// Records of a memory of which some pages are noise, some repeat themselves and some are zero, for a fast link and for a slow one.
fn records() -> Vec<Vec<u8>> {
    let ram = ram();
    for page in (0..PAGES).filter(|page| page % 5 != 0 && !(64..128).contains(page)) {
        let byte = |at: usize| if page % 2 == 0 { (at / 64) as u8 } else { ((at as u64 * page * 0x9e37) >> 7) as u8 };
        let bytes: Vec<u8> = (0..PAGE_BYTES).map(byte).collect();
        ram.write(page, &bytes).expect("a page");
    }
    let mut set = PageSet::empty(PAGES);
    (0..PAGES).filter(|page| *page < 192 || page % 7 == 0).for_each(|page| set.insert(page));
    let (mut records, mut slow) = (Vec::new(), Compressor::default());
    slow.link_carries(1_000_000);
    for mut compressor in [Compressor::never(), slow] {
        let mut sending = Sending::new(MIGRATION, Batch { id: 1, round: 1, windows: set.windows().collect() });
        let mut send = |bytes: bytes::Bytes| {
            records.push(bytes.to_vec());
            Ok(())
        };
        let step = sending.go_on(&ram, &mut compressor, || Some(BytesMut::new()), &mut send);
        assert!(matches!(step, Ok(Step::Done(_))), "all is sent at once: {step:?}");
    }
    records
}
