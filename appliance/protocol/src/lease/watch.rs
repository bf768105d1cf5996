//! Watching the lives of the others.
//!
//! No clock of another host is trusted, only that its register changes. A life has expired when two successful reads,
//! the first ended and the second begun at least the expiry apart on this host's own clock, saw the register's bytes
//! unchanged. Counting from the *end* of the first and to the *start* of the second is what makes this host's own
//! delayed reads harmless (sanlock 1d8cda209 learned it the hard way).

use model::limits;
use model::names::HostName;
use xxhash_rust::xxh3::xxh3_128;

use super::identity::{Generation, Incarnation, Slot};
use super::layout::Area;
use super::record::{HostRecord, Watchdog};
use super::register::{self, Register};
use crate::time::{Duration, Instant};

/// A host lease that an observer saw unchanged for this long has expired.
pub const EXPIRY: Duration = Duration::from_millis(limits::LEASE_EXPIRY_MS);

/// Why a life is over for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Death {
    /// The host left in order.
    Left,
    /// The slot has a later life.
    Superseded,
    /// Its register did not change for the expiry.
    Expired,
    /// A person said so.
    Forced,
}

/// What an observer may say of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Life {
    /// It is over for good: it runs nothing any more and never will.
    Over(Death),
    /// Its register changed less than the expiry ago, or has not been watched for long enough.
    Alive {
        /// Milliseconds for which it has been seen unchanged.
        silent_ms: u64,
    },
    /// It looks expired, but the last look is older than what the asker knows: one fresh read decides.
    LookAgain,
}

/// One slot as this host last saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What the register holds; none if nothing or nothing readable.
    pub record: Option<HostRecord>,
    /// It changed since this host first looked.
    pub changed: bool,
    /// The sequence number of its newest write.
    pub sequence: u64,
    /// Both copies are garbage.
    pub corrupt: bool,
    digest: u128,
    unchanged_since: Instant,
}

/// All slots of one area, as read by this host. Feed it with every successful read of the host bank.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    seen: Vec<Seen>,
    last_read_began: Option<Instant>,
}

impl Watch {
    /// Takes in a successful read of the whole host bank that began at `began` and ended at or before `now`.
    pub fn observe(&mut self, area: Area, began: Instant, now: Instant, bytes: &[u8]) {
        let bank = area.geometry.hosts();
        let mut all = Vec::with_capacity(usize::from(bank.slots()));
        for slot in (0..bank.slots()).map(Slot) {
            let digest = register::raw(bank, slot, bytes).map_or(0, xxh3_128);
            if let Some(before) = self.seen.get(usize::from(slot.0)).filter(|before| before.digest == digest) {
                all.push(before.clone());
                continue;
            }
            let changed = !self.seen.is_empty();
            let (register, corrupt) = match register::read::<HostRecord>(bank, area.id, slot, bytes) {
                Ok(register) => (register, false),
                Err(_) => (Register { sequence: 0, value: None }, true),
            };
            let Register { sequence, value: record } = register;
            all.push(Seen { record, changed, sequence, corrupt, digest, unchanged_since: now });
        }
        self.seen = all;
        self.last_read_began = Some(began);
    }

    /// All slots in order.
    pub fn slots(&self) -> impl Iterator<Item = (Slot, &Seen)> + Clone {
        self.seen.iter().enumerate().map(|(slot, seen)| (Slot(slot as u16), seen))
    }

    /// One slot.
    pub fn slot(&self, slot: Slot) -> Option<&Seen> {
        self.seen.get(usize::from(slot.0))
    }

    /// What is known of the life `who`, for somebody who learned of it at `learned_at`: only a look that began after
    /// that counts as proof of its expiry, because the life may have been older than what it was seen to do.
    pub fn life(&self, who: Incarnation, learned_at: Instant) -> Life {
        let (Some(seen), Some(began)) = (self.slot(who.slot), self.last_read_began) else {
            return Life::LookAgain;
        };
        if let Some(record) = &seen.record {
            if record.generation > who.generation {
                return Life::Over(Death::Superseded);
            }
            if record.generation == who.generation && record.left {
                return Life::Over(Death::Left);
            }
        }
        let silent = began.since(seen.unchanged_since);
        // A host of another build may count on another expiry: the longer one is safe for both.
        let theirs = seen.record.as_ref().map_or(EXPIRY, |record| Duration::from_millis(record.expiry_ms.into()));
        match (silent >= EXPIRY.max(theirs), began >= learned_at) {
            (false, _) => Life::Alive { silent_ms: silent.millis() },
            (true, false) => Life::LookAgain,
            (true, true) => Life::Over(Death::Expired),
        }
    }

    /// The name and the watchdog that the life `who` published, if the slot still shows it.
    pub fn published(&self, who: Incarnation) -> Option<(HostName, Watchdog)> {
        let record = self.slot(who.slot)?.record.as_ref()?;
        (record.generation == who.generation).then(|| (record.name.clone(), record.watchdog))
    }

    /// Whether some living host has declared this life dead: it was frozen and does not know.
    pub fn declared_dead(&self, slot: Slot, generation: Generation) -> bool {
        let records = self.seen.iter().filter_map(|seen| seen.record.as_ref());
        records.flat_map(|record| &record.declared_dead).any(|declared| *declared == (slot, generation))
    }
}

#[cfg(test)]
mod tests {
    use super::super::identity::{AreaId, BootId, HostId};
    use super::super::layout::Geometry;
    use super::*;

    const AREA: AreaId = AreaId(7);

    fn area() -> Area {
        Area { id: AREA, geometry: Geometry::new(512, 2, 1).expect("valid") }
    }

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    fn bytes(sequence: u64, generation: u64, left: bool) -> Vec<u8> {
        bytes_of(sequence, generation, left, 0)
    }

    fn bytes_of(sequence: u64, generation: u64, left: bool, expiry_ms: u32) -> Vec<u8> {
        let bank = area().geometry.hosts();
        let record = HostRecord {
            host: HostId(1),
            boot: BootId(1),
            generation: Generation(generation),
            name: "host-a".parse().expect("a name"),
            renewed_at: sequence,
            expiry_ms,
            watchdog: Watchdog::None,
            left,
            declared_dead: vec![],
        };
        let (offset, data) = register::write(bank, AREA, Slot(0), sequence, &record);
        let mut bytes = vec![0; bank.extent().bytes];
        let start = (offset - bank.extent().offset) as usize;
        bytes[start..start + data.len()].copy_from_slice(&data);
        bytes
    }

    const WHO: Incarnation = Incarnation { slot: Slot(0), generation: Generation(1), host: HostId(1) };

    #[test]
    fn a_delayed_read_of_my_own_never_kills_a_live_host() {
        let mut watch = Watch::default();
        // The first read took long: what counts is when it ended, not when it began.
        watch.observe(area(), at(0), at(9_000), &bytes(1, 1, false));
        watch.observe(area(), at(12_500), at(12_501), &bytes(1, 1, false));
        assert_eq!(watch.life(WHO, at(0)), Life::Alive { silent_ms: 3_500 });
        // The second began early and ended late: what counts is when it began.
        watch.observe(area(), at(20_900), at(30_000), &bytes(1, 1, false));
        assert_eq!(watch.life(WHO, at(0)), Life::Alive { silent_ms: 11_900 });
        watch.observe(area(), at(31_000), at(31_001), &bytes(1, 1, false));
        assert_eq!(watch.life(WHO, at(0)), Life::Over(Death::Expired));
    }

    #[test]
    fn a_host_that_counts_on_a_longer_expiry_is_given_it() {
        let mut watch = Watch::default();
        let longer = limits::LEASE_EXPIRY_MS + 5_000;
        for ms in [0, longer - 1, longer] {
            watch.observe(area(), at(ms), at(ms), &bytes_of(1, 1, false, longer as u32));
            let over = watch.life(WHO, at(0)) == Life::Over(Death::Expired);
            assert_eq!(over, ms >= longer, "after {ms} ms");
        }
    }

    #[test]
    fn an_old_look_proves_nothing_to_who_learned_of_the_holder_later() {
        let mut watch = Watch::default();
        watch.observe(area(), at(0), at(1), &bytes(1, 1, false));
        watch.observe(area(), at(20_000), at(20_001), &bytes(1, 1, false));
        assert_eq!(watch.life(WHO, at(20_500)), Life::LookAgain);
    }

    #[test]
    fn a_life_that_left_or_has_a_successor_is_over_at_once() {
        let mut watch = Watch::default();
        watch.observe(area(), at(0), at(1), &bytes(1, 1, true));
        assert_eq!(watch.life(WHO, at(5)), Life::Over(Death::Left));
        watch.observe(area(), at(10), at(11), &bytes(2, 2, false));
        assert_eq!(watch.life(WHO, at(15)), Life::Over(Death::Superseded));
    }
}
