//! The VM runs here. The networks are told where it is, and what arrived is audited.

use model::diagnosis::Reason;
use model::receipt::{Receipt, Verdict};
use model::vm_config::Verify;

use super::audit::{Audit, Wanted};
use super::context::Context;
use super::effect::{Effect, Input, Timer};
use super::machine::{Phase, Step};
use crate::session::PhaseName;
use crate::session::VmNow;
use crate::time::{Duration, Instant};
use crate::verify::PageTable;
use crate::wire::Message;
use crate::wire::message::{Resumed, RunState};

/// The source ends its part within this time after its last word.
const DONE: Duration = Duration::from_secs(120);
/// Where the source has nothing to say any more, the networks are told within this time, or what comes of that is not waited for.
const TOLD: Duration = Duration::from_secs(2);

/// The VM runs.
#[derive(Debug)]
pub struct Settling {
    run_state: RunState,
    audit: Option<Audit>,
    resumed: Instant,
    /// The announcement was sent, and the source told.
    told: bool,
    /// The source has nothing to say any more.
    done: bool,
    receipt: Option<Receipt>,
    reasons: Vec<Reason>,
    gone: bool,
}

impl Settling {
    pub(super) fn begin(cx: &mut Context, table: PageTable, run_state: RunState, timings: &Resumed) -> Self {
        cx.enter(PhaseName::Audit);
        if let Some(receipt) = cx.receipt() {
            let stun = &mut receipt.stun;
            stun.last_pages_us = timings.last_pages_us;
            stun.state_us = timings.restore_us;
            stun.verify_us = timings.verify_us;
            stun.lease_us = timings.lease_us;
            stun.resume_us = timings.resume_us;
        }
        cx.effect(Effect::Announce);
        let audited = cx.offer.as_ref().is_some_and(|offer| offer.verify == Verify::Audit);
        let done = !cx.conversation.is_open();
        cx.deadline(Timer::Done, if done { TOLD } else { DONE });
        let mut settling = Self {
            run_state,
            audit: audited.then(|| Audit::new(table)),
            resumed: cx.now,
            told: false,
            done,
            receipt: None,
            reasons: Vec::new(),
            gone: false,
        };
        if done {
            settling.end_audit(cx);
        }
        settling
    }

    fn go_on(mut self, cx: &mut Context) -> Phase {
        match self.audit.as_mut().map(Audit::wanted) {
            Some(Wanted::Hashes { first, count }) => cx.effect(Effect::HashRange { first, count }),
            Some(Wanted::Harvest) => cx.effect(Effect::HarvestDirty),
            Some(Wanted::Nothing) => self.end_audit(cx),
            Some(Wanted::Word) | None => {}
        }
        self.into()
    }

    fn told(mut self, cx: &mut Context, first: u64, hashes: Vec<crate::verify::PageHash>) -> Phase {
        cx.deadline(Timer::Done, DONE);
        let Some(audit) = &mut self.audit else { return self.into() };
        let idle = audit.wanted() == Wanted::Word;
        if !audit.told(first, hashes) {
            self.end_audit(cx);
            return self.into();
        }
        if idle { self.go_on(cx) } else { self.into() }
    }

    /// Ends the audit, wherever it is.
    fn end_audit(&mut self, cx: &mut Context) {
        let Some(audit) = self.audit.take() else { return };
        let result = audit.result();
        cx.effect(Effect::StopDirtyLog);
        cx.say(&Message::AuditDone(result));
        if let Some(receipt) = cx.receipt() {
            receipt.audit = result;
        }
        if result.different_pages > 0 {
            let vm = cx.vm_name().map_or_else(String::new, ToString::to_string);
            let cause =
                format!("the audit found {} pages that differ from the source's memory", result.different_pages);
            let hint = format!("restart VM {vm} soon, and report this with: host support");
            self.reasons.push(Reason::new(cause, hint));
        }
    }

    /// The networks were told. How long that took since the resume stands in the receipt.
    fn sent(mut self, cx: &mut Context, frames: u32) -> Phase {
        if self.told {
            return self.into();
        }
        self.told = true;
        let us = (frames > 0).then(|| cx.now.since(self.resumed).micros());
        if let Some(receipt) = cx.receipt() {
            receipt.stun.announce_us = us.unwrap_or(0);
        }
        cx.say(&Message::Announced { us });
        // A source that was lost before the resume is waited for no longer.
        self.finish_if_done(cx)
    }

    fn finish_if_done(self, cx: &mut Context) -> Phase {
        if !self.done {
            return self.into();
        }
        let here = cx.welcome.here.clone();
        let vm = if self.gone { VmNow::StoppedOn(here) } else { VmNow::On(here, self.run_state) };
        cx.finish(vm, Verdict::Moved, &self.reasons, self.receipt).into()
    }

    fn source_is_done(mut self, cx: &mut Context) -> Phase {
        self.done = true;
        self.end_audit(cx);
        self.finish_if_done(cx)
    }
}

impl Step for Settling {
    fn message(mut self, cx: &mut Context, message: Message) -> Phase {
        match message {
            Message::AuditHashes { first, hashes } => self.told(cx, first, hashes),
            Message::Done(receipt) => {
                self.receipt = Some(*receipt);
                self.source_is_done(cx)
            }
            _ => self.into(),
        }
    }

    fn input(mut self, cx: &mut Context, input: Input) -> Phase {
        if let Input::Announced { frames } = input {
            return self.sent(cx, frames);
        }
        let Some(audit) = &mut self.audit else { return self.into() };
        match input {
            Input::RangeHashed { first, hashes } => audit.hashed(first, hashes),
            Input::DirtyHarvested(Ok(dirty)) => audit.harvested(&dirty),
            Input::DirtyHarvested(Err(_)) => {
                self.end_audit(cx);
                return self.into();
            }
            _ => return self.into(),
        }
        self.go_on(cx)
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        match timer {
            Timer::Done => self.source_is_done(cx),
            _ => self.into(),
        }
    }

    fn lost(self, cx: &mut Context, _reason: Reason) -> Phase {
        self.source_is_done(cx)
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        cx.report(0, Some("too late: the VM runs here already".to_owned()));
        self.into()
    }

    fn guest_gone(mut self, cx: &mut Context, reason: Reason) -> Phase {
        self.gone = true;
        self.reasons.push(reason);
        self.source_is_done(cx)
    }
}
