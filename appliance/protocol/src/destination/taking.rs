//! The VM is ours: its disks are opened, then its vCPUs run.

use model::diagnosis::Reason;
use model::receipt::Verdict;

use super::context::Context;
use super::effect::{Effect, Input, Timer};
use super::machine::{Phase, Step};
use super::settling::Settling;
use crate::session::PhaseName;
use crate::session::{RightToRun, VmNow};
use crate::time::{Duration, Instant};
use crate::verify::PageTable;
use crate::wire::Message;
use crate::wire::message::{Resumed, RunState};

/// After disks that could not be opened.
const RETRY: Duration = Duration::from_millis(300);
/// After no answer: who was asked may have died, and who follows knows of the question only if it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// The source's hold on the disks ends within this time, whatever became of it: the server's own leases see to it.
const OPEN_DISKS: Duration = Duration::from_secs(50);

/// There is no way back.
#[derive(Debug)]
pub struct Taking {
    table: PageTable,
    epoch: u64,
    /// Until it is used up by the resume.
    right: Option<RightToRun>,
    run_state: RunState,
    timings: Resumed,
    began: Instant,
}

impl Taking {
    pub(super) fn begin(
        cx: &mut Context,
        table: PageTable,
        right: RightToRun,
        run_state: RunState,
        timings: Resumed,
        gone: Option<Reason>,
    ) -> Phase {
        cx.enter(PhaseName::Resume);
        let epoch = right.epoch();
        if let Some(receipt) = cx.receipt() {
            receipt.epoch = epoch;
        }
        let taking = Self { table, epoch, right: Some(right), run_state, timings, began: cx.now };
        if let Some(reason) = gone {
            return taking.cannot_start(cx, reason);
        }
        if cx.disks_open {
            return taking.resume(cx);
        }
        taking.open_disks(cx)
    }

    /// The epoch under which this host holds the VM.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn open_disks(self, cx: &mut Context) -> Phase {
        cx.effect(Effect::OpenDisks);
        cx.deadline(Timer::OpenDisks, ASK_AGAIN);
        self.into()
    }

    fn resume(mut self, cx: &mut Context) -> Phase {
        if let Some(right) = self.right.take() {
            cx.effect(Effect::ResumeGuest(right, self.run_state));
        }
        self.into()
    }

    fn disks_failed(self, cx: &mut Context, reason: Reason) -> Phase {
        if cx.now.since(self.began) >= OPEN_DISKS {
            return self.cannot_start(cx, reason);
        }
        cx.report(0, Some(format!("the disks cannot be opened yet: {}", reason.cause)));
        cx.deadline(Timer::OpenDisks, RETRY);
        self.into()
    }

    fn cannot_start(self, cx: &mut Context, reason: Reason) -> Phase {
        cx.say(&Message::NotResumed(reason.clone()));
        let vm = VmNow::StoppedOn(cx.welcome.here.clone());
        cx.finish(vm, Verdict::Moved, &[reason], None).into()
    }

    fn resumed(mut self, cx: &mut Context, clock_ns: u64) -> Phase {
        self.timings.resume_us = cx.now.since(self.began).micros();
        self.timings.clock_ns = clock_ns;
        cx.say(&Message::Resumed(self.timings));
        Settling::begin(cx, self.table, self.run_state, &self.timings).into()
    }
}

impl Step for Taking {
    fn message(self, _cx: &mut Context, _message: Message) -> Phase {
        self.into()
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::DisksOpened(Ok(())) => self.resume(cx),
            Input::DisksOpened(Err(reason)) => self.disks_failed(cx, reason),
            Input::GuestResumed(Ok(clock_ns)) => self.resumed(cx, clock_ns),
            Input::GuestResumed(Err(reason)) => self.cannot_start(cx, reason),
            _ => self.into(),
        }
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        // One whose right is used up has its disks.
        if timer == Timer::OpenDisks && self.right.is_some() { self.open_disks(cx) } else { self.into() }
    }

    fn lost(self, _cx: &mut Context, _reason: Reason) -> Phase {
        self.into()
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        cx.report(0, Some("too late: the VM is here already".to_owned()));
        self.into()
    }

    fn guest_gone(self, cx: &mut Context, reason: Reason) -> Phase {
        self.cannot_start(cx, reason)
    }
}
