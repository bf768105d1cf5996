//! The hosts that share a datastore with this one, as their records tell.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::limits;
use model::names::{DatastoreName, HostName};

use super::bytes_of_hex;
use super::life::{self, SILENCE};
use super::record::{EARLIER_MAX, HostRecord, MigrationRecord};
use crate::api::host::{HostRow, HostSeen, HostState};
use crate::api::lease::HostLease;
use crate::api::migrate::Peer;

/// How long it is remembered that two hosts have one name: they are seen by turns, and on a slow datastore seldom.
const TWINS: Duration = Duration::from_millis(6 * limits::HOST_HEARTBEAT_MS);

/// Boots of a host whose last record is remembered.
const BOOTS_MAX: usize = 8;

#[derive(Debug)]
struct Seen {
    record: HostRecord,
    changed: Instant,
    /// When it was last read, changed or not.
    read: Instant,
}

/// Two living hosts that have one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twins {
    /// Their identities, hex, in ascending order: both tell of the same two.
    pub identities: [String; 2],
    seen: Instant,
}

impl Twins {
    fn new(one: &str, other: &str, seen: Instant) -> Self {
        let mut identities = [one.to_owned(), other.to_owned()];
        identities.sort();
        Self { identities, seen }
    }
}

/// What one host says of itself, by datastore. A host that died between two writes, or has a datastore no more, left an old
/// record on one of them: what it says there is held against what it said there before, and against nothing else.
#[derive(Debug, Default)]
struct Said {
    on: BTreeMap<DatastoreName, Seen>,
    /// The newest record of each of its last boots, wherever it was read.
    boots: VecDeque<HostRecord>,
    /// The identities that showed a sign of life under this name, the last one last.
    lives: Vec<String>,
    twins: Option<Twins>,
}

impl Said {
    /// The record that changed last: an older one may be of a datastore that the host has no more.
    fn newest(&self) -> Option<&Seen> {
        self.on.values().max_by_key(|seen| seen.changed)
    }

    fn note(&mut self, datastore: &DatastoreName, record: HostRecord, now: Instant) {
        self.note_boot(&record);
        // What is read on one more datastore may be as old as can be: it shows no later life than is known already.
        let life = self.newest().map_or(now, |newest| newest.changed);
        match self.on.get_mut(datastore) {
            Some(known)
                if (known.record.beat, known.record.left) == (record.beat, record.left)
                    && known.record.identity == record.identity =>
            {
                known.read = now
            }
            // What is read after a while without the datastore may be as old.
            Some(known) if now.saturating_duration_since(known.read) < SILENCE => {
                *known = Seen { record: record.clone(), changed: now, read: now };
                self.lives(&record, now);
            }
            Some(known) => *known = Seen { record, changed: now, read: now },
            None => {
                self.on.insert(datastore.clone(), Seen { record, changed: life, read: now });
            }
        }
    }

    fn note_boot(&mut self, record: &HostRecord) {
        let known = self.boots.iter_mut().find(|known| known.boot == record.boot && known.identity == record.identity);
        match known {
            Some(known) if known.beat >= record.beat => {}
            Some(known) => *known = record.clone(),
            None => {
                self.boots.push_back(record.clone());
                self.boots.drain(..self.boots.len().saturating_sub(BOOTS_MAX));
            }
        }
    }

    /// A host that has a new identity after a reboot never has the old one again. Where one that lived before another lives on
    /// after it, there are two.
    fn lives(&mut self, record: &HostRecord, now: Instant) {
        let identity = &record.identity;
        if self.lives.last() != Some(identity) {
            if let (Some(at), Some(last)) = (self.lives.iter().position(|life| life == identity), self.lives.last()) {
                self.twins = Some(Twins::new(identity, last, now));
                self.lives.remove(at);
            }
            self.lives.push(identity.clone());
            self.lives.drain(..self.lives.len().saturating_sub(EARLIER_MAX));
        }
        // They notice first: of two that write by turns a third host may always read the same one.
        if let Some(twin) = &record.twin {
            self.twins = Some(Twins::new(identity, twin, now));
        }
    }

    fn twins(&self) -> Option<&Twins> {
        self.twins.as_ref().filter(|twins| twins.seen.elapsed() < TWINS)
    }
}

/// A host, as this one knows it.
#[derive(Clone, Debug)]
pub struct Known {
    /// What it said last.
    pub record: HostRecord,
    /// Whether it lives.
    pub state: HostState,
    /// How long ago its last sign of life was.
    pub silent: Duration,
    /// The two that have its name, where it is not the only one.
    pub twins: Option<Twins>,
}

/// The hosts that share a datastore with this one.
#[derive(Debug, Default)]
pub struct Hosts {
    said: Mutex<BTreeMap<HostName, Said>>,
    /// What this host has to say of itself, whether a datastore took it or not.
    own: Mutex<Option<HostRecord>>,
}

impl Hosts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostName, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a record that was read on a datastore now. One whose beat did not change there is no sign of life; one that
    /// is read there for the first time is one of when it was written.
    pub(in crate::host) fn note(&self, datastore: &DatastoreName, record: HostRecord, now: Instant) {
        self.lock().entry(record.name.clone()).or_default().note(datastore, record, now);
    }

    /// Takes note of what this host has to say of itself, before any datastore has taken it.
    pub(super) fn note_own(&self, record: &HostRecord) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Some(record.clone());
    }

    /// What this host had to say of itself last.
    pub(super) fn own(&self) -> Option<HostRecord> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The datastores on which a record of this name was read.
    pub(super) fn datastores_of(&self, name: &HostName) -> Vec<DatastoreName> {
        self.lock().get(name).map(|said| said.on.keys().cloned().collect()).unwrap_or_default()
    }

    /// Takes note that another host, which lives, writes the record of this one.
    pub(in crate::host) fn note_twin(&self, own: &HostRecord, twin: &str, now: Instant) {
        self.lock().entry(own.name.clone()).or_default().twins = Some(Twins::new(&own.identity, twin, now));
    }

    /// Whether a record of this name was read on a datastore before.
    pub(super) fn has_read(&self, datastore: &DatastoreName, name: &HostName) -> bool {
        self.lock().get(name).is_some_and(|said| said.on.contains_key(datastore))
    }

    /// What a host said last on a datastore, as it was read there.
    pub(super) fn record_on(&self, datastore: &DatastoreName, name: &HostName) -> Option<HostRecord> {
        Some(self.lock().get(name)?.on.get(datastore)?.record.clone())
    }

    /// Takes note of what a boot said of itself, also of one before that of this host.
    pub(super) fn note_boot(&self, record: &HostRecord) {
        self.lock().entry(record.name.clone()).or_default().note_boot(record);
    }

    /// What a boot (hex) of a host of this name said last, wherever it was read.
    pub fn record_of_boot(&self, name: &HostName, boot: &str) -> Option<HostRecord> {
        let said = self.lock();
        said.get(name)?.boots.iter().find(|record| record.boot.as_deref() == Some(boot)).cloned()
    }

    /// Whether a host of this name can be moved to.
    pub fn knows(&self, name: &HostName) -> bool {
        self.lock().get(name).and_then(Said::newest).is_some_and(|seen| seen.record.migration.is_some())
    }

    /// Whether a host of this name was shut down.
    pub fn is_off(&self, name: &HostName) -> bool {
        self.lock().get(name).and_then(Said::newest).is_some_and(|seen| seen.record.left)
    }

    /// The two living hosts that have this name, where it is used twice.
    pub fn twins(&self, name: &HostName) -> Option<Twins> {
        self.lock().get(name)?.twins().cloned()
    }

    /// The lease area of a datastore of a host, as it told it, hex.
    pub fn area(&self, host: &HostName, datastore: &DatastoreName) -> Option<String> {
        self.lock().get(host)?.newest()?.record.datastores.get(datastore)?.area.clone()
    }

    /// The name of the host that has this identity, or had it in an earlier boot, by its record on any datastore.
    pub fn name_of(&self, identity: [u8; 16]) -> Option<HostName> {
        let is = |hex: &String| bytes_of_hex(hex).is_some_and(|bytes| bytes == identity);
        let has = |seen: &Seen| is(&seen.record.identity);
        let had = |seen: &Seen| seen.record.earlier.iter().any(is);
        let said = self.lock();
        let name = |of: &dyn Fn(&Seen) -> bool| {
            said.iter().find(|(_, said)| said.on.values().any(of)).map(|(name, _)| name.clone())
        };
        // One that shared its name with another took that one for what it was itself before.
        name(&has).or_else(|| name(&had))
    }

    /// All names.
    pub fn names(&self) -> Vec<HostName> {
        self.lock().keys().cloned().collect()
    }

    /// All of them, `own` marked as this host; `leases` are those of all hosts, as this one sees them now.
    pub fn all(&self, own: &HostName, leases: &[HostLease]) -> Vec<Known> {
        let said = self.lock();
        let known = |said: &Said| {
            let Seen { record, changed, .. } = said.newest()?;
            let (state, silent) = if record.name == *own {
                (HostState::ThisHost, changed.elapsed())
            } else {
                let leases = leases.iter().filter(|lease| lease.name == record.name);
                life::judge(record, changed.elapsed(), leases)
            };
            Some(Known { record: record.clone(), state, silent, twins: said.twins().cloned() })
        };
        said.values().filter_map(known).collect()
    }

    /// The same, in a list.
    #[cfg(test)]
    pub fn rows(&self, own: &HostName, leases: &[HostLease]) -> Vec<HostRow> {
        self.all(own, leases).iter().map(row).collect()
    }

    /// Those that the migration engine may talk to.
    pub(super) fn peers(&self, own: &HostName) -> Vec<Peer> {
        let said = self.lock();
        let peer = |seen: &Seen| {
            let MigrationRecord { address, port, public_key } = seen.record.migration.as_ref()?;
            Some(Peer {
                name: seen.record.name.clone(),
                identity: bytes_of_hex(&seen.record.identity)?.try_into().ok()?,
                address: *address,
                port: *port,
                public_key: bytes_of_hex(public_key)?,
            })
        };
        said.iter().filter(|(name, _)| *name != own).filter_map(|(_, said)| peer(said.newest()?)).collect()
    }
}

/// All that a host tells of itself.
pub(super) fn seen(known: Known) -> HostSeen {
    let row = row(&known);
    let HostRecord { identity, boot, kernel, addresses, cpu, migration, datastores, port_groups, running, .. } =
        known.record;
    let (migration_port, public_key) = migration.map(|migration| (migration.port, migration.public_key)).unzip();
    HostSeen {
        row,
        identity,
        boot,
        kernel,
        addresses,
        cpu: cpu.map(|report| report.brand),
        migration_port,
        public_key,
        datastores: datastores.into_iter().map(|(name, datastore)| (name, datastore.available)).collect(),
        port_groups: port_groups.into_iter().collect(),
        running,
    }
}

/// A host in a list.
pub(super) fn row(known: &Known) -> HostRow {
    let Known { record, state, silent, twins } = known;
    HostRow {
        name: record.name.clone(),
        state: *state,
        named_twice: twins.is_some(),
        maintenance: record.maintenance.on,
        seen_s: silent.as_secs(),
        vms: record.vms,
        cpus: record.cpus,
        busy_permille: record.busy_permille,
        memory: record.memory,
        memory_free: record.memory_free,
        migration_address: record.migration.as_ref().map(|migration| migration.address),
        version: record.version.clone(),
        unseen: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::example;
    use super::*;

    fn record(beat: u64) -> HostRecord {
        example("host-b", beat)
    }

    fn lab() -> DatastoreName {
        "lab".parse().expect("valid")
    }

    #[test]
    fn a_host_that_died_between_its_writes_on_two_datastores_is_silent() {
        let (own, spare): (_, DatastoreName) = ("host-a".parse().expect("valid"), "spare".parse().expect("valid"));
        let hosts = Hosts::default();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(3600)).expect("the machine is up that long");
        for (datastore, beat, read) in [
            (lab(), 6, long_ago),
            (spare.clone(), 6, long_ago),
            (lab(), 7, long_ago),
            // It died: this is read for ever.
            (lab(), 7, Instant::now()),
            (spare, 6, Instant::now()),
            // And this as soon as one more datastore is there.
            ("third".parse().expect("valid"), 6, Instant::now()),
        ] {
            hosts.note(&datastore, record(beat), read);
        }
        let rows = hosts.rows(&own, &[]);
        assert_eq!((rows.len(), rows[0].state), (1, HostState::Silent));
    }

    #[test]
    fn a_datastore_that_a_host_has_no_more_gives_neither_its_key_nor_hides_what_it_was() {
        let (own, spare) = ("host-a".parse().expect("valid"), "spare".parse().expect("valid"));
        let hosts = Hosts::default();
        let began = Instant::now();
        let mut left = record(9);
        left.identity = "05".repeat(16);
        left.migration.as_mut().expect("it has one").public_key = "0bad".to_owned();
        for beat in 1..=3 {
            let read = began + Duration::from_secs(beat);
            // The last in the list, on each beat.
            hosts.note(&lab(), HostRecord { earlier: vec!["06".repeat(16)], ..record(beat) }, read);
            hosts.note(&spare, left.clone(), read);
        }
        assert_eq!(hosts.peers(&own)[0].public_key, [0x0a, 0xff]);
        for identity in [0, 5, 6] {
            assert_eq!(hosts.name_of([identity; 16]).expect("it was its").as_str(), "host-b");
        }
    }

    #[test]
    fn a_record_that_does_not_change_is_no_sign_of_life() {
        let own = "host-a".parse().expect("valid");
        let hosts = Hosts::default();
        let long_ago = Instant::now().checked_sub(Duration::from_secs(3600)).expect("the machine is up that long");
        hosts.note(&lab(), record(1), long_ago);
        hosts.note(&lab(), record(1), Instant::now());
        assert_eq!(hosts.rows(&own, &[])[0].state, HostState::Silent);
        hosts.note(&lab(), record(2), Instant::now());
        assert_eq!(hosts.rows(&own, &[])[0].state, HostState::Alive);
    }

    #[test]
    fn a_record_makes_a_peer() {
        let hosts = Hosts::default();
        hosts.note(&lab(), record(7), Instant::now());
        let peers = hosts.peers(&"host-a".parse().expect("valid"));
        assert_eq!(peers[0].public_key, [0x0a, 0xff]);
        assert!(hosts.peers(&"host-b".parse().expect("valid")).is_empty(), "a host is no peer of itself");
    }

    fn of(identity: u8, beat: u64) -> HostRecord {
        HostRecord { identity: format!("{identity:02x}").repeat(16), ..record(beat) }
    }

    #[test]
    fn a_name_under_which_two_hosts_live_is_used_twice_and_one_that_a_host_keeps_over_a_reboot_is_not() {
        let name = "host-b".parse().expect("valid");
        let spare: DatastoreName = "spare".parse().expect("valid");
        let hosts = Hosts::default();
        // It reboots, and has another identity: on one datastore it is seen first.
        for (datastore, identity, beat) in [
            (lab(), 1, 1),
            (spare.clone(), 1, 1),
            (lab(), 1, 2),
            (spare.clone(), 1, 2),
            (lab(), 2, 1),
            (spare.clone(), 2, 1),
            (lab(), 2, 2),
        ] {
            hosts.note(&datastore, of(identity, beat), Instant::now());
            assert_eq!(hosts.twins(&name), None, "{identity} {beat}");
        }
        // And here the one that was thought to be gone lives on.
        hosts.note(&spare, of(1, 3), Instant::now());
        let twins = hosts.twins(&name).expect("there are two");
        assert_eq!(twins.identities, ["01".repeat(16), "02".repeat(16)]);
        assert!(hosts.rows(&"host-a".parse().expect("valid"), &[])[0].named_twice);
    }

    #[test]
    fn a_name_that_is_used_twice_is_known_from_either_of_the_two_and_forgotten_when_one_is_gone() {
        let name = "host-b".parse().expect("valid");
        let (hosts, later) = (Hosts::default(), Hosts::default());
        let told = |beat| HostRecord { twin: Some("02".repeat(16)), ..of(1, beat) };
        let long_ago = Instant::now().checked_sub(2 * TWINS).expect("the machine is up that long");
        for (hosts, now) in [(&hosts, Instant::now()), (&later, long_ago)] {
            hosts.note(&lab(), told(1), now);
            hosts.note(&lab(), told(2), now);
        }
        assert!(hosts.twins(&name).is_some());
        assert_eq!(later.twins(&name), None, "what a record said long ago is over");
        later.note(&lab(), of(1, 3), Instant::now());
        assert_eq!(later.twins(&name), None);
    }

    #[test]
    fn an_identity_is_first_of_all_that_of_the_host_that_has_it_now() {
        let hosts = Hosts::default();
        // Before the other was given a name of its own, this one took it for itself.
        let took = HostRecord { earlier: vec!["02".repeat(16)], ..example("host-a", 1) };
        hosts.note(&lab(), took, Instant::now());
        assert_eq!(hosts.name_of([2; 16]).expect("known").as_str(), "host-a");
        hosts.note(&lab(), of(2, 1), Instant::now());
        assert_eq!(hosts.name_of([2; 16]).expect("known").as_str(), "host-b");
    }
}
