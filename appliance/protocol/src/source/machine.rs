//! The machine: one phase after the other.
//!
//! Order of calls: [`Source::new`]; then, as things happen, [`Source::handle_input`] and, when the moment of
//! [`Source::poll_timeout`] has come, [`Source::handle_timeout`]; after each of these three take effects by
//! [`Source::poll_effect`] until there is none. [`Effect::Finish`] is the last one; afterwards every input is ignored.

use model::diagnosis::Reason;

use super::context::{Context, Plan};
use super::effect::{Effect, Input, Timer};
use super::{
    Committed, Deciding, Finished, Greeting, HandedOver, Offered, Precopy, Probing, Reserving, Running, Sampling,
    Stunned,
};
use crate::session::{Conversation, Versions};
use crate::time::Instant;
use crate::wire::Message;

/// What each phase does with what happens. A phase that does not care stays what it is.
pub(super) trait Step: Sized + Into<Phase> {
    /// The peer said something.
    fn message(self, cx: &mut Context, message: Message) -> Phase;

    /// An effect was answered.
    fn input(self, _cx: &mut Context, _input: Input) -> Phase {
        self.into()
    }

    /// A deadline passed.
    fn timeout(self, _cx: &mut Context, _timer: Timer) -> Phase {
        self.into()
    }

    /// The peer ended the migration, is gone, silent, or not to be understood.
    fn lost(self, cx: &mut Context, reason: Reason) -> Phase;

    /// A person wants it to end.
    fn cancel(self, cx: &mut Context) -> Phase;

    /// The guest ended.
    fn guest_gone(self, cx: &mut Context, reason: Reason) -> Phase;
}

/// Where a source is.
#[derive(Debug)]
pub enum Phase {
    /// Waits for the destination's hello.
    Greeting(Greeting),
    /// Measures the path to the destination.
    Probing(Probing),
    /// Waits for what the checks find.
    Offered(Offered),
    /// Watches the guest, for a check.
    Sampling(Sampling),
    /// Waits for the destination's memory, and watches the guest.
    Reserving(Reserving),
    /// Rounds, while the guest runs.
    Precopy(Box<Precopy>),
    /// The last round, while the guest is stopped.
    Stunned(Box<Stunned>),
    /// The last word is said; the lease decides.
    HandedOver(Box<HandedOver>),
    /// The outcome is not known; the lease is asked.
    Deciding(Deciding),
    /// The VM is the destination's.
    Committed(Box<Committed>),
    /// The VM goes on here.
    Running(Running),
    /// Over.
    Finished(Finished),
}

macro_rules! phases {
    ($($variant:ident($type:ty)),*) => {
        $(impl From<$type> for Phase {
            fn from(phase: $type) -> Self {
                Self::$variant(phase.into())
            }
        })*

        impl Phase {
            /// The only dispatcher.
            fn step(self, cx: &mut Context, event: Event) -> Self {
                match self {
                    $(Self::$variant(phase) => step(unbox!($variant phase), cx, event),)*
                }
            }
        }
    };
}

macro_rules! unbox {
    (Precopy $phase:ident) => {
        *$phase
    };
    (Stunned $phase:ident) => {
        *$phase
    };
    (HandedOver $phase:ident) => {
        *$phase
    };
    (Committed $phase:ident) => {
        *$phase
    };
    ($other:ident $phase:ident) => {
        $phase
    };
}

phases!(
    Greeting(Greeting),
    Probing(Probing),
    Offered(Offered),
    Sampling(Sampling),
    Reserving(Reserving),
    Precopy(Precopy),
    Stunned(Stunned),
    HandedOver(HandedOver),
    Deciding(Deciding),
    Committed(Committed),
    Running(Running),
    Finished(Finished)
);

/// What can happen to a phase.
enum Event {
    Message(Message),
    Input(Input),
    Timeout(Timer),
    Lost(Reason),
    Cancel,
    GuestGone(Reason),
}

fn step(phase: impl Step, cx: &mut Context, event: Event) -> Phase {
    match event {
        Event::Message(message) => phase.message(cx, message),
        Event::Input(input) => phase.input(cx, input),
        Event::Timeout(timer) => phase.timeout(cx, timer),
        Event::Lost(reason) => phase.lost(cx, reason),
        Event::Cancel => phase.cancel(cx),
        Event::GuestGone(reason) => phase.guest_gone(cx, reason),
    }
}

/// The source of one migration.
#[derive(Debug)]
pub struct Source {
    /// None only while a phase becomes the next.
    phase: Option<Phase>,
    cx: Context,
}

impl Source {
    /// Begins a migration over a connection that was just made.
    pub fn new(now: Instant, plan: Plan) -> Self {
        Self::speaking(now, plan, Versions::OURS)
    }

    /// The same for a build that speaks other versions; for tests of the agreement on a version.
    pub fn speaking(now: Instant, plan: Plan, versions: Versions) -> Self {
        let mut cx = Context::new(now, plan, Conversation::new(now, versions));
        let phase = Greeting::begin(&mut cx);
        Self { phase: Some(phase.into()), cx }
    }

    /// Tells the machine what happened.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        self.cx.now = now;
        match input {
            Input::Control(bytes) => self.hear(&bytes),
            Input::LinkDown { cause } => self.lose(cause),
            Input::GuestGone { cause } => {
                let hint = format!("vm start {}", self.cx.plan.offer.vm.name);
                self.step(Event::GuestGone(Reason::new(cause, hint)));
            }
            Input::Cancel => self.step(Event::Cancel),
            input => self.step(Event::Input(input)),
        }
    }

    /// Tells the machine that a deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.cx.now = now;
        while let Some(timer) = self.cx.timers.take_expired(now) {
            self.step(Event::Timeout(timer));
        }
        let conversation = &self.cx.conversation;
        if conversation.is_open() && !self.is_finished() {
            if conversation.lost_at() <= now {
                self.lose(format!("{} was silent for too long", self.cx.plan.destination));
            } else if conversation.keepalive_at() <= now {
                self.cx.say(&Message::Keepalive);
            }
        }
    }

    /// The next effect.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.cx.effects.pop_front()
    }

    /// When the other host counts as silent, if nothing is heard of it before; none where nobody listens to it any more.
    pub fn lost_at(&self) -> Option<Instant> {
        (self.cx.conversation.is_open() && !self.is_finished()).then(|| self.cx.conversation.lost_at())
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_finished() {
            return None;
        }
        let conversation = &self.cx.conversation;
        let signs = conversation.is_open().then(|| [conversation.lost_at(), conversation.keepalive_at()]);
        signs.into_iter().flatten().chain(self.cx.timers.next()).min()
    }

    /// Where the machine is.
    pub fn phase(&self) -> Option<&Phase> {
        self.phase.as_ref()
    }

    /// What the checks found; for tests.
    #[cfg(test)]
    pub(super) fn findings(&self) -> Vec<crate::checks::Finding> {
        self.cx.findings.clone()
    }

    /// Whether the last effect was given.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Some(Phase::Finished(_)))
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.cx.conversation.hear(self.cx.now, bytes);
        loop {
            match self.cx.conversation.next_message() {
                Ok(None) => return,
                Ok(Some(Message::Keepalive)) => {}
                Ok(Some(Message::Cancel(reason))) => self.step(Event::Lost(reason)),
                Ok(Some(message)) => self.step(Event::Message(message)),
                Err(error) => return self.lose(format!("{} cannot be understood: {error}", self.cx.plan.destination)),
            }
        }
    }

    fn lose(&mut self, cause: String) {
        if self.cx.conversation.is_open() {
            self.cx.conversation.close();
            let hint = format!(
                "on both hosts: network migration-nic; then vm migrate {} {} again",
                self.cx.plan.offer.vm.name, self.cx.plan.destination
            );
            self.step(Event::Lost(Reason::new(cause, hint)));
        }
    }

    fn step(&mut self, event: Event) {
        let phase = self.phase.take().expect("a phase is put back after each step");
        self.phase = Some(phase.step(&mut self.cx, event));
    }
}
