//! The source's hello, then its offer.

use model::diagnosis::Reason;
use model::limits;

use super::context::{Context, Ending};
use super::effect::Timer;
use super::examining::Examining;
use super::finished::Finished;
use super::machine::{Phase, Step};
use crate::session::PhaseName;
use crate::source::probing::PROBE;
use crate::time::Duration;
use crate::wire::Message;
use crate::wire::message::Hello;

/// Waits for the source to say what it wants.
#[derive(Debug)]
pub struct Greeting {
    greeted: bool,
}

impl Greeting {
    pub(super) fn begin(cx: &mut Context) -> Self {
        cx.enter(PhaseName::Hello);
        cx.deadline(Timer::Word, Duration::from_millis(limits::MIGRATION_HANDSHAKE_MS));
        Self { greeted: false }
    }

    /// Whether the versions are agreed. The source measures the link then, and has to hear that we live.
    pub(super) fn has_greeted(&self) -> bool {
        self.greeted
    }

    fn hello(self, cx: &mut Context, hello: &Hello) -> Phase {
        cx.migration = hello.migration;
        // Our hello goes out in any case: the other side then knows why nothing comes of it.
        let ours = cx.conversation.hello(hello.migration, cx.welcome.here.clone(), cx.welcome.build.clone());
        cx.say(&ours);
        if hello.host != cx.welcome.peer {
            let cause = format!("{} calls itself {}", cx.welcome.peer, hello.host);
            return self.lost(cx, Reason::new(cause, "two hosts may use one key: host list"));
        }
        match cx.conversation.agree(hello) {
            Ok(()) => {
                // It measures the link first.
                cx.deadline(Timer::Word, PROBE + Duration::from_millis(limits::MIGRATION_HANDSHAKE_MS));
                Self { greeted: true }.into()
            }
            Err(reason) => self.lost(cx, reason),
        }
    }
}

/// Ends a migration for which nothing was got ready yet.
pub(super) fn end(cx: &mut Context, ending: &Ending) -> Finished {
    if let Some(reason) = ending.reasons.first() {
        cx.say(&Message::Cancel(reason.clone()));
    }
    let vm = cx.still_there();
    cx.finish(vm, ending.verdict, &ending.reasons, None)
}

impl Step for Greeting {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        match message {
            Message::Hello(hello) if !self.greeted => self.hello(cx, &hello),
            Message::Offer(offer) if self.greeted => Examining::begin(cx, *offer).into(),
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
        let reason = cx.late("say what it wants");
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
