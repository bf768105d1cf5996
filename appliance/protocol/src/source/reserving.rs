//! The destination gets its memory ready; meanwhile the dirty log starts here, and shows for a moment what the guest dirties.

use model::diagnosis::Reason;

use super::context::{Context, Ending};
use super::effect::{Effect, Input, Timer};
use super::greeting::{end, end_without_guest};
use super::machine::{Phase, Step};
use super::precopy::Precopy;
use super::sampler::Sampler;
use crate::session::PhaseName;
use crate::time::Duration;
use crate::wire::Message;
use crate::wire::message::SwitchReady;

/// Touching the memory of a large guest for the first time takes its time.
const RESERVE: Duration = Duration::from_secs(60);

/// Half of the time for which the guest is watched; the destination's memory takes about as long.
const HALF: Duration = Duration::from_millis(50);

/// Waits for the memory and for what the dirty log shows.
#[derive(Debug)]
pub struct Reserving {
    reserved: bool,
    sampler: Sampler,
    /// The destination may be ready for the switchover before that.
    ready: Option<SwitchReady>,
}

impl Reserving {
    pub(super) fn begin(cx: &mut Context) -> Self {
        cx.enter(PhaseName::Reserve);
        cx.say(&Message::Reserve);
        cx.effect(Effect::StartDirtyLog);
        cx.deadline(Timer::Reserved, RESERVE);
        Self { reserved: false, sampler: Sampler::new(HALF), ready: None }
    }

    fn go_on(self, cx: &mut Context) -> Phase {
        match self.sampler.sample() {
            Some(sample) if self.reserved => Precopy::begin(cx, self.ready, sample).into(),
            _ => self.into(),
        }
    }

    /// The log may be on, or about to be; stopping it twice does no harm.
    fn end(cx: &mut Context, ending: &Ending) -> Phase {
        cx.effect(Effect::StopDirtyLog);
        end(cx, ending).into()
    }
}

impl Step for Reserving {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        match message {
            Message::SwitchReady(ready) if self.reserved => Self { ready: Some(ready), ..self }.into(),
            Message::Reserved => Self { reserved: true, ..self }.go_on(cx),
            other => {
                let reason = cx.nonsense(&other);
                self.lost(cx, reason)
            }
        }
    }

    fn input(mut self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::DirtyLogStarted(Ok(())) => {
                self.sampler.look(cx);
                self.into()
            }
            Input::DirtyHarvested(Ok(dirty)) => {
                self.sampler.harvested(cx, &dirty);
                self.go_on(cx)
            }
            Input::DirtyLogStarted(Err(reason)) | Input::DirtyHarvested(Err(reason)) => {
                Self::end(cx, &Ending::failed(reason))
            }
            _ => self.into(),
        }
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        match timer {
            Timer::NextHarvest => {
                self.sampler.look(cx);
                self.into()
            }
            Timer::Reserved => {
                let reason = cx.late("get the memory ready");
                self.lost(cx, reason)
            }
            _ => self.into(),
        }
    }

    fn lost(self, cx: &mut Context, reason: Reason) -> Phase {
        Self::end(cx, &Ending::failed(reason))
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        let ending = Ending::cancelled(&cx.here());
        Self::end(cx, &ending)
    }

    fn guest_gone(self, cx: &mut Context, reason: Reason) -> Phase {
        end_without_guest(cx, reason).into()
    }
}
