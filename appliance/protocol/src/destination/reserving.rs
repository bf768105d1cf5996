//! The guest's memory is got ready.

use model::diagnosis::Reason;

use super::context::{Context, Ending};
use super::discarding::Discarding;
use super::effect::{Effect, Input};
use super::machine::{Phase, Step};
use super::receiving::Receiving;
use crate::session::PhaseName;
use crate::wire::Message;

/// Waits for the memory.
#[derive(Debug)]
pub struct Reserving(());

impl Reserving {
    pub(super) fn begin(cx: &mut Context) -> Self {
        cx.enter(PhaseName::Reserve);
        let bytes = cx.offer.as_ref().map_or(0, |offer| offer.vm.memory.0);
        cx.effect(Effect::Reserve { bytes });
        Self(())
    }
}

impl Step for Reserving {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        let reason = cx.nonsense(&message);
        self.lost(cx, reason)
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::Reserved(Ok(())) => Receiving::begin(cx).into(),
            Input::Reserved(Err(reason)) => self.lost(cx, reason),
            _ => self.into(),
        }
    }

    fn lost(self, cx: &mut Context, reason: Reason) -> Phase {
        Discarding::begin(cx, Ending::failed(reason)).into()
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        let ending = Ending::cancelled(&cx.welcome.here);
        Discarding::begin(cx, ending).into()
    }

    fn guest_gone(self, cx: &mut Context, reason: Reason) -> Phase {
        self.lost(cx, reason)
    }
}
