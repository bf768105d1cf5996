//! How hosts find each other: each keeps a record on every datastore that it has, and reads those of the others.
//! Nothing else is configured. Whether a host lives is seen by its lease and its record changing, on this host's own clock.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use model::limits;
use model::names::{DatastoreName, HostName};

use crate::api::host::{HostRow, HostSeen, HostState};
use crate::api::lease::HostLease;
use crate::api::migrate::ToMigrate;
use crate::datastore::{Datastore, DatastoreError};
use crate::host::clashes;
use crate::host::control_plane::ControlPlane;
use crate::host::load::Load;

mod hosts;
mod last_boot;
mod life;
mod record;
mod rounds;
mod sight;

use last_boot::LastBoot;

pub use hosts::{Hosts, Known, Twins};
pub use last_boot::PATIENCE as LAST_BOOT_PATIENCE;
pub use life::renews;
pub(super) use record::RUNNING_MAX;
#[cfg(test)]
pub(crate) use record::example;
pub use record::{DatastoreRecord, HostRecord, MigrationRecord};
pub use rounds::Rounds;
pub use sight::Blind;

/// Largest record that is read.
const RECORD_BYTES_MAX: u64 = 65_536;
/// How long a control plane that starts waits for its migration stack before it writes its first record.
const ENGINE_PATIENCE: Duration = Duration::from_secs(3);
/// Pause between two looks at it.
const ENGINE_LOOK: Duration = Duration::from_millis(50);

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

/// Writes this host's record and reads the others', until this host is shut down.
pub fn keep(plane: &Arc<ControlPlane>) {
    // A control plane that was restarted must not say that its stack is away before it has asked.
    let patience = Instant::now() + ENGINE_PATIENCE;
    while plane.has_migration_nic() && !plane.engine.is_to_be_found() && Instant::now() < patience {
        std::thread::sleep(ENGINE_LOOK);
    }
    let mut beat = 0;
    let mut told = Vec::new();
    let mut remembered = Remembered::default();
    let mut areas = BTreeMap::new();
    let mut load = Load::begin();
    let mut watch = clashes::Watch::default();
    loop {
        beat += 1;
        plane.rounds.begins();
        let datastores = own_datastores(plane, &mut areas);
        let record = HostRecord { busy_permille: load.busy_permille(), datastores, ..plane.own_record(beat) };
        plane.hosts.note_own(&record);
        for datastore in plane.datastores.all().iter().filter(|datastore| datastore.available()) {
            let _asking = plane.asking.read().unwrap_or_else(PoisonError::into_inner);
            if plane.leaving.load(Ordering::SeqCst) {
                return plane.rounds.over();
            }
            let exchanged = exchange(plane, datastore, &record, &mut remembered);
            if exchanged.is_err() {
                datastore.doubt_writing();
            }
            remembered.failed.note(datastore.name(), exchanged.err().map(|error| error.to_string()));
        }
        plane.rounds.ended();
        // What another living host of this name wrote is no boot of this one.
        if plane.hosts.twins(plane.name()).is_none()
            && let Some(news) =
                remembered.last_boot.news(plane.datastores.all().iter().map(|datastore| datastore.name()))
        {
            log::warn!("{news}");
        }
        watch.tell(&record, &all(plane));
        let peers = plane.hosts.peers(plane.name());
        if peers != told && plane.engine.tell(&ToMigrate::Peers(peers.clone()), &[]).is_ok() {
            told = peers;
        }
        // The first records are exchanged at once when a datastore comes up, and often while hosts are new.
        let pause = if beat < 20 { 1_000 } else { limits::HOST_HEARTBEAT_MS };
        plane.rounds.pause(Duration::from_millis(pause));
    }
}

/// This host's last word on each datastore that answers: it is shut down. Waits for the slowest for as long as a datastore may take for
/// an operation.
pub fn leave(plane: &ControlPlane) {
    std::thread::scope(|scope| {
        for datastore in plane.datastores.all().into_iter().filter(|datastore| datastore.available()) {
            let Some(record) = plane.hosts.record_on(datastore.name(), plane.name()) else { continue };
            let beat = record.beat + 1;
            let maintenance = plane.maintenance.last();
            let last =
                HostRecord { left: true, maintenance, beat, vms: 0, running: Vec::new(), migration: None, ..record };
            scope.spawn(move || {
                if let Err(error) = write(&datastore, &last) {
                    let name = datastore.name();
                    log::warn!("other hosts on datastore {name} are not told that this one leaves: {error}");
                }
            });
        }
    });
}

/// The hosts that share a datastore with this one, and whether they live, as far as this one sees that; and this one, as it is now.
pub fn all(plane: &ControlPlane) -> Vec<Known> {
    all_seen(plane, &Blind::look(plane))
}

/// The same, for who knows already where this host sees nothing.
pub fn all_seen(plane: &ControlPlane, blind: &Blind) -> Vec<Known> {
    let mut all = plane.hosts.all(plane.name(), &leases(plane));
    for known in &mut all {
        if known.state != HostState::ThisHost && !known.state.runs() && blind.hides(&plane.hosts, &known.record.name) {
            known.state = HostState::Unseen;
        }
    }
    let at = all.iter().position(|known| known.state == HostState::ThisHost);
    let before = at.map(|at| all.remove(at));
    let twins = plane.hosts.twins(plane.name());
    let record = own_now(plane, before.map(|before| before.record));
    let own = Known { record, state: HostState::ThisHost, silent: Duration::ZERO, twins };
    let place = all.partition_point(|known| known.record.name < own.record.name);
    all.insert(place, own);
    all
}

/// What this host is now: what it wrote of itself last may be from before an outage.
fn own_now(plane: &ControlPlane, written: Option<HostRecord>) -> HostRecord {
    let now = plane.own_record(0);
    match plane.hosts.own().or(written) {
        Some(HostRecord { busy_permille, datastores, .. }) => HostRecord { busy_permille, datastores, ..now },
        None => now,
    }
}

/// The same for a person who asks: with what they wrote last.
pub fn all_now(plane: &ControlPlane) -> Vec<HostRow> {
    plane.rounds.now();
    let blind = Blind::look(plane);
    let unseen = |known: &Known| matches!(known.state, HostState::ThisHost | HostState::Unseen);
    let row = |known: &Known| HostRow { unseen: blind.reason().filter(|_| unseen(known)), ..hosts::row(known) };
    all_seen(plane, &blind).iter().map(row).collect()
}

/// One of them for a person who asks; none where it is not known.
pub fn seen_now(plane: &ControlPlane, name: &HostName) -> Option<HostSeen> {
    plane.rounds.now();
    let blind = Blind::look(plane);
    let known = all_seen(plane, &blind).into_iter().find(|known| known.record.name == *name)?;
    let unseen = blind.reason().filter(|_| known.state == HostState::Unseen);
    let seen = hosts::seen(known);
    Some(HostSeen { row: HostRow { unseen, ..seen.row }, ..seen })
}

/// The leases of all hosts on all datastores. One that does not tell is left out: the records are there too.
fn leases(plane: &ControlPlane) -> Vec<HostLease> {
    let ask = |datastore: Arc<Datastore>| plane.leases.hosts(datastore.name()).unwrap_or_default();
    // All at once: a lease role that stands still is waited for once.
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            plane.datastores.all().into_iter().map(|datastore| scope.spawn(|| ask(datastore))).collect();
        asked.into_iter().filter_map(|asked| asked.join().ok()).flatten().collect()
    })
}

/// The peers as they are now, for an engine that was restarted.
pub fn peers(plane: &ControlPlane) -> ToMigrate {
    ToMigrate::Peers(plane.hosts.peers(plane.name()))
}

/// The datastores of this host, as others are told of them. What one is stays known while the lease role is away.
fn own_datastores(
    plane: &ControlPlane,
    areas: &mut BTreeMap<DatastoreName, String>,
) -> BTreeMap<DatastoreName, DatastoreRecord> {
    let leases = plane.leases.status().unwrap_or_default();
    areas.extend(leases.into_iter().filter_map(|lease| Some((lease.datastore, lease.area?))));
    let record = |datastore: &Arc<Datastore>| {
        let (name, available) = (datastore.name().clone(), datastore.available());
        let area = areas.get(&name).cloned();
        (name, DatastoreRecord { area, available })
    };
    plane.datastores.all().iter().map(record).collect()
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

/// Why records are not exchanged on a datastore, as the log has told it: once, again when it changes, and when it is over.
#[derive(Debug, Default)]
struct Failed {
    told: BTreeMap<DatastoreName, String>,
}

impl Failed {
    /// Takes note of how an exchange went, and tells what is news of it.
    fn note(&mut self, datastore: &DatastoreName, failure: Option<String>) {
        if let Some(news) = self.news(datastore, failure) {
            log::warn!("discovery on datastore {datastore}: {news}");
        }
    }

    fn news(&mut self, datastore: &DatastoreName, failure: Option<String>) -> Option<String> {
        let Some(failure) = failure else {
            return self.told.remove(datastore).map(|_| "hosts are told of this one again".to_owned());
        };
        let before = self.told.insert(datastore.clone(), failure.clone());
        (before.as_ref() != Some(&failure)).then_some(failure)
    }
}

/// What one exchange of records leaves to the next.
#[derive(Debug, Default)]
struct Remembered {
    /// The identities that this host had before, by the record that it found of itself on each datastore.
    past: BTreeMap<DatastoreName, Vec<String>>,
    /// What was found in the place of this host's record on a datastore since it wrote that: an identity, and its heartbeat.
    /// None where nothing was.
    strange: BTreeMap<DatastoreName, Option<(String, u64)>>,
    bad: BadRecords,
    failed: Failed,
    last_boot: LastBoot,
}

impl Remembered {
    /// Looks at what stands in the place of this host's record before that is written again. The identity of another host is
    /// given whose heart beats: it has this host's name.
    fn look(&mut self, datastore: &Datastore, own: &HostRecord, found: Option<HostRecord>) -> Option<String> {
        let name = datastore.name();
        let Some(before) = self.strange.get_mut(name) else {
            // This host has written nothing there yet: it is what an earlier boot left, as far as can be known.
            self.last_boot.look(name, found.as_ref(), own.boot.as_deref());
            let past = found.map(|record| record.identities_before(&own.identity)).unwrap_or_default();
            self.past.entry(name.clone()).or_insert(past);
            return None;
        };
        let found = found.filter(|record| record.identity != own.identity)?;
        let (identity, beat) = (found.identity, found.beat);
        let beats = before.as_ref().is_some_and(|(known, last)| *known == identity && *last != beat);
        *before = Some((identity.clone(), beat));
        if beats {
            // It is not what this host was itself.
            self.past.values_mut().for_each(|past| past.retain(|earlier| *earlier != identity));
        }
        beats.then_some(identity)
    }

    fn wrote(&mut self, datastore: &Datastore) {
        self.strange.entry(datastore.name().clone()).or_default();
    }
}

fn exchange(
    plane: &ControlPlane,
    datastore: &Datastore,
    own: &HostRecord,
    remembered: &mut Remembered,
) -> Result<(), DatastoreError> {
    // A record that cannot be understood says nothing.
    let found = read(datastore, &own.name)?.ok().flatten();
    if let Some(found) = &found {
        plane.hosts.note_boot(found);
    }
    let left = found.as_ref().map(|found| found.maintenance);
    if let Some(twin) = remembered.look(datastore, own, found) {
        plane.hosts.note_twin(own, &twin, Instant::now());
    }
    if plane.maintenance.looked_at(datastore.name(), left) {
        log::warn!(
            "this host was in maintenance when it went down, and still is: no VM starts here or moves to here until: host maintenance exit"
        );
    }
    let maintenance = plane.maintenance.last();
    let earlier = remembered.past.get(datastore.name()).cloned().unwrap_or_default();
    let twins = plane.hosts.twins(&own.name);
    let twin = twins.and_then(|twins| twins.identities.into_iter().find(|identity| *identity != own.identity));
    let own = HostRecord { earlier, twin, maintenance, ..own.clone() };
    let file = record_file(&own.name);
    write(datastore, &own)?;
    remembered.wrote(datastore);
    // What this host tells of its twin is no sign of it to this host itself: it would never end.
    plane.hosts.note(datastore.name(), HostRecord { twin: None, ..own.clone() }, Instant::now());
    let names = datastore.list("hosts")?;
    for name in names.iter().filter_map(|name| name.parse::<HostName>().ok()).filter(|name| *name != own.name) {
        match read(datastore, &name)? {
            Ok(record) => {
                remembered.bad.is_good(datastore, &name);
                if let Some(record) = record {
                    let known = plane.hosts.has_read(datastore.name(), &name);
                    let age = if known { Duration::ZERO } else { age(datastore, &name, &file) };
                    let now = Instant::now();
                    plane.hosts.note(datastore.name(), record, now.checked_sub(age).unwrap_or(now));
                }
            }
            // It says nothing of the other hosts.
            Err(why) if remembered.bad.is_news(datastore, &name, &why) => {
                log::warn!("hosts/{name}/record.toml on datastore {}: {why}", datastore.name());
            }
            Err(_) => {}
        }
    }
    Ok(())
}

fn write(datastore: &Datastore, record: &HostRecord) -> Result<(), DatastoreError> {
    let text = toml::to_string(record).map_err(std::io::Error::other)?;
    datastore.make_folder(&format!("hosts/{}", record.name))?;
    datastore.replace(&record_file(&record.name), text.as_bytes())
}

fn record_file(name: &HostName) -> String {
    format!("hosts/{name}/record.toml")
}

/// How long ago a host wrote its record, held against a file that was written just now: both have their time from the
/// datastore, whatever the clocks of the hosts say. Zero where that does not tell.
fn age(datastore: &Datastore, host: &HostName, just_now: &str) -> Duration {
    let (Ok(then), Ok(now)) = (datastore.modified(&record_file(host)), datastore.modified(just_now)) else {
        return Duration::ZERO;
    };
    now.duration_since(then).unwrap_or_default()
}

/// The record of a host, if there is one, or what is wrong with it.
///
/// # Errors
/// The datastore does not answer.
fn read(datastore: &Datastore, name: &HostName) -> Result<Result<Option<HostRecord>, String>, DatastoreError> {
    let text = match datastore.read_text(&record_file(name), RECORD_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.is_missing() => return Ok(Ok(None)),
        Err(error) if error.is_away() => return Err(error),
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
    use crate::api::host::VmState;
    use crate::api::lease::{GONE, Holder, LeaseAnswer, VmOnDatastore};
    use crate::host::caller::Caller;
    use crate::host::control_plane::stand_in::Place;
    use crate::host::maintenance::{self, Decision};
    use crate::host::start;

    #[test]
    fn a_datastore_that_takes_no_record_is_told_once_and_again_when_that_changes_or_is_over() {
        let (mut failed, lab) = (Failed::default(), "lab".parse().expect("valid"));
        let full = || Some("the datastore is full".to_owned());
        let mut news = |failure: Option<String>| failed.news(&lab, failure);
        assert_eq!(news(None), None);
        assert_eq!(news(full()), full());
        assert_eq!(news(full()), None);
        let other = Some("the export is read-only".to_owned());
        assert_eq!(news(other.clone()), other);
        assert!(news(None).is_some_and(|over| over.contains("again")));
        assert_eq!(news(None), None);
        assert_eq!(news(full()), full());
    }

    #[test]
    fn a_record_that_cannot_be_read_hides_no_other_host_and_is_told_once() {
        let place = Place::without_datastore("discovery", |_| LeaseAnswer::Done);
        place.write("hosts/host-0/record.toml", &"#".repeat(70_000));
        place.write("hosts/host-b/record.toml", &toml::to_string(&example("host-b", 1)).expect("written"));
        let datastore = place.plane.datastores.all().remove(0);
        place.wait("the datastore is there", || datastore.available());
        let (own, mut remembered) = (place.plane.own_record(1), Remembered::default());
        exchange(&place.plane, &datastore, &own, &mut remembered).expect("exchanged");
        let names = place.plane.hosts.names();
        assert_eq!(names.iter().map(HostName::as_str).collect::<Vec<_>>(), ["host-a", "host-b"]);
        let (host, why) = ("host-0".parse().expect("valid"), "the file is larger than 65536 bytes");
        let mut bad = remembered.bad;
        assert!(!bad.is_news(&datastore, &host, why), "it was told");
        assert!(bad.is_news(&datastore, &host, "the file is not UTF-8 text"));
    }

    #[test]
    fn the_last_word_of_a_host_that_is_shut_down_says_so() {
        let place = Place::without_datastore("leave", |_| LeaseAnswer::Done);
        let plane = &place.plane;
        place.write("hosts/host-a/record.toml", "");
        let datastore = plane.datastores.all().remove(0);
        place.wait("the datastore is there", || datastore.available());
        exchange(plane, &datastore, &plane.own_record(1), &mut Remembered::default()).expect("exchanged");
        leave(plane);
        let left = read(&datastore, plane.name()).expect("read").expect("understood").expect("written");
        assert!(left.left && left.beat == 2, "{left:?}");
        // Another host sees it at once.
        let hosts = Hosts::default();
        hosts.note(datastore.name(), left, Instant::now());
        let other = "host-z".parse().expect("valid");
        assert_eq!(hosts.all(&other, &[]).remove(0).state, HostState::Off);
    }

    #[test]
    fn who_asks_for_the_hosts_is_told_what_they_wrote_last() {
        let place = Place::without_datastore("asked-now", |_| LeaseAnswer::Done);
        let there = |beat, on| {
            let record = HostRecord { maintenance: Decision { number: 1, on }, ..example("host-b", beat) };
            place.write("hosts/host-b/record.toml", &toml::to_string(&record).expect("written"));
        };
        there(1, false);
        let plane = &place.plane;
        place.wait("the datastore is there", || plane.datastores.all()[0].available());
        let kept = Arc::clone(plane);
        std::thread::spawn(move || keep(&kept));
        place.wait("it is known", || plane.hosts.names().iter().any(|name| name.as_str() == "host-b"));
        for beat in 2..10 {
            there(beat, beat % 2 == 0);
            assert!(plane.rounds.now_within(Duration::from_secs(120)), "no round came");
            assert_eq!(plane.hosts.rows(plane.name(), &[])[1].maintenance, beat % 2 == 0);
        }
        // Nothing keeps what the test removes.
        plane.leaving.store(true, Ordering::SeqCst);
        plane.rounds.now();
    }

    #[test]
    fn a_host_that_went_down_in_maintenance_is_in_it_after_its_boot_and_takes_no_vm_in_until_somebody_ends_it() {
        let place = Place::without_datastore("was-in-maintenance", |_| LeaseAnswer::Holder(None));
        let left = HostRecord {
            boot: Some("old".to_owned()),
            left: true,
            maintenance: Decision { number: 1, on: true },
            ..example("host-a", 9)
        };
        place.write("hosts/host-a/record.toml", &toml::to_string(&left).expect("written"));
        let plane = &place.plane;
        let datastore = plane.datastores.all().remove(0);
        place.wait("the datastore is there", || datastore.available());
        let mut remembered = Remembered::default();
        let web = "web".parse().expect("valid");
        let mut exchanged = |beat| {
            exchange(plane, &datastore, &plane.own_record(beat), &mut remembered).expect("exchanged");
            read(&datastore, plane.name()).expect("read").expect("understood").expect("written").maintenance.on
        };
        assert!(exchanged(1), "others are told");
        let refusal = start::start(plane, &web, &Caller::nobody()).expect_err("refused").to_string();
        assert!(refusal.contains("host-a is in maintenance") && refusal.contains("host maintenance exit"), "{refusal}");
        // A guest that restarts is none that comes.
        let ended = plane.vms.claim(&web, VmState::Releasing, "it ends").expect("nothing else is done with it");
        let refusal = start::start_again(plane, &web, ended).expect_err("there is no such VM").to_string();
        assert!(!refusal.contains("maintenance"), "{refusal}");
        maintenance::exit(plane).expect("noted");
        assert!(!exchanged(2));
        let refusal = start::start(plane, &web, &Caller::nobody()).expect_err("there is no such VM").to_string();
        assert!(!refusal.contains("maintenance"), "{refusal}");
        maintenance::enter(plane).expect("noted");
        leave(plane);
        assert!(read(&datastore, plane.name()).expect("read").expect("understood").expect("written").maintenance.on);
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
        let left = HostRecord { identity: "07".repeat(16), earlier, ..example("host-a", 9) };
        place.write("hosts/host-a/record.toml", &toml::to_string(&left).expect("written"));
        let plane = &place.plane;
        let datastore = plane.datastores.all().remove(0);
        place.wait("the datastore is there", || datastore.available());
        let vm = VmOnDatastore { datastore: datastore.name().clone(), vm: "web".parse().expect("valid") };
        let name = || plane.leases.holder(&vm).expect("answered").expect("held").name;
        assert_eq!(name().as_str(), GONE);
        let mut remembered = Remembered::default();
        for beat in 1..=2 {
            exchange(plane, &datastore, &plane.own_record(beat), &mut remembered).expect("exchanged");
        }
        assert_eq!(name().as_str(), "host-a");
        // A control plane of the same boot reads what the one before wrote.
        let mut remembered = Remembered::default();
        exchange(plane, &datastore, &plane.own_record(1), &mut remembered).expect("exchanged");
        assert_eq!(remembered.past[datastore.name()], ["06".repeat(16), "07".repeat(16)]);
    }

    #[test]
    fn two_hosts_of_one_name_both_notice_on_one_datastore_and_an_earlier_life_of_a_host_is_no_other() {
        let place = Place::without_datastore("twins", |_| LeaseAnswer::Done);
        let left = toml::to_string(&example("host-a", 9)).expect("written");
        let plane = &place.plane;
        let datastore = plane.datastores.all().remove(0);
        place.write("hosts/host-a/record.toml", &left);
        place.wait("the datastore is there", || datastore.available());
        let other = Place::configured(
            "twin",
            &format!("[datastore.lab]\nkind = \"directory\"\npath = \"{}\"\n", datastore.root().display()),
            |_| LeaseAnswer::Done,
        );
        let there = other.plane.datastores.all().remove(0);
        other.wait("the datastore is there", || there.available());
        let record = |beat| HostRecord { identity: "02".repeat(16), ..other.plane.own_record(beat) };
        let (mut here, mut elsewhere) = (Remembered::default(), Remembered::default());
        let twins = |plane: &ControlPlane| plane.hosts.twins(plane.name()).map(|twins| twins.identities);
        for beat in 1..=3 {
            // What a person puts back again and again has no heart that beats.
            place.write("hosts/host-a/record.toml", &left);
            exchange(plane, &datastore, &plane.own_record(beat), &mut here).expect("exchanged");
            assert_eq!(twins(plane), None, "what was there before, or once, is no living host");
        }
        for beat in 1..=3 {
            exchange(&other.plane, &there, &record(beat), &mut elsewhere).expect("exchanged");
            exchange(plane, &datastore, &plane.own_record(3 + beat), &mut here).expect("exchanged");
        }
        let both = Some(["01".repeat(16), "02".repeat(16)]);
        assert_eq!((twins(plane), twins(&other.plane)), (both.clone(), both));
        let last_seen = plane.hosts.twins(plane.name());
        exchange(plane, &datastore, &plane.own_record(9), &mut here).expect("exchanged");
        assert_eq!(plane.hosts.twins(plane.name()), last_seen, "the other was not seen again");
        // Each tells the others, and neither says that it was the other.
        let told: HostRecord =
            toml::from_str(&datastore.read_text("hosts/host-a/record.toml", 9_999).expect("read")).expect("a record");
        assert_eq!(
            (told.identity, told.twin, told.earlier),
            ("01".repeat(16), Some("02".repeat(16)), vec!["00".repeat(16)])
        );
        assert_eq!(elsewhere.past[there.name()], ["00".repeat(16)]);
    }

    #[test]
    fn a_host_that_was_dead_before_this_one_looked_is_silent_since_it_wrote_its_record() {
        let place = Place::without_datastore("dead-before", |_| LeaseAnswer::Done);
        for host in ["host-b", "host-c"] {
            place.write(&format!("hosts/{host}/record.toml"), &toml::to_string(&example(host, 1)).expect("written"));
        }
        let plane = &place.plane;
        let datastore = plane.datastores.all().remove(0);
        place.wait("the datastore is there", || datastore.available());
        let file = std::fs::File::options().write(true).open(datastore.root().join("hosts/host-b/record.toml"));
        let two_hours_ago = std::time::SystemTime::now() - Duration::from_secs(7_200);
        file.and_then(|file| file.set_modified(two_hours_ago)).expect("set");
        exchange(plane, &datastore, &plane.own_record(1), &mut Remembered::default()).expect("exchanged");
        let rows = plane.hosts.rows(plane.name(), &[]);
        let states: Vec<HostState> = rows.iter().map(|row| row.state).collect();
        assert_eq!(states, [HostState::ThisHost, HostState::Silent, HostState::Alive]);
        // The clock of a file system is a little behind.
        assert!((7_100..10_000).contains(&rows[1].seen_s), "{} s", rows[1].seen_s);
    }
}
