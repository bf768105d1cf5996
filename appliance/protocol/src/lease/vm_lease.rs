//! The lease of a VM: one job for each request, from the survey of its blocks to the answer.
//!
//! ```text
//!   Locate --> Survey --> (Look) --> Round: promise, accept --> Publish --> answer
//!                ^  |        |         |                           |
//!                |  `--------|---------|---- give up: one write ---'
//!                `---- Pause <-- outvoted, unreadable, not answered
//! ```
//! **Who may contend** for the epoch after the last decided one: anyone if nobody holds it, if the holder gave it up,
//! or if the holder's life is over; while the holder lives, only the holder, and who it invited as the destination of
//! a move. That a life is over is for ever (a later life has a higher generation), so a contender may be as slow as it
//! likes.
//!
//! **The commit** of a move: the destination's [`Request::Prepare`] runs phase 1 during pre-copy; its
//! [`Request::Commit`] in the stun is phase 2, one write and one read. Whoever does not know the outcome asks
//! [`Request::Resolve`], which runs the epoch at a higher ballot and so learns it or wins it.

use model::limits;
use model::names::VmName;

use super::directory::{Change, Home};
use super::identity::{Epoch, HostId, Incarnation, Slot, Value};
use super::layout::Area;
use super::patience::Patience;
use super::paxos::{Outvoted, Prepared, Unusable, View, Write};
use super::record::Watchdog;
use super::round::{Ask, Ended, Round, Seat, Turn};
use super::watch::{Death, Life, Watch};
use crate::time::Instant;

/// What is asked of a VM's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Become the holder, if nobody who lives holds it. To be asked only while the VM neither runs here nor is being
    /// moved away: that this host holds it already is said on the strength of one read, and a move that is prepared
    /// and committed after that read would make it untrue.
    Acquire(VmName, Take),
    /// The VM does not run here any more: let others have it at once.
    GiveUp(VmName),
    /// As the destination of a move that the living holder, this host in this epoch, invited: phase 1 of the next
    /// epoch. An invitation is for one epoch: one that arrives late must not put the next at stake.
    Prepare(VmName, HostId, Epoch),
    /// Phase 2 of what was prepared for the epoch after this one, which the source holds and runs no longer.
    Commit(VmName, Epoch),
    /// Learn who holds the epoch after this one, or win it. Only the source of a move, and a destination that has
    /// prepared (its block says so), contend; anybody else only learns.
    Resolve(VmName, Epoch),
    /// Who holds it.
    Query(VmName),
    /// The VM is deleted: its place is free again. It must be held here, or by nobody who lives.
    Forget(VmName),
}

impl Request {
    /// The VM it is about.
    pub fn vm(&self) -> &VmName {
        match self {
            Self::Acquire(vm, _)
            | Self::GiveUp(vm)
            | Self::Prepare(vm, ..)
            | Self::Commit(vm, _)
            | Self::Resolve(vm, _)
            | Self::Query(vm)
            | Self::Forget(vm) => vm,
        }
    }
}

impl Request {
    /// Whether this host does not hold the VM any more as soon as this is asked for.
    pub fn ends_holding(&self) -> bool {
        matches!(self, Self::GiveUp(_) | Self::Forget(_))
    }
}

/// How much a contender may dare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Only what no living host holds.
    IfFree,
    /// From a living host too: a person has made sure that the VM does not run there.
    ByForce,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This host, in this life, holds the epoch and may run the VM.
    Held {
        /// The epoch.
        epoch: Epoch,
        /// From whom it was taken, if from a holder that had not given it up.
        taken_from: Option<Taken>,
    },
    /// Somebody else holds it.
    HeldBy(Holder),
    /// It is given up (or was not held here).
    GivenUp,
    /// Phase 1 is over; the epoch that [`Request::Commit`] can win.
    Prepared(Epoch),
    /// To [`Request::Query`]; none if nobody holds it.
    Holder(Option<Holder>),
    /// The VM has no lease any more.
    Forgotten,
}

/// A VM lease that was taken from a dead host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whose it was.
    pub from: Incarnation,
    /// Why that host does not run the VM.
    pub death: Death,
    /// What it published to reset it. With none, wait for the storage's fence before the VM runs.
    pub watchdog: Watchdog,
}

/// Who holds a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The holder.
    pub who: Incarnation,
    /// Its epoch.
    pub epoch: Epoch,
    /// What is known of its life.
    pub life: Life,
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// This host does not hold its own lease on the datastore.
    #[error("this host does not hold its own lease on the datastore (yet)")]
    NotLive,
    /// The host lease was lost while the request was under way.
    #[error("this host lost its lease on the datastore meanwhile")]
    Fenced,
    /// The storage failed or did not answer; nothing was decided by this request.
    #[error("the datastore failed or did not answer")]
    Storage,
    /// The storage failed when the decision may already have been written.
    #[error("the datastore failed or did not answer when the decision was being written: the outcome is not known")]
    OutcomeUnknown,
    /// The commit met a higher ballot: whoever entered it decides.
    #[error("another host contends for the epoch: the outcome is not known")]
    Contended,
    /// Nothing was prepared, or another request has made it void.
    #[error("no move to this host has been prepared")]
    NotPrepared,
    /// No such VM has a lease here.
    #[error("the VM has no lease on this datastore")]
    NoLease,
    /// What a host wrote is lost.
    #[error("the lease record of slot {0} is corrupt in both copies")]
    Corrupt(Slot),
    /// The directory of leases cannot be read.
    #[error("the directory of leases cannot be read")]
    DirectoryUnreadable,
    /// No place is left.
    #[error("the lease area has no place for another VM (at most {} have one)", limits::LEASE_VMS_MAX)]
    DirectoryFull,
    /// The VM's monitor is still there.
    #[error("the VM still runs here")]
    StillRuns,
    /// Too many requests wait.
    #[error("too many lease requests wait already")]
    Busy,
}

impl From<Unusable> for LeaseError {
    fn from(unusable: Unusable) -> Self {
        match unusable {
            Unusable::Corrupt(corrupt) => Self::Corrupt(corrupt.0),
            Unusable::Reused => Self::NoLease,
        }
    }
}

/// What a job may look at.
#[derive(Debug)]
pub struct Context<'a> {
    /// The moment.
    pub now: Instant,
    /// The area.
    pub area: Area,
    /// This host's life.
    pub me: Incarnation,
    /// The lives of the others.
    pub watch: &'a Watch,
    /// Any number.
    pub chance: u64,
}

/// What a job wants next.
#[derive(Debug)]
pub enum Next {
    /// The VM's place.
    Locate(Change),
    /// An I/O on the VM's bank.
    Ask(Ask),
    /// A fresh look at the host bank.
    Look,
    /// To be woken.
    Pause(Instant),
    /// Nothing more.
    Finish(Result<Answer, LeaseError>),
    /// The answer may go out; there is still something to do.
    AnswerThen(Answer, Ask),
    /// Nothing more; the answer went out before.
    End,
}

/// A request under way.
#[derive(Debug)]
pub struct VmJob {
    request: Request,
    home: Option<Home>,
    step: Step,
    taken: Option<Taken>,
    /// Lives that this job saw expire, to be published.
    pub declared: Option<Incarnation>,
    /// What [`Request::Prepare`] leaves for [`Request::Commit`].
    pub prepared: Option<(Home, Prepared)>,
    patience: Patience,
}

#[derive(Debug)]
enum Step {
    Locate,
    Survey,
    Look(Box<View>, Instant),
    Round(Box<Round>),
    Publish(Epoch, Value),
    Answered,
    GiveUp,
    Forget,
    Pause,
}

impl VmJob {
    /// A job for `request`. `prepared` is what an earlier `Prepare` left.
    pub fn new(request: Request, prepared: Option<(Home, Prepared)>) -> Self {
        Self {
            request,
            home: None,
            step: Step::Locate,
            taken: None,
            declared: None,
            prepared,
            patience: Patience::default(),
        }
    }

    /// The request.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The VM's place, once known.
    pub fn home(&self) -> Option<Home> {
        self.home
    }

    /// Whether the answer went out already.
    pub fn is_answered(&self) -> bool {
        matches!(self.step, Step::Answered)
    }

    /// The first thing to do.
    pub fn begin(&mut self, context: &Context<'_>) -> Next {
        if let Request::Commit(_, base) = self.request {
            let Some((home, prepared)) = self.prepared.take().filter(|(_, p)| p.epoch() == base.next()) else {
                return Next::Finish(Err(LeaseError::NotPrepared));
            };
            self.home = Some(home);
            let Some(seat) = self.seat(context) else { return Next::Finish(Err(LeaseError::NotPrepared)) };
            let (round, ask) = Round::finish(seat, prepared);
            self.step = Step::Round(round);
            return Next::Ask(ask);
        }
        self.prepared = None;
        self.locate()
    }

    /// Goes on when the directory has answered.
    pub fn located(&mut self, home: Result<Option<Home>, LeaseError>) -> Next {
        match (&self.step, home) {
            (_, Err(error)) => Next::Finish(Err(error)),
            (Step::Forget, Ok(_)) => Next::Finish(Ok(Answer::Forgotten)),
            (Step::Locate, Ok(Some(home))) => {
                self.home = Some(home);
                self.survey()
            }
            (_, Ok(_)) => Next::Finish(match self.request {
                Request::Query(_) => Ok(Answer::Holder(None)),
                Request::GiveUp(_) => Ok(Answer::GivenUp),
                Request::Forget(_) => Ok(Answer::Forgotten),
                _ => Err(LeaseError::NoLease),
            }),
        }
    }

    /// Goes on after a look at the host bank.
    pub fn looked(&mut self, context: &Context<'_>) -> Option<Next> {
        match std::mem::replace(&mut self.step, Step::Pause) {
            Step::Look(view, learned_at) => Some(self.judge(context, &view, learned_at)),
            step => {
                self.step = step;
                None
            }
        }
    }

    /// Goes on after a pause.
    pub fn woken(&mut self) -> Next {
        if self.home.is_some() { self.survey() } else { self.locate() }
    }

    /// Goes on after an I/O.
    pub fn ended(&mut self, context: &Context<'_>, ended: Ended<'_>) -> Next {
        match (std::mem::replace(&mut self.step, Step::Pause), ended) {
            (Step::Survey, Ended::Read(bytes)) => {
                let Some(seat) = self.seat(context) else { return self.locate() };
                match seat.view(bytes) {
                    Ok(view) => self.judge(context, &view, context.now),
                    Err(unusable) => self.unusable(context, unusable),
                }
            }
            (Step::Round(round), ended) => {
                let accepting = round.is_accepting();
                self.turn(context, accepting, round.ended(ended))
            }
            // Decided is decided, whether or not everybody has been told.
            (Step::Publish(epoch, value), _) => self.published(context, epoch, value),
            (Step::Answered, _) => Next::End,
            (Step::GiveUp, Ended::Written) => Next::Finish(Ok(Answer::GivenUp)),
            _ => self.failed(context, LeaseError::Storage),
        }
    }

    fn seat(&self, context: &Context<'_>) -> Option<Seat> {
        let (place, tenancy) = self.home?;
        let bank = context.area.geometry.vm(place);
        Some(Seat { area: context.area, bank, tenancy, me: context.me })
    }

    fn locate(&mut self) -> Next {
        self.step = Step::Locate;
        let creates = matches!(self.request, Request::Acquire(..));
        Next::Locate(if creates { Change::Add } else { Change::Find })
    }

    fn survey(&mut self) -> Next {
        self.step = Step::Survey;
        Next::Ask(Ask::Read)
    }

    /// Decides what to do from a view of the blocks that was read before `learned_at`.
    fn judge(&mut self, context: &Context<'_>, view: &View, learned_at: Instant) -> Next {
        let me = Value::Holder(context.me);
        let holder = view.decided().and_then(|(epoch, value)| Some((epoch, value.holder()?)));
        let held = holder.filter(|(epoch, who)| !gave_up(view, *epoch, *who));
        let mine = held.filter(|(_, who)| *who == context.me);
        match self.request.clone() {
            Request::Query(_) => {
                Next::Finish(Ok(Answer::Holder(held.map(|(epoch, who)| describe(context, epoch, who)))))
            }
            Request::GiveUp(_) => self.judge_give_up(context, view, mine),
            Request::Prepare(_, source, base) => match held {
                Some((epoch, who)) if who.host == source && epoch == base && who != context.me => {
                    self.contend(context, view, me)
                }
                Some((epoch, who)) => Next::Finish(Ok(Answer::HeldBy(describe(context, epoch, who)))),
                None => Next::Finish(Err(LeaseError::NoLease)),
            },
            Request::Resolve(_, base) => match holder {
                Some((epoch, who)) if epoch > base && Some((epoch, who)) == mine => self.keep(context, view, epoch),
                Some((epoch, _)) if epoch > base => self.answer_holder(context, holder),
                Some((epoch, who)) if epoch == base && (who == context.me || view.mine().0.epoch > base) => {
                    self.contend(context, view, me)
                }
                // The base itself may be decided without having been published: complete that first.
                _ => match view.accepted() {
                    Some((_, value)) if view.decided_epoch() < base => self.contend(context, view, value),
                    _ => self.answer_holder(context, held),
                },
            },
            Request::Acquire(_, take) => self.judge_acquire(context, view, learned_at, held, take),
            Request::Forget(_) => self.judge_acquire(context, view, learned_at, held, Take::IfFree),
            Request::Commit(..) => Next::Finish(Err(LeaseError::NotPrepared)),
        }
    }

    fn judge_acquire(
        &mut self,
        context: &Context<'_>,
        view: &View,
        learned_at: Instant,
        held: Option<(Epoch, Incarnation)>,
        take: Take,
    ) -> Next {
        let me = Value::Holder(context.me);
        let Some((epoch, who)) = held else { return self.contend(context, view, me) };
        if who == context.me {
            return self.keep(context, view, epoch);
        }
        let death = match (context.watch.life(who, learned_at), take) {
            (Life::Over(death), _) => death,
            (_, Take::ByForce) => Death::Forced,
            (Life::LookAgain, _) => {
                self.step = Step::Look(Box::new(view.clone()), learned_at);
                return Next::Look;
            }
            (Life::Alive { .. }, _) => return self.answer_holder(context, Some((epoch, who))),
        };
        let watchdog = context.watch.published(who).map_or(Watchdog::None, |(_, watchdog)| watchdog);
        self.taken = Some(Taken { from: who, death, watchdog });
        if death == Death::Expired {
            self.declared = Some(who);
        }
        self.contend(context, view, me)
    }

    /// This host holds `epoch`; if somebody has begun to contend for the next one (the destination of a move whose
    /// outcome nobody here remembers), only winning that one is proof.
    fn keep(&mut self, context: &Context<'_>, view: &View, epoch: Epoch) -> Next {
        if view.is_contested() { self.contend(context, view, Value::Holder(context.me)) } else { self.held(epoch) }
    }

    fn judge_give_up(&mut self, context: &Context<'_>, view: &View, mine: Option<(Epoch, Incarnation)>) -> Next {
        let Some((epoch, _)) = mine else {
            // Decided for me, perhaps, but not published: complete that first.
            return match view.accepted() {
                Some((_, value)) if value == Value::Holder(context.me) => self.contend(context, view, value),
                _ => Next::Finish(Ok(Answer::GivenUp)),
            };
        };
        let (mut block, sequence) = view.mine();
        block.given_up = epoch;
        self.step = Step::GiveUp;
        Next::Ask(Ask::Write(Write { slot: context.me.slot, block, sequence }))
    }

    fn contend(&mut self, context: &Context<'_>, view: &View, wish: Value) -> Next {
        let Some(seat) = self.seat(context) else { return self.locate() };
        let (round, ask) = Round::begin(seat, view, wish);
        self.step = Step::Round(round);
        Next::Ask(ask)
    }

    fn turn(&mut self, context: &Context<'_>, accepting: bool, turn: Turn) -> Next {
        let committing = matches!(self.request, Request::Commit(..));
        match turn {
            Turn::Ask(round, ask) => {
                self.step = Step::Round(round);
                Next::Ask(ask)
            }
            Turn::Prepared(prepared) => {
                let mine = prepared.value() == Value::Holder(context.me);
                if let (Request::Prepare(..), true, Some(home)) = (&self.request, mine, self.home) {
                    let epoch = prepared.epoch();
                    self.prepared = Some((home, prepared));
                    return Next::Finish(Ok(Answer::Prepared(epoch)));
                }
                let Some(seat) = self.seat(context) else { return self.locate() };
                let (round, ask) = Round::finish(seat, prepared);
                self.step = Step::Round(round);
                Next::Ask(ask)
            }
            Turn::Decided(decided) => {
                let (epoch, value) = (decided.epoch(), decided.value());
                let ask = Ask::Write(decided.publish());
                if committing && value == Value::Holder(context.me) {
                    self.step = Step::Answered;
                    return Next::AnswerThen(Answer::Held { epoch, taken_from: None }, ask);
                }
                self.step = Step::Publish(epoch, value);
                Next::Ask(ask)
            }
            Turn::Outvoted(_) if committing => Next::Finish(Err(LeaseError::Contended)),
            Turn::Failed | Turn::Unusable(_) if committing => Next::Finish(Err(LeaseError::OutcomeUnknown)),
            Turn::Outvoted(Outvoted::Decided) => self.survey(),
            Turn::Outvoted(Outvoted::Higher) => Next::Pause(self.patience.outvoted(context.now, context.chance)),
            Turn::Outvoted(Outvoted::Foreign) => self.failed(context, LeaseError::Storage),
            Turn::Failed if accepting => self.failed(context, LeaseError::OutcomeUnknown),
            Turn::Failed => self.failed(context, LeaseError::Storage),
            Turn::Unusable(unusable) => self.unusable(context, unusable),
        }
    }

    fn published(&mut self, context: &Context<'_>, epoch: Epoch, value: Value) -> Next {
        let mine = value == Value::Holder(context.me);
        match self.request {
            Request::Acquire(..) | Request::Resolve(..) | Request::Forget(_) if mine => self.held(epoch),
            _ => self.survey(),
        }
    }

    fn held(&mut self, epoch: Epoch) -> Next {
        if let Request::Forget(_) = self.request {
            self.step = Step::Forget;
            return Next::Locate(Change::Remove);
        }
        Next::Finish(Ok(Answer::Held { epoch, taken_from: self.taken }))
    }

    fn answer_holder(&self, context: &Context<'_>, holder: Option<(Epoch, Incarnation)>) -> Next {
        let holder = holder.map(|(epoch, who)| Answer::HeldBy(describe(context, epoch, who)));
        Next::Finish(holder.ok_or(LeaseError::NoLease))
    }

    fn unusable(&mut self, context: &Context<'_>, unusable: Unusable) -> Next {
        if unusable == Unusable::Reused {
            self.home = None;
        }
        self.failed(context, LeaseError::from(unusable))
    }

    fn failed(&mut self, context: &Context<'_>, error: LeaseError) -> Next {
        self.patience.failed(context.now).map_or(Next::Finish(Err(error)), Next::Pause)
    }
}

fn gave_up(view: &View, epoch: Epoch, who: Incarnation) -> bool {
    view.block(who.slot).is_some_and(|block| block.given_up >= epoch)
}

fn describe(context: &Context<'_>, epoch: Epoch, who: Incarnation) -> Holder {
    Holder { who, epoch, life: context.watch.life(who, Instant::ZERO) }
}
