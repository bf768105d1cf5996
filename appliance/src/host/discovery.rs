//! How hosts find each other: each keeps a record on every datastore that it has, and reads those of the others.
//! Nothing else is configured. Whether a host lives is seen by its record changing, on this host's own clock.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::cpu_report::CpuReport;
use model::limits;
use model::names::{DatastoreName, HostName};
use model::units::Bytes;
use serde::{Deserialize, Serialize};

use crate::api::host::{HostRow, HostState};
use crate::api::migrate::{Peer, ToMigrate};
use crate::datastore::{Datastore, DatastoreError};
use crate::host::control_plane::ControlPlane;

/// Largest record that is read.
const RECORD_BYTES_MAX: u64 = 65_536;
/// How long a control plane that starts waits for its migration stack before it writes its first record.
const ENGINE_PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two looks at it.
const ENGINE_LOOK: Duration = Duration::from_millis(50);
/// Identities that a host remembers to have had.
const EARLIER_MAX: usize = 32;
/// A host whose record did not change for so many heartbeats is silent.
const SILENT_BEATS: u32 = 3;

/// What a host says of itself: `hosts/<hostname>/record.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    /// Its name.
    pub name: HostName,
    /// Its random identity, hex.
    pub identity: String,
    /// The identities that it had before, hex, the last one last: a host whose boot medium keeps none has a new one after each
    /// boot, and its VMs are held by an earlier one until they are started again.
    #[serde(default)]
    pub earlier: Vec<String>,
    /// Godwit's version.
    pub version: String,
    /// Counts up with each heartbeat.
    pub beat: u64,
    /// VMs that run there.
    pub vms: u32,
    /// All its memory.
    pub memory: Bytes,
    /// Memory that is free for VMs.
    pub memory_free: Bytes,
    /// How its migration stack is reached, if it has one.
    pub migration: Option<MigrationRecord>,
    /// The labels of its port groups with their VLANs, 0 for untagged.
    pub port_groups: BTreeMap<String, u16>,
    /// What its processor can show.
    pub cpu: Option<CpuReport>,
}

impl HostRecord {
    /// What this host was before it came to be `now`, as far as this record, its own, tells.
    fn identities_before(self, now: &str) -> Vec<String> {
        let mut before: Vec<String> = self.earlier.into_iter().chain([self.identity]).collect();
        before.retain(|identity| identity != now);
        before.dedup();
        before.split_off(before.len().saturating_sub(EARLIER_MAX))
    }
}

/// How a migration stack is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationRecord {
    /// Its address.
    pub address: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// Its public key, hex.
    pub public_key: String,
}

#[derive(Debug)]
struct Seen {
    record: HostRecord,
    changed: Instant,
}

/// What one host says of itself, by datastore. A host that died between two writes, or has a datastore no more, left an old
/// record on one of them: what it says there is held against what it said there before, and against nothing else.
#[derive(Debug, Default)]
struct Said {
    on: BTreeMap<DatastoreName, Seen>,
}

impl Said {
    /// The record that changed last: an older one may be of a datastore that the host has no more.
    fn newest(&self) -> Option<&Seen> {
        self.on.values().max_by_key(|seen| seen.changed)
    }

    fn note(&mut self, datastore: &DatastoreName, record: HostRecord, now: Instant) {
        // What is read on one more datastore may be as old as can be: it shows no later life than is known already.
        let life = self.newest().map_or(now, |newest| newest.changed);
        match self.on.get_mut(datastore) {
            Some(known) if known.record.beat == record.beat && known.record.identity == record.identity => {}
            Some(known) => *known = Seen { record, changed: now },
            None => {
                self.on.insert(datastore.clone(), Seen { record, changed: life });
            }
        }
    }
}

/// The hosts that share a datastore with this one.
#[derive(Debug, Default)]
pub struct Hosts {
    said: Mutex<BTreeMap<HostName, Said>>,
}

impl Hosts {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<HostName, Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a record that was read on a datastore now. One whose beat did not change there is no sign of life.
    fn note(&self, datastore: &DatastoreName, record: HostRecord, now: Instant) {
        self.lock().entry(record.name.clone()).or_default().note(datastore, record, now);
    }

    /// Whether a host of this name can be moved to.
    pub fn knows(&self, name: &HostName) -> bool {
        self.lock().get(name).and_then(Said::newest).is_some_and(|seen| seen.record.migration.is_some())
    }

    /// The name of the host that has this identity, or had it in an earlier boot, by its record on any datastore.
    pub fn name_of(&self, identity: [u8; 16]) -> Option<HostName> {
        let is = |hex: &String| bytes_of_hex(hex).is_some_and(|bytes| bytes == identity);
        let of = |seen: &Seen| is(&seen.record.identity) || seen.record.earlier.iter().any(is);
        self.lock().iter().find(|(_, said)| said.on.values().any(of)).map(|(name, _)| name.clone())
    }

    /// All names.
    pub fn names(&self) -> Vec<HostName> {
        self.lock().keys().cloned().collect()
    }

    /// All of them, `own` marked as this host.
    pub fn rows(&self, own: &HostName) -> Vec<HostRow> {
        let silent = Duration::from_millis(limits::HOST_HEARTBEAT_MS) * SILENT_BEATS;
        let said = self.lock();
        let row = |seen: &Seen| {
            let age = seen.changed.elapsed();
            let record = &seen.record;
            let state = match (record.name == *own, age < silent) {
                (true, _) => HostState::ThisHost,
                (false, true) => HostState::Alive,
                (false, false) => HostState::Silent,
            };
            HostRow {
                name: record.name.clone(),
                state,
                seen_s: age.as_secs(),
                vms: record.vms,
                memory: record.memory,
                memory_free: record.memory_free,
                migration_address: record.migration.as_ref().map(|migration| migration.address),
                version: record.version.clone(),
            }
        };
        said.values().filter_map(Said::newest).map(row).collect()
    }

    /// Those that the migration engine may talk to.
    fn peers(&self, own: &HostName) -> Vec<Peer> {
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

/// The hex digits of bytes, as hosts write their identities and keys.
pub fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that an even number of hex digits stands for.
pub fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// Writes this host's record and reads the others', for ever.
pub fn keep(plane: &Arc<ControlPlane>) {
    // A control plane that was restarted must not say that its stack is away before it has asked.
    let patience = Instant::now() + ENGINE_PATIENCE;
    while plane.has_migration_nic() && !plane.engine.is_to_be_found() && Instant::now() < patience {
        std::thread::sleep(ENGINE_LOOK);
    }
    let mut beat = 0;
    let mut told = Vec::new();
    let mut bad = BadRecords::default();
    let mut past = Past::default();
    loop {
        beat += 1;
        let record = plane.own_record(beat);
        for datastore in plane.datastores.all().iter().filter(|datastore| datastore.available()) {
            if let Err(error) = exchange(plane, datastore, &record, &mut past, &mut bad) {
                log::warn!("discovery on datastore {}: {error}", datastore.name());
            }
        }
        let peers = plane.hosts.peers(plane.name());
        if peers != told && plane.engine.tell(&ToMigrate::Peers(peers.clone()), &[]).is_ok() {
            told = peers;
        }
        // The first records are exchanged at once when a datastore comes up, and often while hosts are new.
        let pause = if beat < 20 { 1_000 } else { limits::HOST_HEARTBEAT_MS };
        std::thread::sleep(Duration::from_millis(pause));
    }
}

/// The peers as they are now, for an engine that was restarted.
pub fn peers(plane: &ControlPlane) -> ToMigrate {
    ToMigrate::Peers(plane.hosts.peers(plane.name()))
}

/// What is wrong with records, as the log has told it: once, and again when it changes.
#[derive(Debug, Default)]
struct BadRecords {
    told: BTreeMap<(DatastoreName, HostName), String>,
}

impl BadRecords {
    /// Whether this is news of a record.
    fn is_news(&mut self, datastore: &Datastore, host: &HostName, why: &str) -> bool {
        let before = self.told.insert((datastore.name().clone(), host.clone()), why.to_owned());
        before.as_deref() != Some(why)
    }

    fn is_good(&mut self, datastore: &Datastore, host: &HostName) {
        self.told.remove(&(datastore.name().clone(), host.clone()));
    }
}

/// The identities that this host had before, by the record that it left on each datastore, which is read once.
#[derive(Debug, Default)]
struct Past {
    known: BTreeMap<DatastoreName, Vec<String>>,
}

impl Past {
    fn on(&mut self, datastore: &Datastore, own: &HostRecord) -> Result<Vec<String>, DatastoreError> {
        if let Some(known) = self.known.get(datastore.name()) {
            return Ok(known.clone());
        }
        // A record that cannot be understood says nothing of the past either.
        let left = read(datastore, &own.name)?.unwrap_or_default();
        let before = left.map(|record| record.identities_before(&own.identity)).unwrap_or_default();
        self.known.insert(datastore.name().clone(), before.clone());
        Ok(before)
    }
}

fn exchange(
    plane: &ControlPlane,
    datastore: &Datastore,
    own: &HostRecord,
    past: &mut Past,
    bad: &mut BadRecords,
) -> Result<(), DatastoreError> {
    let own = &HostRecord { earlier: past.on(datastore, own)?, ..own.clone() };
    let text = toml::to_string(own).map_err(std::io::Error::other)?;
    datastore.make_folder(&format!("hosts/{}", own.name))?;
    datastore.replace(&format!("hosts/{}/record.toml", own.name), text.as_bytes())?;
    for name in datastore.list("hosts")? {
        let Ok(name) = name.parse::<HostName>() else { continue };
        match read(datastore, &name)? {
            Ok(record) => {
                bad.is_good(datastore, &name);
                if let Some(record) = record {
                    plane.hosts.note(datastore.name(), record, Instant::now());
                }
            }
            // It says nothing of the other hosts.
            Err(why) if bad.is_news(datastore, &name, &why) => {
                log::warn!("hosts/{name}/record.toml on datastore {}: {why}", datastore.name());
            }
            Err(_) => {}
        }
    }
    Ok(())
}

/// The record of a host, if there is one, or what is wrong with it.
///
/// # Errors
/// The datastore does not answer.
fn read(datastore: &Datastore, name: &HostName) -> Result<Result<Option<HostRecord>, String>, DatastoreError> {
    let text = match datastore.read_text(&format!("hosts/{name}/record.toml"), RECORD_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.is_missing() => return Ok(Ok(None)),
        Err(error @ (DatastoreError::NoAnswer(_) | DatastoreError::Hanging(_) | DatastoreError::NotMounted)) => {
            return Err(error);
        }
        Err(error) => return Ok(Err(error.to_string())),
    };
    Ok(match toml::from_str::<HostRecord>(&text) {
        Ok(record) if record.name == *name => Ok(Some(record)),
        Ok(record) => Err(format!("it is of host {}", record.name)),
        Err(error) => Err(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::lease::{GONE, Holder, LeaseAnswer, VmOnDatastore};
    use crate::host::control_plane::stand_in::Place;

    #[test]
    fn a_record_that_cannot_be_read_hides_no_other_host_and_is_told_once() {
        let place = Place::without_datastore("discovery", |_| LeaseAnswer::Done);
        place.write("hosts/host-0/record.toml", &"#".repeat(70_000));
        place.write("hosts/host-b/record.toml", &toml::to_string(&record(1)).expect("written"));
        let datastore = place.plane.datastores.all().remove(0);
        place.wait("the datastore is there", || datastore.available());
        let (own, mut bad) = (place.plane.own_record(1), BadRecords::default());
        exchange(&place.plane, &datastore, &own, &mut Past::default(), &mut bad).expect("exchanged");
        let names = place.plane.hosts.names();
        assert_eq!(names.iter().map(HostName::as_str).collect::<Vec<_>>(), ["host-a", "host-b"]);
        let (host, why) = ("host-0".parse().expect("valid"), "the file is larger than 65536 bytes");
        assert!(!bad.is_news(&datastore, &host, why), "it was told");
        assert!(bad.is_news(&datastore, &host, "the file is not UTF-8 text"));
    }

    #[test]
    fn a_host_is_known_by_the_identities_that_it_had_in_earlier_boots() {
        let holder = Holder {
            host: [7; 16],
            name: GONE.parse().expect("valid"),
            generation: 1,
            epoch: 2,
            alive: false,
            own: false,
            since_unix_s: None,
        };
        let place = Place::without_datastore("past", move |_| LeaseAnswer::Holder(Some(holder.clone())));
        let earlier = vec!["06".repeat(16)];
        let left =
            HostRecord { name: "host-a".parse().expect("valid"), identity: "07".repeat(16), earlier, ..record(9) };
        place.write("hosts/host-a/record.toml", &toml::to_string(&left).expect("written"));
        let plane = &place.plane;
        let datastore = plane.datastores.all().remove(0);
        place.wait("the datastore is there", || datastore.available());
        let vm = VmOnDatastore { datastore: datastore.name().clone(), vm: "web".parse().expect("valid") };
        let name = || plane.leases.holder(&vm).expect("answered").expect("held").name;
        assert_eq!(name().as_str(), GONE);
        let mut past = Past::default();
        for beat in 1..=2 {
            let own = plane.own_record(beat);
            exchange(plane, &datastore, &own, &mut past, &mut BadRecords::default()).expect("exchanged");
        }
        assert_eq!(name().as_str(), "host-a");
        // A control plane of the same boot reads what the one before wrote.
        let before = Past::default().on(&datastore, &plane.own_record(1)).expect("read");
        assert_eq!(before, ["06".repeat(16), "07".repeat(16)]);
    }

    #[test]
    fn a_host_that_boots_ever_so_often_remembers_its_last_identities() {
        let earlier: Vec<String> = (0..EARLIER_MAX).map(|n| format!("{n:032x}")).collect();
        let left = HostRecord { earlier, identity: "ff".repeat(16), ..record(1) };
        let before = left.identities_before(&"ee".repeat(16));
        assert_eq!((before.len(), before[0].as_str()), (EARLIER_MAX, format!("{:032x}", 1).as_str()));
        assert_eq!(before[EARLIER_MAX - 1], "ff".repeat(16));
    }

    fn record(beat: u64) -> HostRecord {
        HostRecord {
            name: "host-b".parse().expect("valid"),
            identity: "00".repeat(16),
            earlier: Vec::new(),
            version: "0.1.0".to_owned(),
            beat,
            vms: 0,
            memory: Bytes(0),
            memory_free: Bytes(0),
            migration: Some(MigrationRecord {
                address: "10.0.0.2".parse().expect("valid"),
                port: 7780,
                public_key: "0aff".to_owned(),
            }),
            port_groups: BTreeMap::from([("lab net".to_owned(), 10)]),
            cpu: None,
        }
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
        let rows = hosts.rows(&own);
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
        assert_eq!(hosts.rows(&own)[0].state, HostState::Silent);
        hosts.note(&lab(), record(2), Instant::now());
        assert_eq!(hosts.rows(&own)[0].state, HostState::Alive);
    }

    #[test]
    fn a_record_survives_writing_and_reading_and_makes_a_peer() {
        let text = toml::to_string(&record(7)).expect("written");
        let read: HostRecord = toml::from_str(&text).expect("read");
        assert_eq!(read, record(7));
        let hosts = Hosts::default();
        hosts.note(&lab(), read, Instant::now());
        let peers = hosts.peers(&"host-a".parse().expect("valid"));
        assert_eq!(peers[0].public_key, [0x0a, 0xff]);
        assert!(hosts.peers(&"host-b".parse().expect("valid")).is_empty(), "a host is no peer of itself");
    }
}
