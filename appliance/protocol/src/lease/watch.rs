//! Watching the lives of the others.
//!
//! No clock of another host is trusted, only that its register changes. A life has expired when two successful reads,
//! the first ended and the second begun at least the expiry apart on this host's own clock, saw the register's bytes
//! unchanged. Counting from the *end* of the first and to the *start* of the second is what makes this host's own
//! delayed reads harmless (sanlock 1d8cda209 learned it the hard way).

use std::collections::{BTreeMap, VecDeque};

use model::limits;
use model::names::HostName;
use xxhash_rust::xxh3::xxh3_128;

use super::identity::{BootId, Generation, HostId, Incarnation, Slot};
use super::layout::Area;
use super::record::{HostRecord, Watchdog};
use super::register::{self, Register};
use crate::time::{Duration, Instant};

/// A host lease that an observer saw unchanged for this long has expired.
pub const EXPIRY: Duration = Duration::from_millis(limits::LEASE_EXPIRY_MS);

/// How long a boot that died is told of: no server keeps what a silent client has for longer.
const DEAD_BOOTS_TOLD: Duration = Duration::from_secs(600);
/// How many boots are remembered whose slots have another by now.
const FORMER_MAX: usize = 64;

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

/// A boot of a host that is over without its having left in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadBoot {
    /// The host.
    pub host: HostId,
    /// The boot.
    pub boot: BootId,
    /// The host's name.
    pub name: HostName,
    /// Its slot shows a later boot of the same host.
    pub rebooted: bool,
    /// Its host, or one of its name, has a life of another boot that is not over: it is back, though it may have lost its identity.
    pub is_back: bool,
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
    /// The end of the look that first saw it so.
    pub unchanged_since: Instant,
    digest: u128,
}

/// All slots of one area, as read by this host. Feed it with every successful read of the host bank.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    seen: Vec<Seen>,
    /// Boots that did not leave in order and whose slots show another, with when that was seen first.
    former: VecDeque<(Slot, HostRecord, Instant)>,
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
            self.note_former(now, slot, record.as_ref());
            all.push(Seen { record, changed, sequence, corrupt, digest, unchanged_since: now });
        }
        self.seen = all;
        self.last_read_began = Some(began);
    }

    /// Takes note of the boot that a slot showed, where it shows another now.
    fn note_former(&mut self, now: Instant, slot: Slot, shown: Option<&HostRecord>) {
        let Some(before) = self.slot(slot).and_then(|seen| seen.record.as_ref()) else { return };
        if !before.left && shown.is_some_and(|shown| shown.boot != before.boot) {
            self.former.push_back((slot, before.clone(), now));
            if self.former.len() > FORMER_MAX {
                self.former.pop_front();
            }
        }
    }

    /// The boots that died lately: their last life has expired, or their slot shows another boot. Not those that left in order or live on in
    /// a later life.
    pub fn dead_boots(&self) -> Vec<DeadBoot> {
        let Some(looked) = self.last_read_began else { return Vec::new() };
        let shown = self.slots().filter_map(|(slot, seen)| Some((slot, seen, seen.record.as_ref()?)));
        let (expired, others): (Vec<_>, Vec<_>) = shown.partition(|(slot, _, shown)| {
            self.life(shown.incarnation(*slot), Instant::ZERO) == Life::Over(Death::Expired)
        });
        let expired = expired.into_iter().map(|(_, seen, record)| (record, seen.unchanged_since, false));
        let former = self.former.iter().map(|(slot, record, since)| {
            let shown = self.slot(*slot).and_then(|seen| seen.record.as_ref());
            (record, *since, shown.is_some_and(|shown| shown.host == record.host))
        });
        let mut dead = BTreeMap::new();
        for (record, since, rebooted) in former.chain(expired) {
            let lives_on = others.iter().any(|(_, _, other)| other.boot == record.boot);
            if !lives_on && looked.since(since) < DEAD_BOOTS_TOLD {
                let HostRecord { host, boot, ref name, .. } = *record;
                let is_back =
                    others.iter().any(|(_, _, other)| !other.left && (other.host == host || other.name == *name));
                dead.insert(boot, DeadBoot { host, boot, name: name.clone(), rebooted, is_back });
            }
        }
        dead.into_values().collect()
    }

    /// When the last successful look began.
    pub fn looked_at(&self) -> Option<Instant> {
        self.last_read_began
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
        written(sequence, HostRecord { generation: Generation(generation), expiry_ms, left, ..record(1) })
    }

    fn record(boot: u128) -> HostRecord {
        HostRecord {
            host: HostId(1),
            boot: BootId(boot),
            generation: Generation(1),
            name: "host-a".parse().expect("a name"),
            renewed_at: 0,
            expiry_ms: 0,
            watchdog: Watchdog::None,
            left: false,
            declared_dead: vec![],
        }
    }

    fn written(sequence: u64, record: HostRecord) -> Vec<u8> {
        let mut bytes = vec![0; area().geometry.hosts().extent().bytes];
        write(&mut bytes, Slot(0), sequence, &record);
        bytes
    }

    fn write(bytes: &mut [u8], slot: Slot, sequence: u64, record: &HostRecord) {
        let bank = area().geometry.hosts();
        let record = HostRecord { renewed_at: sequence, ..record.clone() };
        let (offset, data) = register::write(bank, AREA, slot, sequence, &record);
        let start = (offset - bank.extent().offset) as usize;
        bytes[start..start + data.len()].copy_from_slice(&data);
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

    /// A watch that sees this record at each of these moments.
    fn sees(watch: &mut Watch, looks: &[u64], generation: u64, record: &HostRecord) {
        let record = HostRecord { generation: Generation(generation), ..record.clone() };
        for ms in looks {
            watch.observe(area(), at(*ms), at(*ms), &written(generation, record.clone()));
        }
    }

    #[test]
    fn a_boot_is_dead_when_its_life_expired_or_its_slot_has_another_and_not_when_it_lives_on_or_left() {
        let dead =
            |watch: &Watch| watch.dead_boots().iter().map(|dead| (dead.boot.0, dead.rebooted)).collect::<Vec<_>>();
        let mut watch = Watch::default();
        sees(&mut watch, &[0], 1, &record(1));
        assert!(dead(&watch).is_empty(), "it was seen just now");
        sees(&mut watch, &[20_000], 1, &record(1));
        assert_eq!(dead(&watch), [(1, false)], "it has expired");
        // It was frozen, fenced its VMs and has a new life: another may not end what it has now.
        sees(&mut watch, &[21_000], 2, &record(1));
        assert!(dead(&watch).is_empty(), "it lives on");
        sees(&mut watch, &[22_000], 3, &record(2));
        assert_eq!(dead(&watch), [(1, true)], "it was reset");
        sees(&mut watch, &[50_000], 3, &record(2));
        assert_eq!(dead(&watch), [(1, true), (2, false)], "and died again");
        // Another host has its slot: that says nothing of where the boots before may live.
        sees(&mut watch, &[51_000], 4, &HostRecord { host: HostId(9), left: true, ..record(3) });
        sees(&mut watch, &[99_000], 4, &HostRecord { host: HostId(9), left: true, ..record(3) });
        assert_eq!(dead(&watch), [(1, false), (2, false)], "the third left in order");
        sees(&mut watch, &[99_500], 5, &HostRecord { host: HostId(9), ..record(4) });
        assert_eq!(dead(&watch), [(1, false), (2, false)], "and so it stays when another boot follows it");
        sees(&mut watch, &[700_000], 6, &HostRecord { host: HostId(9), ..record(4) });
        assert!(dead(&watch).is_empty(), "nobody keeps anything for them any more");
    }

    #[test]
    fn a_boot_that_died_is_told_from_its_host_when_that_is_back_though_it_lost_its_identity() {
        let is_back = |watch: &Watch| watch.dead_boots().iter().map(|dead| dead.is_back).collect::<Vec<_>>();
        let mut watch = Watch::default();
        sees(&mut watch, &[0, 20_000], 1, &record(1));
        assert_eq!(is_back(&watch), [false], "for all that is known it is dead, or lost its lease");
        sees(&mut watch, &[21_000], 2, &HostRecord { host: HostId(9), ..record(2) });
        assert_eq!(is_back(&watch), [true], "it was set up anew under its name");
        sees(&mut watch, &[22_000], 2, &HostRecord { host: HostId(9), left: true, ..record(2) });
        assert_eq!(is_back(&watch), [false], "and shut down");
        let other = HostRecord { host: HostId(7), name: "host-b".parse().expect("a name"), ..record(3) };
        sees(&mut watch, &[23_000], 3, &other);
        assert_eq!(is_back(&watch), [false], "another host has the slot now");
    }

    #[test]
    fn a_boot_that_lives_in_another_slot_is_not_dead() {
        let mut bytes = written(1, record(1));
        let mut watch = Watch::default();
        watch.observe(area(), at(0), at(0), &bytes);
        write(&mut bytes, Slot(1), 1, &record(1));
        watch.observe(area(), at(20_000), at(20_000), &bytes);
        assert_eq!(watch.life(WHO, at(0)), Life::Over(Death::Expired));
        assert_eq!(watch.dead_boots(), []);
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
