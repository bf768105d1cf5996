//! The path to the destination is measured, before it is asked to judge it: how near, how wide, how fast.

use model::diagnosis::Reason;

use super::context::Context;
use super::effect::{Effect, Input, Timer};
use super::greeting::ends_unnoticed;
use super::machine::{Phase, Step};
use super::offered::Offered;
use crate::session::PhaseName;
use crate::time::Duration;
use crate::wire::Message;

/// A probe of the longest accepted path, with a search for an MTU that is not what it should be, ends within this time.
pub(crate) const PROBE: Duration = Duration::from_secs(10);

/// Waits for the measurement.
#[derive(Debug)]
pub struct Probing(());

impl Probing {
    pub(super) fn begin(cx: &mut Context) -> Self {
        cx.enter(PhaseName::Probe);
        cx.effect(Effect::MeasureLink);
        cx.deadline(Timer::Probe, PROBE);
        Self(())
    }
}

impl Step for Probing {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        let reason = cx.nonsense(&message);
        self.lost(cx, reason)
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::LinkMeasured(link) => {
                cx.plan.offer = cx.plan.offer.clone().over(link);
                Offered::begin(cx).into()
            }
            _ => self.into(),
        }
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        if timer != Timer::Probe {
            return self.into();
        }
        let reason = cx.late("answer the probe of the link");
        self.lost(cx, reason)
    }

    ends_unnoticed!();
}
