//! The VM is the destination's. The source's memory is frozen: it is hashed for the audit, then released.

use model::diagnosis::Reason;
use model::names::HostName;
use model::receipt::{Audit, Verdict};
use model::vm_config::Verify;

use super::context::Context;
use super::effect::{Effect, Input, Timer};
use super::machine::{Phase, Step};
use super::stun::Stun;
use super::stunned::HASH_PAGES;
use crate::session::PhaseName;
use crate::session::VmNow;
use crate::time::Duration;
use crate::wire::Message;
use crate::wire::message::{AUDIT_HASHES_MAX, Resumed};

const _: () = assert!(HASH_PAGES as usize <= AUDIT_HASHES_MAX);

/// The destination opens its disks and starts the VM within this time, or it says why not.
const RESUME: Duration = Duration::from_secs(60);
/// The audit makes progress within this time.
const AUDIT: Duration = Duration::from_secs(60);

/// The destination tells of its announcement within this time, or the receipt does without.
const ANNOUNCEMENT: Duration = Duration::from_secs(5);

/// There is no way back.
#[derive(Debug)]
pub struct Committed {
    stun: Option<Stun>,
    holder: HostName,
    epoch: u64,
    waiting: Waiting,
    runs: Option<bool>,
    /// The VM's networks were told, as far as the destination will ever say.
    announced: bool,
    reasons: Vec<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    Resume,
    Hashes { next: u64 },
    Verdict,
    Release,
    Announcement,
}

impl Committed {
    pub(super) fn begin(cx: &mut Context, epoch: u64, stun: Stun) -> Self {
        cx.enter(PhaseName::Resume);
        cx.deadline(Timer::Audit, RESUME);
        let holder = cx.plan.destination.clone();
        let committed = Self::new(Some(stun), holder, epoch, Vec::new());
        // Without a connection there is nobody to wait for.
        if cx.conversation.is_open() { committed } else { committed.release(cx) }
    }

    fn new(stun: Option<Stun>, holder: HostName, epoch: u64, reasons: Vec<Reason>) -> Self {
        Self { stun, holder, epoch, waiting: Waiting::Resume, runs: None, announced: false, reasons }
    }

    /// The VM was taken by a third host.
    pub(super) fn taken_by(cx: &mut Context, holder: HostName, epoch: u64, reason: Reason) -> Self {
        cx.enter(PhaseName::Release);
        cx.say(&Message::Cancel(reason.clone()));
        Self::new(None, holder, epoch, vec![reason]).release(cx)
    }

    fn release(mut self, cx: &mut Context) -> Self {
        if self.waiting != Waiting::Release {
            cx.enter(PhaseName::Release);
            self.waiting = Waiting::Release;
            cx.effect(Effect::ReleaseMemory);
        }
        self
    }

    fn resumed(mut self, cx: &mut Context, resumed: Resumed) -> Phase {
        self.runs = Some(true);
        let (now, rtt) = (cx.now, Duration::from_micros(cx.plan.offer.link.rtt_us));
        let receipt = cx.draft.receipt_mut();
        receipt.clock_step_us = self.stun.map(|stun| stun.clock_step_us(now, rtt, resumed.clock_ns));
        let total = self.stun.map_or(Duration::ZERO, |stun| stun.lasted(now));
        let stun = &mut receipt.stun;
        // A peer may say anything.
        stun.last_pages_us = stun.last_pages_us.saturating_add(resumed.last_pages_us);
        stun.state_us = stun.state_us.saturating_add(resumed.restore_us);
        stun.verify_us = stun.verify_us.saturating_add(resumed.verify_us);
        stun.lease_us = resumed.lease_us;
        stun.resume_us = resumed.resume_us;
        stun.total_us = total.micros();
        if cx.plan.offer.verify == Verify::Audit {
            cx.enter(PhaseName::Audit);
            return self.hash_from(cx, 0).into();
        }
        self.release(cx).into()
    }

    fn hash_from(mut self, cx: &mut Context, first: u64) -> Self {
        cx.deadline(Timer::Audit, AUDIT);
        let left = cx.plan.offer.pages() - first;
        if left == 0 {
            self.waiting = Waiting::Verdict;
        } else {
            self.waiting = Waiting::Hashes { next: first };
            cx.effect(Effect::HashRange { first, count: HASH_PAGES.min(left) });
        }
        self
    }

    fn audited(self, cx: &mut Context, audit: Audit) -> Phase {
        cx.draft.receipt_mut().audit = audit;
        self.release(cx).into()
    }

    fn announced(mut self, cx: &mut Context, us: Option<u64>) -> Phase {
        self.announced = true;
        cx.draft.receipt_mut().stun.announce_us = us.unwrap_or(0);
        if self.waiting == Waiting::Announcement { self.finish(cx) } else { self.into() }
    }

    /// The memory is released. The receipt waits for the time of the announcement, where one is still to be told.
    fn released(mut self, cx: &mut Context) -> Phase {
        if self.announced || self.runs != Some(true) || !cx.conversation.is_open() {
            return self.finish(cx);
        }
        self.waiting = Waiting::Announcement;
        cx.deadline(Timer::Announcement, ANNOUNCEMENT);
        self.into()
    }

    fn finish(self, cx: &mut Context) -> Phase {
        cx.draft.receipt_mut().epoch = self.epoch;
        let run_state = cx.plan.offer.run_state;
        let mut reasons = self.reasons;
        let verdict = if self.holder == cx.plan.destination { Verdict::Moved } else { Verdict::Failed };
        let vm = match self.runs {
            Some(false) => VmNow::StoppedOn(self.holder),
            _ => VmNow::On(self.holder, run_state),
        };
        let audit = cx.draft.receipt().audit;
        if audit.different_pages > 0 {
            let cause = format!("the audit found {} pages that differ from the source's memory", audit.different_pages);
            let hint = format!("restart VM {} soon, and report this with what log show says", cx.plan.offer.vm.name);
            reasons.push(Reason::new(cause, hint));
        }
        let receipt = cx.draft.clone().close(cx.now, verdict, &reasons);
        cx.say(&Message::Done(Box::new(receipt)));
        cx.finish(vm, verdict, &reasons).into()
    }
}

impl Step for Committed {
    fn message(mut self, cx: &mut Context, message: Message) -> Phase {
        match (message, self.waiting) {
            (Message::Resumed(resumed), Waiting::Resume) => self.resumed(cx, resumed),
            (Message::NotResumed(reason), Waiting::Resume) => {
                self.runs = Some(false);
                self.reasons.push(reason);
                self.release(cx).into()
            }
            (Message::AuditDone(audit), Waiting::Verdict) => self.audited(cx, audit),
            (Message::Announced { us }, _) => self.announced(cx, us),
            _ => self.into(),
        }
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match (input, self.waiting) {
            (Input::RangeHashed { first, hashes }, Waiting::Hashes { next }) if first == next && !hashes.is_empty() => {
                let next = next + hashes.len() as u64;
                cx.say(&Message::AuditHashes { first, hashes });
                self.hash_from(cx, next).into()
            }
            (Input::MemoryReleased, Waiting::Release) => self.released(cx),
            _ => self.into(),
        }
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        match (timer, self.waiting) {
            (Timer::Audit, _) => self.release(cx).into(),
            (Timer::Announcement, Waiting::Announcement) => self.finish(cx),
            _ => self.into(),
        }
    }

    fn lost(self, cx: &mut Context, _reason: Reason) -> Phase {
        if self.waiting == Waiting::Announcement { self.finish(cx) } else { self.release(cx).into() }
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        let note = format!("too late: VM {} is on {} already", cx.plan.offer.vm.name, self.holder);
        cx.report(0, 0, 0, None, Some(note));
        self.into()
    }

    /// The frozen guest is gone with its memory: no audit, and nothing to release but what is left of it.
    fn guest_gone(self, cx: &mut Context, _reason: Reason) -> Phase {
        if self.waiting == Waiting::Announcement { self.into() } else { self.release(cx).into() }
    }
}
