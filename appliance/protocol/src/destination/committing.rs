//! Phase 2 of the lease's next epoch is the commit. If its outcome is not known, the lease is asked at a higher
//! ballot, again and again, with the VM stopped, until it is learned or won. A lease that will never tell ends this
//! phase, and the VM stays stopped.

use model::diagnosis::Reason;
use model::names::HostName;
use model::receipt::Verdict;

use super::context::{Context, Ending};
use super::discarding::Discarding;
use super::effect::{Effect, Input, Timer};
use super::machine::{Phase, Step};
use super::taking::Taking;
use crate::session::PhaseName;
use crate::session::outcome::lost_outcome;
use crate::session::{LeaseAnswer, LeaseAsk, RightToRun, VmNow};
use crate::time::{Duration, Instant};
use crate::verify::PageTable;
use crate::wire::Message;
use crate::wire::message::{Resumed, RunState};

const RETRY_LEAST: Duration = Duration::from_millis(70);
const RETRY_MOST: Duration = Duration::from_secs(1);
/// With no guest left there is nothing to decide but what to say: the lease is asked so often, then no more.
const ASKS_WITHOUT_GUEST: u32 = 10;

/// Only the lease ends this phase.
#[derive(Debug)]
pub struct Committing {
    /// What lies in memory.
    table: PageTable,
    run_state: RunState,
    timings: Resumed,
    began: Instant,
    retry: Duration,
    reasons: Vec<Reason>,
    gone: Option<Reason>,
    asks: u32,
}

impl Committing {
    pub(super) fn begin(cx: &mut Context, table: PageTable, run_state: RunState, timings: Resumed) -> Self {
        cx.enter(PhaseName::Commit);
        cx.effect(Effect::Lease(LeaseAsk::Commit));
        Self { table, run_state, timings, began: cx.now, retry: RETRY_LEAST, reasons: Vec::new(), gone: None, asks: 0 }
    }

    fn won(mut self, cx: &mut Context, epoch: u64) -> Phase {
        self.timings.lease_us = cx.now.since(self.began).micros();
        cx.say(&Message::Committed { epoch });
        Taking::begin(cx, self.table, RightToRun::won(epoch), self.run_state, self.timings, self.gone)
    }

    fn lost_to(mut self, cx: &mut Context, holder: HostName) -> Phase {
        if self.reasons.is_empty() {
            let cause = format!("{holder} won the VM's lease back before the commit");
            self.reasons.push(Reason::new(cause, format!("on {holder}: log show migrate")));
        }
        let (ending, vm) =
            (Ending { verdict: Verdict::Failed, reasons: self.reasons }, VmNow::On(holder, self.run_state));
        Discarding::knowing(cx, ending, vm).into()
    }

    fn unknown(mut self, cx: &mut Context, cause: &str) -> Phase {
        self.asks += 1;
        match (&self.gone, self.asks) {
            // The source, which has its guest, is to ask first, and to win what nobody has won.
            (Some(gone), 1) => cx.say(&Message::Cancel(gone.clone())),
            (Some(gone), asks) if asks > ASKS_WITHOUT_GUEST => {
                return Discarding::knowing(cx, Ending::failed(gone.clone()), VmNow::NotHere).into();
            }
            _ => {}
        }
        cx.report(0, Some(format!("the VM is stopped until its lease can be read: {cause}")));
        cx.deadline(Timer::Resolve, self.retry);
        self.retry = (self.retry * 2).min(RETRY_MOST);
        self.into()
    }

    /// The lease will not tell. The host decides what becomes of the VM, as it does where this process dies: until then
    /// it stands still and stays whole, because it may be this host's, and the source's be gone.
    fn damaged(mut self, cx: &mut Context, cause: String) -> Phase {
        if let Some(gone) = self.gone {
            return Discarding::knowing(cx, Ending::failed(gone), VmNow::NotHere).into();
        }
        if let Some(vm) = cx.vm_name() {
            self.reasons.push(lost_outcome(vm, cause));
        }
        if let Some(reason) = self.reasons.first() {
            cx.say(&Message::Cancel(reason.clone()));
        }
        let vm = VmNow::Undecided(cx.welcome.here.clone());
        cx.finish(vm, Verdict::Failed, &self.reasons, None).into()
    }

    /// The commit did not begin. The source is told at once, so that it wins its VM back without waiting for word of it; that it did,
    /// the lease tells, or that the control plane here, which may have asked meanwhile, has won it.
    fn not_prepared(mut self, cx: &mut Context) -> Phase {
        if let Some(gone) = self.gone {
            // Nothing was begun here, and nothing is to be: the guest is the source's alone.
            return Discarding::knowing(cx, Ending::failed(gone), VmNow::NotHere).into();
        }
        let here = &cx.welcome.here;
        let cause = format!("the lease role of {here} does not know any more what it had prepared for the move");
        let reason = Reason::new(cause.clone(), format!("on {here}: log show lease; then vm migrate again"));
        cx.say(&Message::Cancel(reason.clone()));
        self.reasons.push(reason);
        self.unknown(cx, &cause)
    }
}

impl Step for Committing {
    fn message(self, _cx: &mut Context, _message: Message) -> Phase {
        self.into()
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match input {
            // A late answer to the preparation says nothing of the commit.
            Input::Lease(LeaseAsk::Prepare, _) => self.into(),
            Input::Lease(LeaseAsk::Commit, LeaseAnswer::NotPrepared) => self.not_prepared(cx),
            Input::Lease(_, LeaseAnswer::Won { epoch }) => self.won(cx, epoch),
            Input::Lease(_, LeaseAnswer::Lost { holder, .. }) => self.lost_to(cx, holder),
            Input::Lease(_, LeaseAnswer::Unknown { cause }) => self.unknown(cx, &cause),
            Input::Lease(_, LeaseAnswer::Damaged { cause }) => self.damaged(cx, cause),
            _ => self.into(),
        }
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        if timer == Timer::Resolve {
            cx.effect(Effect::Lease(LeaseAsk::Reclaim));
        }
        self.into()
    }

    /// The source's word does not count any more: phase 2 may have succeeded.
    fn lost(mut self, _cx: &mut Context, reason: Reason) -> Phase {
        if self.reasons.len() < 4 {
            self.reasons.push(reason);
        }
        self.into()
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        cx.report(0, Some("the commit has begun: the lease decides, and it is being asked".to_owned()));
        self.into()
    }

    fn guest_gone(mut self, _cx: &mut Context, reason: Reason) -> Phase {
        self.gone = Some(reason);
        self.asks = 0;
        self.retry = RETRY_MOST;
        self.into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::context;
    use super::*;
    use crate::checks::facts::example;

    /// How much this host says to the source, and whether the lease is asked again, when it answers so to this question; without a `guest` its VMM has
    /// ended before.
    fn after(guest: bool, ask: LeaseAsk, answer: LeaseAnswer) -> (usize, bool) {
        let mut cx = context::example(example::offer());
        let committing = Committing::begin(&mut cx, PageTable::new(1), RunState::Running, Resumed::default());
        cx.effects.clear();
        let committing = match guest {
            true => committing.into(),
            false => committing.guest_gone(&mut cx, Reason::new("it ended", "")),
        };
        let Phase::Committing(committing) = committing else { panic!("the lease ends it") };
        let _phase = committing.input(&mut cx, Input::Lease(ask, answer));
        let said = cx.effects.iter().filter(|effect| matches!(effect, Effect::SendControl(_))).count();
        (said, cx.timers.is_set(Timer::Resolve))
    }

    #[test]
    fn the_source_is_told_at_once_of_a_commit_that_could_not_begin_and_not_of_one_that_may_have_begun() {
        assert_eq!(after(true, LeaseAsk::Commit, LeaseAnswer::NotPrepared), (1, true));
        assert_eq!(after(true, LeaseAsk::Commit, unknown()), (0, true));
    }

    #[test]
    fn who_has_no_guest_any_more_tells_the_source_and_asks_for_no_lease_that_it_did_not_begin_to_win() {
        assert_eq!(after(false, LeaseAsk::Commit, LeaseAnswer::NotPrepared), (1, false));
        assert_eq!(after(false, LeaseAsk::Commit, unknown()), (1, true));
    }

    fn unknown() -> LeaseAnswer {
        LeaseAnswer::Unknown { cause: String::new() }
    }
}
