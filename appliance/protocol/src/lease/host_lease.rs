//! This host's own life on one datastore.
//!
//! ```text
//!            a slot is free, or mine and dead        proved by a second read
//!   Looking ------------------------------> Claiming ----------------------> Live
//!     ^  ^                                     |                              |  cannot renew in time, was declared
//!     |  `------- too slow, or overwritten ----'                              |  dead, or its slot has a new owner
//!     |                                                                       v
//!     `------------------- all VMs are dead (Killed) -------------------- Fencing          Live --leave--> Left
//! ```
//! **The rule.** A host may run VMs until `renewal + I/O bound` after the *start* of its last successful renewal; then
//! it fences, and within the kill time no VM of this datastore runs. Observers wait for the expiry, which is longer
//! (`model::limits` asserts it). So whoever sees the life expired knows that it runs nothing.
//!
//! A life that was fenced never goes on: the next claim has a higher generation, and VM leases name the generation.
//!
//! **Claiming** is a delta lease (Chockler and Malkhi 2002): read, write, wait, read again. The write must end within
//! `LEASE_CLAIM_IO_MS` of the *start* of the read that found the slot free, or the claim is void; the wait is longer
//! than that, so of two hosts that claim one slot the one that wrote first sees the other's write.
//!
//! **Another process of the same boot** is told what its predecessor last remembered ([`OwnEffect::Remember`], kept in
//! memory of the host, not on the datastore: it must be had when the datastore is not). It goes on with that life if
//! the deadline has not passed, and fences when it passes, whether or not the datastore can be read by then. Both read
//! the same clock.
//!
//! Call order: [`HostLease::new`]; then feed [`HostLease::handle_hosts`] with every look at the host bank,
//! [`HostLease::handle_written`] with the end of every write, [`HostLease::handle_killed`] when a fence is complete,
//! [`HostLease::handle_timeout`] at [`HostLease::poll_timeout`]; after each call drain [`HostLease::poll_effect`].

use std::collections::VecDeque;
use std::fmt;

use model::limits;
use model::names::HostName;

use super::identity::{BootId, Generation, HostId, Incarnation, Slot};
use super::record::{DECLARED_MAX, HostRecord, Watchdog};
use super::watch::{Life, Watch};
use crate::time::{Duration, Instant};

const RENEWAL: Duration = Duration::from_millis(limits::LEASE_RENEWAL_MS);
const IO_BOUND: Duration = Duration::from_millis(limits::LEASE_IO_BOUND_MS);
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

/// What the own lease wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnEffect {
    /// Look at the host bank now.
    Look,
    /// Write the own record; answer with [`HostLease::handle_written`].
    Write {
        /// Names the write in its answer.
        ticket: u64,
        /// The register.
        slot: Slot,
        /// The number of the write.
        sequence: u64,
        /// What to write.
        record: HostRecord,
    },
    /// Kill every VM of this datastore now; answer with [`HostLease::handle_killed`] when none is left.
    Fence(Fence),
    /// Feed the watchdog. It is not fed while a fence is under way: if that takes too long, the host is reset.
    FeedWatchdog,
    /// Keep this for the next process of this boot, before anything else is answered; none: nothing runs.
    Remember(Option<Remembered>),
    /// Writes of an earlier process of this boot may still be under way.
    Rest,
    /// Something that a person may want to know.
    Note(Note),
}

/// What one lease process leaves to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Remembered {
    /// The slot of the life.
    pub slot: Slot,
    /// The life.
    pub generation: Generation,
    /// Start of its last successful renewal, nanoseconds on this host's clock.
    pub renewed_at: u64,
}

/// Why VMs must be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Fence {
    /// No renewal succeeded in time.
    NotRenewed,
    /// Another host saw this life expire: this host was frozen, its clock included.
    DeclaredDead,
    /// The slot has a later life.
    SlotTaken,
    /// An earlier process of this boot let the lease lapse; its VMs may still run.
    Predecessor,
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRenewed => "no renewal reached the datastore in time",
            Self::DeclaredDead => "another host saw this one dead: it stood still, its clock included",
            Self::SlotTaken => "a later start of this host holds it",
            Self::Predecessor => "the lease role before this one let it lapse",
        })
    }
}

/// What a person may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// The host lease is held.
    Held(Incarnation),
    /// The life of an earlier process of this boot goes on.
    Adopted(Incarnation),
    /// Another running host uses this host's name.
    NameInUse(Slot),
    /// The slot of this host's last boot must expire first.
    WaitingForOldLife(Slot),
    /// Every slot has an owner.
    AreaFull,
    /// The other hosts of the datastore count on another expiry.
    ExpiryDiffers(Slot, u32),
    /// A renewal failed and is tried again.
    RenewalFailed,
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(life) => {
                write!(f, "the host lease is held, slot {}, generation {}", life.slot.0, life.generation.0)
            }
            Self::Adopted(life) => {
                write!(f, "the host lease is held on, slot {}, generation {}", life.slot.0, life.generation.0)
            }
            Self::NameInUse(slot) => write!(f, "another running host, slot {}, has the name of this one", slot.0),
            Self::WaitingForOldLife(slot) => {
                write!(f, "the lease of this host's last boot, slot {}, has to expire first", slot.0)
            }
            Self::AreaFull => f.write_str("every slot of the lease area belongs to another host"),
            Self::ExpiryDiffers(slot, ms) => {
                write!(f, "the host of slot {} counts on an expiry of {ms} ms, which is not this version's", slot.0)
            }
            Self::RenewalFailed => f.write_str("a renewal failed and is tried again"),
        }
    }
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

#[derive(Clone, Debug)]
enum State {
    Looking,
    Claiming(Claiming),
    Live(Live),
    Fencing(Fencing),
    Leaving(Live),
    Left,
}

#[derive(Clone, Debug)]
struct Claiming {
    slot: Slot,
    sequence: u64,
    record: HostRecord,
    ticket: u64,
    /// The claim is void if its write ends later.
    write_by: Instant,
    /// Set when the write has ended.
    proof: Option<Proof>,
}

#[derive(Clone, Copy, Debug)]
struct Proof {
    /// A look that begins now or later proves the claim.
    at: Instant,
    /// When to ask for such a look (again).
    ask_at: Instant,
}

#[derive(Clone, Debug)]
struct Live {
    slot: Slot,
    generation: Generation,
    sequence: u64,
    /// Start of the last successful renewal.
    renewed_at: Instant,
    /// Start of the next one.
    next_at: Instant,
    /// The renewal under way: one at a time, so that renewals cannot overtake another.
    in_flight: Option<Renewal>,
}

#[derive(Clone, Copy, Debug)]
struct Renewal {
    ticket: u64,
    sequence: u64,
    began: Instant,
    /// It says that the host left.
    last: bool,
}

impl Live {
    fn fence_at(&self) -> Instant {
        fence_at(self.renewed_at)
    }
}

/// When a host whose last successful renewal began at `renewed_at` must fence.
fn fence_at(renewed_at: Instant) -> Instant {
    renewed_at + RENEWAL + IO_BOUND
}

fn remembered(live: &Live) -> Remembered {
    Remembered { slot: live.slot, generation: live.generation, renewed_at: live.renewed_at.nanos() }
}

impl Remembered {
    fn renewed_at(&self) -> Instant {
        Instant::from_nanos(self.renewed_at)
    }
}

#[derive(Clone, Debug)]
struct Fencing {
    why: Fence,
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

    /// Publishes with the next renewal that this host saw a life of another expire.
    pub fn declare_dead(&mut self, who: Incarnation) {
        let entry = (who.slot, who.generation);
        if !self.declared.contains(&entry) {
            self.declared.push_front(entry);
            self.declared.truncate(DECLARED_MAX);
        }
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
                let remembered = remembered(live);
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
            State::Looking => self.inherited.map_or(Instant::NEVER, |inherited| fence_at(inherited.renewed_at())),
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
        if let Some((slot, expiry)) = other_expiry(watch) {
            return self.note(Note::ExpiryDiffers(slot, expiry));
        }
        if let Some(inherited) = self.inherited.take() {
            return self.follow_predecessor(now, watch, inherited);
        }
        let mut mine = None;
        for (slot, seen) in watch.slots() {
            let Some(record) = seen.record.as_ref().filter(|record| record.name == self.identity.name) else {
                continue;
            };
            if self.last_life.is_some_and(|(last, generation)| last == slot && generation == record.generation) {
                mine = Some((slot, record.generation));
                break;
            }
            let same_boot = record.host == self.identity.host && record.boot == self.identity.boot;
            if same_boot {
                self.rest();
            }
            match watch.life(record.incarnation(slot), Instant::ZERO) {
                Life::Over(_) => mine = mine.or(Some((slot, record.generation))),
                // This boot's own earlier life is dead as soon as its VMs are.
                Life::Alive { .. } if same_boot => mine = mine.or(Some((slot, record.generation))),
                Life::Alive { .. } if seen.changed => return self.note(Note::NameInUse(slot)),
                Life::Alive { .. } => return self.note(Note::WaitingForOldLife(slot)),
                Life::LookAgain => return self.effects.push_back(OwnEffect::Look),
            }
        }
        match mine.or_else(|| self.free_slot(watch)) {
            Some((slot, generation)) => self.claim(now, began, watch, slot, generation),
            None => self.note(Note::AreaFull),
        }
    }

    /// A slot that nobody ever had, else one that was left in order; searched from a place of this host's own, so
    /// that hosts that boot at once seldom meet.
    fn free_slot(&self, watch: &Watch) -> Option<(Slot, Generation)> {
        let count = watch.slots().count().max(1);
        let first = (self.identity.host.0 % count as u128) as usize;
        let around = || watch.slots().cycle().skip(first).take(count);
        let empty = around().find(|(_, seen)| seen.record.is_none() && !seen.corrupt);
        empty.map(|(slot, _)| (slot, Generation(0))).or_else(|| {
            let left =
                around().find_map(|(slot, seen)| Some((slot, seen.record.as_ref().filter(|record| record.left)?)));
            left.map(|(slot, record)| (slot, record.generation))
        })
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
        self.effects.push_back(OwnEffect::Remember(Some(remembered(&live))));
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
                let due = self.inherited.take_if(|inherited| now >= fence_at(inherited.renewed_at()));
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

/// A host that counts on another expiry than this one, if there is any.
fn other_expiry(watch: &Watch) -> Option<(Slot, u32)> {
    let records = watch.slots().filter_map(|(slot, seen)| Some((slot, seen.record.as_ref()?)));
    let mut others =
        records.filter(|(_, record)| !record.left && u64::from(record.expiry_ms) != limits::LEASE_EXPIRY_MS);
    others.next().map(|(slot, record)| (slot, record.expiry_ms))
}
