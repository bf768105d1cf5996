//! The findings are told; the source goes on or does not.

use model::diagnosis::Reason;
use model::limits;

use super::context::{Context, Ending};
use super::effect::Timer;
use super::greeting::end;
use super::machine::{Phase, Step};
use super::reserving::Reserving;
use crate::checks::blockers;
use crate::time::Duration;
use crate::wire::Message;

/// Waits for the source's word.
#[derive(Debug)]
pub struct Answered(());

impl Answered {
    pub(super) fn begin(cx: &mut Context) -> Self {
        cx.timers.clear();
        cx.deadline(Timer::Word, Duration::from_millis(limits::API_REQUEST_MS_MAX));
        Self(())
    }
}

impl Step for Answered {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        let blocked = blockers(&cx.findings).next().is_some();
        match message {
            Message::Reserve if !blocked => Reserving::begin(cx).into(),
            other => {
                let reason = cx.nonsense(&other);
                self.lost(cx, reason)
            }
        }
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        if timer != Timer::Word {
            return self.into();
        }
        let reason = cx.late("go on");
        self.lost(cx, reason)
    }

    fn lost(self, cx: &mut Context, reason: Reason) -> Phase {
        end(cx, &Ending::failed(reason)).into()
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        let ending = Ending::cancelled(&cx.welcome.here);
        end(cx, &ending).into()
    }

    fn guest_gone(self, _cx: &mut Context, _reason: Reason) -> Phase {
        self.into()
    }
}
