//! What the hosts that share a datastore do not agree on: a name that two of them have, a datastore that is another one on
//! another host, or has another name there, or is not there.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use model::diagnosis::Reason;
use model::limits;
use model::names::{DatastoreName, HostName};

use crate::api::host::{Check, HostState};
use crate::host::control_plane::ControlPlane;
use crate::host::discovery::{self, Blind, DatastoreRecord, HostRecord, Known};
use crate::journal;

/// How long a clash has to stand before it is told as news: a host that comes up has its datastores one after another.
const SETTLED: Duration = Duration::from_millis(3 * limits::HOST_HEARTBEAT_MS);

/// One thing on which two hosts do not agree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Clash {
    /// Two living hosts have one name.
    NamedTwice {
        /// The name.
        host: HostName,
        /// Their identities, hex.
        identities: [String; 2],
    },
    /// One name stands for two datastores.
    TwoOfOneName {
        /// The name.
        datastore: DatastoreName,
        /// The other host.
        host: HostName,
        /// The lease areas, here and there, hex.
        areas: [String; 2],
    },
    /// A datastore of this host has another name there.
    OtherName {
        /// Its name here.
        datastore: DatastoreName,
        /// The other host.
        host: HostName,
        /// Its name there.
        there: DatastoreName,
    },
    /// A host does not have a datastore of this one.
    Lacks {
        /// The datastore.
        datastore: DatastoreName,
        /// The host.
        host: HostName,
    },
    /// This host does not have a datastore of another one.
    ThisLacks {
        /// The datastore, as it is called there.
        datastore: DatastoreName,
        /// The host.
        host: HostName,
    },
    /// A host has it, and it does not answer there.
    DoesNotSee {
        /// The datastore.
        datastore: DatastoreName,
        /// The host.
        host: HostName,
    },
}

impl Clash {
    /// All clashes of this host with those that live, and of their names.
    pub fn all(own: &HostRecord, hosts: &[Known]) -> Vec<Self> {
        let mut clashes = Vec::new();
        for known in hosts.iter().filter(|known| known.state.runs()) {
            let host = &known.record.name;
            if let Some(twins) = &known.twins {
                clashes.push(Self::NamedTwice { host: host.clone(), identities: twins.identities.clone() });
            }
            // An older build tells of no datastore, and this host of none before its first record. Of two hosts with one name it is not known which told this.
            if known.state == HostState::Alive && known.twins.is_none() && !known.record.datastores.is_empty() {
                let seen = own.datastores.iter().filter(|(_, datastore)| datastore.available);
                clashes.extend(seen.filter_map(|(name, datastore)| Self::of(name, datastore, &known.record)));
                let lacked = known.record.datastores.iter().filter(|_| !own.datastores.is_empty());
                let lacked = lacked.filter(|(name, there)| !own.has(name, there));
                clashes.extend(lacked.map(|(name, _)| Self::ThisLacks { datastore: name.clone(), host: host.clone() }));
            }
        }
        clashes
    }

    /// What is to be said of a datastore that this host sees, held against what another host has.
    fn of(name: &DatastoreName, here: &DatastoreRecord, other: &HostRecord) -> Option<Self> {
        let (datastore, host) = (name.clone(), other.name.clone());
        let same = here.area.as_ref().and_then(|area| {
            other.datastores.iter().find(|(_, there)| there.area.as_ref() == Some(area)).map(|(name, _)| name)
        });
        match (same, other.datastores.get(name)) {
            (Some(there), _) if there != name => Some(Self::OtherName { datastore, host, there: there.clone() }),
            (_, Some(DatastoreRecord { area: Some(there), .. })) if here.area.as_ref().is_some_and(|a| a != there) => {
                let areas = [here.area.clone().unwrap_or_default(), there.clone()];
                Some(Self::TwoOfOneName { datastore, host, areas })
            }
            (_, Some(there)) => (!there.available).then_some(Self::DoesNotSee { datastore, host }),
            (_, None) => Some(Self::Lacks { datastore, host }),
        }
    }

    /// The host whose sign of life tells that it is over.
    fn host(&self) -> &HostName {
        let (Self::NamedTwice { host, .. }
        | Self::TwoOfOneName { host, .. }
        | Self::OtherName { host, .. }
        | Self::Lacks { host, .. }
        | Self::ThisLacks { host, .. }
        | Self::DoesNotSee { host, .. }) = self;
        host
    }

    /// What stands while the clash does: of three hosts with one name, or of areas that come and go, the two that are seen may change.
    fn key(&self) -> Key {
        match self {
            Self::NamedTwice { host, .. } => (0, host.clone(), None),
            Self::TwoOfOneName { host, datastore, .. } => (1, host.clone(), Some(datastore.clone())),
            Self::OtherName { host, datastore, .. } => (2, host.clone(), Some(datastore.clone())),
            Self::Lacks { host, datastore } => (3, host.clone(), Some(datastore.clone())),
            Self::DoesNotSee { host, datastore } => (4, host.clone(), Some(datastore.clone())),
            Self::ThisLacks { host, datastore } => (5, host.clone(), Some(datastore.clone())),
        }
    }

    /// Whether something is wrong; otherwise it is a thing to know.
    fn is_wrong(&self) -> bool {
        matches!(self, Self::NamedTwice { .. } | Self::TwoOfOneName { .. })
    }

    /// Whether it is something that happens, and no way in which hosts may well be set up.
    fn is_event(&self) -> bool {
        !matches!(self, Self::Lacks { .. } | Self::ThisLacks { .. } | Self::OtherName { .. })
    }

    /// How long it has to stand before it is told.
    fn settled(&self) -> Duration {
        // That the other lives was looked at often enough.
        if matches!(self, Self::NamedTwice { .. }) { Duration::ZERO } else { SETTLED }
    }

    /// It for a person, and what mends it.
    pub fn reason(&self, own: &HostName) -> Reason {
        let (cause, hint) = match self {
            Self::NamedTwice { host, identities: [one, other] } => (
                format!(
                    "the name {host} is used by two living hosts (identities {} and {}): each overwrites what the other \
                     tells of itself",
                    short(one),
                    short(other)
                ),
                "host show tells an identity; give one of the two another hostname in its host.toml, then: host reboot"
                    .to_owned(),
            ),
            Self::TwoOfOneName { datastore, host, areas: [here, there] } => (
                format!(
                    "datastore {datastore} of this host is not datastore {datastore} of {host}: one name stands for two \
                     (lease areas {} and {}), and a VM on the one is not on the other",
                    short(here),
                    short(there)
                ),
                format!("in host.toml of {own} or of {host}: give it another name, then: host reboot"),
            ),
            Self::OtherName { datastore, host, there } => (
                format!(
                    "datastore {datastore} of this host is called {there} on {host}: no VM of it can move between the two"
                ),
                format!("in host.toml of {own} or of {host}: give it one name on both, then: host reboot"),
            ),
            Self::Lacks { datastore, host } => (
                format!("{host} does not have the datastore {datastore}: no VM of it can run there"),
                format!("if it should: add [datastore.{datastore}] to host.toml of {host}, then: host reboot"),
            ),
            Self::ThisLacks { datastore, host } => (
                format!("this host does not have the datastore {datastore} of {host}: no VM of it can run here"),
                format!("if it should: add [datastore.{datastore}] to host.toml of {own}, then: host reboot"),
            ),
            Self::DoesNotSee { datastore, host } => (
                format!("{host} does not see its datastore {datastore}, which answers here: no VM of it can run there"),
                format!("on {host}: datastore show {datastore}"),
            ),
        };
        Reason::new(cause, hint)
    }

    /// That it is over, for a person.
    fn over(&self) -> String {
        match self {
            Self::NamedTwice { host, .. } => format!("only one host has the name {host} now"),
            Self::DoesNotSee { datastore, host } => {
                format!("{host} sees its datastore {datastore} again, or has it no more")
            }
            Self::TwoOfOneName { datastore, host, .. }
            | Self::OtherName { datastore, host, .. }
            | Self::Lacks { datastore, host }
            | Self::ThisLacks { datastore, host } => {
                format!("datastore {datastore} of this host and what {host} calls so are no longer two")
            }
        }
    }
}

/// So many digits of an identity tell two apart.
fn short(identity: &str) -> &str {
    identity.get(..8).unwrap_or(identity)
}

/// What is told on the consoles of clashes: that there is one, once, and that it is over.
#[derive(Debug, Default)]
pub struct Watch {
    standing: BTreeMap<Key, Standing>,
}

/// A kind of clash, with the host, and the datastore if it is about one.
type Key = (u8, HostName, Option<DatastoreName>);

#[derive(Debug)]
struct Standing {
    clash: Clash,
    since: Instant,
    told: bool,
}

/// What becomes of a clash.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Begins(Clash),
    Over(Clash),
}

impl Watch {
    /// Looks at what is known of the hosts, and tells what is new.
    pub fn tell(&mut self, own: &HostRecord, hosts: &[Known]) {
        for change in self.look(own, hosts, Instant::now()) {
            match change {
                Change::Begins(clash) => {
                    // What is shown on consoles is short: the check tells what mends it.
                    log::warn!("{}: host check", clash.reason(&own.name).cause);
                }
                Change::Over(clash) => log::info!(target: journal::NEWS, "{}", clash.over()),
            }
        }
    }

    fn look(&mut self, own: &HostRecord, hosts: &[Known], time: Instant) -> Vec<Change> {
        let events = Clash::all(own, hosts).into_iter().filter(Clash::is_event);
        let now: BTreeMap<Key, Clash> = events.map(|clash| (clash.key(), clash)).collect();
        let lives = |host: &HostName| hosts.iter().any(|k| k.record.name == *host && k.state.runs());
        let mut changes = Vec::new();
        self.standing.retain(|key, standing| {
            // Of a host that is silent or off nothing is known any more: neither that it is over.
            let stays = now.contains_key(key) || (standing.told && !lives(standing.clash.host()));
            if !stays && standing.told {
                changes.push(Change::Over(standing.clash.clone()));
            }
            stays
        });
        for (key, clash) in now {
            let settled = clash.settled();
            let fresh = || Standing { clash: clash.clone(), since: time, told: false };
            let standing = self.standing.entry(key).or_insert_with(fresh);
            if !standing.told && time.saturating_duration_since(standing.since) >= settled {
                standing.told = true;
                changes.push(Change::Begins(clash));
            }
        }
        changes
    }
}

/// Looks at the hosts that share a datastore with this one.
pub fn check(plane: &ControlPlane) -> Check {
    let blind = Blind::look(plane);
    let hosts = discovery::all_seen(plane, &blind);
    let own = hosts.iter().find(|known| known.state == HostState::ThisHost);
    let clashes = own.map(|own| Clash::all(&own.record, &hosts)).unwrap_or_default();
    let (wrong, to_know): (Vec<&Clash>, Vec<&Clash>) = clashes.iter().partition(|clash| clash.is_wrong());
    let reasons =
        |clashes: &[&Clash]| -> Vec<Reason> { clashes.iter().map(|clash| clash.reason(plane.name())).collect() };
    let alive = hosts.iter().filter(|known| known.state == HostState::Alive).count();
    let blind = blind.reason();
    let found = match (wrong.is_empty(), to_know.is_empty(), alive) {
        (false, ..) => "they do not agree".to_owned(),
        (true, false, _) => "they do not all have the same".to_owned(),
        (true, true, 0) if blind.is_some() => "unknown".to_owned(),
        (true, true, 0) => "no other is seen".to_owned(),
        (true, true, 1) => "1 other is seen".to_owned(),
        (true, true, many) => format!("{many} others are seen"),
    };
    let mut warnings = reasons(&to_know);
    warnings.extend(blind.into_iter().chain(not_alive(&hosts)));
    Check { problems: reasons(&wrong), warnings, ..Check::well("hosts", found) }
}

/// The hosts that do not live, or not as far as this one knows; nothing of those that were shut down.
fn not_alive(hosts: &[Known]) -> impl Iterator<Item = Reason> {
    let kinds = [
        (HostState::Silent, "silent, and may come back; until then no other host may run what they hold"),
        (HostState::Dead, "dead: any host may run what they held"),
        (HostState::Unseen, "not seen, and may be well"),
    ];
    kinds.into_iter().filter_map(|(state, means)| {
        let names: Vec<&str> = hosts.iter().filter(|k| k.state == state).map(|k| k.record.name.as_str()).collect();
        (!names.is_empty()).then(|| Reason::new(format!("{}: {means}", names.join(", ")), "host list"))
    })
}

#[cfg(test)]
mod tests {
    use protocol::lease::identity::Slot;
    use protocol::lease::record::Watchdog;
    use protocol::lease::watch::Death;

    use super::*;
    use crate::api::lease::{DatastoreLease, HostLease, LeaseAnswer, LeaseRequest};
    use crate::host::control_plane::stand_in::Place;
    use crate::host::discovery::{Hosts, example};

    /// What a host has: each datastore with the first digit of its area, if it is known, and whether it answers.
    fn host(name: &str, datastores: &[(&str, Option<u8>, bool)]) -> HostRecord {
        let datastores = datastores.iter().map(|(name, area, available)| {
            let area = area.map(|area| format!("{area:02x}").repeat(16));
            (name.parse().expect("valid"), DatastoreRecord { area, available: *available })
        });
        HostRecord { datastores: datastores.collect(), ..example(name, 1) }
    }

    fn known(record: HostRecord, state: HostState) -> Known {
        Known { record, state, silent: Duration::ZERO, twins: None }
    }

    fn told(own: &HostRecord, other: &HostRecord) -> Vec<String> {
        let clashes =
            Clash::all(own, &[known(own.clone(), HostState::ThisHost), known(other.clone(), HostState::Alive)]);
        let reasons = clashes.iter().map(|clash| clash.reason(&own.name));
        reasons.inspect(|reason| assert!(!reason.hint.is_empty())).map(|reason| reason.cause).collect()
    }

    #[test]
    fn a_datastore_that_is_another_one_elsewhere_or_is_not_there_is_told_and_one_that_is_shared_is_not() {
        let own = host("host-a", &[("lab", Some(1), true), ("shared", Some(2), true)]);
        let with = |shared: &[(&str, Option<u8>, bool)]| {
            let all: Vec<_> = [("lab", Some(1), true)].into_iter().chain(shared.iter().copied()).collect();
            told(&own, &host("host-b", &all))
        };
        assert!(with(&[("shared", Some(2), true)]).is_empty());
        assert_eq!(
            with(&[("shared", Some(3), true)]),
            ["datastore shared of this host is not datastore shared of host-b: one name stands for two (lease areas \
                 02020202 and 03030303), and a VM on the one is not on the other"]
        );
        assert_eq!(
            with(&[("other", Some(2), true)]),
            ["datastore shared of this host is called other on host-b: no VM of it can move between the two"]
        );
        // It has both: what is called so there is another, and this one is there all the same.
        assert!(with(&[("shared", Some(3), true), ("other", Some(2), true)])[0].contains("is called other"));
        assert_eq!(with(&[]), ["host-b does not have the datastore shared: no VM of it can run there"]);
        assert_eq!(
            with(&[("shared", Some(2), true), ("more", Some(4), false)]),
            ["this host does not have the datastore more of host-b: no VM of it can run here"]
        );
        assert!(with(&[("shared", Some(2), false)])[0].starts_with("host-b does not see its datastore shared"));
    }

    /// The check of a host that has these leases of others, silent for so long, and renewed its own so long ago, milliseconds.
    fn checked(test: &str, others: &[(&str, u64, Option<Death>)], renewed_ms: u64) -> Check {
        let leases = others.iter().enumerate().map(|(n, (name, silent_ms, over))| HostLease {
            slot: Slot(u16::try_from(n).expect("few")),
            host: [u8::try_from(n).expect("few"); 16],
            name: name.parse().expect("valid"),
            generation: 1,
            boot: 0,
            over: *over,
            silent_ms: *silent_ms,
            changed: true,
        });
        let leases: Vec<HostLease> = leases.collect();
        let place = Place::without_datastore(test, move |request| match request {
            LeaseRequest::Hosts(_) => LeaseAnswer::Hosts(leases.clone()),
            _ => LeaseAnswer::Status(vec![DatastoreLease {
                datastore: "lab".parse().expect("valid"),
                held: true,
                renewed_ms,
                trouble: String::new(),
                mend: None,
                refusal: None,
                watchdog: Watchdog::None,
                area: None,
                damage: None,
            }]),
        });
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        for (name, ..) in others {
            place.plane.hosts.note(&"lab".parse().expect("valid"), example(name, 1), Instant::now());
        }
        check(&place.plane)
    }

    #[test]
    fn hosts_that_do_not_live_are_told_and_one_that_this_host_cannot_see_is_not_called_silent() {
        let others = [("host-b", 500, None), ("host-c", 9_000, None), ("host-d", 30_000, Some(Death::Expired))];
        let told = checked("hosts-gone", &others, 300);
        assert_eq!(told.found, "1 other is seen");
        let causes: Vec<&str> = told.warnings.iter().map(|reason| reason.cause.as_str()).collect();
        assert!(causes.len() == 2 && causes[0].starts_with("host-c: silent"), "{causes:?}");
        assert!(causes[1].starts_with("host-d: dead"), "{causes:?}");
        let told = checked("hosts-unseen", &others[1..], 9_000);
        assert_eq!(told.found, "unknown");
        let causes: Vec<&str> = told.warnings.iter().map(|reason| reason.cause.as_str()).collect();
        assert!(causes.len() == 2 && causes[0].contains("has not taken a renewal"), "{causes:?}");
        assert!(causes[1].starts_with("host-c, host-d: not seen"), "{causes:?}");
        let left = checked("hosts-left", &[("host-b", 30_000, Some(Death::Left))], 300);
        assert!(left.warnings.is_empty(), "it was shut down: {left:?}");
    }

    #[test]
    fn what_is_not_known_of_a_datastore_is_not_held_against_it() {
        let own = host("host-a", &[("lab", Some(1), true), ("lost", Some(2), false), ("new", None, true)]);
        assert!(told(&own, &host("host-b", &[("lab", None, true), ("new", Some(9), true)])).is_empty());
        assert!(told(&own, &HostRecord { datastores: BTreeMap::new(), ..example("host-b", 1) }).is_empty());
        let silent = known(host("host-b", &[("lab", Some(7), true)]), HostState::Silent);
        assert!(Clash::all(&own, &[silent]).is_empty(), "it may be mended by now");
    }

    #[test]
    fn a_clash_is_told_once_however_long_it_stands_and_when_it_is_over() {
        let own = host("host-a", &[("lab", Some(1), true)]);
        // A look each heartbeat.
        let mut time = Instant::now();
        let mut look = |watch: &mut Watch, area: u8, state| {
            time += Duration::from_millis(limits::HOST_HEARTBEAT_MS);
            let other = known(host("host-b", &[("lab", Some(area), true)]), state);
            watch.look(&own, &[known(own.clone(), HostState::ThisHost), other], time)
        };
        let mut watch = Watch::default();
        let mut all: Vec<Change> = (0..10).flat_map(|_| look(&mut watch, 2, HostState::Alive)).collect();
        assert!(matches!(&all[..], [Change::Begins(Clash::TwoOfOneName { .. })]), "{all:?}");
        // Whoever is silent has mended nothing.
        all = (0..3).flat_map(|_| look(&mut watch, 2, HostState::Silent)).collect();
        all.extend(look(&mut watch, 2, HostState::Alive));
        assert_eq!(all, []);
        all = (0..3).flat_map(|_| look(&mut watch, 1, HostState::Alive)).collect();
        assert!(matches!(&all[..], [Change::Over(Clash::TwoOfOneName { .. })]), "{all:?}");
        // What does not stand is not told at all.
        all = [2, 2, 2, 1, 2, 2, 1].into_iter().flat_map(|area| look(&mut watch, area, HostState::Alive)).collect();
        assert_eq!(all, []);
    }

    #[test]
    fn a_name_that_is_used_twice_is_told_at_once_by_whoever_has_it_and_whoever_sees_it() {
        let hosts = Hosts::default();
        let own = host("host-a", &[("lab", Some(1), true)]);
        for beat in 1..=2 {
            let told = HostRecord { beat, twin: Some("02".repeat(16)), ..host("host-b", &[]) };
            hosts.note(&"lab".parse().expect("valid"), told, Instant::now());
        }
        hosts.note_twin(&own, &"03".repeat(16), Instant::now());
        hosts.note(&"lab".parse().expect("valid"), own.clone(), Instant::now());
        let mut watch = Watch::default();
        let news: Vec<Change> =
            (0..3).flat_map(|_| watch.look(&own, &hosts.all(&own.name, &[]), Instant::now())).collect();
        let names: Vec<&str> = news
            .iter()
            .map(|news| match news {
                Change::Begins(Clash::NamedTwice { host, .. }) => host.as_str(),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["host-a", "host-b"]);
    }
}
