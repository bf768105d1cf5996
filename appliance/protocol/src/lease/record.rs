//! The records of a lease area: its header, a host's sign of life, and a host's Disk Paxos block.

use model::names::HostName;

use super::identity::{AreaId, Ballot, BootId, Epoch, Generation, HostId, Incarnation, Slot, Tenancy, Value};
use super::layout::Geometry;
use super::sector::{Reader, Record, Writer};

/// The first sector of an area.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AreaHeader {
    /// Random, made with the area.
    pub area: AreaId,
    /// How often the area was made anew over an older one, from 1.
    pub generation: u64,
    /// How the area is laid out.
    pub geometry: Geometry,
    /// The host that made it, for people.
    pub made_by: String,
}

impl Record for AreaHeader {
    const KIND: u8 = b'A';
    const VERSION: u8 = 1;

    fn write(&self, body: &mut Writer<'_>) {
        body.u128(self.area.0);
        body.u64(self.generation);
        body.u32(self.geometry.stride());
        body.u16(self.geometry.slots());
        body.u16(self.geometry.vms());
        body.text(&self.made_by);
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        let (area, generation) = (AreaId(body.u128()?), body.u64()?);
        let geometry = Geometry::new(body.u32()?, body.u16()?, body.u16()?)?;
        Some(Self { area, generation, geometry, made_by: body.text()? })
    }
}

/// What resets a host whose `lease` role stops feeding it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Watchdog {
    /// Nothing: whoever takes over waits for the storage's own fence.
    #[default]
    None,
    /// The kernel's softdog: it helps against a dead role, not against a dead kernel.
    Software,
    /// A timer in the hardware.
    Hardware,
}

/// How many lives of others a host can declare dead in its record at once.
pub const DECLARED_MAX: usize = 16;

/// A host's sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRecord {
    /// Random, the host's own.
    pub host: HostId,
    /// Of this boot.
    pub boot: BootId,
    /// The life that writes this.
    pub generation: Generation,
    /// The host's name: it finds its slot again by it.
    pub name: HostName,
    /// When the write of this record began, nanoseconds on the writer's own clock. Others only see that it changes.
    pub renewed_at: u64,
    /// The expiry that this host counts on, milliseconds. A host that is configured otherwise must not join.
    pub expiry_ms: u32,
    /// What resets this host if its lease process hangs.
    pub watchdog: Watchdog,
    /// The host left in order: its VMs are stopped and it will write nothing more in this life.
    pub left: bool,
    /// Lives of others that this host saw expire lately. A host that finds its own life here was frozen: it fences.
    pub declared_dead: Vec<(Slot, Generation)>,
}

impl HostRecord {
    /// The incarnation that writes this record in `slot`.
    pub fn incarnation(&self, slot: Slot) -> Incarnation {
        Incarnation { slot, generation: self.generation, host: self.host }
    }
}

impl Record for HostRecord {
    const KIND: u8 = b'H';
    const VERSION: u8 = 1;

    fn write(&self, body: &mut Writer<'_>) {
        body.u128(self.host.0);
        body.u128(self.boot.0);
        body.u64(self.generation.0);
        body.text(self.name.as_str());
        body.u64(self.renewed_at);
        body.u32(self.expiry_ms);
        body.u8(match self.watchdog {
            Watchdog::None => 0,
            Watchdog::Software => 1,
            Watchdog::Hardware => 2,
        });
        body.u8(u8::from(self.left));
        let declared = &self.declared_dead[..self.declared_dead.len().min(DECLARED_MAX)];
        body.u8(declared.len() as u8);
        for (slot, generation) in declared {
            body.u16(slot.0);
            body.u64(generation.0);
        }
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        let (host, boot, generation) = (HostId(body.u128()?), BootId(body.u128()?), Generation(body.u64()?));
        if generation.0 >= 1 << 62 {
            return None;
        }
        let name = body.text()?.parse().ok()?;
        let (renewed_at, expiry_ms) = (body.u64()?, body.u32()?);
        let watchdog = match body.u8()? {
            0 => Watchdog::None,
            1 => Watchdog::Software,
            2 => Watchdog::Hardware,
            _ => return None,
        };
        let left = body.u8()? == 1;
        let count = usize::from(body.u8()?);
        if count > DECLARED_MAX {
            return None;
        }
        let declared_dead =
            (0..count).map(|_| Some((Slot(body.u16()?), Generation(body.u64()?)))).collect::<Option<_>>()?;
        Some(Self { host, boot, generation, name, renewed_at, expiry_ms, watchdog, left, declared_dead })
    }
}

/// A host's block in the Disk Paxos of one VM's lease, or of the directory (Gafni and Lamport, "Disk Paxos",
/// figure 1: `mbal`, `bal`, `inp`), with what is already decided carried along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The use of this place that the block belongs to; blocks of an older use mean nothing.
    pub tenancy: Tenancy,
    /// The instance that `promised` and `accepted` speak of.
    pub epoch: Epoch,
    /// The highest ballot that this host entered (`mbal`).
    pub promised: Ballot,
    /// The highest ballot in which this host wrote a value, and the value (`bal`, `inp`).
    pub accepted: Option<(Ballot, Value)>,
    /// The last epoch that this host knows to be decided, and its value: `epoch` or the one before.
    pub decided: Option<(Epoch, Value)>,
    /// As a holder, this host gave up this epoch and all before it.
    pub given_up: Epoch,
    /// Since when this host holds the VM without a break, if it does: seconds since 1970 on its own wall clock, 0 where that
    /// is not known. For people: nothing is decided by it.
    pub held_since: u64,
}

impl Block {
    /// The block of a host that never took part.
    pub fn blank(tenancy: Tenancy) -> Self {
        Self {
            tenancy,
            epoch: Epoch(0),
            promised: Ballot::NONE,
            accepted: None,
            decided: None,
            given_up: Epoch(0),
            held_since: 0,
        }
    }
}

impl Record for Block {
    const KIND: u8 = b'B';
    const VERSION: u8 = 1;

    fn write(&self, body: &mut Writer<'_>) {
        body.u64(self.tenancy.0);
        body.u64(self.epoch.0);
        body.u64(self.promised.0);
        body.u64(self.accepted.map_or(0, |(ballot, _)| ballot.0));
        write_value(body, self.accepted.map(|(_, value)| value));
        body.u64(self.decided.map_or(0, |(epoch, _)| epoch.0));
        write_value(body, self.decided.map(|(_, value)| value));
        body.u64(self.given_up.0);
        // Builds that did not know it wrote zeros here.
        body.u64(self.held_since);
    }

    fn read(body: &mut Reader<'_>) -> Option<Self> {
        let (tenancy, epoch, promised) = (Tenancy(body.u64()?), Epoch(body.u64()?), Ballot(body.u64()?));
        let (ballot, value) = (Ballot(body.u64()?), read_value(body)?);
        let accepted = value.map(|value| (ballot, value));
        let (decided_epoch, decided) = (Epoch(body.u64()?), read_value(body)?);
        let decided = decided.map(|value| (decided_epoch, value));
        let (given_up, held_since) = (Epoch(body.u64()?), body.u64()?);
        // Counters that no history can reach would overflow in whoever goes on counting from them.
        let possible = |counter: u64| counter < 1 << 62;
        let in_order = ballot <= promised && decided_epoch <= epoch && given_up <= epoch;
        let in_order = in_order && possible(epoch.0) && possible(promised.0);
        in_order.then_some(Self { tenancy, epoch, promised, accepted, decided, given_up, held_since })
    }
}

fn write_value(body: &mut Writer<'_>, value: Option<Value>) {
    match value {
        None => body.bytes(&[0; 27]),
        Some(Value::Holder(Incarnation { slot, generation, host })) => {
            body.u8(1);
            body.u16(slot.0);
            body.u64(generation.0);
            body.u128(host.0);
        }
        Some(Value::Table { author, copy, digest }) => {
            body.u8(2);
            body.u16(author.0);
            body.u64(u64::from(copy));
            body.u128(digest);
        }
    }
}

fn read_value(body: &mut Reader<'_>) -> Option<Option<Value>> {
    let (kind, slot, number, wide) = (body.u8()?, Slot(body.u16()?), body.u64()?, body.u128()?);
    match kind {
        0 => Some(None),
        1 => Some(Some(Value::Holder(Incarnation { slot, generation: Generation(number), host: HostId(wide) }))),
        2 if number < 2 => Some(Some(Value::Table { author: slot, copy: number as u8, digest: wide })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sector::{Content, SECTOR_BYTES, decode, encode};
    use super::*;

    const AREA: AreaId = AreaId(0x1234_5678_9abc_def0);

    fn holder() -> impl Strategy<Value = Value> {
        (any::<u16>(), any::<u64>(), any::<u128>()).prop_map(|(slot, generation, host)| {
            Value::Holder(Incarnation { slot: Slot(slot), generation: Generation(generation), host: HostId(host) })
        })
    }

    fn value() -> impl Strategy<Value = Value> {
        let table = (any::<u16>(), 0..2_u8, any::<u128>()).prop_map(|(author, copy, digest)| Value::Table {
            author: Slot(author),
            copy,
            digest,
        });
        prop_oneof![holder(), table]
    }

    fn block() -> impl Strategy<Value = Block> {
        let counters = (any::<u64>(), 1..1_u64 << 40, 1..1_u64 << 60, any::<bool>());
        (counters, value(), value(), any::<bool>()).prop_map(|((tenancy, epoch, ballot, voted), a, d, known)| Block {
            tenancy: Tenancy(tenancy),
            epoch: Epoch(epoch),
            promised: Ballot(ballot),
            accepted: voted.then_some((Ballot(ballot / 2), a)),
            decided: known.then_some((Epoch(epoch - 1), d)),
            given_up: Epoch(epoch / 2),
            held_since: ballot,
        })
    }

    fn host() -> impl Strategy<Value = HostRecord> {
        let ids = (any::<u128>(), any::<u128>(), 0..1_u64 << 50, any::<u64>());
        let declared = prop::collection::vec((any::<u16>(), any::<u64>()), 0..=DECLARED_MAX);
        (ids, "[a-z][a-z0-9]{0,46}", any::<bool>(), declared).prop_map(|((host, boot, life, at), name, left, dead)| {
            HostRecord {
                host: HostId(host),
                boot: BootId(boot),
                generation: Generation(life),
                name: name.parse().expect("a name"),
                renewed_at: at,
                expiry_ms: at as u32,
                watchdog: Watchdog::Hardware,
                left,
                declared_dead: dead.into_iter().map(|(slot, life)| (Slot(slot), Generation(life))).collect(),
            }
        })
    }

    proptest! {
        #[test]
        fn a_record_survives_its_bytes(block in block(), host in host(), sequence in 0..1_u64 << 61, offset: u64) {
            let bytes = encode(&block, sequence, AREA, offset);
            prop_assert_eq!(decode::<Block>(&bytes, AREA, offset), Content::Valid(sequence, block));
            let bytes = encode(&host, sequence, AREA, offset);
            prop_assert_eq!(decode::<HostRecord>(&bytes, AREA, offset), Content::Valid(sequence, host));
        }

        #[test]
        fn a_damaged_torn_or_astray_sector_is_never_believed(
            before in block(), after in block(), at in 0..SECTOR_BYTES, flip in 1..=255_u8, offset in 0..1_u64 << 40,
        ) {
            let old = encode(&before, 4, AREA, offset);
            let new = encode(&after, 6, AREA, offset);
            let mut damaged = new;
            damaged[at] ^= flip;
            prop_assert_eq!(decode::<Block>(&damaged, AREA, offset), Content::Garbage);
            let mut torn = old;
            torn[..at].copy_from_slice(&new[..at]);
            let believed = decode::<Block>(&torn, AREA, offset);
            let whole = [Content::Valid(4, before), Content::Valid(6, after), Content::Garbage];
            prop_assert!(whole.contains(&believed));
            prop_assert_eq!(decode::<Block>(&new, AREA, offset + 512), Content::Garbage);
            prop_assert_eq!(decode::<Block>(&new, AreaId(7), offset), Content::Garbage);
            prop_assert_eq!(decode::<HostRecord>(&new, AREA, offset), Content::Garbage);
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            let _ = decode::<Block>(&bytes, AREA, 0);
            let _ = decode::<AreaHeader>(&bytes, AREA, 0);
            // Bodies behind a good checksum are as hostile: a host may be broken, not only the disk.
            let mut reader = Reader::new(&bytes);
            let _ = Block::read(&mut reader);
            let _ = HostRecord::read(&mut Reader::new(&bytes));
            let _ = AreaHeader::read(&mut Reader::new(&bytes));
        }
    }
}
