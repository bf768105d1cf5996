//! The VM goes on here, and the migration ends.

use model::diagnosis::Reason;

use super::context::{Context, Ending};
use super::effect::{Effect, Input};
use super::machine::{Phase, Step};
use crate::session::{RightToRun, VmNow};
use crate::wire::Message;

/// The migration did not come about.
#[derive(Debug)]
pub struct Running {
    ending: Ending,
    resuming: bool,
}

impl Running {
    pub(super) fn never_stopped(cx: &mut Context, ending: Ending) -> Self {
        Self::begin(cx, ending, false)
    }

    pub(super) fn resuming(cx: &mut Context, ending: Ending, right: RightToRun) -> Self {
        cx.effect(Effect::ResumeGuest(right));
        Self::begin(cx, ending, true)
    }

    /// The guest was told to go on, and has not answered yet.
    pub(super) fn being_resumed(cx: &mut Context, ending: Ending) -> Self {
        Self::begin(cx, ending, true)
    }

    fn begin(cx: &mut Context, ending: Ending, resuming: bool) -> Self {
        cx.timers.clear();
        if let Some(reason) = ending.reasons.first() {
            cx.say(&Message::Cancel(reason.clone()));
        }
        Self { ending, resuming }
    }

    /// Waits for the guest's resume, if it was stunned, or ends.
    pub(super) fn settle(self, cx: &mut Context) -> Phase {
        if self.resuming {
            return self.into();
        }
        let vm = cx.still_here();
        cx.finish(vm, self.ending.verdict, &self.ending.reasons).into()
    }
}

impl Step for Running {
    fn message(self, _cx: &mut Context, _message: Message) -> Phase {
        self.into()
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::GuestResumed(Ok(())) => Self { resuming: false, ..self }.settle(cx),
            Input::GuestResumed(Err(reason)) => self.guest_gone(cx, reason),
            _ => self.into(),
        }
    }

    fn lost(self, _cx: &mut Context, _reason: Reason) -> Phase {
        self.into()
    }

    fn cancel(self, _cx: &mut Context) -> Phase {
        self.into()
    }

    fn guest_gone(mut self, cx: &mut Context, reason: Reason) -> Phase {
        self.ending.reasons.push(reason);
        let vm = VmNow::StoppedOn(cx.here());
        cx.finish(vm, self.ending.verdict, &self.ending.reasons).into()
    }
}
