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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::identity::Tenancy;
    use super::super::layout::Geometry;
    use super::super::record::Block;
    use super::*;

    const AREA: AreaId = AreaId(9);

    fn put(bytes: &mut [u8], bank: Bank, sequence: u64, tenancy: u64, torn_at: usize) {
        let (offset, data) = write(bank, AREA, Slot(1), sequence, &Block::blank(Tenancy(tenancy)));
        let start = (offset - bank.extent().offset) as usize;
        let landed = torn_at.min(data.len());
        bytes[start..start + landed].copy_from_slice(&data[..landed]);
    }

    proptest! {
        #[test]
        fn a_torn_write_leaves_the_value_before_it(
            stride in prop_oneof![Just(512_u32), Just(4_096)], writes in 1..6_u64, torn_at in 0..513_usize,
        ) {
            let bank = Geometry::new(stride, 3, 1).expect("valid").vm(super::super::layout::Place(0));
            let mut bytes = vec![0; bank.extent().bytes];
            for sequence in 1..writes {
                put(&mut bytes, bank, sequence, sequence, usize::MAX);
            }
            put(&mut bytes, bank, writes, writes, torn_at);
            let register = read::<Block>(bank, AREA, Slot(1), &bytes).expect("one copy is whole");
            let seen = register.value.map_or(0, |block| block.tenancy.0);
            prop_assert!(seen == writes || seen == writes - 1);
            prop_assert_eq!(register.sequence, seen);
        }
    }

    #[test]
    fn a_register_that_is_lost_is_not_taken_for_an_empty_one() {
        let bank = Geometry::new(512, 3, 1).expect("valid").hosts();
        let mut bytes = vec![0; bank.extent().bytes];
        put(&mut bytes, bank, 1, 1, usize::MAX);
        put(&mut bytes, bank, 2, 2, usize::MAX);
        let start = 2 * 512;
        bytes[start..start + 1_024].fill(0xa5);
        assert_eq!(read::<Block>(bank, AREA, Slot(1), &bytes), Err(Corrupt(Slot(1))));
        assert!(read::<Block>(bank, AREA, Slot(1), &[]).is_err());
    }
}
