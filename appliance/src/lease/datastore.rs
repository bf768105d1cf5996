//! Runs the keeper of one datastore: feeds it requests, ends of I/O and time, and carries out what it wants.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration as Wait;

use model::limits;
use model::names::{DatastoreName, VmName};
use protocol::lease::host_lease::{HostIdentity, Remembered, Standing};
use protocol::lease::identity::AreaId;
use protocol::lease::keeper::{Effect, HostView, Input, IoId, IoResult, Keeper, RequestId};
use protocol::lease::layout::Area;
use protocol::lease::record::Watchdog as Kind;
use protocol::lease::vm_lease::{Answer, LeaseError, Request};
use protocol::lease::watch::DeadBoot;
use protocol::time::{Duration, Instant};

use crate::api::deadline::OwnDeadline;
use crate::api::lease::{LeaseEvent, area_damage_text};
use crate::boot_clock::now;
use crate::datastore::plain;
use crate::lease::area;
use crate::lease::cut;
use crate::lease::guard::Guard;
use crate::lease::lane::{self, Lanes};
use crate::lease::memory::{self, Kept};
use crate::lease::reconnect::{self, LookedAfter};
use crate::lease::watchdog::Watchdog;
use crate::wall_clock;

const IO_BOUND: Duration = Duration::from_millis(limits::LEASE_IO_BOUND_MS);
/// How long an I/O may go without an answer before the connections to its server are looked at.
const SLOW: Duration = Duration::from_millis(500);
/// How long one who asks for the dead may wait for a look.
const ASKED_FOR_DEAD_MAX: Duration = Duration::from_secs(10);
/// Longest sleep of the loop.
const SLEEP_MAX: Wait = Wait::from_secs(1);
/// Pause before an area that cannot be opened is tried again.
const RETRY: Wait = Wait::from_secs(2);

/// What a person is told of a datastore whose export was replaced, or what it held. Going on in another area could mean two that run one VM:
/// some host may still have the old one.
const AREA_IS_GONE: &str = "another lease area, or none, lies in the place of the one that it was held in: if the datastore was replaced, \
                            reboot every host that uses it";

/// What a keeper answered, with the hosts that it saw then.
pub type Reply = Result<(Answer, Vec<HostView>), LeaseError>;

/// What a datastore's thread is told.
pub enum Told {
    /// A request for the keeper.
    Ask(Request, Sender<Reply>),
    /// How the lease area is damaged, if this request is not to be tried for that.
    Untried(Request, Sender<Option<String>>),
    /// A monitor to kill when the host lease is lost; answered with the epoch in which the VM is held now, if it is.
    Guard(VmName, OwnedFd, Sender<std::io::Result<Option<u64>>>),
    /// How the host lease stands.
    Standing(Sender<View>),
    /// Which boots died lately, by a look that begins now or later.
    DeadBoots(Sender<Vec<DeadBoot>>),
    /// The host lease is to be given up; refused while monitors run.
    Leave(Sender<Result<(), String>>),
    /// An I/O ended.
    IoEnded(IoId, IoResult),
    /// All monitors that had to be killed are gone.
    Killed(Vec<VmName>),
}

/// How one datastore stands.
#[derive(Debug, Default)]
pub struct View {
    /// The host lease is held.
    pub held: bool,
    /// Milliseconds since the start of its last renewal.
    pub renewed_ms: u64,
    /// What hinders it.
    pub trouble: String,
    /// What mends that ([`DatastoreLease::mend`](crate::api::lease::DatastoreLease)).
    pub mend: Option<&'static str>,
    /// The error number with which the storage refused the lease area last ([`lane::refusal`]).
    pub refusal: Option<i32>,
    /// How the lease area is damaged, if it is.
    pub damage: Option<String>,
    /// The hosts.
    pub hosts: Vec<HostView>,
    /// The VMs that have a lease.
    pub vms: Vec<VmName>,
    /// The area, once it was opened.
    pub area: Option<AreaId>,
}

/// Who this host is and where the area lies.
#[derive(Clone, Debug)]
pub struct Place {
    /// The datastore.
    pub datastore: DatastoreName,
    /// Its lease area.
    pub area: PathBuf,
    /// The list of guarded monitors.
    pub guards: PathBuf,
    /// What tells monitors until when they may run.
    pub deadline: PathBuf,
    /// The folder where one process of this role leaves its life to the next.
    pub memory: PathBuf,
    /// Who this host is.
    pub identity: HostIdentity,
    /// The watchdog device, if one is to be fed.
    pub watchdog: Option<String>,
    /// What an earlier process left.
    pub inherited: Option<Kept>,
}

/// Starts the thread of a datastore; `event` is called for what others want to know.
///
/// # Errors
/// No thread is to be had, or what monitors are to obey cannot be made.
pub fn start(
    place: Place,
    watchdog: Arc<Watchdog>,
    event: impl Fn(LeaseEvent) + Send + 'static,
) -> std::io::Result<Sender<Told>> {
    let (sender, receiver) = channel();
    let own = sender.clone();
    let name = format!("lease-{}", place.datastore);
    let deadline = OwnDeadline::at(&place.deadline)?;
    let work = move || run(&place, deadline, &watchdog, &own, &receiver, &event);
    std::thread::Builder::new().name(name).spawn(work)?;
    Ok(sender)
}

struct Running<'a> {
    place: &'a Place,
    own: Sender<Told>,
    event: &'a dyn Fn(LeaseEvent),
    area: Area,
    keeper: Keeper,
    watchdog: &'a Watchdog,
    lanes: Lanes,
    guard: Guard,
    deadline: OwnDeadline,
    ios: BTreeMap<IoId, Instant>,
    replies: BTreeMap<RequestId, Sender<Reply>>,
    requests: u64,
    trouble: String,
    mend: Option<&'static str>,
    was_live: bool,
    leaving: Vec<Sender<Result<(), String>>>,
    /// Who wants to know the boots that died, since when.
    asked_for_dead: Vec<(Instant, Sender<Vec<DeadBoot>>)>,
    /// The connections to the server are looked after for as long as this is there.
    looked_after: Option<LookedAfter>,
}

fn run(
    place: &Place,
    deadline: OwnDeadline,
    watchdog: &Watchdog,
    own: &Sender<Told>,
    told: &Receiver<Told>,
    event: &dyn Fn(LeaseEvent),
) {
    let made_by = place.identity.name.to_string();
    let inherited = place.inherited.as_ref().map(|kept| kept.life);
    // A predecessor's life is gone on with, or fenced, before the datastore is looked at: it may not answer.
    let mut known = place.inherited.as_ref().and_then(Kept::area);
    // It is tried again every other second: what is told already is not told again.
    let mut refused = String::new();
    let area = loop {
        if let Some(area) = known.take() {
            break area;
        }
        match area::open_or_make(&place.area, &made_by) {
            Ok((_, area)) => break area,
            Err(error) => {
                let why = plain(&error);
                if why != refused {
                    log::error!("lease area of datastore {}: {why}", place.datastore);
                }
                let damage = area::is_damage(&error).then(|| area_damage_text(&place.datastore));
                let trouble = damage.clone().unwrap_or_else(|| why.clone());
                let view = || View {
                    trouble: trouble.clone(),
                    refusal: lane::refusal(&error),
                    damage: damage.clone(),
                    ..View::default()
                };
                if refuse_for(told, RETRY, view) {
                    return;
                }
                refused = why;
            }
        }
    };
    // Not before: nothing feeds it while a server does not let the area be opened, and no VM runs that it would have to end.
    let armed = place.watchdog.as_deref().map_or(Kind::None, |device| watchdog.arm(device));
    let identity = HostIdentity { watchdog: armed, ..place.identity.clone() };
    let place = &Place { identity, ..place.clone() };
    let chance = now().nanos() ^ u64::from(std::process::id());
    let mut running = Running {
        place,
        own: own.clone(),
        event,
        area,
        keeper: Keeper::new(area, place.identity.clone(), inherited, chance, now()),
        watchdog,
        lanes: Lanes::new(place.area.clone(), area.id),
        guard: Guard::load(place.guards.clone()),
        deadline,
        ios: BTreeMap::new(),
        replies: BTreeMap::new(),
        requests: 0,
        trouble: "it is being claimed".to_owned(),
        mend: None,
        was_live: false,
        leaving: Vec::new(),
        asked_for_dead: Vec::new(),
        looked_after: look_after_connections(place),
    };
    running.go_on(told);
}

fn look_after_connections(place: &Place) -> Option<LookedAfter> {
    let looked_after = reconnect::look_after(place.area.clone());
    looked_after
        .inspect_err(|error| {
            log::error!("datastore {}: its connections are not looked after: {error}", place.datastore)
        })
        .ok()
}

/// Answers that nothing can be done, for a while; whether it is to be given up.
fn refuse_for(told: &Receiver<Told>, pause: Wait, view: impl Fn() -> View) -> bool {
    let until = std::time::Instant::now() + pause;
    while let Ok(message) = told.recv_timeout(until.saturating_duration_since(std::time::Instant::now())) {
        // Who asked may have given up.
        match message {
            Told::Ask(_, reply) => drop(reply.send(Err(LeaseError::Storage))),
            Told::Untried(_, reply) => drop(reply.send(view().damage)),
            Told::Guard(_, _, reply) => drop(reply.send(Err(std::io::Error::other(view().trouble)))),
            Told::Leave(reply) => {
                drop(reply.send(Ok(())));
                return true;
            }
            Told::DeadBoots(reply) => drop(reply),
            Told::Standing(reply) => drop(reply.send(view())),
            Told::IoEnded(..) | Told::Killed(_) => {}
        }
    }
    false
}

impl Running<'_> {
    fn go_on(&mut self, told: &Receiver<Told>) {
        loop {
            self.keeper.tell_wall_clock(wall_clock::unix_s());
            self.keeper.handle_timeout(now());
            self.expire_ios();
            self.carry_out();
            self.tell_dead_boots();
            if matches!(self.keeper.standing(), Standing::Left) {
                return;
            }
            let due = self.ios.values().copied().min().unwrap_or(Instant::NEVER);
            let slow_at = self.note_slow_io(due);
            let sleep = self.keeper.poll_timeout().min(due).min(slow_at).since(now());
            match told.recv_timeout(Wait::from_nanos(sleep.nanos()).min(SLEEP_MAX)) {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Tells who asked, as soon as this host looked since.
    fn tell_dead_boots(&mut self) {
        let Some(looked) = self.keeper.looked_at() else { return };
        for (_, reply) in self.asked_for_dead.extract_if(.., |(asked, _)| *asked <= looked) {
            // Who asked may have given up.
            let _ = reply.send(self.keeper.dead_boots());
        }
    }

    /// Tells who looks after the connections whether the I/O that is due first is slow; gives when it will be, if it is not.
    fn note_slow_io(&self, due: Instant) -> Instant {
        let slow_at = due - IO_BOUND + SLOW;
        let is_slow = now() >= slow_at;
        if let Some(looked_after) = &self.looked_after {
            looked_after.tell(is_slow);
        }
        if is_slow { Instant::NEVER } else { slow_at }
    }

    /// Answers I/O that the storage holds beyond the bound as failed.
    fn expire_ios(&mut self) {
        let time = now();
        let expired: Vec<IoId> = self.ios.iter().filter(|(_, due)| time >= **due).map(|(id, _)| *id).collect();
        for id in expired {
            if self.ios.remove(&id).is_some() {
                self.keeper.handle_input(time, Input::IoEnded(id, IoResult::Failed));
            }
        }
    }

    fn take(&mut self, message: Told) {
        match message {
            Told::Ask(request, reply) if request.ends_holding() && self.guard.running().contains(request.vm()) => {
                drop(reply.send(Err(LeaseError::StillRuns)));
            }
            Told::Ask(request, reply) => {
                self.requests += 1;
                let id = RequestId(self.requests);
                self.replies.insert(id, reply);
                self.keeper.handle_input(now(), Input::Request(id, request));
            }
            Told::Untried(request, reply) => drop(reply.send(self.damage().filter(|_| self.begins(&request)))),
            Told::Guard(vm, pidfd, reply) => {
                let guarded = self.guard.add(vm.clone(), pidfd);
                let held = self.keeper.holds(now(), &vm).map(|epoch| epoch.0);
                drop(reply.send(guarded.map(|()| held)));
            }
            Told::Standing(reply) => drop(reply.send(self.view())),
            Told::DeadBoots(reply) => {
                // Nobody waits for those any more that no look came for.
                self.asked_for_dead.retain(|(asked, _)| now().since(*asked) < ASKED_FOR_DEAD_MAX);
                self.asked_for_dead.push((now(), reply));
            }
            Told::Leave(reply) => {
                let running = self.guard.running();
                if running.is_empty() {
                    self.keeper.handle_input(now(), Input::Leave);
                    self.leaving.push(reply);
                } else {
                    drop(reply.send(Err(format!("VMs still run: {running:?}"))));
                }
            }
            Told::IoEnded(id, result) => {
                if self.ios.remove(&id).is_some() {
                    self.keeper.handle_input(now(), Input::IoEnded(id, result));
                }
            }
            Told::Killed(vms) => {
                self.keeper.handle_input(now(), Input::Killed);
                (self.event)(LeaseEvent::Fenced { datastore: self.place.datastore.clone(), vms });
            }
        }
    }

    fn carry_out(&mut self) {
        while let Some(effect) = self.keeper.poll_effect() {
            match effect {
                Effect::Io(io) => {
                    self.ios.insert(io.id, now() + IO_BOUND);
                    let own = self.own.clone();
                    let begin_by = std::time::Instant::now() + Wait::from_millis(limits::LEASE_IO_BOUND_MS);
                    // If the loop has ended, nobody waits for it.
                    let ended = Box::new(move |id, result| drop(own.send(Told::IoEnded(id, result))));
                    self.lanes.begin(io, begin_by, ended);
                }
                Effect::Fence(why) => {
                    self.watchdog.starve(&self.place.datastore);
                    log::error!(
                        "datastore {}: the host lease is lost: {why}; its VMs are killed",
                        self.place.datastore
                    );
                    (self.trouble, self.mend) = (format!("it was lost: {why}"), None);
                    (self.event)(LeaseEvent::Fencing {
                        datastore: self.place.datastore.clone(),
                        vms: self.guard.running(),
                    });
                    self.guard.stop_all();
                    // One that was not known here ends itself.
                    self.deadline.set(None);
                    cut::end_requests(&self.place.area);
                    let own = self.own.clone();
                    self.guard.kill_all(move |vms| drop(own.send(Told::Killed(vms))));
                }
                Effect::FeedWatchdog => self.watchdog.feed(&self.place.datastore),
                Effect::Remember(life) => {
                    if let Err(error) = self.remember(life) {
                        log::error!(
                            "datastore {}: a restart of this role would not know its life: {error}",
                            self.place.datastore
                        );
                    }
                }
                Effect::Reply(id, result) => {
                    if let Some(reply) = self.replies.remove(&id) {
                        // Who asked may have given up; the answer then only stands on the datastore.
                        let _ = reply.send(result.map(|answer| (answer, self.keeper.hosts())));
                    }
                }
                Effect::Note(note) => {
                    log::info!("datastore {}: {note}", self.place.datastore);
                    (self.trouble, self.mend) = (note.to_string(), note.mend());
                }
            }
        }
        let live = matches!(self.keeper.standing(), Standing::Live(_));
        if live && !self.was_live {
            (self.event)(LeaseEvent::Held(self.place.datastore.clone()));
        }
        self.was_live = live;
        if matches!(self.keeper.standing(), Standing::Left) && !self.leaving.is_empty() {
            self.watchdog.release(&self.place.datastore);
            self.leaving.drain(..).for_each(|reply| drop(reply.send(Ok(()))));
        }
    }

    /// How the lease area is damaged, if it is.
    fn damage(&self) -> Option<String> {
        self.lanes.area_is_damaged().then(|| area_damage_text(&self.place.datastore))
    }

    /// Whether a request begins something, or looks at what goes on elsewhere. What this host holds is ended, moved and made sure of
    /// for as long as the area lets itself be read.
    fn begins(&self, request: &Request) -> bool {
        matches!(request, Request::Acquire(..) | Request::Mend(..) | Request::Prepare(..) | Request::Query(_))
            && self.keeper.holds(now(), request.vm()).is_none()
    }

    /// Leaves to monitors and to a successor until when VMs may run.
    fn remember(&self, life: Option<Remembered>) -> std::io::Result<()> {
        let place = self.place;
        self.deadline.set(life.map(|life| life.fence_at()));
        let Some(life) = life else { return memory::forget(&place.memory, &place.datastore) };
        let who = (place.identity.host, place.identity.name.clone());
        let (datastore, path) = (place.datastore.clone(), place.area.clone());
        memory::leave(&place.memory, &Kept::new(datastore, path, who, place.watchdog.clone(), self.area, life))
    }

    fn view(&self) -> View {
        let held = matches!(self.keeper.standing(), Standing::Live(_));
        View {
            held,
            renewed_ms: self.keeper.renewed_at().map_or(0, |at| now().since(at).millis()),
            trouble: match (held, self.damage()) {
                (true, _) => String::new(),
                (false, Some(damage)) => damage,
                (false, None) if self.lanes.area_is_gone() => AREA_IS_GONE.to_owned(),
                (false, None) => self.trouble.clone(),
            },
            mend: self.mend.filter(|_| !held && !self.lanes.area_is_gone()),
            refusal: self.lanes.refusal(),
            damage: self.damage(),
            hosts: self.keeper.hosts(),
            vms: self.keeper.known_vms(),
            area: Some(self.area.id),
        }
    }
}
