//! Only the checks were wanted, and nothing stands in the way: the guest is watched for a moment, to tell what a move would be
//! like. Whatever goes wrong with that, the checks are told.

use model::diagnosis::Reason;
use model::receipt::Verdict;

use super::context::{Context, Ending};
use super::effect::{Effect, Input, Timer};
use super::greeting::{end, end_without_guest};
use super::machine::{Phase, Step};
use super::precopy::expectation;
use super::sampler::Sampler;
use crate::time::Duration;
use crate::wire::Message;

/// Half of the time for which the guest is watched.
const HALF: Duration = Duration::from_millis(250);
/// All of it is over within this time, or the checks are told without.
const BOUND: Duration = Duration::from_secs(3);

/// Watches the guest.
#[derive(Debug)]
pub struct Sampling(Sampler);

impl Sampling {
    pub(super) fn begin(cx: &mut Context) -> Self {
        cx.timers.clear();
        cx.deadline(Timer::Sample, BOUND);
        cx.report(0, 0, 0, None, Some("watching what the guest dirties".to_owned()));
        // A move that begins meanwhile takes the log over, and this then hears nothing more of it.
        cx.effect(Effect::StartDirtyLog);
        Self(Sampler::new(HALF))
    }

    fn end(self, cx: &mut Context) -> Phase {
        cx.effect(Effect::StopDirtyLog);
        if let Some(sample) = self.0.sample() {
            let mut expected = expectation(cx);
            expected.expect(sample);
            cx.forecast = Some(expected.forecast(cx.plan.touched_pages));
        }
        let reason = Reason::new("only the checks were wanted, and nothing stands in the way", "");
        end(cx, &Ending { verdict: Verdict::Cancelled, reasons: vec![reason] }).into()
    }
}

impl Step for Sampling {
    fn message(self, cx: &mut Context, _message: Message) -> Phase {
        self.end(cx)
    }

    fn input(mut self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::DirtyLogStarted(Ok(())) => self.0.look(cx),
            Input::DirtyHarvested(Ok(dirty)) => self.0.harvested(cx, &dirty),
            Input::DirtyLogStarted(Err(_)) | Input::DirtyHarvested(Err(_)) => return self.end(cx),
            _ => {}
        }
        if self.0.sample().is_some() { self.end(cx) } else { self.into() }
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        match timer {
            Timer::NextHarvest => {
                self.0.look(cx);
                self.into()
            }
            Timer::Sample => self.end(cx),
            _ => self.into(),
        }
    }

    fn lost(self, cx: &mut Context, _reason: Reason) -> Phase {
        self.end(cx)
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        cx.effect(Effect::StopDirtyLog);
        let ending = Ending::cancelled(&cx.here());
        end(cx, &ending).into()
    }

    fn guest_gone(self, cx: &mut Context, reason: Reason) -> Phase {
        end_without_guest(cx, reason).into()
    }
}
