//! The leases of this host itself, one on each datastore: asked for as soon as a datastore is there, waited for by a VM
//! that is to start, and heard of when they are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::diagnosis::Reason;
use model::names::{DatastoreName, VmName};

use crate::api::lease::{DatastoreLease, HELD_BOUND, LEASE_AREA, LeaseEvent, LeaseRequest};
use crate::datastore::Datastore;
use crate::host::caller::Caller;
use crate::host::control_plane::ControlPlane;
use crate::host::disk_locks::LeftLocks;
use crate::host::leases::LeaseFailure;
use crate::host::{ends, located};
use crate::journal;

/// Pause between two looks at what has to be kept true.
const KEEP: Duration = Duration::from_secs(1);
/// Pause between two questions whether a host lease is held.
const ASK: Duration = Duration::from_millis(500);
/// How long a VM may be without its guard before that is told: a role that died is back sooner, and guards it at once.
const UNGUARDED: Duration = Duration::from_secs(5);

/// Since when this host does not hold its leases, as far as this control plane has seen.
#[derive(Debug, Default)]
pub struct Unheld {
    spells: Mutex<BTreeMap<DatastoreName, Spell>>,
}

/// A time in which one thing kept a host lease from being held.
#[derive(Debug)]
struct Spell {
    since: Instant,
    /// Absent until the lease role was asked.
    hindrance: Option<Hindrance>,
}

/// What keeps this host from holding its lease on a datastore.
#[derive(Debug)]
struct Hindrance {
    failure: LeaseFailure,
    /// The error number with which the storage refuses the lease area, if it does.
    refusal: Option<i32>,
    /// What mends it ([`DatastoreLease::mend`]).
    mend: Option<String>,
}

impl PartialEq for Hindrance {
    /// A lease role that says nothing does so in several ways, which come to the same.
    fn eq(&self, other: &Self) -> bool {
        match (self.failure.is_silence(), other.failure.is_silence()) {
            (false, false) => self.refusal == other.refusal && self.failure.to_string() == other.failure.to_string(),
            (mine, theirs) => mine == theirs,
        }
    }
}

impl Unheld {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<DatastoreName, Spell>> {
        self.spells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this lease takes its time, if it does not already.
    fn begin(&self, datastore: &DatastoreName) {
        let spell = || Spell { since: Instant::now(), hindrance: None };
        self.lock().entry(datastore.clone()).or_insert_with(spell);
    }

    fn end(&self, datastore: &DatastoreName) {
        self.lock().remove(datastore);
    }

    /// Takes note of how the lease role says that it stands. Where another thing hinders it than before, that one is over, and from
    /// then on the lease takes its time again.
    fn note(&self, datastore: &DatastoreName, held: Result<(), Hindrance>) {
        let Err(hindrance) = held else { return self.end(datastore) };
        let mut spells = self.lock();
        let since = match spells.get(datastore) {
            Some(spell) if spell.hindrance.as_ref().is_none_or(|before| *before == hindrance) => spell.since,
            _ => Instant::now(),
        };
        spells.insert(datastore.clone(), Spell { since, hindrance: Some(hindrance) });
    }

    /// How long this has kept that of this datastore from being held; nothing where it did not, or not when last asked.
    fn lasts(&self, datastore: &DatastoreName, hindrance: &Hindrance) -> Duration {
        let spells = self.lock();
        let spell = spells.get(datastore).filter(|spell| spell.hindrance.as_ref() == Some(hindrance));
        spell.map_or(Duration::ZERO, |spell| spell.since.elapsed())
    }
}

/// Lets the lease role hold a host lease on a datastore whenever it is there, until this host gives its leases up: one
/// that was given up and asked for again would have to expire before the next boot of this host gets it.
pub fn keep(plane: &ControlPlane, datastore: &Datastore) {
    let mut told = None;
    let (mut was_held, mut is_held) = (false, false);
    loop {
        // From when a datastore is back on, its lease takes its time again.
        if !datastore.available() {
            plane.unheld.end(datastore.name());
        } else if !is_held {
            plane.unheld.begin(datastore.name());
        }
        let asking = plane.asking.read().unwrap_or_else(PoisonError::into_inner);
        if plane.leaving.load(Ordering::SeqCst) {
            return;
        }
        if datastore.available() {
            let trouble = open(plane, datastore).err();
            if let Some(trouble) = trouble.as_ref().filter(|trouble| told.as_ref() != Some(*trouble)) {
                log::error!("lease on datastore {}: {trouble}", datastore.name());
            }
            told = trouble;
            is_held = told.is_none();
            note_standing(plane, datastore);
        }
        drop(asking);
        if is_held && !was_held {
            // What this host was before a reset left locks of its own there, and it may be the first to want them. What is not given up now
            // is asked for again by who meets it.
            let _ = LeftLocks::default().give_up(plane, datastore);
        }
        was_held = is_held;
        std::thread::sleep(KEEP);
    }
}

/// Takes note of what the lease role says of the host lease on a datastore.
fn note_standing(plane: &ControlPlane, datastore: &Datastore) {
    let standing = standing(plane, datastore.name());
    if let Ok(lease) = &standing
        // A lease role that was started again refuses nothing before it has opened the area.
        && (lease.refusal.is_some() || lease.area.is_some())
    {
        datastore.lease_refused(lease.refusal);
    }
    if let Ok(lease) = &standing
        && (lease.damage.is_some() || lease.area.is_some())
    {
        datastore.lease_damaged(lease.damage.clone().map(|damage| LeaseFailure::AreaDamaged(damage).reason()));
    }
    plane.unheld.note(datastore.name(), held(standing));
}

fn open(plane: &ControlPlane, datastore: &Datastore) -> Result<(), String> {
    datastore.make_folder("godwit").map_err(|error| error.to_string())?;
    let request = LeaseRequest::Open {
        datastore: datastore.name().clone(),
        area: datastore.root().join(LEASE_AREA).to_string_lossy().into_owned(),
        host: plane.identity,
        name: plane.name().clone(),
        watchdog: plane.configuration.config.as_ref().and_then(|config| config.watchdog.clone()),
    };
    plane.leases.ask(&request, &[]).map(|_| ()).map_err(|failure| failure.to_string())
}

/// Waits until this host holds its lease on a datastore, because a VM is to start: after a boot that takes seconds, after
/// a crash up to the expiry. Where it was waited for long enough, the VM's lease is refused and says why.
///
/// # Errors
/// A person waits, and does so in vain for all that is known at once; or pressed Ctrl-C. `again` is what to type then.
pub fn wait(
    plane: &ControlPlane,
    datastore: &Datastore,
    vm: &VmName,
    caller: &Caller<'_>,
    again: &str,
) -> Result<(), Reason> {
    let (began, name) = (Instant::now(), datastore.name());
    let waited = loop {
        let Err(trouble) = held(standing(plane, name)) else { break Ok(()) };
        let passed = began.elapsed();
        if passed >= HELD_BOUND {
            break Ok(());
        }
        // What this host does by itself has nobody who would try again.
        if caller.is_a_person()
            && let Some(reason) = in_vain(plane, datastore, &trouble)
        {
            break Err(reason);
        }
        let (passed, most) = (passed.as_secs(), HELD_BOUND.as_secs());
        let what = format!("the host lease on datastore {name}, {passed} of at most {most} s: {}", trouble.failure);
        caller.progress(&format!("waiting for {what}"), None);
        plane.vms.waits_for(vm, Some(what));
        if caller.cancelled_within(ASK) {
            let cause = format!("it was cancelled while the host lease on datastore {name} was waited for");
            break Err(Reason::new(cause, format!("{again} starts it again")));
        }
    };
    plane.vms.waits_for(vm, None);
    waited
}

/// Why a host lease that is not held will not be soon either, if that is known.
fn in_vain(plane: &ControlPlane, datastore: &Datastore, trouble: &Hindrance) -> Option<Reason> {
    if matches!(trouble.failure, LeaseFailure::StandsStill | LeaseFailure::AreaDamaged(_)) {
        return Some(trouble.failure.reason());
    }
    if let Some(away) = located::away(datastore) {
        return Some(away);
    }
    let name = datastore.name();
    let lasts = plane.unheld.lasts(name, trouble);
    (lasts >= HELD_BOUND).then(|| {
        let (seconds, why) = (lasts.as_secs(), &trouble.failure);
        let cause = format!("this host has not held its lease on datastore {name} for {seconds} s: {why}");
        Reason::new(cause, trouble.mend.clone().unwrap_or_else(|| look_hint(name)))
    })
}

/// Where a person looks who wonders why a host lease is not held.
pub(super) fn look_hint(datastore: &DatastoreName) -> String {
    format!("datastore show {datastore}; log show lease")
}

/// Whether this host holds its lease on a datastore.
pub fn is_held(plane: &ControlPlane, datastore: &DatastoreName) -> bool {
    held(standing(plane, datastore)).is_ok()
}

/// How the lease of this host on a datastore stands.
///
/// # Errors
/// The lease role is away or stands still, or was not asked for that lease yet.
fn standing(plane: &ControlPlane, datastore: &DatastoreName) -> Result<DatastoreLease, LeaseFailure> {
    let own = plane.leases.status()?.into_iter().find(|lease| lease.datastore == *datastore);
    own.ok_or_else(|| LeaseFailure::Failed("it was not asked for yet".to_owned()))
}

/// That a host lease which stands so is held.
///
/// # Errors
/// Why it is not, or why that is not known.
fn held(standing: Result<DatastoreLease, LeaseFailure>) -> Result<(), Hindrance> {
    match standing {
        Ok(DatastoreLease { held: true, .. }) => Ok(()),
        Ok(DatastoreLease { damage: Some(damage), refusal, .. }) => {
            Err(Hindrance { failure: LeaseFailure::AreaDamaged(damage), refusal, mend: None })
        }
        Ok(DatastoreLease { trouble, refusal, mend, .. }) => {
            Err(Hindrance { failure: LeaseFailure::Failed(trouble), refusal, mend })
        }
        Err(failure) => Err(Hindrance { failure, refusal: None, mend: None }),
    }
}

/// Lets the lease role guard every VM that runs here, for ever: it may have been restarted. And has each of them watched.
pub fn keep_guards(plane: &Arc<ControlPlane>) {
    let mut unguarded = Unguarded::default();
    loop {
        ends::watch_again(plane);
        let began = Instant::now();
        let guarded = plane.vms.all_running().into_iter().map(|(running, _)| {
            let guarded = plane.leases.guard(&running.vm, running.monitor.pidfd());
            (running.vm.vm.clone(), guarded.map(|_| ()).map_err(|failure| failure.reason()))
        });
        let guarded = guarded.collect();
        for told in unguarded.look(guarded, began, Instant::now()) {
            match told {
                Ok(well) => log::info!(target: journal::NEWS, "{well}"),
                Err(trouble) => log::error!("{trouble}"),
            }
        }
        std::thread::sleep(KEEP);
    }
}

/// VMs that could not be guarded: since when, and whether that was told.
#[derive(Debug, Default)]
struct Unguarded(BTreeMap<VmName, (Instant, bool)>);

impl Unguarded {
    /// What is told of the VMs that run, whose guarding was asked for from `began` to `now`: of one that has not been guarded for long, and when
    /// it is again. A lease role that is started again guards what the one before it guarded.
    fn look(
        &mut self,
        guarded: BTreeMap<VmName, Result<(), Reason>>,
        began: Instant,
        now: Instant,
    ) -> Vec<Result<String, String>> {
        // One that ended is not guarded again.
        self.0.retain(|vm, _| guarded.contains_key(vm));
        let mut told = Vec::new();
        for (vm, guarded) in guarded {
            match guarded {
                Ok(()) => {
                    if let Some((_, true)) = self.0.remove(&vm) {
                        told.push(Ok(format!("VM {vm} is guarded again")));
                    }
                }
                Err(Reason { cause, hint }) => {
                    let (since, was_told) = self.0.entry(vm.clone()).or_insert((began, false));
                    if !*was_told && now.saturating_duration_since(*since) >= UNGUARDED {
                        *was_told = true;
                        told.push(Err(format!("VM {vm} is not guarded: {cause}; {hint}")));
                    }
                }
            }
        }
        told
    }
}

/// Hears of VMs that the lease role killed, so that people are told why they ended.
pub fn hear_fences(plane: &Arc<ControlPlane>) {
    let mut fenced = BTreeSet::new();
    loop {
        if let Err(error) = plane.leases.watch(|event| match event {
            LeaseEvent::Fencing { datastore, vms } => {
                log::error!("the host lease on datastore {datastore} was lost: {}", killed(&vms, &ended(plane, &datastore)));
                if let Some(datastore) = plane.datastores.get(&datastore) {
                    datastore.lease_lost();
                }
                fenced.insert(datastore.clone());
                for vm in vms {
                    plane.vms.note_end(&vm, why_killed(&datastore));
                    let what = format!("its last I/O on datastore {datastore} to end, after it was killed");
                    let running = plane.vms.running(&vm);
                    plane.vms.note_fenced(&vm, &datastore, running.as_deref());
                    if let Some(running) = running {
                        plane.vms.ending(&vm, running.monitor.pid());
                        plane.vms.waits_for(&vm, Some(what));
                    }
                }
            }
            LeaseEvent::Fenced { datastore, vms } => {
                for vm in vms {
                    plane.vms.note_end(&vm, why_killed(&datastore));
                    plane.vms.note_fenced(&vm, &datastore, plane.vms.running(&vm).as_deref());
                }
            }
            LeaseEvent::Held(datastore) if fenced.remove(&datastore) => {
                log::info!(target: journal::NEWS, "the host lease on datastore {datastore} is held again: VMs can be started");
            }
            LeaseEvent::Held(datastore) => log::info!("the host lease on datastore {datastore} is held"),
        }) {
            log::debug!("the lease role is not heard: {error}");
        }
        std::thread::sleep(KEEP);
    }
}

/// How a VM ended that the fence killed.
pub(super) fn why_killed(datastore: &DatastoreName) -> String {
    format!(
        "it was killed here because this host could not renew its lease on datastore {datastore}; another host may run it \
         now"
    )
}

/// The VMs of a datastore that the fence ended here before: a monitor ends itself where the lease role is late.
fn ended(plane: &ControlPlane, datastore: &DatastoreName) -> Vec<VmName> {
    let mut ended = plane.vms.all_fenced();
    ended.retain(|vm| plane.vms.fenced(vm).is_some_and(|fenced| fenced.datastore == *datastore));
    ended.extend(plane.vms.all_running().into_iter().filter_map(|(running, _)| {
        let is_gone = running.vm.datastore == *datastore && running.monitor.is_gone();
        is_gone.then(|| running.vm.vm.clone())
    }));
    ended.sort();
    ended.dedup();
    ended
}

/// What the fence does to the VMs that run, for a person, where these have `ended` before.
fn killed(vms: &[VmName], ended: &[VmName]) -> String {
    let names = |vms: &[VmName]| vms.iter().map(VmName::as_str).collect::<Vec<_>>().join(", ");
    match (vms, ended) {
        ([], []) => "no VM runs from it here".to_owned(),
        ([], ended) => format!("its VMs here had ended before, and another host may run them: {}", names(ended)),
        (vms, _) => format!("its VMs here are killed, and another host may run them: {}", names(vms)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use protocol::lease::record::Watchdog;

    use super::*;
    use crate::api::channel::{Channel, ChannelError};
    use crate::api::host::{HostAnswer, HostRequest};
    use crate::api::lease::LeaseAnswer;
    use crate::host::control_plane::stand_in::Place;

    /// The host lease on lab while it is claimed.
    fn claimed() -> DatastoreLease {
        DatastoreLease {
            datastore: "lab".parse().expect("valid"),
            held: false,
            renewed_ms: 0,
            trouble: "it is being claimed".to_owned(),
            mend: None,
            refusal: None,
            damage: None,
            watchdog: Watchdog::None,
            area: None,
        }
    }

    /// A control plane whose host lease is held when it was asked for so many times.
    fn held_after(test: &str, questions: usize) -> Place {
        let asked = AtomicUsize::new(0);
        Place::without_datastore(test, move |request| match request {
            LeaseRequest::Status => {
                let held = asked.fetch_add(1, Ordering::SeqCst) >= questions;
                LeaseAnswer::Status(vec![DatastoreLease { held, ..claimed() }])
            }
            _ => LeaseAnswer::Failed("it is not asked".to_owned()),
        })
    }

    /// A control plane whose datastore is there, and what its lease role answers to what only looks.
    fn answering(test: &str, first: LeaseAnswer) -> (Place, Arc<Mutex<LeaseAnswer>>) {
        let said = Arc::new(Mutex::new(first));
        let says = Arc::clone(&said);
        let place = Place::without_datastore(test, move |_| says.lock().expect("whole").clone());
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        (place, said)
    }

    fn status(lease: DatastoreLease) -> LeaseAnswer {
        LeaseAnswer::Status(vec![lease])
    }

    fn waits(place: &Place, caller: &Caller<'_>) -> Result<(), Reason> {
        let (datastore, web) = (place.plane.datastores.all().remove(0), "web".parse().expect("valid"));
        wait(&place.plane, &datastore, &web, caller, "vm start web")
    }

    #[test]
    fn a_person_is_told_at_once_of_what_will_not_come_soon_and_waits_for_what_may() {
        let (channel, _console) = Channel::<HostAnswer, HostRequest>::pair().expect("sockets");
        let person = Caller::console(&channel);
        let place = held_after("in-vain", 3);
        let lost = waits(&place, &person).expect_err("there is no datastore");
        assert!(lost.cause.starts_with("datastore lab is not "), "{lost:?}");
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let lab = place.plane.datastores.all()[0].name().clone();
        let since = Instant::now().checked_sub(HELD_BOUND).expect("this machine is up for longer");
        let hindrance = held(Ok(claimed())).err();
        place.plane.unheld.lock().insert(lab.clone(), Spell { since, hindrance });
        let unheld = waits(&place, &person).expect_err("it has not come for so long");
        assert!(unheld.cause.contains("has not held its lease on datastore lab for"), "{unheld:?}");
        assert!(unheld.cause.contains("it is being claimed"), "{unheld:?}");
        assert_eq!(unheld.hint, "datastore show lab; log show lease");
        let mends = held(Ok(DatastoreLease { mend: Some("mend it".to_owned()), ..claimed() })).expect_err("not held");
        let told = in_vain(&place.plane, &place.plane.datastores.all()[0], &mends).expect("for as long");
        assert_eq!(told.hint, "mend it");
        place.plane.unheld.note(&lab, Ok(()));
        place.plane.unheld.note(&lab, held(Ok(claimed())));
        assert_eq!(waits(&place, &person), Ok(()), "it may come any moment, and does");
    }

    #[test]
    fn what_this_host_starts_by_itself_waits_where_a_person_is_told_at_once() {
        let place = held_after("patient", 1);
        assert_eq!(waits(&place, &Caller::nobody()), Ok(()), "nobody would start it again");
    }

    #[test]
    fn what_refused_a_lease_is_over_only_when_the_lease_role_says_so() {
        let read_only = Some(rustix::io::Errno::ROFS.raw_os_error());
        let (place, said) = answering("refusal", status(DatastoreLease { refusal: read_only, ..claimed() }));
        let lab = place.plane.datastores.all().remove(0);
        let note = |answer: LeaseAnswer| {
            *said.lock().expect("whole") = answer;
            note_standing(&place.plane, &lab);
        };
        note_standing(&place.plane, &lab);
        assert!(!lab.writable());
        for (silent, why) in [
            (LeaseAnswer::Failed("no".to_owned()), "it does not answer"),
            (LeaseAnswer::Status(Vec::new()), "it was started again, and not asked for this lease"),
            (status(claimed()), "it has not opened the area yet"),
        ] {
            note(silent);
            assert!(!lab.writable(), "{why}");
        }
        note(status(DatastoreLease { area: Some("07".repeat(16)), ..claimed() }));
        assert!(lab.writable());
    }

    #[test]
    fn that_a_vm_is_not_guarded_is_told_when_it_lasts_and_so_is_that_it_is_guarded_again() {
        let (mut unguarded, began) = (Unguarded::default(), Instant::now());
        let web = || "web".parse::<VmName>().expect("valid");
        let mut look = |guarded: Option<Result<(), Reason>>, after: Duration| {
            let guarded = guarded.map(|guarded| (web(), guarded)).into_iter().collect();
            unguarded.look(guarded, began + after, began + after)
        };
        let silent = || Some(Err(LeaseFailure::Away(ChannelError::Closed).reason()));
        assert_eq!(look(silent(), Duration::ZERO), [], "it may be back at once");
        assert_eq!(look(Some(Ok(())), KEEP), [], "nobody was told");
        assert_eq!(look(silent(), KEEP), []);
        let told = look(silent(), KEEP + UNGUARDED);
        let [Err(trouble)] = &told[..] else { panic!("{told:?}") };
        assert!(trouble.contains("VM web is not guarded: the lease role does not answer"), "{trouble}");
        assert!(trouble.contains("; log show lease"), "a hint: {trouble}");
        assert_eq!(look(silent(), UNGUARDED * 3), [], "once");
        assert_eq!(look(Some(Ok(())), UNGUARDED * 3), [Ok("VM web is guarded again".to_owned())]);
        assert_eq!(look(silent(), UNGUARDED * 3).len() + look(silent(), UNGUARDED * 4).len(), 1);
        assert_eq!(look(None, UNGUARDED * 5), [], "it ended");
        assert_eq!(look(Some(Ok(())), UNGUARDED * 6), [], "another monitor of it");
    }

    #[test]
    fn of_vms_that_ended_before_their_fence_was_heard_it_is_not_said_that_none_ran() {
        let place = Place::without_datastore("ended-before", |_| LeaseAnswer::Done);
        let [web, db]: [VmName; 2] = ["web", "db"].map(|vm| vm.parse().expect("valid"));
        let [lab, spare]: [DatastoreName; 2] = ["lab", "spare"].map(|name| name.parse().expect("valid"));
        assert_eq!(killed(&[], &ended(&place.plane, &lab)), "no VM runs from it here");
        place.plane.vms.note_fenced(&web, &lab, None);
        place.plane.vms.note_fenced(&db, &spare, None);
        let told = killed(&[], &ended(&place.plane, &lab));
        assert_eq!(told, "its VMs here had ended before, and another host may run them: web");
        assert!(killed(std::slice::from_ref(&db), &[web]).ends_with("are killed, and another host may run them: db"));
    }

    #[test]
    fn a_lease_takes_its_time_again_when_what_kept_it_is_over() {
        let (unheld, lab) = (Unheld::default(), "lab".parse().expect("valid"));
        let since = Instant::now().checked_sub(HELD_BOUND).expect("this machine is up for longer");
        let silence = |how: LeaseFailure| Hindrance { failure: how, refusal: None, mend: None };
        let timeout = || silence(LeaseFailure::Away(ChannelError::Timeout(HELD_BOUND)));
        let still = || silence(LeaseFailure::StandsStill);
        let refused = || held(Ok(DatastoreLease { refusal: Some(30), ..claimed() })).expect_err("not held");
        let mended = || held(Ok(claimed())).expect_err("not held");
        let other = || {
            held(Ok(DatastoreLease { trouble: "every slot is another's".to_owned(), ..claimed() }))
                .expect_err("not held")
        };
        unheld.begin(&lab);
        for (before, now, goes_on) in [
            (None, still(), true),
            (Some(timeout()), still(), true),
            (Some(refused()), refused(), true),
            (Some(still()), mended(), false),
            (Some(refused()), mended(), false),
            (Some(other()), mended(), false),
        ] {
            let told = format!("{before:?}, {now:?}");
            let failure = LeaseFailure::Failed(now.failure.to_string());
            let again = Hindrance { failure, refusal: now.refusal, mend: None };
            let again = if now.failure.is_silence() { still() } else { again };
            unheld.lock().insert(lab.clone(), Spell { since, hindrance: before });
            unheld.begin(&lab);
            unheld.note(&lab, Err(now));
            assert_eq!(unheld.lasts(&lab, &again) >= HELD_BOUND, goes_on, "{told}");
        }
        // What is met before it was noted may come any moment.
        assert_eq!(unheld.lasts(&lab, &still()), Duration::ZERO);
    }
}
