//! Hosts that die: as soon as the lease of one is over, its NFS client is restarted at the server by one of the hosts that live, so that
//! everything that was locked by it or delegated to it is free: also what no start asks for, as its record. Whose turn that is, and that it is
//! done once, decides `protocol::lease::deaths`; that it ends nothing that lives, `docs/decisions/the-disk-locks.md`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use protocol::lease::identity::BootId;

use crate::api::lease::{DeadBoot, HostLease};
use crate::boot_clock;
use crate::boot_id::boot_id;
use crate::datastore::Datastore;
use crate::datastore::nfs_client::restart::{RestartError, is_known};
use crate::host::control_plane::ControlPlane;
use crate::host::discovery::renews;
use crate::host::disk_locks::{STAYS_DEAD, dead_everywhere, lock, tell};
use crate::journal;

/// Pause between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Tells the server of a datastore of the hosts that die, until this host gives its leases up. A server that does not answer holds up this
/// thread alone. Nothing is to be told where the server keeps nothing for a host by its name (NFSv3, a directory).
pub fn keep(plane: &Arc<ControlPlane>, datastore: &Datastore) {
    let Some(server) = datastore.keeper_of_locks() else { return };
    while !plane.leaving.load(Ordering::SeqCst) {
        look(plane, datastore, server);
        std::thread::sleep(LOOK);
    }
}

fn look(plane: &ControlPlane, datastore: &Datastore, server: SocketAddr) {
    let name = datastore.name();
    // Of what a datastore does not show nothing is known.
    let Ok(dead) = plane.leases.dead_boots(name) else { return };
    let now = boot_clock::now();
    let is_open = plane.servers.with_deaths(name, |deaths| {
        deaths.observe(now, dead.iter().map(|one| BootId(one.boot)));
        deaths.is_open()
    });
    if !is_open {
        return;
    }
    let Ok(hosts) = plane.leases.hosts(name) else { return };
    let before = before(&hosts, (plane.identity, boot_id()));
    let due = plane.servers.with_deaths(name, |deaths| deaths.due(now, before));
    let due = dead.into_iter().filter(|one| due.contains(&BootId(one.boot))).collect();
    for one in dead_everywhere(plane, datastore, due) {
        if keeps_nothing(plane, (datastore, server), &one) {
            continue;
        }
        // Looked at anew, because the server may have taken its time.
        let by = Instant::now() + STAYS_DEAD;
        let Ok(dead) = plane.leases.dead_boots(name) else { return };
        let dead = dead.into_iter().filter(|still| still.boot == one.boot).collect();
        for one in dead_everywhere(plane, datastore, dead) {
            tell_of(plane, (datastore, server), one, by);
        }
    }
}

/// How many hosts that live have their slots before this one, the identity and boot `own`; none where this host does not renew its lease, and so may
/// be the one that is taken for dead. `hosts` are in the order of their slots.
fn before(hosts: &[HostLease], own: ([u8; 16], u128)) -> Option<usize> {
    hosts.iter().filter(|lease| renews(lease)).position(|lease| (lease.host, lease.boot) == own)
}

/// Whether a server keeps nothing for a boot that is dead, or does not say now: another host may have told it, or it may have died long ago.
fn keeps_nothing(plane: &ControlPlane, (datastore, server): (&Datastore, SocketAddr), one: &DeadBoot) -> bool {
    let (store, name) = (datastore.name(), &one.name);
    match is_known(server, one.boot, name.as_str()) {
        Ok(false) => {
            plane.servers.with_deaths(store, |deaths| deaths.settle(BootId(one.boot)));
            log::debug!("datastore {store}: its server keeps nothing for {name}, which is dead");
            true
        }
        // One that does not speak of it is told all the same.
        Ok(true) | Err(RestartError::Call(_)) => false,
        // Tried again, here or by the next host.
        Err(error) => {
            log::debug!("datastore {store}: whether its server keeps anything for {name}: {error}");
            true
        }
    }
}

/// Tells the server of a boot that is dead until `by`.
fn tell_of(plane: &ControlPlane, (datastore, server): (&Datastore, SocketAddr), one: DeadBoot, by: Instant) {
    let (store, name) = (datastore.name(), one.name.clone());
    let unanswered = plane.servers.of(server);
    let mut unanswered = lock(&unanswered);
    let who = if name == *plane.name() { "the last boot of this host".to_owned() } else { one.text() };
    if tell(plane, (datastore, server), &[one], by, &mut unanswered) {
        log::info!(
            target: journal::NEWS,
            "the server of datastore {store} gave up what it kept (locks, delegations) for {who}: others have those files at once"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use model::host_config::{DatastoreKind, NfsVersion};
    use protocol::lease::identity::Slot;
    use protocol::lease::watch::Death;

    use super::*;
    use crate::api::lease::{LeaseAnswer, LeaseRequest};
    use crate::datastore::nfs_client::owner::owner;
    use crate::datastore::nfs_client::stand_in::{Heard, StandIn};
    use crate::host::control_plane::stand_in::Place;

    const DEAD: u128 = 0xdead;
    /// The identity that a control plane has in a test.
    const OWN: [u8; 16] = [1; 16];

    fn lease(host: [u8; 16], boot: u128, silent_ms: u64, over: Option<Death>) -> HostLease {
        let name = format!("host-{}", host[0]).parse().expect("valid");
        HostLease { slot: Slot(u16::from(host[0])), host, name, generation: 1, boot, over, silent_ms, changed: true }
    }

    fn own() -> HostLease {
        lease(OWN, boot_id(), 500, None)
    }

    fn dead() -> HostLease {
        lease([2; 16], DEAD, 20_000, Some(Death::Expired))
    }

    /// A host whose lease role shows these hosts, and as dead what it is given; and the datastore of a server at this address.
    fn witness(test: &str, hosts: Vec<HostLease>, server: SocketAddr) -> (Place, Arc<Mutex<Vec<DeadBoot>>>, Datastore) {
        let boots = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&boots);
        let place = Place::without_datastore(test, move |request| match request {
            LeaseRequest::DeadBoots(_) => LeaseAnswer::DeadBoots(shown.lock().expect("whole").clone()),
            LeaseRequest::Hosts(_) => LeaseAnswer::Hosts(hosts.clone()),
            _ => LeaseAnswer::Failed("it is not asked".to_owned()),
        });
        let export = "/vms".to_owned();
        let kind = DatastoreKind::Nfs { server: server.ip(), port: server.port(), export, version: NfsVersion::V4_2 };
        let configured = model::host_config::Datastore { name: "nfs".parse().expect("valid"), kind };
        (place, boots, Datastore::new(&configured, std::path::Path::new("/nowhere"), "host-a"))
    }

    /// Dead on all datastores: it has booted again.
    fn boot() -> DeadBoot {
        DeadBoot { host: [2; 16], name: "host-b".parse().expect("valid"), boot: DEAD, rebooted: true, is_back: false }
    }

    #[test]
    fn a_server_is_told_of_a_host_as_soon_as_its_lease_is_over_once_a_death() {
        let server = StandIn::with(&[owner(2, DEAD, "host-b")]);
        let (place, boots, datastore) = witness("bury", vec![own(), dead()], server.address());
        let look = || look(&place.plane, &datastore, server.address());
        look();
        assert_eq!(server.heard(), [], "nobody is dead");
        assert!(!place.plane.servers.may_keep_for_the_dead(datastore.name()));
        boots.lock().expect("whole").push(boot());
        look();
        assert_eq!(server.known(), Vec::<String>::new());
        let told = server.heard();
        assert!(told.contains(&Heard::Confirm), "{told:?}");
        assert!(!place.plane.servers.may_keep_for_the_dead(datastore.name()));
        look();
        assert_eq!(server.heard(), told, "it was told");
    }

    #[test]
    fn what_another_host_told_a_server_it_is_not_told_again() {
        let server = StandIn::with(&[]);
        let (place, boots, datastore) = witness("buried", vec![own(), dead()], server.address());
        boots.lock().expect("whole").push(boot());
        look(&place.plane, &datastore, server.address());
        let heard = server.heard();
        assert!(!heard.is_empty() && heard.iter().all(|heard| matches!(heard, Heard::AskFor(_))), "{heard:?}");
        assert!(!place.plane.servers.may_keep_for_the_dead(datastore.name()));
    }

    #[test]
    fn a_host_that_lives_by_another_datastore_for_all_that_is_known_keeps_what_the_server_has_for_it() {
        let server = StandIn::with(&[owner(2, DEAD, "host-b")]);
        let (place, boots, datastore) = witness("half-dead", vec![own(), dead()], server.address());
        // Nothing is known of what that boot had.
        boots.lock().expect("whole").push(DeadBoot { rebooted: false, ..boot() });
        look(&place.plane, &datastore, server.address());
        assert_eq!(server.heard(), []);
    }

    #[test]
    fn hosts_take_turns_by_their_slots_and_one_that_is_silent_itself_has_none() {
        let own_id = (OWN, boot_id());
        let other = |silent_ms, over| lease([3; 16], 3, silent_ms, over);
        assert_eq!(before(&[own(), other(0, None)], own_id), Some(0));
        assert_eq!(before(&[dead(), other(0, None), own()], own_id), Some(1));
        assert_eq!(before(&[other(9_000, None), other(0, Some(Death::Left)), own()], own_id), Some(0));
        assert_eq!(before(&[other(0, None), lease(OWN, boot_id(), 9_000, None)], own_id), None);
        assert_eq!(before(&[lease(OWN, boot_id() ^ 1, 0, None)], own_id), None, "an earlier boot of it");
    }

    #[test]
    fn a_datastore_whose_server_keeps_nothing_for_hosts_has_nobody_watched() {
        let (place, ..) = witness("nfs3", vec![own()], StandIn::gone());
        let (server, export) = ([127, 0, 0, 1].into(), "/vms".to_owned());
        let kind = DatastoreKind::Nfs { server, port: 2049, export, version: NfsVersion::V3 };
        let configured = model::host_config::Datastore { name: "nfs".parse().expect("valid"), kind };
        let datastore = Datastore::new(&configured, std::path::Path::new("/nowhere"), "host-a");
        // It returns.
        keep(&place.plane, &datastore);
        assert!(place.plane.servers.may_keep_for_the_dead(datastore.name()), "nobody looked");
    }
}
