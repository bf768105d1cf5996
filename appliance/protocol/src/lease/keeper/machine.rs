//! The state machine of one host on one datastore.

use std::collections::{BTreeMap, VecDeque};

use model::names::VmName;

use super::io::{Access, Io, IoId, IoResult, Lane, Purpose};
use super::requests::{Active, RequestId};
use super::rest::Resting;
use crate::lease::directory::{Directory, DirectoryEffect};
use crate::lease::host_lease::{Fence, HostIdentity, HostLease, Note, OwnEffect, Remembered, Standing};
use crate::lease::identity::{Epoch, Incarnation, Slot};
use crate::lease::layout::{Area, Bank};
use crate::lease::paxos::Prepared;
use crate::lease::record::HostRecord;
use crate::lease::register;
use crate::lease::table::Home;
use crate::lease::vm_lease::{Answer, LeaseError, Request};
use crate::lease::watch::{DeadBoot, Life, Watch};
use crate::time::Instant;

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
    /// The end of the look that first saw its register as it is.
    pub unchanged_since: Instant,
    /// Its register changed since this host first looked: it was seen to live.
    pub changed: bool,
}

/// The state machine of one host on one datastore.
#[derive(Debug)]
pub struct Keeper {
    pub(super) area: Area,
    pub(super) own: HostLease,
    pub(super) watch: Watch,
    pub(super) directory: Directory,
    /// The life in which the jobs run.
    pub(super) life: Option<Incarnation>,
    pub(super) active: BTreeMap<RequestId, Active>,
    pub(super) waiting: VecDeque<(RequestId, Request)>,
    pub(super) prepared: BTreeMap<VmName, (Home, Prepared)>,
    pub(super) held: BTreeMap<VmName, Epoch>,
    pub(super) resting: Resting,
    pub(super) io: BTreeMap<IoId, (Purpose, Option<Bank>)>,
    pub(super) ios: u64,
    pub(super) looking: bool,
    pub(super) look_again: bool,
    pub(super) look_at: Instant,
    leaving: bool,
    pub(super) unix_s: u64,
    pub(super) chance: u64,
    pub(super) effects: VecDeque<Effect>,
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
            resting: Resting::default(),
            io: BTreeMap::new(),
            ios: 0,
            looking: false,
            look_again: false,
            look_at: now,
            leaving: false,
            unix_s: 0,
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
        let views = self.watch.slots().filter_map(|(slot, seen)| {
            let record = seen.record.clone()?;
            let life = self.watch.life(record.incarnation(slot), Instant::ZERO);
            Some(HostView { slot, record, life, unchanged_since: seen.unchanged_since, changed: seen.changed })
        });
        views.collect()
    }

    /// The boots of other hosts, and of this one before its own, that died lately, as of the look that began at [`Keeper::looked_at`]. What
    /// storage keeps for them can be given up.
    pub fn dead_boots(&self) -> Vec<DeadBoot> {
        let mut dead = self.watch.dead_boots();
        dead.retain(|dead| dead.boot != self.own.boot());
        dead
    }

    /// When the last successful look at the hosts began.
    pub fn looked_at(&self) -> Option<Instant> {
        self.watch.looked_at()
    }

    /// What the wall clock shows, seconds since 1970. It is written beside what this host comes to hold, for people.
    pub fn tell_wall_clock(&mut self, unix_s: u64) {
        self.unix_s = unix_s;
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
        let directory = self.directory.poll_timeout(self.resting.free_at(self.area.geometry.directory()));
        let look = if self.looking { Instant::NEVER } else { self.look_at };
        jobs.chain([self.own.poll_timeout(), look, directory]).min().unwrap_or(Instant::NEVER)
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Carries the effects of the parts on, and ends what belongs to a life that ended.
    fn settle(&mut self, now: Instant) {
        self.leave(now);
        loop {
            self.follow_life(now);
            if self.life.is_some() {
                self.begin_waiting(now);
                self.directory.handle_timeout(now, self.resting.free_at(self.area.geometry.directory()));
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

    /// Leaves once nothing can follow: no write of this life may land after the word that the life is over.
    fn leave(&mut self, now: Instant) {
        if self.resting.settle(now) && self.leaving {
            self.leaving = false;
            self.own.leave(now);
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
            OwnEffect::Rest => self.resting.all_rest(now),
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
                    self.drive(now, id, |job, context| Some(job.located(context, home)));
                }
            }
        }
    }

    /// Ends the requests of a life that is over, or takes up a new one.
    pub(super) fn follow_life(&mut self, now: Instant) {
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
