//! How pages travel: records that describe themselves and may arrive in any order, on any stream.
//!
//! ```text
//!  0      4         6         7       8           16      20      24      32        40        48       52         56     72
//!  | GPGR | version | content | flags | migration | round | count | first | covered | present | length | reserved | hash |
//! ```
//! A record of kind *window* covers up to 64 pages from `first` on: `covered` says which, `present` which of these
//! have content here (in ascending order, raw or as one lz4 block); the others are zero. A record of kind *zeros*
//! covers `count` zero pages from `first` on and has no content. `hash` is the hash of the covered pages' hashes in
//! ascending order ([`PageHash::of_all`]); for zeros it is 0, because nothing but the header could be wrong.
//!
//! The header is built and read here; the bytes of the pages never pass through this crate: the sender appends them,
//! the receiver writes them to the pages that [`ValidatedRecord::pages`] names.

use model::limits;

use super::cursor::Cursor;
use super::error::WireError;
use super::message::MigrationId;
use crate::pages::{PAGE_BYTES, WINDOW_PAGES, Window, bits};
use crate::verify::{PageHash, RoundNumber};

/// The first bytes of a record.
pub const MAGIC: [u8; 4] = *b"GPGR";
/// Bytes of the header.
pub const HEADER_BYTES: usize = 72;
/// The version of this layout.
pub const VERSION: u16 = 1;
/// Most pages of one record of zeros, so that no record means unbounded work.
pub const ZEROS_MAX: u32 = 65_536;
/// Most bytes of a record, header included.
pub const RECORD_BYTES_MAX: usize = limits::MIGRATION_RECORD_BYTES_MAX as usize;

const _: () = assert!(
    RECORD_BYTES_MAX >= HEADER_BYTES + WINDOW_PAGES as usize * PAGE_BYTES,
    "config/limits.toml: a record of 64 pages must fit"
);

/// How a record's content is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing: a stretch of zero pages.
    Zeros,
    /// The pages as they are.
    Raw,
    /// One lz4 block of all pages, shorter than they are.
    Lz4,
}

/// What a record says of itself. Made by [`RecordHeader::window`] or [`RecordHeader::zeros`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    migration: MigrationId,
    round: RoundNumber,
    content: Content,
    first: u64,
    count: u32,
    covered: u64,
    present: u64,
    length: u32,
    hash: PageHash,
}

impl RecordHeader {
    /// The header of a window's record. `zero` are those of its pages that are zero (bits outside the window are
    /// ignored); `hashes` are the hashes of all its pages, ascending. The content is raw until
    /// [`Self::compressed`] says otherwise.
    pub fn window(
        migration: MigrationId,
        round: RoundNumber,
        window: Window,
        zero: u64,
        hashes: impl IntoIterator<Item = PageHash>,
    ) -> Self {
        let present = window.pages & !zero;
        Self {
            migration,
            round,
            content: Content::Raw,
            first: window.first,
            count: window.pages.count_ones(),
            covered: window.pages,
            present,
            length: present.count_ones() * PAGE_BYTES as u32,
            hash: PageHash::of_all(hashes),
        }
    }

    /// The record of a stretch of zero pages, at most [`ZEROS_MAX`].
    pub fn zeros(migration: MigrationId, round: RoundNumber, first: u64, count: u32) -> Self {
        let content = Content::Zeros;
        Self { migration, round, content, first, count, covered: 0, present: 0, length: 0, hash: PageHash(0) }
    }

    /// The same record with its content as one lz4 block of `length` bytes; a block that is not shorter than the
    /// pages changes nothing.
    #[must_use]
    pub fn compressed(mut self, length: usize) -> Self {
        if length > 0 && length < self.length as usize {
            self.content = Content::Lz4;
            self.length = length as u32;
        }
        self
    }

    /// Bytes of content that follow the header.
    pub fn content_bytes(&self) -> usize {
        self.length as usize
    }

    /// How the content is written.
    pub fn content(&self) -> Content {
        self.content
    }

    /// The bytes that go before the content.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let content = match self.content {
            Content::Zeros => 0,
            Content::Raw => 1,
            Content::Lz4 => 2,
        };
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6] = content;
        bytes[8..16].copy_from_slice(&self.migration.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&u32::from(self.round).to_le_bytes());
        bytes[20..24].copy_from_slice(&self.count.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.covered.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.present.to_le_bytes());
        bytes[48..52].copy_from_slice(&self.length.to_le_bytes());
        bytes[56..72].copy_from_slice(&self.hash.0.to_le_bytes());
        bytes
    }

    /// Reads the header of a record that begins with `bytes`. It is as the sender says, and checked only for what
    /// needs no context; [`ValidatedRecord::parse`] does the rest.
    ///
    /// # Errors
    /// These bytes are no header of this version.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let short = |_| WireError::Short("a page record");
        let mut cursor = Cursor::new(bytes);
        let magic = cursor.take(4).map_err(short)?;
        if magic != MAGIC {
            return Err(WireError::Value("the first bytes of a page record"));
        }
        let version = cursor.u16().map_err(short)?;
        if version != VERSION {
            return Err(WireError::Version { found: version, agreed: VERSION });
        }
        let content = match cursor.u8().map_err(short)? {
            0 => Content::Zeros,
            1 => Content::Raw,
            2 => Content::Lz4,
            _ => return Err(WireError::Value("the content of a page record")),
        };
        let flags = cursor.u8().map_err(short)?;
        let migration = MigrationId(cursor.u64().map_err(short)?);
        let round = cursor.u32().map_err(short)?;
        let count = cursor.u32().map_err(short)?;
        let first = cursor.u64().map_err(short)?;
        let covered = cursor.u64().map_err(short)?;
        let present = cursor.u64().map_err(short)?;
        let length = cursor.u32().map_err(short)?;
        let reserved = cursor.u32().map_err(short)?;
        let hash = PageHash(cursor.u128().map_err(short)?);
        if flags != 0 || reserved != 0 {
            return Err(WireError::Value("a reserved field of a page record"));
        }
        let round = u16::try_from(round).ok().filter(|round| *round > 0);
        let round = round.ok_or(WireError::Value("the round of a page record"))?;
        Ok(Self { migration, round, content, first, count, covered, present, length, hash })
    }
}

/// What a page of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PagePlan {
    /// The page is zero.
    Zero {
        /// Its index.
        page: u64,
    },
    /// The page's content lies at this place of the record's content (after decompression).
    Content {
        /// Its index.
        page: u64,
        /// Bytes from the start of the content.
        offset: usize,
    },
}

impl PagePlan {
    /// The page's index.
    pub fn page(&self) -> u64 {
        match self {
            Self::Zero { page } | Self::Content { page, .. } => *page,
        }
    }
}

/// A record that belongs to this migration, covers only pages of its guest, and has the content that it announces; with its bytes, borrowed or
/// owned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValidatedRecord<B> {
    header: RecordHeader,
    bytes: B,
}

impl<B: AsRef<[u8]>> ValidatedRecord<B> {
    /// Reads a whole record of the migration of a guest with `pages` pages.
    ///
    /// # Errors
    /// The bytes are not exactly one such record.
    pub fn parse(bytes: B, migration: MigrationId, pages: u64) -> Result<Self, WireError> {
        let header = RecordHeader::decode(bytes.as_ref())?;
        if header.migration != migration {
            return Err(WireError::Value("the migration of a page record"));
        }
        let content = bytes.as_ref().get(HEADER_BYTES..).unwrap_or_default();
        if content.len() != header.content_bytes() {
            return Err(WireError::Value("the length of a page record"));
        }
        let pages_fit = match header.content {
            Content::Zeros => zeros_are_consistent(&header, pages),
            Content::Raw | Content::Lz4 => window_is_consistent(&header, pages),
        };
        if pages_fit { Ok(Self { header, bytes }) } else { Err(WireError::Value("the pages of a page record")) }
    }

    /// The round that the pages belong to.
    pub fn round(&self) -> RoundNumber {
        self.header.round
    }

    /// How many pages it covers.
    pub fn count(&self) -> u64 {
        u64::from(self.header.count)
    }

    /// How the content is written.
    pub fn content(&self) -> Content {
        self.header.content
    }

    /// The content as it travelled.
    pub fn content_bytes(&self) -> &[u8] {
        self.bytes.as_ref().get(HEADER_BYTES..).unwrap_or_default()
    }

    /// Bytes of the content after decompression, at most 256 KiB.
    pub fn raw_bytes(&self) -> usize {
        self.header.present.count_ones() as usize * PAGE_BYTES
    }

    /// What each covered page is, ascending.
    pub fn pages(&self) -> impl Iterator<Item = PagePlan> + use<B> {
        let header = self.header;
        let stretch = if header.content == Content::Zeros { u64::from(header.count) } else { 0 };
        let zeros = (header.first..header.first + stretch).map(|page| PagePlan::Zero { page });
        let mut offset = 0;
        let window = bits(header.covered).map(move |bit| {
            let page = header.first + bit;
            if header.present >> bit & 1 == 0 {
                return PagePlan::Zero { page };
            }
            offset += PAGE_BYTES;
            PagePlan::Content { page, offset: offset - PAGE_BYTES }
        });
        zeros.chain(window)
    }

    /// Whether the hashes of what was stored, of all covered pages in ascending order, are those that were sent.
    pub fn proves(&self, hashes: impl IntoIterator<Item = PageHash>) -> bool {
        self.header.content == Content::Zeros || self.header.hash == PageHash::of_all(hashes)
    }
}

fn zeros_are_consistent(header: &RecordHeader, pages: u64) -> bool {
    let end = header.first.checked_add(u64::from(header.count));
    header.count > 0
        && header.count <= ZEROS_MAX
        && end.is_some_and(|end| end <= pages)
        && header.covered == 0
        && header.present == 0
        && header.length == 0
}

fn window_is_consistent(header: &RecordHeader, pages: u64) -> bool {
    if header.covered == 0 || header.present & !header.covered != 0 {
        return false;
    }
    let last = WINDOW_PAGES - 1 - u64::from(header.covered.leading_zeros());
    let raw = header.present.count_ones() * PAGE_BYTES as u32;
    let length_fits = match header.content {
        Content::Lz4 => header.length > 0 && header.length < raw,
        _ => header.length == raw,
    };
    header.first.is_multiple_of(WINDOW_PAGES)
        && header.first.checked_add(last).is_some_and(|last| last < pages)
        && header.count == header.covered.count_ones()
        && length_fits
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIGRATION: MigrationId = MigrationId(0x1234);
    const WINDOW: Window = Window { first: 128, pages: 0b1011 };

    fn record() -> Vec<u8> {
        let hashes = [PageHash(1), PageHash::zero(), PageHash(3)];
        let header = RecordHeader::window(MIGRATION, 2, WINDOW, 0b10, hashes);
        let mut bytes = header.encode().to_vec();
        bytes.resize(HEADER_BYTES + header.content_bytes(), 7);
        bytes
    }

    #[test]
    fn a_record_names_each_page_and_where_its_content_lies() {
        let bytes = record();
        let record = ValidatedRecord::parse(&bytes, MIGRATION, 1000).unwrap();
        let pages: Vec<_> = record.pages().collect();
        let content = |page, offset| PagePlan::Content { page, offset };
        assert_eq!(pages, [content(128, 0), PagePlan::Zero { page: 129 }, content(131, 4096)]);
        assert_eq!((record.round(), record.raw_bytes()), (2, 8192));
        assert!(record.proves([PageHash(1), PageHash::zero(), PageHash(3)]));
        assert!(!record.proves([PageHash(1), PageHash::zero(), PageHash(4)]));
    }

    #[test]
    fn a_stretch_of_zeros_costs_no_content() {
        let bytes = RecordHeader::zeros(MIGRATION, 1, 5, 1000).encode();
        let record = ValidatedRecord::parse(&bytes, MIGRATION, 1005).unwrap();
        assert_eq!(record.pages().count(), 1000);
        assert_eq!(record.pages().next(), Some(PagePlan::Zero { page: 5 }));
        assert!(ValidatedRecord::parse(&bytes, MIGRATION, 1004).is_err(), "one page too many");
    }

    #[test]
    fn a_record_of_another_migration_or_beyond_the_guests_memory_is_refused() {
        let bytes = record();
        assert!(ValidatedRecord::parse(&bytes, MigrationId(9), 1000).is_err());
        assert!(ValidatedRecord::parse(&bytes, MIGRATION, 131).is_err());
        assert!(ValidatedRecord::parse(&bytes, MIGRATION, 132).is_ok());
        assert!(ValidatedRecord::parse(&bytes[..bytes.len() - 1], MIGRATION, 1000).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_record_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = ValidatedRecord::parse(&bytes, MIGRATION, 1000);
        }

        #[test]
        fn a_record_with_any_damaged_header_never_covers_a_page_outside(
            at in 4usize..HEADER_BYTES, value in any::<u8>(), pages in 1u64..200,
        ) {
            let mut bytes = record();
            bytes[at] = value;
            if let Ok(record) = ValidatedRecord::parse(&bytes, MIGRATION, pages) {
                prop_assert!(record.pages().all(|plan| plan.page() < pages));
                let last = record.pages().last();
                if let (Some(PagePlan::Content { offset, .. }), Content::Raw) = (last, record.content()) {
                    prop_assert!(offset + PAGE_BYTES <= record.content_bytes().len());
                }
            }
        }

        #[test]
        fn a_header_survives_the_journey(
            round in 1u16.., word in 0u64..1000, covered in 1u64.., zero in any::<u64>(), length in 0usize..300_000,
        ) {
            let window = Window { first: word * 64, pages: covered };
            let header = RecordHeader::window(MIGRATION, round, window, zero, [PageHash(5)]).compressed(length);
            prop_assert_eq!(RecordHeader::decode(&header.encode()), Ok(header));
        }
    }
}
