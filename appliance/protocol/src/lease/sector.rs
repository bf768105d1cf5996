//! The bytes: 512-byte records with a kind, a version, a sequence number and a checksum that knows its place.
//!
//! ```text
//!   0  magic "GODWIT"   6  kind   7  version   8  sequence   16  body ...   504  xxh3-64 of 0..504
//! ```
//! The checksum is seeded with the area's identity and the record's offset, so a write that went astray, or a piece
//! of another area, reads as garbage. All zero means that nothing was ever written. Numbers are little-endian.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::identity::AreaId;

/// Bytes of a record. Records stand at strides of 512 or 4096 bytes, as the storage's logical block size wants.
pub const SECTOR_BYTES: usize = 512;
/// The bytes of a record.
pub type Sector = [u8; SECTOR_BYTES];

const MAGIC: &[u8; 6] = b"GODWIT";
const BODY: usize = 16;
const CHECKSUM: usize = SECTOR_BYTES - 8;

/// Something that has a place in a sector.
pub trait Record: Sized {
    /// Tells records of different meaning apart.
    const KIND: u8;
    /// The version that is written, and the highest that is read.
    const VERSION: u8;

    /// Writes the fields in order.
    fn write(&self, body: &mut Writer<'_>);
    /// Reads the fields in order; none if they mean nothing.
    fn read(body: &mut Reader<'_>) -> Option<Self>;
}

/// What a sector holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<R> {
    /// Nothing was ever written here.
    Empty,
    /// Torn, corrupt, astray, or of a later version.
    Garbage,
    /// A record and its sequence number.
    Valid(u64, R),
}

/// The sector that holds `record` as write number `sequence` at byte `offset` of the area.
pub fn encode<R: Record>(record: &R, sequence: u64, area: AreaId, offset: u64) -> Sector {
    let mut sector = [0; SECTOR_BYTES];
    sector[..6].copy_from_slice(MAGIC);
    sector[6] = R::KIND;
    sector[7] = R::VERSION;
    sector[8..16].copy_from_slice(&sequence.to_le_bytes());
    record.write(&mut Writer { rest: &mut sector[BODY..CHECKSUM] });
    let sum = checksum(&sector, area, offset);
    sector[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
    sector
}

/// What the first 512 of `bytes`, read at `offset` of the area, hold. Never panics, whatever they are.
pub fn decode<R: Record>(bytes: &[u8], area: AreaId, offset: u64) -> Content<R> {
    let Some(sector) = bytes.first_chunk::<SECTOR_BYTES>() else { return Content::Garbage };
    if is_zero(sector) {
        return Content::Empty;
    }
    let sum = u64::from_le_bytes(std::array::from_fn(|i| sector[CHECKSUM + i]));
    let ours = sector[..6] == *MAGIC && sector[6] == R::KIND && (1..=R::VERSION).contains(&sector[7]);
    if !ours || sum != checksum(sector, area, offset) {
        return Content::Garbage;
    }
    let sequence = u64::from_le_bytes(std::array::from_fn(|i| sector[8 + i]));
    match R::read(&mut Reader { rest: &sector[BODY..CHECKSUM] }) {
        // A number that nobody can have counted to would overflow in whoever counts on.
        Some(record) if sequence < 1 << 62 => Content::Valid(sequence, record),
        _ => Content::Garbage,
    }
}

fn is_zero(sector: &Sector) -> bool {
    sector.chunks_exact(64).all(|chunk| chunk.iter().fold(0, |or, byte| or | byte) == 0)
}

fn checksum(sector: &Sector, area: AreaId, offset: u64) -> u64 {
    let seed = (area.0 as u64) ^ ((area.0 >> 64) as u64) ^ offset;
    xxh3_64_with_seed(&sector[..CHECKSUM], seed)
}

/// Puts fields one after another. A record that does not fit is a mistake of its author, caught by the round-trip
/// tests: what does not fit is left out.
pub struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    /// Writes into these bytes.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let taken = std::mem::take(&mut self.rest);
        let (now, rest) = taken.split_at_mut(bytes.len().min(taken.len()));
        now.copy_from_slice(&bytes[..now.len()]);
        self.rest = rest;
    }

    /// A byte.
    pub fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    /// Sixteen bytes.
    pub fn u128(&mut self, value: u128) {
        self.bytes(&value.to_le_bytes());
    }

    /// A text of at most 48 bytes, in 49.
    pub fn text(&mut self, text: &str) {
        let mut field = [0; 49];
        let length = text.len().min(48);
        field[0] = length as u8;
        field[1..=length].copy_from_slice(&text.as_bytes()[..length]);
        self.bytes(&field);
    }
}

/// Takes fields one after another; none at the end.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads these bytes.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// So many bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (now, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*now)
    }

    /// A byte.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// Sixteen bytes.
    pub fn u128(&mut self) -> Option<u128> {
        self.array().map(u128::from_le_bytes)
    }

    /// A text as [`Writer::text`] wrote it.
    pub fn text(&mut self) -> Option<String> {
        let field = self.array::<49>()?;
        let text = field.get(1..=usize::from(field[0]))?;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }
}
