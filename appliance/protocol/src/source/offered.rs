//! The offer is made, and the destination judges it.

use model::diagnosis::Reason;
use model::limits;
use model::receipt::Verdict;

use super::context::{Context, Ending};
use super::effect::Timer;
use super::greeting::{end, ends_unnoticed};
use super::machine::{Phase, Step};
use super::reserving::Reserving;
use super::sampling::Sampling;
use crate::checks::blockers;
use crate::checks::link::Seen;
use crate::session::PhaseName;
use crate::time::Duration;
use crate::wire::Message;
use crate::wire::message::Answer;

/// Waits for the answer.
#[derive(Debug)]
pub struct Offered(());

impl Offered {
    pub(super) fn begin(cx: &mut Context) -> Self {
        cx.enter(PhaseName::Offer);
        let offer = Message::Offer(Box::new(cx.plan.offer.clone()));
        cx.say(&offer);
        cx.deadline(Timer::Answer, Duration::from_millis(limits::API_REQUEST_MS_MAX));
        Self(())
    }

    fn answered(self, cx: &mut Context, answer: Answer) -> Phase {
        cx.findings = answer.findings;
        let offer = &cx.plan.offer;
        cx.link = Some(Seen { here: offer.source.nic, there: answer.nic, measured: offer.link });
        let reasons: Vec<_> = blockers(&cx.findings).map(|finding| finding.reason.clone()).collect();
        if !reasons.is_empty() {
            return end(cx, &Ending { verdict: Verdict::Failed, reasons }).into();
        }
        if cx.plan.offer.check_only {
            return Sampling::begin(cx).into();
        }
        Reserving::begin(cx).into()
    }
}

impl Step for Offered {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        match message {
            Message::Answer(answer) => self.answered(cx, answer),
            other => {
                let reason = cx.nonsense(&other);
                self.lost(cx, reason)
            }
        }
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        if timer != Timer::Answer {
            return self.into();
        }
        let reason = cx.late("judge the offer");
        self.lost(cx, reason)
    }

    ends_unnoticed!();
}
