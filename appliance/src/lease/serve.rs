//! Turns messages of other roles into requests of keepers, and their answers back.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use model::limits;
use model::names::{DatastoreName, HostName, VmName};
use protocol::lease::host_lease::HostIdentity;
use protocol::lease::identity::{BootId, Epoch, HostId, Incarnation, Slot, Tenancy};
use protocol::lease::keeper::HostView;
use protocol::lease::record::Watchdog as Kind;
use protocol::lease::vm_lease::{self, Answer, LeaseError, Request, Take, Taken, Vouched};
use protocol::lease::watch::{self, Death, Life};

use crate::api::channel::{Channel, ChannelError};
use crate::api::lease::{
    DatastoreLease, DeadBoot, GONE, HELD_BOUND, Holder, HostLease, LISTED_MAX, LeaseAnswer, LeaseEvent, LeaseRequest,
    Listed, TakenFrom, VmOnDatastore, damage_text,
};
use crate::api::paths::RunDir;
use crate::boot_clock;
use crate::boot_id::boot_id;
use crate::lease::datastore::{self, Place, Reply, Told, View};
use crate::lease::memory::{self, Kept};
use crate::lease::watchdog::Watchdog;

type Connection = Arc<Channel<LeaseAnswer, LeaseRequest>>;

/// How long a keeper may take over a request: a take-over waits for an expiry.
const REPLY_BOUND: Duration = Duration::from_millis(limits::API_REQUEST_MS_MAX + limits::LEASE_EXPIRY_MS);
/// How long a keeper may take to say how it stands: it never waits for its datastore but while it opens the lease area.
const LOOK_BOUND: Duration = Duration::from_secs(2);
/// Pause before damaged leases are read again: a write may have been in the way of the first read.
const READ_AGAIN: Duration = Duration::from_millis(limits::LEASE_RETRY_MS);
/// How long a look at a datastore may take that is to begin after it was asked for.
const FRESH_LOOK_BOUND: Duration = Duration::from_secs(4);

/// A datastore's thread, and who this host is there.
#[derive(Clone)]
struct Known {
    told: Sender<Told>,
    host: HostId,
}

/// All datastores, and who watches.
pub struct Leases {
    run_dir: RunDir,
    datastores: Mutex<BTreeMap<DatastoreName, Known>>,
    watchers: Mutex<Vec<Connection>>,
    watchdog: Arc<Watchdog>,
}

impl Leases {
    /// None yet.
    pub fn new(run_dir: RunDir) -> Self {
        Self { run_dir, datastores: Mutex::default(), watchers: Mutex::default(), watchdog: Arc::default() }
    }

    fn datastores(&self) -> MutexGuard<'_, BTreeMap<DatastoreName, Known>> {
        self.datastores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all who watch. One that did not read earlier events is not waited for: its connection ends, so that it knows and
    /// comes again. It would else watch for ever and hear nothing.
    fn tell(&self, event: &LeaseEvent) {
        self.watchers().retain(|watcher| {
            let told = watcher.send_at_once(&LeaseAnswer::Event(event.clone()));
            if let Err(error) = &told {
                log::warn!("an event was not heard, and its connection is ended: {error}");
                watcher.shut();
            }
            told.is_ok()
        });
    }

    /// Serves a connection to its end. Nothing of it is left then: the next event may be far away, and its descriptor is
    /// free again only when nobody has it.
    pub fn serve(self: &Arc<Self>, connection: &Connection) {
        self.converse(connection);
        self.watchers().retain(|watcher| !Arc::ptr_eq(watcher, connection));
    }

    fn converse(self: &Arc<Self>, connection: &Connection) {
        loop {
            let answer = match connection.receive() {
                Ok((LeaseRequest::Watch, _)) => {
                    self.watchers().push(Arc::clone(connection));
                    continue;
                }
                Ok((request, beside)) => self.answer(request, beside),
                Err(ChannelError::Closed) => return,
                Err(error) => return log::warn!("a connection was not understood: {error}"),
            };
            if connection.send(&answer, &[]).is_err() {
                return;
            }
        }
    }

    fn answer(self: &Arc<Self>, request: LeaseRequest, beside: Vec<OwnedFd>) -> LeaseAnswer {
        match request {
            LeaseRequest::Open { datastore, area, host, name, watchdog } => {
                let host = HostId(u128::from_be_bytes(host));
                self.open(&datastore, PathBuf::from(area), (host, name), watchdog)
            }
            LeaseRequest::Close(datastore) => self.close(&datastore),
            LeaseRequest::Acquire(vm) => self.ask(&vm.datastore, Request::Acquire(vm.vm.clone(), Take::IfFree)),
            LeaseRequest::Seize { vm, epoch } => {
                self.ask(&vm.datastore, Request::Acquire(vm.vm.clone(), Take::ByForce(Epoch(epoch))))
            }
            LeaseRequest::Guard(vm) => self.guard(&vm, beside),
            LeaseRequest::GiveUp(vm) => self.ask(&vm.datastore, Request::GiveUp(vm.vm.clone())),
            LeaseRequest::Mend { vm, vouched } => {
                let vouched = vouched.map_or(Vouched::No, |mark| Vouched::Of(Tenancy(mark)));
                self.ask(&vm.datastore, Request::Mend(vm.vm.clone(), vouched))
            }
            LeaseRequest::Query(vm) => self.ask(&vm.datastore, Request::Query(vm.vm.clone())),
            LeaseRequest::List { datastore, vms } => self.list(&datastore, &vms),
            LeaseRequest::Hosts(datastore) => match self.exchange_within(LOOK_BOUND, &datastore, Told::Standing) {
                Ok(view) => {
                    let now = boot_clock::now();
                    LeaseAnswer::Hosts(view.hosts.iter().map(|view| host_lease(view, now)).collect())
                }
                Err(why) => LeaseAnswer::Failed(why),
            },
            LeaseRequest::DeadBoots(datastore) => {
                match self.exchange_within(FRESH_LOOK_BOUND, &datastore, Told::DeadBoots) {
                    Ok(dead) => LeaseAnswer::DeadBoots(dead.into_iter().map(dead_boot).collect()),
                    Err(why) => LeaseAnswer::Failed(why),
                }
            }
            LeaseRequest::Status => LeaseAnswer::Status(self.status()),
            LeaseRequest::Prepare { vm, source, epoch } => {
                let source = HostId(u128::from_be_bytes(source));
                self.ask(&vm.datastore, Request::Prepare(vm.vm.clone(), source, Epoch(epoch)))
            }
            LeaseRequest::Commit { vm, epoch } => self.ask(&vm.datastore, Request::Commit(vm.vm.clone(), Epoch(epoch))),
            LeaseRequest::Resolve { vm, epoch } => {
                self.ask(&vm.datastore, Request::Resolve(vm.vm.clone(), Epoch(epoch)))
            }
            LeaseRequest::Confirm { vm, epoch } => {
                self.ask(&vm.datastore, Request::Confirm(vm.vm.clone(), Epoch(epoch)))
            }
            LeaseRequest::Ping => LeaseAnswer::Done,
            LeaseRequest::Watch => LeaseAnswer::Failed("it is no request".to_owned()),
        }
    }

    /// Goes on with what an earlier process of this role left: VMs may run under it, and the host role may be away.
    pub fn recall(self: &Arc<Self>) {
        for kept in memory::recall_all(self.run_dir.path()) {
            let (datastore, area, watchdog) = (kept.datastore.clone(), kept.path.clone(), kept.watchdog.clone());
            log::info!("datastore {datastore}: an earlier process of this role left a life");
            if let Err(error) = self.keep(&datastore, area, (kept.host, kept.name.clone()), watchdog, Some(kept)) {
                log::error!("datastore {datastore}: {error}");
            }
        }
    }

    /// Gives up every datastore on which no VM runs.
    pub fn leave_all(&self) {
        let names: Vec<DatastoreName> = self.datastores().keys().cloned().collect();
        for datastore in names {
            if let LeaseAnswer::Failed(why) = self.close(&datastore) {
                log::warn!("datastore {datastore}: {why}");
            }
        }
    }

    fn keep(
        self: &Arc<Self>,
        datastore: &DatastoreName,
        area: PathBuf,
        (host, name): (HostId, HostName),
        watchdog: Option<String>,
        inherited: Option<Kept>,
    ) -> io::Result<()> {
        let mut datastores = self.datastores();
        if datastores.contains_key(datastore) {
            return Ok(());
        }
        let place = Place {
            datastore: datastore.clone(),
            area,
            guards: self.run_dir.path().join(format!("guards-{datastore}")),
            deadline: self.run_dir.deadline(datastore),
            memory: self.run_dir.path().to_owned(),
            // Known when it is armed.
            identity: HostIdentity { host, boot: BootId(boot_id()), name, watchdog: Kind::None },
            watchdog,
            inherited,
        };
        let leases = Arc::clone(self);
        let told = datastore::start(place, Arc::clone(&self.watchdog), move |event| leases.tell(&event))?;
        datastores.insert(datastore.clone(), Known { told, host });
        Ok(())
    }

    fn open(
        self: &Arc<Self>,
        datastore: &DatastoreName,
        area: PathBuf,
        who: (HostId, HostName),
        watchdog: Option<String>,
    ) -> LeaseAnswer {
        let known = self.datastores().contains_key(datastore);
        if let Err(error) = self.keep(datastore, area, who, watchdog, None) {
            return LeaseAnswer::Failed(format!("no thread for the datastore: {error}"));
        }
        let deadline = Instant::now() + if known { Duration::ZERO } else { HELD_BOUND };
        loop {
            match self.view(datastore) {
                Ok(view) if view.held => return LeaseAnswer::Done,
                // What the storage refuses, or has damaged, stays so until somebody changes something there.
                Ok(view) if view.refusal.is_some() || view.damage.is_some() || Instant::now() >= deadline => {
                    return LeaseAnswer::Failed(view.trouble);
                }
                Ok(_) => std::thread::sleep(Duration::from_millis(50)),
                Err(why) => return LeaseAnswer::Failed(why),
            }
        }
    }

    /// Sends a message to a datastore's thread and waits for what it answers.
    fn exchange<T>(&self, datastore: &DatastoreName, message: impl FnOnce(Sender<T>) -> Told) -> Result<T, String> {
        self.exchange_within(REPLY_BOUND, datastore, message)
    }

    fn exchange_within<T>(
        &self,
        bound: Duration,
        datastore: &DatastoreName,
        message: impl FnOnce(Sender<T>) -> Told,
    ) -> Result<T, String> {
        let kept = self.datastores().get(datastore).cloned();
        let kept = kept.ok_or_else(|| format!("no host lease is held on datastore {datastore}"))?;
        let (reply, answered) = channel();
        kept.told.send(message(reply)).map_err(|_| format!("the thread of datastore {datastore} ended"))?;
        answered.recv_timeout(bound).map_err(|_| format!("datastore {datastore} did not answer"))
    }

    fn view(&self, datastore: &DatastoreName) -> Result<datastore::View, String> {
        self.exchange(datastore, Told::Standing)
    }

    fn close(&self, datastore: &DatastoreName) -> LeaseAnswer {
        match self.exchange(datastore, Told::Leave) {
            Ok(Ok(())) => {
                self.datastores().remove(datastore);
                LeaseAnswer::Done
            }
            Ok(Err(why)) | Err(why) => LeaseAnswer::Failed(why),
        }
    }

    fn guard(&self, vm: &VmOnDatastore, beside: Vec<OwnedFd>) -> LeaseAnswer {
        let Some(pidfd) = beside.into_iter().next() else {
            return LeaseAnswer::Failed("no process came with the request".to_owned());
        };
        match self.exchange(&vm.datastore, |reply| Told::Guard(vm.vm.clone(), pidfd, reply)) {
            Ok(Ok(Some(epoch))) => LeaseAnswer::held(epoch),
            Ok(Ok(None)) => LeaseAnswer::Done,
            Ok(Err(error)) => LeaseAnswer::Failed(error.to_string()),
            Err(why) => LeaseAnswer::Failed(why),
        }
    }

    fn ask(&self, datastore: &DatastoreName, request: Request) -> LeaseAnswer {
        let vm = request.vm().clone();
        // It would be tried for long, and the damage not be told.
        if let Ok(Some(damage)) = self.exchange(datastore, |reply| Told::Untried(request.clone(), reply)) {
            return LeaseAnswer::AreaDamaged(damage);
        }
        let answered = self.exchange(datastore, |reply| Told::Ask(request, reply));
        self.answered(datastore, &vm, answered)
    }

    /// What a keeper answered of a VM, as other roles are told it.
    fn answered(&self, datastore: &DatastoreName, vm: &VmName, answered: Result<Reply, String>) -> LeaseAnswer {
        match answered {
            Ok(Ok((answer, hosts))) => translated(answer, &hosts, self.own(datastore)),
            Ok(Err(error @ (LeaseError::OutcomeUnknown | LeaseError::Contended | LeaseError::Fenced))) => {
                LeaseAnswer::Unknown(error.to_string())
            }
            Ok(Err(LeaseError::Corrupt { slots, tenancy })) => {
                LeaseAnswer::Damaged { why: self.damage(datastore, vm, &slots), vm: vm.clone(), mark: tenancy.0 }
            }
            Ok(Err(LeaseError::MayRunOn { live, untold })) => {
                let [live, untold] = [live, untold].map(|slots| self.names(datastore, &slots));
                LeaseAnswer::MayRunOn { live, untold }
            }
            Ok(Err(LeaseError::NoLease)) => LeaseAnswer::NoLease,
            Ok(Err(LeaseError::NotPrepared)) => LeaseAnswer::NotPrepared,
            Ok(Err(error @ LeaseError::DirectoryCorrupt(_))) => LeaseAnswer::AreaDamaged(error.to_string()),
            Ok(Err(error)) => LeaseAnswer::Failed(error.to_string()),
            Err(why) => LeaseAnswer::Unknown(why),
        }
    }

    /// How a VM's lease is damaged, for a person.
    fn damage(&self, datastore: &DatastoreName, vm: &VmName, slots: &[Slot]) -> String {
        let hosts = self.view(datastore).map(|view| view.hosts).unwrap_or_default();
        let of_hosts = hosts.iter().filter(|view| slots.contains(&view.slot)).map(|view| view.record.name.as_str());
        damage_text(vm, slots, Some(&of_hosts.collect::<Vec<_>>()))
    }

    /// The names of the hosts in these slots.
    fn names(&self, datastore: &DatastoreName, slots: &[Slot]) -> Vec<String> {
        let hosts = self.view(datastore).map(|view| view.hosts).unwrap_or_default();
        let name = |slot: &Slot| hosts.iter().find(|view| view.slot == *slot).map(|view| view.record.name.to_string());
        let unread = |slot: &Slot| format!("the host of slot {slot}, which cannot be read");
        slots.iter().map(|slot| name(slot).unwrap_or_else(|| unread(slot))).collect()
    }

    /// Who this host is on a datastore, in this boot.
    fn own(&self, datastore: &DatastoreName) -> (HostId, BootId) {
        (self.datastores().get(datastore).map_or(HostId(0), |kept| kept.host), BootId(boot_id()))
    }

    /// Who holds each of `vms`. This host may not have heard yet of leases that another host made; the first VM without
    /// one makes it read the directory again.
    fn list(&self, datastore: &DatastoreName, vms: &[VmName]) -> LeaseAnswer {
        if vms.len() > LISTED_MAX {
            return LeaseAnswer::Failed(format!("{} VMs are asked of at once; {LISTED_MAX} may be", vms.len()));
        }
        let known = self.view(datastore).map_err(LeaseAnswer::Failed).and_then(|view| {
            if let Some(damage) = view.damage {
                return Err(LeaseAnswer::AreaDamaged(damage));
            }
            let Some(unheard) = vms.iter().find(|vm| !view.vms.contains(vm)) else { return Ok(view.vms) };
            match self.ask(datastore, Request::Query(unheard.clone())) {
                failure @ (LeaseAnswer::Failed(_)
                | LeaseAnswer::NoLease
                | LeaseAnswer::Unknown(_)
                | LeaseAnswer::AreaDamaged(_)) => Err(failure),
                _ => Ok(self.view(datastore).map_err(LeaseAnswer::Failed)?.vms),
            }
        });
        let known = match known {
            Ok(known) => known,
            Err(failure) => return failure,
        };
        let mut holders: BTreeMap<VmName, Listed> = BTreeMap::new();
        let mut left: Vec<VmName> = vms.iter().filter(|vm| known.contains(vm)).cloned().collect();
        for is_again in [false, true] {
            if is_again && !left.is_empty() {
                // Once for all of them: damage seldom comes alone.
                std::thread::sleep(READ_AGAIN);
            }
            let mut damaged = Vec::new();
            for vm in std::mem::take(&mut left) {
                match self.exchange(datastore, |reply| Told::Ask(Request::Glance(vm.clone()), reply)) {
                    // One that is damaged says nothing of the others.
                    Ok(Err(LeaseError::Corrupt { slots, .. })) => {
                        holders.insert(vm.clone(), Listed::Damaged(slots));
                        damaged.push(vm);
                    }
                    answered => match self.answered(datastore, &vm, answered) {
                        LeaseAnswer::Holder(Some(holder)) | LeaseAnswer::HeldBy(holder) => {
                            holders.insert(vm, Listed::Held(holder));
                        }
                        LeaseAnswer::Holder(None) => drop(holders.remove(&vm)),
                        failure => return failure,
                    },
                }
            }
            left = damaged;
        }
        LeaseAnswer::Holders(holders.into_iter().collect())
    }

    fn status(&self) -> Vec<DatastoreLease> {
        let watchdog = self.watchdog.kind();
        let names: Vec<DatastoreName> = self.datastores().keys().cloned().collect();
        let lease = |datastore: DatastoreName| match self.exchange_within(LOOK_BOUND, &datastore, Told::Standing) {
            Ok(View { held, renewed_ms, trouble, mend, refusal, damage, area, .. }) => {
                let (area, mend) = (area.map(|area| area.to_string()), mend.map(str::to_owned));
                DatastoreLease { datastore, held, renewed_ms, trouble, mend, refusal, damage, watchdog, area }
            }
            Err(trouble) => {
                let (held, renewed_ms, mend, refusal, damage, area) = (false, 0, None, None, None, None);
                DatastoreLease { datastore, held, renewed_ms, trouble, mend, refusal, damage, watchdog, area }
            }
        };
        // All at once: one whose area hangs while it is opened must not hold up what is said of the others.
        std::thread::scope(|scope| {
            let looks: Vec<_> = names.into_iter().map(|datastore| scope.spawn(|| lease(datastore))).collect();
            looks.into_iter().filter_map(|look| look.join().ok()).collect()
        })
    }
}

fn translated(answer: Answer, hosts: &[HostView], own: (HostId, BootId)) -> LeaseAnswer {
    match answer {
        Answer::Held { epoch, taken_from } => {
            LeaseAnswer::Held { epoch: epoch.0, taken_from: taken_from.map(|taken| taken_from_whom(&taken, hosts)) }
        }
        Answer::HeldBy(holder) => named(&holder, hosts, own).map_or_else(|| unreadable(&holder), LeaseAnswer::HeldBy),
        Answer::GivenUp | Answer::Forgotten => LeaseAnswer::Done,
        Answer::Prepared(epoch) => LeaseAnswer::Prepared { epoch: epoch.0 },
        Answer::Holder(None) => LeaseAnswer::Holder(None),
        // Not "nobody": that VM may run there.
        Answer::Holder(Some(holder)) => {
            named(&holder, hosts, own).map_or_else(|| unreadable(&holder), |named| LeaseAnswer::Holder(Some(named)))
        }
    }
}

fn unreadable(holder: &vm_lease::Holder) -> LeaseAnswer {
    LeaseAnswer::Failed(format!("{} holds it, a host that cannot be read", holder.who))
}

fn taken_from_whom(taken: &Taken, hosts: &[HostView]) -> TakenFrom {
    let why = match taken.death {
        Death::Left => "it had given its host lease up",
        Death::Superseded => "its host lease was over, and a later one has its place",
        Death::Expired => "its host lease had expired",
        Death::Forced => "a person said that it is dead",
    };
    let name = hosts.iter().find(|view| view.slot == taken.from.slot).map(|view| name_of(taken.from, view));
    TakenFrom { host: taken.from.host.0.to_be_bytes(), name: name.unwrap_or_else(gone), why: why.to_owned() }
}

/// The name of a life, by the slot that it has or had. The slot of a host that is long gone may be another's by now, whose name
/// is no answer. An earlier life of a host has its name.
fn name_of(who: Incarnation, view: &HostView) -> HostName {
    if view.record.host == who.host { view.record.name.clone() } else { gone() }
}

fn gone() -> HostName {
    GONE.parse().expect("a host may be called so")
}

/// A holder with its name; none where its slot cannot be read.
fn named(holder: &vm_lease::Holder, hosts: &[HostView], own: (HostId, BootId)) -> Option<Holder> {
    let view = hosts.iter().find(|view| view.slot == holder.who.slot)?;
    let same = view.record.host == holder.who.host && view.record.generation == holder.who.generation;
    let name = name_of(holder.who, view);
    Some(Holder {
        host: holder.who.host.0.to_be_bytes(),
        name,
        generation: holder.who.generation.0,
        epoch: holder.epoch.0,
        alive: matches!(holder.life, Life::Alive { .. } | Life::LookAgain),
        own: same && (view.record.host, view.record.boot) == own,
        since_unix_s: holder.since,
    })
}

fn host_lease(view: &HostView, now: protocol::time::Instant) -> HostLease {
    let HostView { slot, record, life, unchanged_since, changed } = view;
    HostLease {
        slot: *slot,
        host: record.host.0.to_be_bytes(),
        name: record.name.clone(),
        generation: record.generation.0,
        boot: record.boot.0,
        over: match life {
            Life::Over(death) => Some(*death),
            Life::Alive { .. } | Life::LookAgain => None,
        },
        silent_ms: now.since(*unchanged_since).millis(),
        changed: *changed,
    }
}

fn dead_boot(watch::DeadBoot { host, boot, name, rebooted, is_back }: watch::DeadBoot) -> DeadBoot {
    DeadBoot { host: host.0.to_be_bytes(), name, boot: boot.0, rebooted, is_back }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::lease::identity::{Generation, Incarnation, Slot};
    use protocol::lease::record::HostRecord;
    use protocol::lease::watch::Death;

    const OWN: (HostId, BootId) = (HostId(9), BootId(9));

    /// What slot 0 shows: host 2, called host-b, in its second life.
    fn hosts() -> [HostView; 1] {
        let record = HostRecord {
            host: HostId(2),
            boot: BootId(2),
            generation: Generation(2),
            name: "host-b".parse().expect("valid"),
            renewed_at: 1,
            expiry_ms: 1,
            watchdog: Kind::None,
            left: false,
            declared_dead: Vec::new(),
        };
        [HostView {
            slot: Slot(0),
            record,
            life: Life::LookAgain,
            unchanged_since: protocol::time::Instant::ZERO,
            changed: true,
        }]
    }

    fn holder(slot: u16, host: u128, generation: u64) -> vm_lease::Holder {
        let who = Incarnation { slot: Slot(slot), generation: Generation(generation), host: HostId(host) };
        vm_lease::Holder { who, epoch: Epoch(1), life: Life::Over(Death::Superseded), since: None }
    }

    #[test]
    fn a_holder_whose_slot_another_host_has_by_now_does_not_get_that_hosts_name() {
        let name = |holder| named(&holder, &hosts(), OWN).expect("readable").name.to_string();
        assert_eq!(name(holder(0, 1, 1)), GONE);
        assert_eq!(name(holder(0, 2, 2)), "host-b");
        assert_eq!(name(holder(0, 2, 1)), "host-b", "an earlier life");
    }

    #[test]
    fn a_watcher_that_does_not_read_in_time_hears_that_it_is_not_told_any_more() {
        let leases = Arc::new(Leases::new(RunDir::at(std::env::temp_dir())));
        let (here, there) = Channel::<LeaseAnswer, LeaseRequest>::pair().expect("sockets");
        let (served, connection) = (Arc::clone(&leases), Arc::new(here));
        let serving = std::thread::spawn(move || served.serve(&connection));
        there.send(&LeaseRequest::Watch, &[]).expect("sent");
        let began = Instant::now();
        while leases.watchers().is_empty() {
            assert!(began.elapsed() < REPLY_BOUND, "it is not watched");
            std::thread::sleep(Duration::from_millis(5));
        }
        for _ in 0..10_000 {
            leases.tell(&LeaseEvent::Held("lab".parse().expect("valid")));
        }
        assert!(leases.watchers().is_empty(), "it took everything");
        let end = std::iter::repeat_with(|| there.receive_within(REPLY_BOUND)).find_map(Result::err);
        assert!(matches!(end, Some(ChannelError::Closed)), "{end:?}");
        serving.join().expect("it ends too");
    }

    #[test]
    fn a_holder_that_cannot_be_read_is_not_nobody() {
        for answer in [Answer::Holder(Some(holder(1, 1, 1))), Answer::HeldBy(holder(1, 1, 1))] {
            let told = translated(answer, &hosts(), OWN);
            assert!(matches!(told, LeaseAnswer::Failed(_)), "{told:?}");
        }
        assert_eq!(translated(Answer::Holder(None), &hosts(), OWN), LeaseAnswer::Holder(None));
    }
}
