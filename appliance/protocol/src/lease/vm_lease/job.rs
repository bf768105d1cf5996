//! One job for each request: the I/O from the survey of its VM's blocks to the answer.

use super::judge::{Verdict, judge};
use super::request::{Answer, LeaseError, Request, Taken, Vouched};
use crate::lease::directory::Change;
use crate::lease::identity::{Epoch, Incarnation, Value};
use crate::lease::layout::Area;
use crate::lease::patience::Patience;
use crate::lease::paxos::{Outvoted, Prepared, Unusable, View, Write};
use crate::lease::record::DECLARED_MAX;
use crate::lease::round::{Ask, Ended, Round, Seat, Turn};
use crate::lease::table::Home;
use crate::lease::watch::{Death, Life, Watch};
use crate::time::Instant;

/// What a job may look at.
#[derive(Debug)]
pub struct Context<'a> {
    /// The moment.
    pub now: Instant,
    /// The area.
    pub area: Area,
    /// This host's life.
    pub me: Incarnation,
    /// What this host's wall clock shows, seconds since 1970: for people.
    pub unix_s: u64,
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
    pub declared: Vec<Incarnation>,
    /// What [`Request::Prepare`] leaves for [`Request::Commit`].
    pub prepared: Option<(Home, Prepared)>,
    /// A phase 2 of this job, or of the directory for it, ended without a known decision: what it wrote may still be chosen, whatever comes
    /// after.
    doubtful: bool,
    /// The VM has another place than the one that was found damaged.
    replaced: bool,
    patience: Patience,
}

#[derive(Debug)]
enum Step {
    Locate,
    Survey,
    Look(Box<View>, Instant),
    /// The blocks are damaged, as was known at this moment.
    LookForLife(Home, Instant),
    Replace,
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
            declared: Vec::new(),
            prepared,
            doubtful: false,
            replaced: false,
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
    pub fn located(&mut self, context: &Context<'_>, home: Result<Option<Home>, LeaseError>) -> Next {
        match (&self.step, home) {
            (_, Err(error)) => Next::Finish(Err(self.in_the_end(error))),
            (Step::Forget, Ok(_)) => Next::Finish(Ok(Answer::Forgotten)),
            (Step::Locate, Ok(Some(home))) => {
                self.home = Some(home);
                self.survey()
            }
            // The look had become too old: nothing was proposed.
            (Step::Replace, Ok(Some(home))) if self.home == Some(home) => {
                self.doubtful = false;
                match self.patience.failed(context.now) {
                    Some(_) => self.look_for_life(context, home),
                    None => Next::Finish(Err(LeaseError::StaleLook)),
                }
            }
            (Step::Replace, Ok(Some(home))) => {
                (self.home, self.replaced) = (Some(home), true);
                // The new place has errors of its own.
                self.patience.forget_failures();
                self.survey()
            }
            (_, Ok(_)) => Next::Finish(match self.request {
                Request::Query(_) | Request::Glance(_) => Ok(Answer::Holder(None)),
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
            // What was seen before says nothing of a host that came since.
            Step::LookForLife(home, since) if context.watch.looked_at().is_none_or(|at| at < since) => {
                self.step = Step::LookForLife(home, since);
                Some(Next::Look)
            }
            Step::LookForLife(home, since) => Some(self.replace(context, home, since)),
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
        Some(Seat { area: context.area, bank, tenancy, me: context.me, unix_s: context.unix_s })
    }

    fn locate(&mut self) -> Next {
        self.step = Step::Locate;
        Next::Locate(match self.request {
            Request::Acquire(..) => Change::Add,
            Request::Query(_) | Request::Glance(_) => Change::Look,
            _ => Change::Find,
        })
    }

    fn survey(&mut self) -> Next {
        self.step = Step::Survey;
        Next::Ask(Ask::Read)
    }

    /// Decides what to do from a view of the blocks that was read before `learned_at`.
    fn judge(&mut self, context: &Context<'_>, view: &View, learned_at: Instant) -> Next {
        match judge(&self.request, context, view, learned_at) {
            // Another may have been first to replace it, and hold it by now.
            Verdict::Finish(Ok(Answer::Holder(None))) if self.replaced => Next::Finish(Ok(Answer::GivenUp)),
            Verdict::Finish(result) => Next::Finish(result),
            Verdict::Contend(wish) => self.contend(context, view, wish),
            Verdict::TakeOver(taken) => {
                self.taken = Some(taken);
                if taken.death == Death::Expired {
                    self.declared = vec![taken.from];
                }
                self.contend(context, view, Value::Holder(context.me))
            }
            Verdict::Held(epoch) => self.held(epoch),
            Verdict::GiveUp(epoch) => {
                let (mut block, sequence) = view.mine();
                block.given_up = epoch;
                self.step = Step::GiveUp;
                Next::Ask(Ask::Write(Write { slot: context.me.slot, block, sequence }))
            }
            Verdict::Look => {
                self.step = Step::Look(Box::new(view.clone()), learned_at);
                Next::Look
            }
        }
    }

    /// Gives the VM another place, where no host can run it: `home` was found damaged at `since`, and the hosts were looked at after it.
    fn replace(&mut self, context: &Context<'_>, home: Home, since: Instant) -> Next {
        let Request::Mend(_, vouched) = self.request else { return self.survey() };
        let (mut live, mut untold) = (Vec::new(), Vec::new());
        for (slot, seen) in context.watch.slots().filter(|(slot, _)| *slot != context.me.slot) {
            let who = seen.record.as_ref().map(|record| record.incarnation(slot));
            match who.map(|who| (who, context.watch.life(who, since))) {
                Some((who, Life::Over(Death::Expired))) if self.declared.len() < DECLARED_MAX => {
                    self.declared.push(who)
                }
                Some((_, Life::Over(Death::Expired))) => untold.push(slot),
                Some((_, Life::Over(Death::Left | Death::Superseded | Death::Forced))) => {}
                None if !seen.corrupt => {}
                Some((_, Life::Alive { .. } | Life::LookAgain)) | None => live.push(slot),
            }
        }
        let is_vouched = vouched == Vouched::Of(home.1);
        let is_alone = live.is_empty() && untold.is_empty();
        if !is_vouched && !is_alone {
            self.declared.clear();
            return Next::Finish(Err(LeaseError::MayRunOn { live, untold }));
        }
        self.step = Step::Replace;
        // The directory proposes it, and does not tell whether it did where it fails.
        self.doubtful = true;
        let looked = if is_vouched { None } else { context.watch.looked_at() };
        Next::Locate(Change::Replace { damaged: home, looked })
    }

    /// Looks at the hosts after a moment at which the place was known to be damaged.
    fn look_for_life(&mut self, context: &Context<'_>, home: Home) -> Next {
        self.step = Step::LookForLife(home, context.now);
        Next::Look
    }

    fn contend(&mut self, context: &Context<'_>, view: &View, wish: Value) -> Next {
        let Some(seat) = self.seat(context) else { return self.locate() };
        let (round, ask) = Round::begin(seat, view, wish);
        self.step = Step::Round(round);
        Next::Ask(ask)
    }

    fn turn(&mut self, context: &Context<'_>, accepting: bool, turn: Turn) -> Next {
        let committing = matches!(self.request, Request::Commit(..));
        self.doubtful |= accepting && !matches!(turn, Turn::Ask(..) | Turn::Decided(_));
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
            Turn::Failed => self.failed(context, LeaseError::Storage),
            Turn::Unusable(unusable) => self.unusable(context, unusable),
        }
    }

    fn published(&mut self, context: &Context<'_>, epoch: Epoch, value: Value) -> Next {
        let mine = value == Value::Holder(context.me);
        match self.request {
            Request::Acquire(..) | Request::Resolve(..) | Request::Confirm(..) | Request::Forget(_) if mine => {
                self.held(epoch)
            }
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

    fn unusable(&mut self, context: &Context<'_>, unusable: Unusable) -> Next {
        let (slots, tenancy) = match (unusable, self.home) {
            (Unusable::Corrupt(slots), Some((_, tenancy))) => (slots, tenancy),
            _ => {
                self.home = None;
                return self.failed(context, LeaseError::NoLease);
            }
        };
        let error = LeaseError::Corrupt { slots, tenancy };
        let is_sure = match self.request {
            Request::Glance(_) => true,
            // Two reads were not in the way of a write.
            Request::Query(_) => self.patience.has_borne_any(),
            _ => false,
        };
        if is_sure {
            return Next::Finish(Err(error));
        }
        self.failed(context, error)
    }

    fn failed(&mut self, context: &Context<'_>, error: LeaseError) -> Next {
        match (self.patience.failed(context.now), &self.request, self.home) {
            (Some(until), ..) => Next::Pause(until),
            (None, Request::Mend(..), Some(home)) if matches!(error, LeaseError::Corrupt { .. }) && !self.replaced => {
                // The look may have to be taken again.
                self.patience.forget_failures();
                self.look_for_life(context, home)
            }
            (None, ..) => Next::Finish(Err(self.in_the_end(error))),
        }
    }

    /// What is told when nothing more is tried: a look that fails does not take back what was written before it.
    fn in_the_end(&self, error: LeaseError) -> LeaseError {
        // The new place is damaged, too: that there is a new one is known.
        let is_known = self.replaced && matches!(error, LeaseError::Corrupt { .. });
        let undecided = matches!(
            error,
            LeaseError::Storage
                | LeaseError::Corrupt { .. }
                | LeaseError::DirectoryCorrupt(_)
                | LeaseError::DirectoryUnreadable
        );
        if self.doubtful && undecided && !is_known { LeaseError::OutcomeUnknown } else { error }
    }
}

#[cfg(test)]
mod tests {
    use model::limits;

    use super::super::request::Take;
    use super::*;
    use crate::lease::identity::{AreaId, BootId, Generation, HostId, Slot, Tenancy};
    use crate::lease::layout::{Geometry, Place};
    use crate::lease::record::{Block, HostRecord, Watchdog};
    use crate::lease::register;
    use crate::lease::watch::EXPIRY;
    use crate::time::Duration;

    /// Takes a VM's lease on a bank whose I/O number `fails_from` (from 0) and all later ones fail.
    fn acquire_where_all_fails_from(fails_from: usize) -> Result<Answer, LeaseError> {
        let area = Area { id: AreaId(3), geometry: Geometry::new(512, 3, 1).expect("valid") };
        let me = Incarnation { slot: Slot(0), generation: Generation(1), host: HostId(1) };
        let (bank, watch) = (area.geometry.vm(Place(0)), Watch::default());
        let context = at(Instant::ZERO, area, me, &watch);
        let mut disk = vec![0; bank.extent().bytes];
        let mut job = VmJob::new(Request::Acquire("web".parse().expect("valid"), Take::IfFree), None);
        let (mut next, mut ios) = (job.begin(&context), 0);
        loop {
            next = match next {
                Next::Locate(_) => job.located(&context, Ok(Some((Place(0), Tenancy(1))))),
                Next::Pause(_) => job.woken(),
                Next::Finish(result) => return result,
                Next::Ask(ask) => {
                    let fails = ios >= fails_from;
                    ios += 1;
                    match ask {
                        _ if fails => job.ended(&context, Ended::Failed),
                        Ask::Read => job.ended(&context, Ended::Read(&disk)),
                        Ask::Write(write) => {
                            let (offset, data) =
                                register::write(bank, area.id, write.slot, write.sequence, &write.block);
                            let start = (offset - bank.extent().offset) as usize;
                            disk[start..start + data.len()].copy_from_slice(&data);
                            job.ended(&context, Ended::Written)
                        }
                    }
                }
                next => panic!("{next:?}"),
            };
        }
    }

    /// What a host published.
    struct Other {
        slot: Slot,
        left: bool,
        /// It renewed until now.
        lives: bool,
    }

    fn at<'a>(now: Instant, area: Area, me: Incarnation, watch: &'a Watch) -> Context<'a> {
        Context { now, area, me, watch, unix_s: 0, chance: 0 }
    }

    /// Mends a lease whose blocks are damaged, as the host in slot 0; the lives that it declared over, too. It has watched the
    /// others for the expiry, and `comes` is one that appears when it looks again.
    fn mend(
        others: &[Other],
        comes: Option<&Other>,
        vouched: Vouched,
    ) -> (Result<Answer, LeaseError>, Vec<Incarnation>) {
        let area = Area { id: AreaId(3), geometry: Geometry::new(512, 20, 2).expect("valid") };
        let me = Incarnation { slot: Slot(0), generation: Generation(1), host: HostId(1) };
        let late = Instant::ZERO + EXPIRY;
        let own = Other { slot: me.slot, left: false, lives: true };
        let seen_at = |renewed_at: u64, with: Option<&Other>| {
            let bank = area.geometry.hosts();
            let mut bytes = vec![0; bank.extent().bytes];
            for other in others.iter().chain(with).chain([&own]) {
                let record = HostRecord {
                    host: HostId(u128::from(other.slot.0) + 1),
                    boot: BootId(7),
                    generation: Generation(1),
                    name: "host-b".parse().expect("valid"),
                    renewed_at: if other.lives { renewed_at } else { 0 },
                    expiry_ms: 0,
                    watchdog: Watchdog::None,
                    left: other.left,
                    declared_dead: Vec::new(),
                };
                let (offset, data) = register::write(bank, area.id, other.slot, 1, &record);
                let start = (offset - bank.extent().offset) as usize;
                bytes[start..start + data.len()].copy_from_slice(&data);
            }
            bytes
        };
        let mut watch = Watch::default();
        watch.observe(area, Instant::ZERO, Instant::ZERO, &seen_at(0, None));
        watch.observe(area, late, late, &seen_at(1, None));
        let damaged = vec![0xA5; area.geometry.vm(Place(0)).extent().bytes];
        let blank = vec![0; damaged.len()];
        let mut now = late;
        let mut job = VmJob::new(Request::Mend("web".parse().expect("valid"), vouched), None);
        let mut home = (Place(0), Tenancy(1));
        let (mut declared, mut has_asked) = (Vec::new(), false);
        let mut next = job.begin(&at(now, area, me, &watch));
        loop {
            declared.append(&mut job.declared);
            declared.sort_unstable();
            declared.dedup();
            next = match next {
                Next::Locate(Change::Find) => job.located(&at(now, area, me, &watch), Ok(Some(home))),
                Next::Locate(Change::Replace { damaged, looked }) => {
                    assert_eq!(damaged, home);
                    // A person's word does not age.
                    let is_vouched = vouched == Vouched::Of(home.1);
                    assert_eq!(looked, watch.looked_at().filter(|_| !is_vouched));
                    if !std::mem::replace(&mut has_asked, true) && !is_vouched {
                        // The look had become too old.
                        now += Duration::from_millis(limits::LEASE_CLAIM_WAIT_MS);
                        job.located(&at(now, area, me, &watch), Ok(Some(home)))
                    } else {
                        home = (Place(1), Tenancy(2));
                        job.located(&at(now, area, me, &watch), Ok(Some(home)))
                    }
                }
                Next::Pause(until) => {
                    now = until;
                    job.woken()
                }
                Next::Ask(Ask::Read) => {
                    let bytes = if home.0 == Place(0) { &damaged } else { &blank };
                    job.ended(&at(now, area, me, &watch), Ended::Read(bytes))
                }
                Next::Look => {
                    // The look that was under way already says nothing.
                    assert!(job.looked(&at(now, area, me, &watch)).is_some_and(|next| matches!(next, Next::Look)));
                    now += Duration::from_millis(1);
                    watch.observe(area, now, now, &seen_at(2, comes));
                    job.looked(&at(now, area, me, &watch)).expect("it was waited for")
                }
                Next::Finish(result) => return (result, declared),
                next => panic!("{next:?}"),
            };
        }
    }

    #[test]
    fn who_glances_is_told_of_damage_at_the_first_read_and_who_asks_for_one_at_the_second() {
        let area = Area { id: AreaId(3), geometry: Geometry::new(512, 3, 2).expect("valid") };
        let me = Incarnation { slot: Slot(0), generation: Generation(1), host: HostId(1) };
        let (watch, vm) = (Watch::default(), "web".parse::<model::names::VmName>().expect("valid"));
        let damaged = vec![0xA5; area.geometry.vm(Place(0)).extent().bytes];
        for (request, reads) in [(Request::Glance(vm.clone()), 1), (Request::Query(vm), 2)] {
            let (context, mut job, mut read) = (at(Instant::ZERO, area, me, &watch), VmJob::new(request, None), 0);
            let mut next = job.begin(&context);
            let told = loop {
                next = match next {
                    Next::Locate(_) => job.located(&context, Ok(Some((Place(0), Tenancy(1))))),
                    Next::Pause(_) => job.woken(),
                    Next::Ask(_) => {
                        read += 1;
                        job.ended(&context, Ended::Read(&damaged))
                    }
                    Next::Finish(told) => break told,
                    next => panic!("{next:?}"),
                };
            };
            assert!(matches!(told, Err(LeaseError::Corrupt { .. })), "{told:?}");
            assert_eq!(read, reads);
        }
    }

    #[test]
    fn a_damaged_lease_is_replaced_only_where_no_life_of_another_host_is_left_or_a_person_vouches() {
        let other = |slot, left, lives| Other { slot: Slot(slot), left, lives };
        let dead = Incarnation { slot: Slot(1), generation: Generation(1), host: HostId(2) };
        assert_eq!(mend(&[], None, Vouched::No), (Ok(Answer::GivenUp), vec![]), "it is alone");
        assert_eq!(mend(&[other(1, true, false)], None, Vouched::No), (Ok(Answer::GivenUp), vec![]), "it left");
        assert_eq!(
            mend(&[other(1, false, false)], None, Vouched::No),
            (Ok(Answer::GivenUp), vec![dead]),
            "it expired, and must hear that its life is over if it was frozen"
        );
        let refused = |slots: &[u16]| {
            let live = slots.iter().copied().map(Slot).collect();
            Err(LeaseError::MayRunOn { live, untold: Vec::new() })
        };
        assert_eq!(mend(&[other(1, false, true)], None, Vouched::No), (refused(&[1]), vec![]), "it lives");
        assert_eq!(mend(&[], Some(&other(2, false, true)), Vouched::No), (refused(&[2]), vec![]), "it came just now");
        let both = [other(1, false, false), other(2, false, true)];
        assert_eq!(mend(&both, None, Vouched::No), (refused(&[2]), vec![]), "nobody is declared dead for nothing");
        assert_eq!(mend(&both, None, Vouched::Of(Tenancy(1))), (Ok(Answer::GivenUp), vec![dead]));
        let earlier = Vouched::Of(Tenancy(0));
        assert_eq!(
            mend(&both, None, earlier),
            (refused(&[2]), vec![]),
            "that was said of a lease that the VM has no more"
        );
    }

    /// Mends a damaged lease on a host that is alone; when it asks for another place the directory answers so, and `new` is what is read
    /// there, if anything is.
    fn mend_where(answers: Result<Option<Home>, LeaseError>, new: Option<&[u8]>) -> Result<Answer, LeaseError> {
        let area = Area { id: AreaId(3), geometry: Geometry::new(512, 3, 2).expect("valid") };
        let me = Incarnation { slot: Slot(0), generation: Generation(1), host: HostId(1) };
        let (mut watch, mut now) = (Watch::default(), Instant::ZERO);
        let damaged = vec![0xA5; area.geometry.vm(Place(0)).extent().bytes];
        let mut job = VmJob::new(Request::Mend("web".parse().expect("valid"), Vouched::No), None);
        let mut next = job.begin(&at(now, area, me, &watch));
        loop {
            next = match next {
                Next::Locate(Change::Find) => job.located(&at(now, area, me, &watch), Ok(Some((Place(0), Tenancy(1))))),
                Next::Locate(_) => job.located(&at(now, area, me, &watch), answers.clone()),
                Next::Pause(until) => {
                    now = until;
                    job.woken()
                }
                Next::Ask(_) => {
                    let bytes = if job.home() == Some((Place(0), Tenancy(1))) { Some(&damaged[..]) } else { new };
                    job.ended(&at(now, area, me, &watch), bytes.map_or(Ended::Failed, Ended::Read))
                }
                Next::Look => {
                    now += Duration::from_millis(1);
                    watch.observe(area, now, now, &vec![0; area.geometry.hosts().extent().bytes]);
                    job.looked(&at(now, area, me, &watch)).expect("it was waited for")
                }
                Next::Finish(result) => return result,
                next => panic!("{next:?}"),
            };
        }
    }

    #[test]
    fn the_dead_are_told_so_as_far_as_there_is_room() {
        let others =
            |count: u16| (1..=count).map(|slot| Other { slot: Slot(slot), left: false, lives: false }).collect();
        let room = DECLARED_MAX as u16;
        let mend_beside = |others: Vec<Other>| mend(&others, None, Vouched::No);
        let (mended, declared) = mend_beside(others(room));
        assert_eq!((mended, declared.len()), (Ok(Answer::GivenUp), DECLARED_MAX));
        let refused = Err(LeaseError::MayRunOn { live: Vec::new(), untold: vec![Slot(room + 1)] });
        assert_eq!(mend_beside(others(room + 1)), (refused, vec![]), "it would not hear of it");
    }

    #[test]
    fn what_is_told_of_a_mend_is_true_whoever_was_first_and_whatever_fails_after_it() {
        let area = Area { id: AreaId(3), geometry: Geometry::new(512, 3, 2).expect("valid") };
        let (bank, home) = (area.geometry.vm(Place(1)), (Place(1), Tenancy(2)));
        let blank = vec![0; bank.extent().bytes];
        assert_eq!(mend_where(Ok(Some(home)), Some(&blank)), Ok(Answer::GivenUp));
        // Another was first to replace it, and holds it.
        let other = Incarnation { slot: Slot(1), generation: Generation(1), host: HostId(2) };
        let decided = Some((Epoch(1), Value::Holder(other)));
        let block = Block { epoch: Epoch(1), decided, ..Block::blank(home.1) };
        let (offset, data) = register::write(bank, area.id, other.slot, 1, &block);
        let (mut held, start) = (blank.clone(), (offset - bank.extent().offset) as usize);
        held[start..start + data.len()].copy_from_slice(&data);
        let told = mend_where(Ok(Some(home)), Some(&held));
        assert!(matches!(&told, Ok(Answer::Holder(Some(holder))) if holder.who == other), "{told:?}");
        // The VM was deleted meanwhile.
        assert_eq!(mend_where(Ok(None), None), Err(LeaseError::NoLease));
        // What the directory proposed may be decided; what cannot be looked at may be new.
        assert_eq!(mend_where(Err(LeaseError::Storage), None), Err(LeaseError::OutcomeUnknown));
        assert_eq!(mend_where(Ok(Some(home)), None), Err(LeaseError::OutcomeUnknown));
        assert_eq!(mend_where(Err(LeaseError::DirectoryFull), None), Err(LeaseError::DirectoryFull));
        let damaged = mend_where(Ok(Some(home)), Some(&vec![0xA5; blank.len()]));
        assert!(matches!(damaged, Err(LeaseError::Corrupt { tenancy: Tenancy(2), .. })), "{damaged:?}");
    }

    #[test]
    fn a_decision_that_may_have_been_written_is_never_told_not_to_have_been() {
        // Survey, promise, look: nothing was proposed.
        for before in 0..3 {
            assert_eq!(acquire_where_all_fails_from(before), Err(LeaseError::Storage), "{before}");
        }
        // The proposal, and the look after it.
        for after in 3..5 {
            assert_eq!(acquire_where_all_fails_from(after), Err(LeaseError::OutcomeUnknown), "{after}");
        }
        // Decided is decided, whether or not everybody has been told.
        assert!(matches!(acquire_where_all_fails_from(5), Ok(Answer::Held { epoch: Epoch(1), .. })));
    }
}
