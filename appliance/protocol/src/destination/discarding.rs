//! Nothing came of it: what was got ready is freed, then the migration is over here.

use model::diagnosis::Reason;

use super::context::{Context, Ending};
use super::effect::{Effect, Input};
use super::machine::{Phase, Step};
use crate::session::PhaseName;
use crate::session::VmNow;
use crate::wire::Message;

/// Waits until everything is freed.
#[derive(Debug)]
pub struct Discarding {
    ending: Ending,
    vm: VmNow,
}

impl Discarding {
    pub(super) fn begin(cx: &mut Context, ending: Ending) -> Self {
        let vm = cx.still_there();
        Self::knowing(cx, ending, vm)
    }

    /// The same when it is known where the VM is.
    pub(super) fn knowing(cx: &mut Context, ending: Ending, vm: VmNow) -> Self {
        cx.enter(PhaseName::Release);
        if let Some(reason) = ending.reasons.first() {
            cx.say(&Message::Cancel(reason.clone()));
        }
        cx.effect(Effect::Discard);
        Self { ending, vm }
    }
}

impl Step for Discarding {
    fn message(self, _cx: &mut Context, _message: Message) -> Phase {
        self.into()
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::Discarded => cx.finish(self.vm, self.ending.verdict, &self.ending.reasons, None).into(),
            _ => self.into(),
        }
    }

    fn lost(self, _cx: &mut Context, _reason: Reason) -> Phase {
        self.into()
    }

    fn cancel(self, _cx: &mut Context) -> Phase {
        self.into()
    }

    fn guest_gone(self, _cx: &mut Context, _reason: Reason) -> Phase {
        self.into()
    }
}
