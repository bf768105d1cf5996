//! The locks of VMs' disks, where a host that died left them on the server: it is made to give them up, so that nobody waits until it misses that
//! host. `docs/decisions/the-disk-locks.md` says why that ends nothing that lives.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::diagnosis::Reason;
use model::names::{DatastoreName, HostName};
use protocol::lease::deaths::Deaths;
use protocol::lease::identity::BootId;

use crate::api::lease::DeadBoot;
use crate::datastore::Datastore;
use crate::datastore::nfs_client::restart::{RestartError, is_known, restart};
use crate::host::born::{Unattached, attach_disks};
use crate::host::control_plane::ControlPlane;
use crate::host::discovery::{HostRecord, hex_of};
use crate::host::located::Located;
use crate::host::running::Running;

/// Pause before a server is asked again.
const AGAIN: Duration = Duration::from_secs(3);
/// How long after a host was asked for, and found dead, it counts as dead.
pub(super) const STAYS_DEAD: Duration = Duration::from_secs(3);
/// How long a server may take to answer what it was told. It has missed the dead host by itself long before.
const ANSWERS_WITHIN: Duration = Duration::from_secs(600);

/// What is known of each server that was told of dead hosts.
#[derive(Debug, Default)]
pub struct Servers {
    told: Mutex<BTreeMap<SocketAddr, Arc<Mutex<Unanswered>>>>,
    deaths: Mutex<BTreeMap<DatastoreName, Deaths>>,
}

impl Servers {
    pub(super) fn of(&self, server: SocketAddr) -> Arc<Mutex<Unanswered>> {
        Arc::clone(lock(&self.told).entry(server).or_default())
    }

    /// Looks at, or changes, what is known of the deaths on a datastore.
    pub(super) fn with_deaths<T>(&self, datastore: &DatastoreName, act: impl FnOnce(&mut Deaths) -> T) -> T {
        act(lock(&self.deaths).entry(datastore.clone()).or_default())
    }

    /// Whether its server may keep something for a dead host, for all that is known here.
    pub fn may_keep_for_the_dead(&self, datastore: &DatastoreName) -> bool {
        self.with_deaths(datastore, |deaths| deaths.is_open())
    }
}

/// The boots of which a server was asked or told, and which it may be giving up at this moment, each by the datastore by which it
/// was known to be dead. Its lock is held by who tells the server: two that restart a client at once hinder each other.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    boots: BTreeMap<(DatastoreName, u128), Pending>,
}

/// A boot that a server may be giving up.
#[derive(Debug)]
struct Pending {
    name: HostName,
    /// What is over, for a person ([`DeadBoot::text`]).
    who: String,
    since: Instant,
    /// It was told by this host, and not only asked in vain for the client: then its answer to that alone tells that it is done.
    told: bool,
}

impl Unanswered {
    /// The server was told of a boot. What it did not do leaves what was so before.
    fn told(&mut self, datastore: &DatastoreName, boot: &DeadBoot, outcome: &Result<(), RestartError>) {
        let of = (datastore.clone(), boot.boot);
        let pending = |told| Pending { name: boot.name.clone(), who: boot.text(), since: Instant::now(), told };
        match outcome {
            Ok(()) => drop(self.boots.remove(&of)),
            Err(RestartError::Unanswered(_)) => drop(self.boots.insert(of, pending(true))),
            Err(RestartError::Silent(_)) => {
                self.boots.entry(of).or_insert_with(|| pending(false)).since = Instant::now();
            }
            Err(_) => {}
        }
    }

    /// Asks the server again about what it was asked for in vain. An answer tells that it is done with what another host may have told it.
    fn ask_again(&mut self, server: SocketAddr) {
        self.boots.retain(|(_, boot), pending| pending.told || is_known(server, *boot, pending.name.as_str()).is_err());
    }

    /// Whether locks of a datastore may be taken.
    fn may_lock(&self, datastore: &DatastoreName) -> Result<(), Reason> {
        let is_pending = |((of, _), pending): &(&(DatastoreName, u128), &Pending)| {
            of == datastore && pending.since.elapsed() < ANSWERS_WITHIN
        };
        let Some((_, Pending { who, told, .. })) = self.boots.iter().find(is_pending) else { return Ok(()) };
        let cause = if *told {
            format!("its server was told to keep nothing for {who}, and has not said that it does so")
        } else {
            format!("its server does not say whether it keeps anything for {who}")
        };
        Err(Reason::new(cause, format!("datastore show {datastore}")))
    }
}

/// Gives a VM its disks, as [`attach_disks`] does, and makes the server give up the locks that dead hosts left there.
///
/// # Errors
/// As those of [`attach_disks`].
pub fn take_disks(
    plane: &ControlPlane,
    located: &Located,
    running: &Running,
    left: &mut LeftLocks,
) -> Result<(), Unattached> {
    let is_locked = |attached: &Result<(), Unattached>| matches!(attached, Err(Unattached::Locked(_)));
    let tried = left.take(plane, &located.datastore, || attach_disks(located, running), is_locked);
    tried.map_err(Unattached::Locked).flatten()
}

/// What one who wants locks has asked of their server.
#[derive(Debug, Default)]
pub struct LeftLocks {
    asked: Option<Instant>,
}

impl LeftLocks {
    /// Tries to take locks, and where they are another's, once more when the server gave up those of dead hosts.
    ///
    /// # Errors
    /// The server was told that a host is dead, and has not said whether it gave up what that had: it may be about to, and still carry out what
    /// the dead host wrote. Its locks are nobody's to take before.
    pub fn take<T>(
        &mut self,
        plane: &ControlPlane,
        datastore: &Datastore,
        mut take: impl FnMut() -> T,
        is_locked: impl Fn(&T) -> bool,
    ) -> Result<T, Reason> {
        let Some(server) = datastore.keeper_of_locks() else { return Ok(take()) };
        let may_lock = lock(&plane.servers.of(server)).may_lock(datastore.name());
        if may_lock.is_err() {
            self.give_up(plane, datastore)?;
        }
        let taken = take();
        if is_locked(&taken) && self.give_up(plane, datastore)? { Ok(take()) } else { Ok(taken) }
    }

    /// Makes the server of a datastore give up what dead hosts have there, unless it was asked just now; whether there was any that might
    /// have had something.
    ///
    /// # Errors
    /// As those of [`LeftLocks::take`].
    pub fn give_up(&mut self, plane: &ControlPlane, datastore: &Datastore) -> Result<bool, Reason> {
        let Some(server) = datastore.keeper_of_locks() else { return Ok(false) };
        let unanswered = plane.servers.of(server);
        let mut unanswered = lock(&unanswered);
        let mut given_up = false;
        if self.asked.is_none_or(|asked| asked.elapsed() >= AGAIN) {
            unanswered.ask_again(server);
            let by = Instant::now() + STAYS_DEAD;
            match plane.leases.dead_boots(datastore.name()) {
                Ok(dead) => {
                    let dead = dead_everywhere(plane, datastore, dead);
                    given_up = tell(plane, (datastore, server), &dead, by, &mut unanswered);
                }
                Err(failure) => {
                    log::warn!("datastore {}: which hosts are dead is not known: {failure}", datastore.name());
                }
            }
            self.asked = Some(Instant::now());
        }
        unanswered.may_lock(datastore.name()).map(|()| given_up)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Tells the server of a datastore that these are dead, until it does not do it; whether it gave up what any of them may have had.
pub(super) fn tell(
    plane: &ControlPlane,
    (datastore, server): (&Datastore, SocketAddr),
    dead: &[DeadBoot],
    by: Instant,
    unanswered: &mut Unanswered,
) -> bool {
    let mut given_up = false;
    for one in dead {
        let (store, who) = (datastore.name(), one.text());
        let outcome = restart(server, one.boot, one.name.as_str(), by);
        unanswered.told(store, one, &outcome);
        match outcome {
            Ok(()) => log::info!("datastore {store}: its server was told to keep nothing for {who}"),
            Err(error @ RestartError::Unanswered(_)) => {
                log::warn!("datastore {store}: its server was told to keep nothing for {who}: {error}");
                break;
            }
            Err(error) => {
                log::warn!("datastore {store}: its server was not told to keep nothing for {who}: {error}");
                break;
            }
        }
        plane.servers.with_deaths(store, |deaths| deaths.settle(BootId(one.boot)));
        given_up = true;
    }
    given_up
}

/// The boots among those that are `dead` on a datastore that live on no other. A datastore is asked once, and only if one of them named it:
/// it looks anew for each question, and may hang.
pub(super) fn dead_everywhere(plane: &ControlPlane, datastore: &Datastore, dead: Vec<DeadBoot>) -> Vec<DeadBoot> {
    let area_of = |datastore: &Datastore| plane.hosts.area(plane.name(), datastore.name());
    let mut dead_in: BTreeMap<String, Vec<DeadBoot>> = BTreeMap::new();
    dead_in.extend(area_of(datastore).map(|area| (area, dead.clone())));
    let mut is_dead_in = |area: &str, boot: u128| {
        let dead = dead_in.entry(area.to_owned()).or_insert_with(|| {
            let all = plane.datastores.all();
            let there = all.iter().find(|datastore| area_of(datastore).as_deref() == Some(area));
            there.and_then(|datastore| plane.leases.dead_boots(datastore.name()).ok()).unwrap_or_default()
        });
        dead.iter().any(|dead| dead.boot == boot)
    };
    let is_only_one = |name: &HostName| plane.hosts.twins(name).is_none();
    dead.into_iter()
        .filter(|one| {
            let said = plane.hosts.record_of_boot(&one.name, &hex_of(&one.boot.to_be_bytes()));
            is_dead_everywhere(one, said.as_ref(), &mut |area| is_dead_in(area, one.boot), &is_only_one)
        })
        .collect()
}

/// Whether nothing of this boot is alive by any datastore, by what it said last and whether it is dead in those lease areas. A host that lost
/// one of its datastores lives on by the others, and a server that has both knows it as one client.
fn is_dead_everywhere(
    dead: &DeadBoot,
    said: Option<&HostRecord>,
    dead_in: &mut dyn FnMut(&str) -> bool,
    is_only_one: &dyn Fn(&HostName) -> bool,
) -> bool {
    // Where a kernel does not tell its boot, all its boots are called 0.
    if dead.boot == 0 {
        return false;
    }
    match said {
        // An area that it had not opened when it said so it may have opened since.
        Some(said) => {
            let mut areas = said.datastores.values().map(|datastore| datastore.area.as_deref());
            areas.len() > 0 && areas.all(|area| area.is_some_and(&mut *dead_in))
        }
        // Its kernel is gone, whatever it had; unless two hosts are taken for one.
        None => dead.rebooted && is_only_one(&dead.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datastore::nfs_client::owner::owner;
    use crate::datastore::nfs_client::stand_in::StandIn;
    use crate::host::discovery::{DatastoreRecord, example};

    const DEAD: u128 = 0xdead;

    fn dead(rebooted: bool) -> DeadBoot {
        DeadBoot { host: [0; 16], name: "host-b".parse().expect("valid"), boot: DEAD, rebooted, is_back: false }
    }

    fn said(areas: &[Option<&str>]) -> HostRecord {
        let datastore = |(n, area): (usize, &Option<&str>)| {
            let record = DatastoreRecord { area: area.map(str::to_owned), available: true };
            (format!("store{n}").parse().expect("valid"), record)
        };
        let datastores = areas.iter().enumerate().map(datastore).collect();
        HostRecord { datastores, ..example("host-b", 7) }
    }

    #[test]
    fn a_host_that_may_live_by_another_datastore_keeps_what_its_server_has_for_it() {
        let may = |said: &HostRecord, dead_in: &dyn Fn(&str) -> bool| {
            is_dead_everywhere(&dead(false), Some(said), &mut |area| dead_in(area), &|_| true)
        };
        let in_first = |area: &str| area == "1";
        assert!(may(&said(&[Some("1")]), &in_first));
        assert!(!may(&said(&[Some("1"), Some("2")]), &in_first));
        assert!(may(&said(&[Some("1"), Some("2")]), &|_| true));
        assert!(!may(&said(&[Some("1"), None]), &|_| true), "it had not opened that one");
        assert!(!may(&said(&[]), &|_| true), "an older build does not tell");
    }

    #[test]
    fn no_lock_is_taken_until_the_server_has_said_that_it_keeps_nothing_for_the_dead() {
        let (lab, spare): (DatastoreName, DatastoreName) =
            ("lab".parse().expect("valid"), "spare".parse().expect("valid"));
        let dead = dead(false);
        let silent = || Err(RestartError::Unanswered(std::io::ErrorKind::TimedOut.into()));
        let mut unanswered = Unanswered::default();
        unanswered.told(&lab, &dead, &silent());
        let refusal = unanswered.may_lock(&lab).expect_err("it may be about to").cause;
        assert!(refusal.contains("told to keep nothing for host-b"), "{refusal}");
        // Asked again it is too late, or not reached; another datastore of that server knows nothing of that host.
        for outcome in [Err(RestartError::TooLate), Err(RestartError::Io(std::io::ErrorKind::TimedOut.into()))] {
            unanswered.told(&lab, &dead, &outcome);
            assert!(unanswered.may_lock(&lab).is_err(), "{outcome:?}");
            assert!(unanswered.may_lock(&spare).is_ok(), "that host had nothing there");
        }
        unanswered.told(&lab, &dead, &Ok(()));
        assert!(unanswered.may_lock(&lab).is_ok());
        unanswered.told(&lab, &DeadBoot { is_back: true, ..dead }, &silent());
        let refusal = unanswered.may_lock(&lab).expect_err("it may be about to").cause;
        assert!(refusal.contains("for an earlier boot of host-b,"), "that host lives: {refusal}");
    }

    #[test]
    fn no_lock_is_taken_while_the_server_may_be_giving_up_what_another_host_told_it_of() {
        let (lab, dead): (DatastoreName, _) = ("lab".parse().expect("valid"), dead(false));
        let mut unanswered = Unanswered::default();
        unanswered.told(&lab, &dead, &Err(RestartError::Silent(std::io::ErrorKind::TimedOut.into())));
        let refusal = unanswered.may_lock(&lab).expect_err("another may have told it").cause;
        assert!(refusal.contains("does not say whether it keeps anything for host-b"), "{refusal}");
        unanswered.ask_again(StandIn::gone());
        assert!(unanswered.may_lock(&lab).is_err(), "it is not reached");
        // Whatever it says of the client, and whether that host lives by now, it is done.
        let owner = owner(2, DEAD, "host-b");
        unanswered.ask_again(StandIn::with(std::slice::from_ref(&owner)).address());
        assert!(unanswered.may_lock(&lab).is_ok());
        // What this host told it of itself may still be on its way.
        unanswered.told(&lab, &dead, &Err(RestartError::Unanswered(std::io::ErrorKind::TimedOut.into())));
        unanswered.told(&lab, &dead, &Err(RestartError::Silent(std::io::ErrorKind::TimedOut.into())));
        unanswered.ask_again(StandIn::with(&[owner]).address());
        assert!(unanswered.may_lock(&lab).is_err());
    }

    #[test]
    fn a_boot_of_which_nothing_is_known_is_dead_only_where_its_host_booted_again_and_nobody_shares_its_name() {
        let may = |rebooted, alone| is_dead_everywhere(&dead(rebooted), None, &mut |_| true, &|_| alone);
        assert_eq!([may(true, true), may(false, true), may(true, false)], [true, false, false]);
        let nameless = DeadBoot { boot: 0, ..dead(true) };
        assert!(!is_dead_everywhere(&nameless, Some(&said(&[Some("1")])), &mut |_| true, &|_| true));
    }
}
