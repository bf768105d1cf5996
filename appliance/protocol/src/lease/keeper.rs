//! Everything that one host does about the leases of one datastore.
//!
//! Call order: [`Keeper::new`], then [`Keeper::handle_input`] for each input and [`Keeper::handle_timeout`] at
//! [`Keeper::poll_timeout`]; after each of them drain [`Keeper::poll_effect`]. Every [`Io`] is answered once with
//! [`Input::IoEnded`]; one that hangs is answered as failed after `LEASE_IO_BOUND_MS`.
//!
//! A block that an earlier write may still reach is not written: after a failed write its bank rests for
//! `LEASE_SETTLE_MS`, and so do all banks when an earlier process of this boot may have left writes behind.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use model::limits;
use model::names::VmName;

use super::directory::{Directory, DirectoryEffect, Home};
use super::host_lease::{Fence, HostIdentity, HostLease, Note, OwnEffect, Remembered, Standing};
use super::identity::{Epoch, Incarnation, Slot};
use super::layout::{Area, Bank};
use super::paxos::Prepared;
use super::record::HostRecord;
use super::register;
use super::round::{Ask, Ended};
use super::vm_lease::{Answer, Context, LeaseError, Next, Request, VmJob};
use super::watch::{Life, Watch};
use crate::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(limits::LEASE_POLL_MS);
const RETRY: Duration = Duration::from_millis(limits::LEASE_RETRY_MS);
const SETTLE: Duration = Duration::from_millis(limits::LEASE_SETTLE_MS);

/// Names a request in its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Names an I/O in its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IoId(pub u64);

/// What must not wait for what: each lane has a thread of its own, so that a hung read of a VM's blocks does not
/// hold up a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Writes of the own record.
    Renewal,
    /// Looks at the host bank.
    Watch,
    /// All else.
    Work,
}

/// One access to the area: a multiple of the stride, aligned to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read so many bytes.
    Read {
        /// From here.
        offset: u64,
        /// So many.
        bytes: usize,
    },
    /// Write these bytes, synchronously.
    Write {
        /// To here.
        offset: u64,
        /// These.
        data: Vec<u8>,
    },
}

/// An I/O to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Io {
    /// Its name.
    pub id: IoId,
    /// Its lane.
    pub lane: Lane,
    /// What to do.
    pub access: Access,
}

/// The end of an I/O.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IoResult {
    /// The bytes that were read, as many as were asked for.
    Read(Vec<u8>),
    /// The write is on the disk.
    Written,
    /// It failed, was short, or was not answered in time; a write may still reach the disk.
    Failed,
}

/// What happens to a keeper.
#[derive(Clone, Debug)]
pub enum Input {
    /// Somebody asks for something; [`Effect::Reply`] is the answer.
    Request(RequestId, Request),
    /// An I/O ended.
    IoEnded(IoId, IoResult),
    /// No VM of this datastore runs any more, as [`Effect::Fence`] asked.
    Killed,
    /// Give the host lease up. No VM of this datastore may run.
    Leave,
}

/// What a keeper wants done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// An I/O.
    Io(Io),
    /// Kill every VM of this datastore at once, end its I/O, then say [`Input::Killed`].
    Fence(Fence),
    /// Feed the watchdog, if there is one.
    FeedWatchdog,
    /// Keep this for the next process of this boot, where no datastore is needed to read it, before any later effect
    /// is carried out. None: nothing runs.
    Remember(Option<Remembered>),
    /// An answer.
    Reply(RequestId, Result<Answer, LeaseError>),
    /// Something that a person may want to know.
    Note(Note),
}

/// A host of the datastore, as this one sees it.
#[derive(Clone, Debug)]
pub struct HostView {
    /// Its slot.
    pub slot: Slot,
    /// What it published last.
    pub record: HostRecord,
    /// What is known of its life.
    pub life: Life,
}

#[derive(Debug)]
enum Purpose {
    Look(Instant),
    Renew(u64),
    Directory,
    Vm(RequestId),
    /// A write whose job ended with the life that asked for it.
    Orphan,
}

/// Why a bank must not be written.
#[derive(Clone, Copy, Debug)]
enum Rest {
    /// A write is under way.
    Writing,
    /// A write may still land until then.
    Until(Instant),
}

#[derive(Debug)]
struct Active {
    job: VmJob,
    wake_at: Option<Instant>,
    waits_for_directory: bool,
}

/// The state machine of one host on one datastore.
#[derive(Debug)]
pub struct Keeper {
    area: Area,
    own: HostLease,
    watch: Watch,
    directory: Directory,
    /// The life in which the jobs run.
    life: Option<Incarnation>,
    active: BTreeMap<RequestId, Active>,
    waiting: VecDeque<(RequestId, Request)>,
    prepared: BTreeMap<VmName, (Home, Prepared)>,
    held: BTreeMap<VmName, Epoch>,
    resting: BTreeMap<Bank, Rest>,
    rest_all_until: Instant,
    io: BTreeMap<IoId, (Purpose, Option<Bank>)>,
    ios: u64,
    looking: bool,
    look_again: bool,
    look_at: Instant,
    leaving: bool,
    chance: u64,
    effects: VecDeque<Effect>,
}

impl Keeper {
    /// The keeper of `area` for this host. `inherited` is what an earlier process of this boot last remembered;
    /// `chance` is any number, and hosts should differ in it.
    pub fn new(area: Area, identity: HostIdentity, inherited: Option<Remembered>, chance: u64, now: Instant) -> Self {
        Self {
            area,
            own: HostLease::new(identity, inherited, now),
            watch: Watch::default(),
            directory: Directory::default(),
            life: None,
            active: BTreeMap::new(),
            waiting: VecDeque::new(),
            prepared: BTreeMap::new(),
            held: BTreeMap::new(),
            resting: BTreeMap::new(),
            rest_all_until: Instant::ZERO,
            io: BTreeMap::new(),
            ios: 0,
            looking: false,
            look_again: false,
            look_at: now,
            leaving: false,
            chance,
            effects: VecDeque::new(),
        }
    }

    /// How the own host lease stands.
    pub fn standing(&self) -> Standing {
        self.own.standing()
    }

    /// The start of the last successful renewal of the running life.
    pub fn renewed_at(&self) -> Option<Instant> {
        self.own.renewed_at()
    }

    /// The epoch in which this host holds a VM and may run it *now*. To be asked when a VM's monitor is registered,
    /// before its first instruction.
    pub fn holds(&self, now: Instant, vm: &VmName) -> Option<Epoch> {
        let live = self.own.life(now).is_some() && self.own.life(now) == self.life;
        live.then(|| self.held.get(vm).copied()).flatten()
    }

    /// The VMs that this host holds.
    pub fn held(&self) -> impl Iterator<Item = (&VmName, Epoch)> {
        self.held.iter().map(|(vm, epoch)| (vm, *epoch))
    }

    /// The VMs that have a lease on this datastore, as last read.
    pub fn known_vms(&self) -> Vec<VmName> {
        self.directory.table().map(|table| table.names().cloned().collect()).unwrap_or_default()
    }

    /// The hosts of the datastore, this one included.
    pub fn hosts(&self) -> Vec<HostView> {
        let seen = self.watch.slots().filter_map(|(slot, seen)| Some((slot, seen.record.clone()?)));
        seen.map(|(slot, record)| {
            let life = self.watch.life(record.incarnation(slot), Instant::ZERO);
            HostView { slot, record, life }
        })
        .collect()
    }

    /// Takes in what happened.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        self.own.handle_timeout(now);
        self.follow_life(now);
        match input {
            Input::Request(id, request) => self.request(now, id, request),
            Input::IoEnded(id, result) => self.io_ended(now, id, &result),
            Input::Killed => self.own.handle_killed(),
            Input::Leave => self.leaving = true,
        }
        self.settle(now);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.own.handle_timeout(now);
        self.follow_life(now);
        if now >= self.look_at {
            self.look(now);
        }
        let due: Vec<RequestId> = self.due(now).collect();
        for id in due {
            if let Some(active) = self.active.get_mut(&id) {
                active.wake_at = None;
                let next = active.job.woken();
                self.go_on(now, id, next);
            }
        }
        self.settle(now);
    }

    /// When [`Keeper::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Instant {
        let jobs = self.active.values().filter_map(|active| Some(active.wake_at?.max(self.bank_free_at(active))));
        let directory = self.directory.poll_timeout(self.free_at(self.area.geometry.directory()));
        let look = if self.looking { Instant::NEVER } else { self.look_at };
        jobs.chain([self.own.poll_timeout(), look, directory]).min().unwrap_or(Instant::NEVER)
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn due(&self, now: Instant) -> impl Iterator<Item = RequestId> + '_ {
        let due = move |active: &Active| active.wake_at.is_some_and(|at| now >= at.max(self.bank_free_at(active)));
        self.active.iter().filter(move |(_, active)| due(active)).map(|(id, _)| *id)
    }

    fn bank_free_at(&self, active: &Active) -> Instant {
        active.job.home().map_or(Instant::ZERO, |(place, _)| self.free_at(self.area.geometry.vm(place)))
    }

    /// From when on a bank's own block may be written.
    fn free_at(&self, bank: Bank) -> Instant {
        free_at(&self.resting, bank).max(self.rest_all_until)
    }

    fn request(&mut self, now: Instant, id: RequestId, request: Request) {
        if self.life.is_none() {
            return self.reply(id, Err(LeaseError::NotLive));
        }
        if self.waiting.len() as u64 >= limits::LEASE_VMS_MAX {
            return self.reply(id, Err(LeaseError::Busy));
        }
        if request.ends_holding() {
            self.held.remove(request.vm());
        }
        self.waiting.push_back((id, request));
        self.begin_waiting(now);
    }

    /// Begins every waiting request whose VM no other request is busy with.
    fn begin_waiting(&mut self, now: Instant) {
        let mut busy: BTreeSet<VmName> = self.active.values().map(|a| a.job.request().vm().clone()).collect();
        for (id, request) in std::mem::take(&mut self.waiting) {
            let vm = request.vm().clone();
            if !busy.insert(vm.clone()) {
                self.waiting.push_back((id, request));
                continue;
            }
            // Whoever writes the own block makes void what was prepared.
            let reads_only = matches!(request, Request::Query(_));
            let prepared = if reads_only { None } else { self.prepared.remove(&vm) };
            let mut job = VmJob::new(request, prepared);
            let Some(context) = self.context(now) else { continue };
            let next = job.begin(&context);
            self.active.insert(id, Active { job, wake_at: None, waits_for_directory: false });
            self.go_on(now, id, next);
        }
    }

    fn context(&mut self, now: Instant) -> Option<Context<'_>> {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(Context { now, area: self.area, me: self.life?, watch: &self.watch, chance: self.chance >> 33 })
    }

    /// Drives a job with a context, if it still runs.
    fn drive(&mut self, now: Instant, id: RequestId, step: impl FnOnce(&mut VmJob, &Context<'_>) -> Option<Next>) {
        let Some(mut active) = self.active.remove(&id) else { return };
        let next = self.context(now).and_then(|context| step(&mut active.job, &context));
        self.active.insert(id, active);
        if let Some(next) = next {
            self.go_on(now, id, next);
        }
    }

    fn go_on(&mut self, now: Instant, id: RequestId, next: Next) {
        let Some(active) = self.active.get_mut(&id) else { return };
        if let Some(who) = active.job.declared.take() {
            self.own.declare_dead(who);
        }
        match next {
            Next::Locate(change) => {
                active.waits_for_directory = true;
                let vm = active.job.request().vm().clone();
                self.directory.want(vm, change);
            }
            Next::Ask(ask) => {
                let Some((place, _)) = active.job.home() else { return };
                let bank = self.area.geometry.vm(place);
                if matches!(ask, Ask::Write(_)) && free_at(&self.resting, bank).max(self.rest_all_until) > now {
                    // What an earlier write may still change is no ground for another: survey again after it.
                    active.wake_at = Some(now);
                    return;
                }
                self.ask(bank, ask, Purpose::Vm(id));
            }
            Next::Look if self.looking => self.look_again = true,
            Next::Look => self.look(now),
            Next::Pause(until) => active.wake_at = Some(until),
            Next::AnswerThen(answer, ask) => {
                let vm = active.job.request().vm().clone();
                let home = active.job.home();
                self.learned(&vm, &answer);
                self.reply(id, Ok(answer));
                if let Some((place, _)) = home {
                    self.ask(self.area.geometry.vm(place), ask, Purpose::Vm(id));
                }
            }
            Next::Finish(result) => {
                if let Some(active) = self.active.remove(&id) {
                    self.finish(id, active.job, result);
                }
            }
            Next::End => {
                self.active.remove(&id);
            }
        }
    }

    fn finish(&mut self, id: RequestId, job: VmJob, result: Result<Answer, LeaseError>) {
        let vm = job.request().vm().clone();
        if let Some(prepared) = job.prepared {
            self.prepared.insert(vm.clone(), prepared);
        }
        if let Ok(answer) = &result {
            self.learned(&vm, answer);
        }
        self.reply(id, result);
    }

    fn learned(&mut self, vm: &VmName, answer: &Answer) {
        match answer {
            // A VM that is about to be given up must not be started on the strength of an earlier answer.
            Answer::Held { .. } if self.waiting.iter().any(|(_, r)| r.ends_holding() && r.vm() == vm) => {}
            Answer::Held { epoch, .. } => {
                self.held.insert(vm.clone(), *epoch);
            }
            Answer::HeldBy(_) | Answer::GivenUp | Answer::Forgotten | Answer::Holder(None) => {
                self.held.remove(vm);
            }
            Answer::Prepared(_) | Answer::Holder(Some(_)) => {}
        }
    }

    fn reply(&mut self, id: RequestId, result: Result<Answer, LeaseError>) {
        self.effects.push_back(Effect::Reply(id, result));
    }

    fn ask(&mut self, bank: Bank, ask: Ask, purpose: Purpose) {
        match ask {
            Ask::Read => {
                let extent = bank.extent();
                let access = Access::Read { offset: extent.offset, bytes: extent.bytes };
                self.io(Lane::Work, access, purpose, None);
            }
            Ask::Write(write) => {
                let (offset, data) = register::write(bank, self.area.id, write.slot, write.sequence, &write.block);
                self.io(Lane::Work, Access::Write { offset, data }, purpose, Some(bank));
            }
        }
    }

    fn io(&mut self, lane: Lane, access: Access, purpose: Purpose, writes: Option<Bank>) {
        self.ios += 1;
        let id = IoId(self.ios);
        if let Some(bank) = writes {
            self.resting.insert(bank, Rest::Writing);
        }
        self.io.insert(id, (purpose, writes));
        self.effects.push_back(Effect::Io(Io { id, lane, access }));
    }

    fn look(&mut self, now: Instant) {
        self.look_at = now + POLL;
        if self.looking {
            return;
        }
        self.looking = true;
        let extent = self.area.geometry.hosts().extent();
        let access = Access::Read { offset: extent.offset, bytes: extent.bytes };
        self.io(Lane::Watch, access, Purpose::Look(now), None);
    }

    fn io_ended(&mut self, now: Instant, id: IoId, result: &IoResult) {
        let Some((purpose, writes)) = self.io.remove(&id) else { return };
        if let Some(bank) = writes {
            match result {
                IoResult::Failed => self.resting.insert(bank, Rest::Until(now + SETTLE)),
                _ => self.resting.remove(&bank),
            };
        }
        let ended = match result {
            IoResult::Read(bytes) => Ended::Read(bytes),
            IoResult::Written => Ended::Written,
            IoResult::Failed => Ended::Failed,
        };
        match purpose {
            Purpose::Look(began) => self.looked(now, began, ended),
            Purpose::Renew(ticket) => self.own.handle_written(now, ticket, matches!(ended, Ended::Written)),
            Purpose::Directory => {
                let (area, chance) = (self.area, self.context(now).map_or(0, |context| context.chance));
                if let Some(me) = self.life {
                    self.directory.ended(now, area, me, chance, ended);
                }
            }
            Purpose::Vm(request) => self.drive(now, request, |job, context| Some(job.ended(context, ended))),
            Purpose::Orphan => {}
        }
    }

    fn looked(&mut self, now: Instant, began: Instant, ended: Ended<'_>) {
        self.looking = false;
        if let Ended::Read(bytes) = ended {
            self.watch.observe(self.area, began, now, bytes);
            self.own.handle_hosts(now, began, &self.watch);
            self.follow_life(now);
            let jobs: Vec<RequestId> = self.active.keys().copied().collect();
            for id in jobs {
                self.drive(now, id, VmJob::looked);
            }
        } else {
            self.look_at = self.look_at.min(now + RETRY);
        }
        if std::mem::take(&mut self.look_again) {
            self.look(now);
        }
    }

    /// Leaves once nothing can follow: no write of this life may land after the word that the life is over.
    fn leave(&mut self, now: Instant) {
        if self.leaving && self.resting.is_empty() && now >= self.rest_all_until {
            self.leaving = false;
            self.own.leave(now);
        }
    }

    /// Carries the effects of the parts on, and ends what belongs to a life that ended.
    fn settle(&mut self, now: Instant) {
        self.resting.retain(|_, rest| !matches!(rest, Rest::Until(at) if *at <= now));
        self.leave(now);
        loop {
            self.follow_life(now);
            if self.life.is_some() {
                self.begin_waiting(now);
                self.directory.handle_timeout(now, self.free_at(self.area.geometry.directory()));
            }
            if let Some(effect) = self.own.poll_effect() {
                self.own_effect(now, effect);
            } else if let Some(effect) = self.directory.poll_effect() {
                self.directory_effect(now, effect);
            } else {
                return;
            }
        }
    }

    fn own_effect(&mut self, now: Instant, effect: OwnEffect) {
        match effect {
            OwnEffect::Look if self.looking => self.look_again = true,
            OwnEffect::Look => self.look(now),
            OwnEffect::Write { ticket, slot, sequence, record } => {
                let (offset, data) = register::write(self.area.geometry.hosts(), self.area.id, slot, sequence, &record);
                self.io(Lane::Renewal, Access::Write { offset, data }, Purpose::Renew(ticket), None);
            }
            OwnEffect::Fence(why) => self.effects.push_back(Effect::Fence(why)),
            OwnEffect::FeedWatchdog => self.effects.push_back(Effect::FeedWatchdog),
            OwnEffect::Remember(what) => self.effects.push_back(Effect::Remember(what)),
            OwnEffect::Rest => self.rest_all_until = now + SETTLE,
            OwnEffect::Note(note) => self.effects.push_back(Effect::Note(note)),
        }
    }

    fn directory_effect(&mut self, now: Instant, effect: DirectoryEffect) {
        let bank = self.area.geometry.directory();
        match effect {
            DirectoryEffect::Ask(ask) => self.ask(bank, ask, Purpose::Directory),
            DirectoryEffect::ReadTable(extent) => {
                let access = Access::Read { offset: extent.offset, bytes: extent.bytes };
                self.io(Lane::Work, access, Purpose::Directory, None);
            }
            DirectoryEffect::WriteTable(offset, data) => {
                // A table shares the rest of the directory's bank: it must not change under a proposal either.
                self.io(Lane::Work, Access::Write { offset, data }, Purpose::Directory, Some(bank));
            }
            DirectoryEffect::Answer(vm, home) => {
                let waits = |active: &&mut Active| active.waits_for_directory && *active.job.request().vm() == vm;
                let Some(active) = self.active.values_mut().find(waits) else { return };
                active.waits_for_directory = false;
                let id = self.active.iter().find(|(_, a)| *a.job.request().vm() == vm).map(|(id, _)| *id);
                if let Some(id) = id {
                    self.drive(now, id, |job, _| Some(job.located(home)));
                }
            }
        }
    }

    /// Ends the requests of a life that is over, or takes up a new one.
    fn follow_life(&mut self, now: Instant) {
        let life = self.own.life(now);
        if life == self.life {
            return;
        }
        self.life = life;
        self.directory.reset();
        self.prepared.clear();
        self.held.clear();
        for (purpose, _) in self.io.values_mut() {
            if matches!(purpose, Purpose::Vm(_) | Purpose::Directory) {
                *purpose = Purpose::Orphan;
            }
        }
        let ended: Vec<RequestId> = std::mem::take(&mut self.active)
            .into_iter()
            .filter(|(_, active)| !active.job.is_answered())
            .map(|(id, _)| id)
            .chain(std::mem::take(&mut self.waiting).into_iter().map(|(id, _)| id))
            .collect();
        for id in ended {
            self.reply(id, Err(LeaseError::Fenced));
        }
    }
}

fn free_at(resting: &BTreeMap<Bank, Rest>, bank: Bank) -> Instant {
    match resting.get(&bank) {
        None => Instant::ZERO,
        Some(Rest::Until(at)) => *at,
        Some(Rest::Writing) => Instant::NEVER,
    }
}
