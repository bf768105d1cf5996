//! `lease break`: makes a VM's lease nobody's, for who must. A holder whose life is over loses it like to a start; from one
//! that lives it is taken only by force, because only a person can know that the VM does not run there.

use std::time::{Duration, Instant};

use model::diagnosis::Diagnosis;
use model::host_config::{DatastoreKind, NfsVersion};
use model::limits;
use model::names::VmName;

use crate::api::host::VmState;
use crate::api::lease::{Holder, VmOnDatastore};
use crate::datastore::Datastore;
use crate::host::caller::LOOK;
use crate::host::control_plane::ControlPlane;
use crate::host::disk_locks::LeftLocks;
use crate::host::leases::{LeaseFailure, Mended};
use crate::host::located::locate;
use crate::host::{owed, record};
use crate::journal;

/// How long a lease that is being given up is waited for.
const RELEASE_BOUND: Duration = Duration::from_secs(10);

/// Breaks the lease of a VM; `force`: although its holder lives.
///
/// # Errors
/// It runs here, its holder lives and `force` was not said, or the lease does not tell.
pub fn break_lease(plane: &ControlPlane, name: &VmName, force: bool) -> Result<String, Diagnosis> {
    let what = format!("the lease of VM {name} was not broken");
    plane.refuse_if_ending(&what)?;
    let located = locate(plane, name, &what)?;
    let began = Instant::now();
    let _claim = loop {
        match plane.vms.claim(name, VmState::Releasing, &what) {
            // A lease that this host could not give up is tried again and again.
            Err(_) if plane.vms.state(name) == Some(VmState::Releasing) && began.elapsed() < RELEASE_BOUND => {
                std::thread::sleep(LOOK);
            }
            claimed => break claimed?,
        }
    };
    let vm = located.vm();
    let failed = |failure: LeaseFailure| Diagnosis::of(&what, vec![failure.reason()]);
    let holder = match plane.leases.holder_if_it_answers(&vm) {
        Err(LeaseFailure::Damaged { mark, .. }) => {
            return mend(plane, &vm, &located.datastore, force.then_some(mark), &what);
        }
        holder => holder.map_err(failed)?,
    };
    let Some(holder) = holder else {
        return Ok(format!("nobody holds the lease of VM {name}: vm start {name}, on any host"));
    };
    if holder.own {
        owed::give_up(plane, &vm).map_err(failed)?;
        return Ok(format!(
            "this host held the lease of VM {name}, ran nothing of it, and gave it up: vm start {name}, on any host"
        ));
    }
    if holder.alive && !force {
        return Err(refusal(&what, name, &holder, &located.datastore));
    }
    take_and_give_up(plane, &vm, &holder, &what)?;
    if !holder.alive {
        give_up_locks(plane, &located.datastore);
    }
    let Holder { name: from, epoch, .. } = &holder;
    log::warn!(target: journal::NEWS, "the lease of VM {name} was broken on the console; {from} held it in epoch {epoch}");
    let afterwards = if holder.alive {
        format!("; if {from} runs the VM, it ends it as soon as it reads that")
    } else {
        String::new()
    };
    Ok(format!(
        "the lease of VM {name}, which {from} held in epoch {epoch}, is nobody's now: vm start {name}, on any host{afterwards}"
    ))
}

/// Gives a VM whose lease is damaged a new one (`docs/decisions/a-damaged-lease.md`).
fn mend(
    plane: &ControlPlane,
    vm: &VmOnDatastore,
    datastore: &Datastore,
    vouched: Option<u64>,
    what: &str,
) -> Result<String, Diagnosis> {
    let name = &vm.vm;
    match plane.leases.mend(vm, vouched) {
        Ok(Mended::New) => {
            give_up_locks(plane, datastore);
            log::warn!(target: journal::NEWS, "the damaged lease of VM {name} was given up for a new one on the console");
            Ok(format!(
                "the lease of VM {name} was damaged; it has a new one, which nobody holds: vm start {name}, on any host"
            ))
        }
        Ok(Mended::Readable(holder)) => {
            let who = holder.map_or("nobody holds it".to_owned(), |Holder { name, epoch, .. }| {
                format!("{name} holds it (epoch {epoch})")
            });
            let hint = format!("lease show {name}; then, if need be: lease break {name}");
            Err(Diagnosis::new(what, format!("it was damaged, and can be read by now: {who}"), hint))
        }
        Err(failure @ LeaseFailure::MayRunOn { .. }) => {
            let cause = format!("{failure}; {}", storage_text("its host's", datastore));
            let hint = format!(
                "on each of them: vm list, and vm stop {name} where it runs, vm kill {name} where it is paused; only who knows that it \
                 is on none: lease break {name} --force"
            );
            Err(Diagnosis::new(what, cause, hint))
        }
        Err(failure) => {
            let doubt = format!("whether VM {name} has a new lease is not known");
            let what = if failure.leaves_doubt() { &doubt } else { what };
            Err(Diagnosis::of(what, vec![failure.reason()]))
        }
    }
}

/// Has the server give up what dead hosts have there. Who starts the VM then takes it from nobody, and so does not ask for this before its files
/// are looked at: one that the server has delegated to a dead host answers nobody. What is not given up now is asked for again with the disks.
fn give_up_locks(plane: &ControlPlane, datastore: &Datastore) {
    let _ = LeftLocks::default().give_up(plane, datastore);
}

/// Comes to hold the VM, and lets go of it at once. A control plane that dies in between leaves the note of it.
fn take_and_give_up(plane: &ControlPlane, vm: &VmOnDatastore, holder: &Holder, what: &str) -> Result<(), Diagnosis> {
    let noted = record::begin(&plane.run_dir, vm);
    noted.map_err(|error| Diagnosis::new(what, format!("it cannot be noted: {error}"), "host check"))?;
    let refused = |what: &str, failure: LeaseFailure| Diagnosis::of(what, vec![failure.reason()]);
    let taken =
        if holder.alive { plane.leases.seize(vm, holder.epoch).map(drop) } else { plane.leases.acquire(vm).map(drop) };
    match taken {
        Ok(()) => owed::give_up(plane, vm).map_err(|failure| {
            let what =
                format!("the lease of VM {} is this host's now, and not given up yet; this host goes on trying", vm.vm);
            refused(&what, failure)
        }),
        Err(failure) => {
            owed::not_got(plane, vm, &failure);
            let doubt = format!(
                "whether the lease of VM {} was broken is not known; if so, this host gives it up by itself",
                vm.vm
            );
            let what = if failure.leaves_doubt() { &doubt } else { what };
            Err(refused(what, failure))
        }
    }
}

/// What a person has to know who breaks the lease of a host that lives.
fn refusal(what: &str, name: &VmName, holder: &Holder, datastore: &Datastore) -> Diagnosis {
    let host = &holder.name;
    let storage = storage_text(&format!("{host}'s"), datastore);
    let cause =
        format!("{host} holds it in epoch {} and renews its host lease, so it may run the VM; {storage}", holder.epoch);
    let hint = format!(
        "on {host}: vm stop {name}, or lease break {name} where it runs nothing of it; if {host} cannot be reached, switch it off and \
         wait {} s; only who knows that the VM does not run there: lease break {name} --force",
        limits::LEASE_EXPIRY_MS / 1000
    );
    Diagnosis::new(what, cause, hint)
}

/// What there is to keep a second guest from the disks of a VM, by `whose` locks on them.
fn storage_text(whose: &str, datastore: &Datastore) -> String {
    if has_server_locks(datastore.kind()) {
        return format!(
            "{whose} locks on its disks, if it has any (a host that mounts the datastore by NFS 3 has none), keep a second guest from \
             writing until it ends there"
        );
    }
    format!(
        "nothing keeps both from writing into its disks on datastore {}, which has no locks: its data is lost then",
        datastore.name()
    )
}

/// Whether the disks of a VM have locks that hosts hold against each other (`docs/decisions/the-disk-locks.md`).
fn has_server_locks(kind: &DatastoreKind) -> bool {
    !matches!(kind, DatastoreKind::Nfs { version: NfsVersion::V3, .. })
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::api::lease::{LeaseAnswer, LeaseRequest};
    use crate::host::control_plane::stand_in::Place;

    /// A control plane with the VM `web`, held by host-b, which lives or not; and what its lease role was asked for.
    fn held_by_another(test: &str, alive: bool) -> (Place, Arc<Mutex<Vec<LeaseRequest>>>) {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let asks = Arc::clone(&asked);
        let name = "host-b".parse().expect("valid");
        let holder = Holder { host: [2; 16], name, generation: 1, epoch: 3, alive, own: false, since_unix_s: None };
        let place = Place::without_datastore(test, move |request| {
            asks.lock().expect("held").push(request.clone());
            match request {
                LeaseRequest::Query(_) => LeaseAnswer::Holder(Some(holder.clone())),
                LeaseRequest::Acquire(_) if alive => LeaseAnswer::HeldBy(holder.clone()),
                LeaseRequest::Acquire(_) | LeaseRequest::Seize { epoch: 3, .. } => LeaseAnswer::held(4),
                LeaseRequest::GiveUp(_) => LeaseAnswer::Done,
                _ => LeaseAnswer::Failed("it was not to be asked".to_owned()),
            }
        });
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        (place, asked)
    }

    fn changes(asked: &Mutex<Vec<LeaseRequest>>) -> Vec<LeaseRequest> {
        let mut asked = asked.lock().expect("held").clone();
        asked.retain(|request| !matches!(request, LeaseRequest::Query(_) | LeaseRequest::Status));
        asked
    }

    fn web() -> VmOnDatastore {
        VmOnDatastore { datastore: "lab".parse().expect("valid"), vm: "web".parse().expect("valid") }
    }

    #[test]
    fn the_lease_of_a_host_that_lives_is_broken_by_force_only_and_what_it_may_cost_is_said() {
        let (place, asked) = held_by_another("break-living", true);
        let refused = break_lease(&place.plane, &web().vm, false).expect_err("it lives").to_string();
        for said in ["host-b holds it in epoch 3", "may run the VM", "locks on its disks", "lease break web --force"] {
            assert!(refused.contains(said), "{said}: {refused}");
        }
        assert_eq!(changes(&asked), []);
        let broken = break_lease(&place.plane, &web().vm, true).expect("broken");
        assert!(broken.contains("nobody's now") && broken.contains("host-b runs the VM"), "{broken}");
        assert_eq!(changes(&asked), [LeaseRequest::Seize { vm: web(), epoch: 3 }, LeaseRequest::GiveUp(web())]);
    }

    #[test]
    fn the_lease_of_a_dead_host_is_broken_as_a_start_would_take_it() {
        let (place, asked) = held_by_another("break-dead", false);
        let broken = break_lease(&place.plane, &web().vm, false).expect("broken");
        assert!(broken.contains("nobody's now") && !broken.contains("runs the VM"), "{broken}");
        assert_eq!(changes(&asked), [LeaseRequest::Acquire(web()), LeaseRequest::GiveUp(web())]);
    }

    #[test]
    fn a_damaged_lease_is_mended_where_no_other_host_lives_or_by_force_and_what_it_may_cost_is_said() {
        let damaged =
            || LeaseAnswer::Damaged { vm: web().vm, why: "the lease of VM web is damaged".to_owned(), mark: 7 };
        let place = Place::without_datastore("break-damaged", move |request| match request {
            LeaseRequest::Query(_) => damaged(),
            LeaseRequest::Mend { vouched: None, .. } => {
                LeaseAnswer::MayRunOn { live: vec!["host-b".to_owned()], untold: vec!["host-c".to_owned()] }
            }
            LeaseRequest::Mend { vouched: Some(7), .. } => LeaseAnswer::Done,
            _ => LeaseAnswer::Failed("it was not to be asked".to_owned()),
        });
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let refused = break_lease(&place.plane, &web().vm, false).expect_err("host-b lives").to_string();
        for said in [
            "these live: host-b;",
            "if they come back: host-c;",
            "locks on its disks",
            "vm stop web where it runs",
            "lease break web --force",
        ] {
            assert!(refused.contains(said), "{said}: {refused}");
        }
        let mended = break_lease(&place.plane, &web().vm, true).expect("mended");
        assert!(mended.contains("a new one, which nobody holds"), "{mended}");
    }

    #[test]
    fn of_a_lease_that_another_mended_first_it_is_told_who_holds_it() {
        let place = Place::without_datastore("mended-first", |request| match request {
            LeaseRequest::Mend { .. } => {
                let name = "host-b".parse().expect("valid");
                let (epoch, since_unix_s) = (1, None);
                let holder =
                    Holder { host: [2; 16], name, generation: 1, epoch, alive: true, own: false, since_unix_s };
                LeaseAnswer::Holder(Some(holder))
            }
            _ => LeaseAnswer::Damaged { vm: web().vm, why: "the lease of VM web is damaged".to_owned(), mark: 7 },
        });
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let told = break_lease(&place.plane, &web().vm, true).expect_err("it is held").to_string();
        assert!(told.contains("host-b holds it (epoch 1)") && told.contains("lease show web"), "{told}");
    }

    #[test]
    fn a_lease_that_was_mended_has_the_server_give_up_what_dead_hosts_have_there() {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let asks = Arc::clone(&asked);
        let place = Place::without_datastore("mend-locks", move |request| {
            asks.lock().expect("held").push(request.clone());
            match request {
                LeaseRequest::Mend { .. } => LeaseAnswer::Done,
                LeaseRequest::DeadBoots(_) => LeaseAnswer::DeadBoots(Vec::new()),
                _ => LeaseAnswer::Failed("it was not to be asked".to_owned()),
            }
        });
        let (server, export) = ([127, 0, 0, 1].into(), "/vms".to_owned());
        let kind = DatastoreKind::Nfs { server, port: 2049, export, version: NfsVersion::V4_2 };
        let configured = model::host_config::Datastore { name: web().datastore, kind };
        let datastore = Datastore::new(&configured, std::path::Path::new("/nowhere"), "host-a");
        mend(&place.plane, &web(), &datastore, None, "").expect("mended");
        let then = LeaseRequest::DeadBoots(web().datastore);
        assert_eq!(changes(&asked), [LeaseRequest::Mend { vm: web(), vouched: None }, then]);
    }

    #[test]
    fn on_a_server_without_locks_the_warning_does_not_count_on_them() {
        let nfs = |version| DatastoreKind::Nfs {
            server: [10, 0, 0, 1].into(),
            port: 2049,
            export: "/vms".to_owned(),
            version,
        };
        assert!(has_server_locks(&nfs(NfsVersion::V4_1)) && has_server_locks(&nfs(NfsVersion::V4_2)));
        assert!(!has_server_locks(&nfs(NfsVersion::V3)));
    }
}
