//! A register: two sectors written in turn, read as one value.
//!
//! Write number n goes to sector n mod 2. A write that was torn, or is under way, leaves the value before it readable
//! in the other sector, so a register is atomic although a sector is not. A write that was reported as done is never
//! torn; so garbage beside a valid sector is a write that never ended, and is passed over. A write that failed is
//! tried again under the same number: going on to the other sector would put the last good value at risk.

use super::identity::{AreaId, Slot};
use super::layout::{Bank, Extent};
use super::sector::{Content, Record, decode, encode};

/// The newest value of a register with its sequence number (0 and none: never written).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register<R> {
    /// How often it was written, as far as can be seen.
    pub sequence: u64,
    /// What was written last.
    pub value: Option<R>,
}

/// Both sectors of a register are garbage: what it held is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("both copies of the record of slot {0} are corrupt")]
pub struct Corrupt(pub Slot);

/// The register of `slot` in `bytes`, which were read from the whole `bank`.
///
/// # Errors
/// [`Corrupt`] if no sector of it can be believed.
pub fn read<R: Record>(bank: Bank, area: AreaId, slot: Slot, bytes: &[u8]) -> Result<Register<R>, Corrupt> {
    let sectors = raw(bank, slot, bytes).ok_or(Corrupt(slot))?;
    let copy = |n: u64| {
        let Extent { offset, .. } = bank.sector(slot, n);
        decode::<R>(&sectors[n as usize * bank.stride()..], area, offset)
    };
    let register = |sequence, value| Ok(Register { sequence, value });
    match (copy(0), copy(1)) {
        (Content::Valid(a, even), Content::Valid(b, _)) if a > b => register(a, Some(even)),
        (Content::Valid(..), Content::Valid(b, odd)) => register(b, Some(odd)),
        (Content::Valid(sequence, value), _) | (_, Content::Valid(sequence, value)) => register(sequence, Some(value)),
        // The first write of all, number 1, goes to the odd sector: there it may be torn.
        (Content::Empty, _) => register(0, None),
        (Content::Garbage, _) => Err(Corrupt(slot)),
    }
}

/// The bytes of the register of `slot`, both sectors; none if `bytes` are too few.
pub fn raw(bank: Bank, slot: Slot, bytes: &[u8]) -> Option<&[u8]> {
    let start = usize::from(slot.0) * 2 * bank.stride();
    bytes.get(start..start + 2 * bank.stride())
}

/// Where write number `sequence` of `slot` goes, and its bytes (a whole stride).
pub fn write<R: Record>(bank: Bank, area: AreaId, slot: Slot, sequence: u64, value: &R) -> (u64, Vec<u8>) {
    let Extent { offset, bytes } = bank.sector(slot, sequence);
    let mut data = encode(value, sequence, area, offset).to_vec();
    data.resize(bytes, 0);
    (offset, data)
}
