//! The state machine of this host's own lease.

use std::collections::VecDeque;

use model::limits;
use model::names::HostName;

use super::effect::{Fence, Note, OwnEffect, Remembered};
use super::slot::{self, Choice};
use super::state::{Claiming, Fencing, IO_BOUND, Live, Proof, RENEWAL, Renewal, State};
use crate::lease::identity::{BootId, Generation, HostId, Incarnation, Slot};
use crate::lease::record::{DECLARED_MAX, HostRecord, Watchdog};
use crate::lease::watch::Watch;
use crate::time::{Duration, Instant};

const RETRY: Duration = Duration::from_millis(limits::LEASE_RETRY_MS);
const CLAIM_IO: Duration = Duration::from_millis(limits::LEASE_CLAIM_IO_MS);
const CLAIM_WAIT: Duration = Duration::from_millis(limits::LEASE_CLAIM_WAIT_MS);
const FEED: Duration = Duration::from_millis(limits::LEASE_FEED_MS);

/// Who this host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostIdentity {
    /// Random, the host's own.
    pub host: HostId,
    /// Of this boot.
    pub boot: BootId,
    /// Its name, by which it finds its slot again. No two hosts of a datastore may share one.
    pub name: HostName,
    /// What resets this host if its lease process hangs.
    pub watchdog: Watchdog,
}

/// How the own lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is not held (yet, or not again).
    None,
    /// It is held: VMs may run.
    Live(Incarnation),
    /// It was lost and VMs are being killed.
    Fencing(Fence),
    /// It was given up for good.
    Left,
}

/// The state machine of this host's own lease on one datastore.
#[derive(Debug)]
pub struct HostLease {
    identity: HostIdentity,
    state: State,
    /// The last life of this process, whose VMs are dead: its slot may be claimed again at once.
    last_life: Option<(Slot, Generation)>,
    /// The life of an earlier process of this boot, whose VMs may run.
    inherited: Option<Remembered>,
    /// Writes of an earlier process have been allowed for.
    rested: bool,
    declared: VecDeque<(Slot, Generation)>,
    feed_at: Instant,
    last_note: Option<Note>,
    tickets: u64,
    effects: VecDeque<OwnEffect>,
}

impl HostLease {
    /// The lease of this host, not held yet; `inherited` is what an earlier process of this boot remembered last.
    pub fn new(identity: HostIdentity, inherited: Option<Remembered>, now: Instant) -> Self {
        Self {
            identity,
            state: State::Looking,
            last_life: None,
            inherited,
            rested: false,
            declared: VecDeque::new(),
            feed_at: now,
            last_note: None,
            tickets: 0,
            effects: VecDeque::new(),
        }
    }

    /// The boot of this host.
    pub fn boot(&self) -> BootId {
        self.identity.boot
    }

    /// How the lease stands.
    pub fn standing(&self) -> Standing {
        match &self.state {
            State::Looking | State::Claiming(_) | State::Leaving(_) => Standing::None,
            State::Live(live) => Standing::Live(self.incarnation(live)),
            State::Fencing(fencing) => Standing::Fencing(fencing.why),
            State::Left => Standing::Left,
        }
    }

    /// The running life; none if VMs must not run now.
    pub fn life(&self, now: Instant) -> Option<Incarnation> {
        match &self.state {
            State::Live(live) if now < live.fence_at() => Some(self.incarnation(live)),
            _ => None,
        }
    }

    /// The start of the last successful renewal of the running life.
    pub fn renewed_at(&self) -> Option<Instant> {
        match &self.state {
            State::Live(live) => Some(live.renewed_at),
            _ => None,
        }
    }

    fn incarnation(&self, live: &Live) -> Incarnation {
        Incarnation { slot: live.slot, generation: live.generation, host: self.identity.host }
    }

    /// Publishes with the next renewal that this host saw a life of another expire. What it said longest ago, and not again, makes room.
    pub fn declare_dead(&mut self, who: Incarnation) {
        let entry = (who.slot, who.generation);
        self.declared.retain(|declared| *declared != entry);
        self.declared.push_front(entry);
        self.declared.truncate(DECLARED_MAX);
    }

    /// Gives the lease up in order. No VM of this datastore may run any more.
    pub fn leave(&mut self, now: Instant) {
        if let State::Live(live) = &self.state {
            self.state = State::Leaving(live.clone());
            self.renew(now);
        } else if !matches!(self.state, State::Leaving(_)) {
            self.state = State::Left;
        }
    }

    /// Takes in a look at the host bank that began at `began` and is already in `watch`.
    pub fn handle_hosts(&mut self, now: Instant, began: Instant, watch: &Watch) {
        self.fence_if_due(now);
        match self.state.clone() {
            State::Looking => self.look_for_slot(now, began, watch),
            State::Claiming(claiming) => self.prove_claim(now, began, watch, &claiming),
            State::Live(live) => self.check_own_slot(watch, &live),
            State::Fencing(_) | State::Leaving(_) | State::Left => {}
        }
    }

    /// Takes in that the write `ticket` ended at or before `now`.
    pub fn handle_written(&mut self, now: Instant, ticket: u64, done: bool) {
        // A renewal whose success is learned of too late comes too late: others may have seen the life expire before.
        self.fence_if_due(now);
        match &mut self.state {
            State::Claiming(claiming) if claiming.ticket == ticket => {
                if done && now <= claiming.write_by {
                    claiming.proof = Some(Proof { at: now + CLAIM_WAIT, ask_at: now + CLAIM_WAIT });
                } else {
                    self.look_again();
                }
            }
            State::Live(live) | State::Leaving(live) => {
                let Some(renewal) = live.in_flight.take_if(|renewal| renewal.ticket == ticket) else { return };
                if !done {
                    live.next_at = now + RETRY;
                    return self.note(Note::RenewalFailed);
                }
                live.sequence = renewal.sequence;
                live.renewed_at = renewal.began;
                live.next_at = renewal.began + RENEWAL;
                let remembered = live.remembered();
                self.effects.push_back(OwnEffect::Remember(Some(remembered)));
                if renewal.last {
                    self.effects.push_back(OwnEffect::Remember(None));
                    self.state = State::Left;
                } else if matches!(self.state, State::Leaving(_)) {
                    self.renew(now);
                }
            }
            _ => {}
        }
    }

    /// Takes in that no VM of this datastore runs any more, as [`OwnEffect::Fence`] asked.
    pub fn handle_killed(&mut self) {
        if let State::Fencing(_) = self.state {
            self.effects.push_back(OwnEffect::Remember(None));
            self.effects.push_back(OwnEffect::FeedWatchdog);
            self.look_again();
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.fence_if_due(now);
        match &mut self.state {
            State::Claiming(claiming) => match &mut claiming.proof {
                // Looks that began before the wait was over prove nothing: ask for one that begins now.
                Some(proof) if now >= proof.ask_at => {
                    proof.ask_at = now + IO_BOUND;
                    self.effects.push_back(OwnEffect::Look);
                }
                None if now > claiming.write_by => self.look_again(),
                _ => {}
            },
            State::Live(live) | State::Leaving(live) if now >= live.next_at => self.renew(now),
            _ => {}
        }
        self.feed(now);
    }

    /// When [`HostLease::handle_timeout`] wants to be called.
    pub fn poll_timeout(&self) -> Instant {
        let own = match &self.state {
            State::Looking => self.inherited.map_or(Instant::NEVER, |inherited| inherited.fence_at()),
            State::Fencing(_) | State::Left => Instant::NEVER,
            State::Claiming(claiming) => {
                claiming.proof.map_or(claiming.write_by + Duration::from_nanos(1), |proof| proof.ask_at)
            }
            State::Live(live) | State::Leaving(live) if live.in_flight.is_none() => live.next_at.min(live.fence_at()),
            State::Live(live) | State::Leaving(live) => live.fence_at(),
        };
        own.min(self.feed_at)
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<OwnEffect> {
        self.effects.pop_front()
    }

    fn look_for_slot(&mut self, now: Instant, began: Instant, watch: &Watch) {
        if let Some((slot, expiry)) = slot::shorter_expiry(&self.identity, watch) {
            return self.note(Note::ShorterExpiry(slot, expiry));
        }
        if let Some(inherited) = self.inherited.take() {
            return self.follow_predecessor(now, watch, inherited);
        }
        let (choice, predecessor) = slot::choose(&self.identity, self.last_life, watch);
        if predecessor {
            self.rest();
        }
        match choice {
            Choice::Claim(slot, generation) => self.claim(now, began, watch, slot, generation),
            Choice::LookAgain => self.effects.push_back(OwnEffect::Look),
            Choice::Wait(note) => self.note(note),
        }
    }

    fn follow_predecessor(&mut self, now: Instant, watch: &Watch, inherited: Remembered) {
        self.rest();
        self.last_life = Some((inherited.slot, inherited.generation));
        let seen = watch.slot(inherited.slot);
        let ours = seen.filter(|seen| {
            seen.record.as_ref().is_some_and(|record| {
                (record.host, record.boot) == (self.identity.host, self.identity.boot)
                    && record.generation == inherited.generation
                    && !record.left
            })
        });
        let Some(seen) = ours else { return self.fence(Fence::Predecessor) };
        let live = Live {
            slot: inherited.slot,
            generation: inherited.generation,
            sequence: seen.sequence,
            renewed_at: inherited.renewed_at(),
            next_at: now,
            in_flight: None,
        };
        self.note(Note::Adopted(self.incarnation(&live)));
        self.state = State::Live(live);
        self.fence_if_due(now);
        self.renew(now);
    }

    /// Writes that an earlier process of this boot left behind may still land.
    fn rest(&mut self) {
        if !std::mem::replace(&mut self.rested, true) {
            self.effects.push_back(OwnEffect::Rest);
        }
    }

    fn claim(&mut self, now: Instant, began: Instant, watch: &Watch, slot: Slot, generation: Generation) {
        let sequence = watch.slot(slot).map_or(0, |seen| seen.sequence) + 1;
        let record = self.record(Generation(generation.0 + 1), now, false);
        let ticket = self.ticket();
        self.effects.push_back(OwnEffect::Write { ticket, slot, sequence, record: record.clone() });
        let write_by = began + CLAIM_IO;
        self.state = State::Claiming(Claiming { slot, sequence, record, ticket, write_by, proof: None });
    }

    fn prove_claim(&mut self, now: Instant, began: Instant, watch: &Watch, claiming: &Claiming) {
        if claiming.proof.is_none_or(|proof| began < proof.at) {
            return;
        }
        let seen = watch.slot(claiming.slot);
        let proved =
            seen.is_some_and(|s| s.sequence == claiming.sequence && s.record.as_ref() == Some(&claiming.record));
        let live = Live {
            slot: claiming.slot,
            generation: claiming.record.generation,
            sequence: claiming.sequence,
            renewed_at: Instant::from_nanos(claiming.record.renewed_at),
            next_at: now,
            in_flight: None,
        };
        // Too late to be worth anything: others may already have seen this life expire.
        if !proved || now >= live.fence_at() {
            return self.look_again();
        }
        self.last_life = Some((live.slot, live.generation));
        self.rested = true;
        self.effects.push_back(OwnEffect::Remember(Some(live.remembered())));
        self.note(Note::Held(self.incarnation(&live)));
        self.state = State::Live(live);
        self.renew(now);
    }

    fn look_again(&mut self) {
        self.state = State::Looking;
        self.effects.push_back(OwnEffect::Look);
    }

    fn ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn check_own_slot(&mut self, watch: &Watch, live: &Live) {
        let seen = watch.slot(live.slot).and_then(|seen| seen.record.as_ref());
        if seen.is_some_and(|record| record.generation > live.generation) {
            self.fence(Fence::SlotTaken);
        } else if watch.declared_dead(live.slot, live.generation) {
            self.fence(Fence::DeclaredDead);
        }
    }

    fn renew(&mut self, now: Instant) {
        let last = matches!(self.state, State::Leaving(_));
        let (State::Live(live) | State::Leaving(live)) = &self.state else { return };
        if live.in_flight.is_some() {
            return;
        }
        let (slot, sequence, generation) = (live.slot, live.sequence + 1, live.generation);
        let (ticket, record) = (self.ticket(), self.record(generation, now, last));
        if let State::Live(live) | State::Leaving(live) = &mut self.state {
            live.in_flight = Some(Renewal { ticket, sequence, began: now, last });
        }
        self.effects.push_back(OwnEffect::Write { ticket, slot, sequence, record });
    }

    /// The deadline is looked at before any input: a process that was stopped learns of the time first.
    fn fence_if_due(&mut self, now: Instant) {
        match &self.state {
            State::Live(live) if now >= live.fence_at() => self.fence(Fence::NotRenewed),
            State::Leaving(live) if now >= live.fence_at() => self.state = State::Left,
            State::Looking => {
                let due = self.inherited.take_if(|inherited| now >= inherited.fence_at());
                if let Some(inherited) = due {
                    self.rest();
                    self.last_life = Some((inherited.slot, inherited.generation));
                    self.fence(Fence::Predecessor);
                }
            }
            _ => {}
        }
    }

    fn record(&self, generation: Generation, now: Instant, left: bool) -> HostRecord {
        HostRecord {
            host: self.identity.host,
            boot: self.identity.boot,
            generation,
            name: self.identity.name.clone(),
            renewed_at: now.nanos(),
            expiry_ms: limits::LEASE_EXPIRY_MS as u32,
            watchdog: self.identity.watchdog,
            left,
            declared_dead: self.declared.iter().copied().collect(),
        }
    }

    fn fence(&mut self, why: Fence) {
        self.state = State::Fencing(Fencing { why });
        self.effects.push_back(OwnEffect::Fence(why));
    }

    fn feed(&mut self, now: Instant) {
        if now < self.feed_at {
            return;
        }
        self.feed_at = now + FEED;
        if !matches!(self.state, State::Fencing(_)) {
            self.effects.push_back(OwnEffect::FeedWatchdog);
        }
    }

    fn note(&mut self, note: Note) {
        if self.last_note.as_ref() != Some(&note) {
            self.last_note = Some(note.clone());
            self.effects.push_back(OwnEffect::Note(note));
        }
    }
}
