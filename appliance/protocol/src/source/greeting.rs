//! The source has said hello and waits for the destination's.

use model::diagnosis::Reason;
use model::limits;
use model::receipt::Verdict;

use super::context::{Context, Ending};
use super::effect::Timer;
use super::finished::Finished;
use super::machine::{Phase, Step};
use super::probing::Probing;
use crate::session::PhaseName;
use crate::session::VmNow;
use crate::time::Duration;
use crate::wire::Message;

/// Waits for the hello.
#[derive(Debug)]
pub struct Greeting(());

impl Greeting {
    pub(super) fn begin(cx: &mut Context) -> Self {
        cx.enter(PhaseName::Hello);
        let hello = cx.conversation.hello(cx.plan.migration, cx.here(), cx.plan.build.clone());
        cx.say(&hello);
        cx.deadline(Timer::Hello, Duration::from_millis(limits::MIGRATION_HANDSHAKE_MS));
        Self(())
    }
}

/// Ends a migration of which the guest has not noticed anything yet.
pub(super) fn end(cx: &mut Context, ending: &Ending) -> Finished {
    if let Some(reason) = ending.reasons.first() {
        cx.say(&Message::Cancel(reason.clone()));
    }
    let vm = cx.still_here();
    cx.finish(vm, ending.verdict, &ending.reasons)
}

/// Ends a migration whose guest ended by itself.
pub(super) fn end_without_guest(cx: &mut Context, reason: Reason) -> Finished {
    cx.say(&Message::Cancel(reason.clone()));
    let vm = VmNow::StoppedOn(cx.here());
    cx.finish(vm, Verdict::Failed, &[reason])
}

/// The ways in which a phase ends early of which the guest has not noticed anything yet: there is nothing to undo.
macro_rules! ends_unnoticed {
    () => {
        fn lost(self, cx: &mut Context, reason: Reason) -> Phase {
            $crate::source::greeting::end(cx, &$crate::source::context::Ending::failed(reason)).into()
        }

        fn cancel(self, cx: &mut Context) -> Phase {
            let ending = $crate::source::context::Ending::cancelled(&cx.here());
            $crate::source::greeting::end(cx, &ending).into()
        }

        fn guest_gone(self, cx: &mut Context, reason: Reason) -> Phase {
            $crate::source::greeting::end_without_guest(cx, reason).into()
        }
    };
}
pub(super) use ends_unnoticed;

impl Step for Greeting {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        let Message::Hello(hello) = message else {
            let reason = cx.nonsense(&message);
            return self.lost(cx, reason);
        };
        if hello.migration != cx.plan.migration || hello.host != cx.plan.destination {
            let cause = format!("{} answered instead of {}", hello.host, cx.plan.destination);
            return self.lost(cx, Reason::new(cause, "check the addresses of the migration NICs: host list"));
        }
        match cx.conversation.agree(&hello) {
            Ok(()) => Probing::begin(cx).into(),
            Err(reason) => self.lost(cx, reason),
        }
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        if timer != Timer::Hello {
            return self.into();
        }
        let reason = cx.late("answer the hello");
        self.lost(cx, reason)
    }

    ends_unnoticed!();
}
