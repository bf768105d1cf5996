//! The outcome of the commit is not known here: the lease is asked at a higher ballot, again and again, with the VM
//! stopped, until it is learned or won. A lease that will never tell ends this phase, and the VM stays stopped.

use model::diagnosis::Reason;
use model::names::HostName;
use model::receipt::Verdict;

use super::committed::Committed;
use super::context::{Context, Ending};
use super::effect::{Effect, Input, Timer};
use super::machine::{Phase, Step};
use super::running::Running;
use super::stun::Stun;
use crate::session::PhaseName;
use crate::session::outcome::lost_outcome;
use crate::session::{LeaseAnswer, LeaseAsk, RightToRun, VmNow};
use crate::time::Duration;
use crate::wire::Message;

const RETRY_LEAST: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(2);
/// With no guest left there is nothing to decide but what to say: the lease is asked so often, then no more.
const ASKS_WITHOUT_GUEST: u32 = 6;

/// Waits for the lease.
#[derive(Debug)]
pub struct Deciding {
    stun: Stun,
    reasons: Vec<Reason>,
    retry: Duration,
    guest: bool,
    asks: u32,
}

impl Deciding {
    pub(super) fn begin(cx: &mut Context, stun: Stun, reason: Reason) -> Self {
        cx.enter(PhaseName::Commit);
        cx.effect(Effect::Lease(LeaseAsk::Reclaim));
        Self { stun, reasons: vec![reason], retry: RETRY_LEAST, guest: true, asks: 0 }
    }

    pub(super) fn without_guest(self) -> Self {
        // The destination, which may have the guest, is to win what nobody has won.
        Self { guest: false, asks: 0, retry: RETRY_MOST, ..self }
    }

    /// The lease gave the right back: the VM goes on here.
    pub fn resume(self, cx: &mut Context, right: RightToRun) -> Running {
        cx.draft.receipt_mut().epoch = right.epoch();
        cx.effect(Effect::Throttle { percent: 0 });
        cx.effect(Effect::StopDirtyLog);
        Running::resuming(cx, Ending { verdict: Verdict::Failed, reasons: self.reasons }, right)
    }

    fn won(self, cx: &mut Context, epoch: u64) -> Phase {
        if self.guest {
            return self.resume(cx, RightToRun::won(epoch)).settle(cx);
        }
        cx.draft.receipt_mut().epoch = epoch;
        if let Some(reason) = self.reasons.first() {
            cx.say(&Message::Cancel(reason.clone()));
        }
        let vm = VmNow::StoppedOn(cx.here());
        cx.finish(vm, Verdict::Failed, &self.reasons).into()
    }

    /// Another host holds the VM: the destination by this migration, or somebody who took it after this host's own
    /// lease had expired. Either way it is not to run here any more.
    fn lost_to(self, cx: &mut Context, holder: &HostName, epoch: u64) -> Phase {
        if *holder != cx.plan.destination {
            let cause = format!("{holder} took the VM over while this host did not renew its lease");
            let reason = Reason::new(cause, "log show lease");
            return Committed::taken_by(cx, holder.clone(), epoch, reason).into();
        }
        Committed::begin(cx, epoch, self.stun).into()
    }

    fn unknown(mut self, cx: &mut Context, cause: &str) -> Phase {
        self.asks += 1;
        if !self.guest && self.asks > ASKS_WITHOUT_GUEST {
            if let Some(reason) = self.reasons.first() {
                cx.say(&Message::Cancel(reason.clone()));
            }
            return cx.finish(VmNow::NotHere, Verdict::Failed, &self.reasons).into();
        }
        let vm = &cx.plan.offer.vm.name;
        let note = format!("VM {vm} is stopped until its lease can be read: {cause}");
        cx.report(0, 0, 0, None, Some(note));
        cx.deadline(Timer::Reclaim, self.retry);
        self.retry = (self.retry * 2).min(RETRY_MOST);
        self.into()
    }

    /// The lease will not tell. The host decides what becomes of the VM, as it does where this process dies: until then
    /// the guest stands still, and nothing of it is ended.
    fn damaged(mut self, cx: &mut Context, cause: String) -> Phase {
        self.reasons.push(lost_outcome(&cx.plan.offer.vm.name, cause));
        cx.say(&Message::Cancel(self.reasons[0].clone()));
        let vm = if self.guest { VmNow::Undecided(cx.here()) } else { VmNow::NotHere };
        cx.finish(vm, Verdict::Failed, &self.reasons).into()
    }
}

impl Step for Deciding {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        match message {
            // The destination says it only if the lease said so.
            Message::Committed { epoch } => Committed::begin(cx, epoch, self.stun).into(),
            _ => self.into(),
        }
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::Lease(_, LeaseAnswer::Won { epoch }) => self.won(cx, epoch),
            Input::Lease(_, LeaseAnswer::Lost { holder, epoch }) => self.lost_to(cx, &holder, epoch),
            Input::Lease(_, LeaseAnswer::Unknown { cause }) => self.unknown(cx, &cause),
            Input::Lease(_, LeaseAnswer::Damaged { cause }) => self.damaged(cx, cause),
            _ => self.into(),
        }
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        if timer == Timer::Reclaim {
            cx.effect(Effect::Lease(LeaseAsk::Reclaim));
        }
        self.into()
    }

    fn lost(mut self, _cx: &mut Context, reason: Reason) -> Phase {
        if !self.reasons.contains(&reason) && self.reasons.len() < 4 {
            self.reasons.push(reason);
        }
        self.into()
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        let note = "the commit has begun: the lease decides, and it is being asked".to_owned();
        cx.report(0, 0, 0, None, Some(note));
        self.into()
    }

    fn guest_gone(mut self, _cx: &mut Context, reason: Reason) -> Phase {
        self.reasons.push(reason);
        self.without_guest().into()
    }
}
