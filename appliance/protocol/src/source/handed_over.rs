//! The last word is said: "stopped; I resume only if I win this epoch myself". Word of the commit is awaited.

use model::diagnosis::Reason;

use super::committed::Committed;
use super::context::Context;
use super::deciding::Deciding;
use super::effect::Timer;
use super::machine::{Phase, Step};
use super::stun::Stun;
use crate::session::PhaseName;
use crate::time::Duration;
use crate::wire::Message;
use crate::wire::message::HandOver;

/// The destination loads, compares and commits within this time, or the lease is asked. It is safe at any value: the
/// lease decides; too short a one spoils commits that were about to succeed.
const WORD: Duration = Duration::from_secs(8);

/// The outcome lies with the destination and the lease.
#[derive(Debug)]
pub struct HandedOver {
    stun: Stun,
}

impl HandedOver {
    pub(super) fn begin(cx: &mut Context, hand_over: &HandOver, stun: Stun) -> Self {
        cx.enter(PhaseName::Commit);
        cx.say(&Message::HandOver(*hand_over));
        cx.deadline(Timer::Word, WORD);
        Self { stun }
    }
}

impl Step for HandedOver {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        match message {
            // Some builds tell anew how long their lease takes, whenever they have tried again.
            Message::RoundStored { .. } | Message::SwitchReady(_) => self.into(),
            Message::Committed { epoch } => Committed::begin(cx, epoch, self.stun).into(),
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
        let reason = cx.late("commit");
        self.lost(cx, reason)
    }

    fn lost(self, cx: &mut Context, reason: Reason) -> Phase {
        Deciding::begin(cx, self.stun, reason).into()
    }

    /// Too late to be cancelled by itself; the lease decides who was first.
    fn cancel(self, cx: &mut Context) -> Phase {
        let reason = Reason::new(format!("it was cancelled on {}", cx.here()), "");
        self.lost(cx, reason)
    }

    fn guest_gone(self, cx: &mut Context, reason: Reason) -> Phase {
        Deciding::begin(cx, self.stun, reason).without_guest().into()
    }
}
