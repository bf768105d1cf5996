//! The machine: one phase after the other.
//!
//! Order of calls: [`Destination::new`]; then, as things happen, [`Destination::handle_input`] and, when the moment of
//! [`Destination::poll_timeout`] has come, [`Destination::handle_timeout`]; after each of these three take effects by
//! [`Destination::poll_effect`] until there is none.
//!
//! A page record goes through [`Destination::admit`], which says whether it is to be stored. Store it then or later, in any order: write those of its
//! pages that are newer than what was written to them before ([`crate::verify::Rounds`], kept by who writes, because the machine learns
//! of a page only afterwards: so a late page of an older round never overwrites a newer one), hash what lies in memory then, and tell the machine by
//! [`Input::PagesStored`], once for each record. It goes on to verify when nothing that it admitted is still to be stored; once it wants
//! [`Effect::Discard`] nothing more may be written.

use model::diagnosis::Reason;

use super::context::{Context, Welcome};
use super::effect::{Effect, Input, Timer};
use super::{
    Answered, Committing, Discarding, Examining, Finished, Greeting, Receiving, Reserving, Settling, Taking, Verifying,
};
use crate::session::{Conversation, Versions};
use crate::time::Instant;
use crate::wire::{Message, ValidatedRecord, WireError};

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

    /// The VMM ended.
    fn guest_gone(self, cx: &mut Context, reason: Reason) -> Phase;
}

/// Where a destination is.
#[derive(Debug)]
pub enum Phase {
    /// Waits for the source's hello and offer.
    Greeting(Greeting),
    /// Gathers this host's facts.
    Examining(Examining),
    /// Has answered; waits for the source to go on.
    Answered(Answered),
    /// Gets the memory ready.
    Reserving(Reserving),
    /// Pages arrive; the VMM is built and the lease prepared.
    Receiving(Box<Receiving>),
    /// Everything has arrived; the state is restored, and compared what is to be compared.
    Verifying(Box<Verifying>),
    /// Phase 2 of the lease's next epoch.
    Committing(Box<Committing>),
    /// The VM is ours: disks, vCPUs.
    Taking(Box<Taking>),
    /// The VM runs; announcements and the audit.
    Settling(Box<Settling>),
    /// Nothing came of it; what was got ready is freed.
    Discarding(Discarding),
    /// Over.
    Finished(Finished),
}

macro_rules! phases {
    ($($variant:ident($type:ty)),*; boxed $($boxed:ident($boxed_type:ty)),*) => {
        $(impl From<$type> for Phase {
            fn from(phase: $type) -> Self {
                Self::$variant(phase)
            }
        })*
        $(impl From<$boxed_type> for Phase {
            fn from(phase: $boxed_type) -> Self {
                Self::$boxed(Box::new(phase))
            }
        })*

        impl Phase {
            /// The only dispatcher.
            fn step(self, cx: &mut Context, event: Event) -> Self {
                match self {
                    $(Self::$variant(phase) => step(phase, cx, event),)*
                    $(Self::$boxed(phase) => step(*phase, cx, event),)*
                }
            }
        }
    };
}

phases!(
    Greeting(Greeting),
    Examining(Examining),
    Answered(Answered),
    Reserving(Reserving),
    Discarding(Discarding),
    Finished(Finished);
    boxed
    Receiving(Receiving),
    Verifying(Verifying),
    Committing(Committing),
    Taking(Taking),
    Settling(Settling)
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

/// The destination of one migration.
#[derive(Debug)]
pub struct Destination {
    /// None only while a phase becomes the next.
    phase: Option<Phase>,
    cx: Context,
}

impl Destination {
    /// Begins with a connection that a peer made whose key is known.
    pub fn new(now: Instant, welcome: Welcome) -> Self {
        Self::speaking(now, welcome, Versions::OURS)
    }

    /// The same for a build that speaks other versions; for tests of the agreement on a version.
    pub fn speaking(now: Instant, welcome: Welcome, versions: Versions) -> Self {
        let mut cx = Context::new(now, welcome, Conversation::new(now, versions));
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
                let (here, vm) = (&self.cx.welcome.here, self.cx.vm_name().map_or("VM", |vm| vm.as_str()));
                let decided = matches!(self.phase, Some(Phase::Committing(_) | Phase::Taking(_) | Phase::Settling(_)));
                // Before the commit it runs at its source.
                let then = if decided { format!("vm start {vm}") } else { format!("vm migrate {vm} {here}") };
                let reason =
                    Reason::new(format!("on {here}: {cause}"), format!("on {here}: log show host; then {then}"));
                self.step(Event::GuestGone(reason));
            }
            Input::Cancel => self.step(Event::Cancel),
            input => {
                self.cx.disks_open |= matches!(input, Input::DisksOpened(Ok(())));
                self.step(Event::Input(input));
            }
        }
    }

    /// Takes in a record that is to be stored. None where no record is expected (before the memory is there, or after
    /// everything has arrived): it is to be dropped.
    ///
    /// # Errors
    /// The bytes are no record of this migration; the connection is of no use any more.
    pub fn admit<B: AsRef<[u8]>>(&mut self, now: Instant, record: B) -> Result<Option<ValidatedRecord<B>>, WireError> {
        self.cx.now = now;
        self.cx.conversation.heard_records(now);
        let Some(Phase::Receiving(receiving)) = &mut self.phase else { return Ok(None) };
        let record = ValidatedRecord::parse(record, self.cx.migration, receiving.table().pages())?;
        receiving.admitted();
        Ok(Some(record))
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
                self.lose(format!("{} was silent for too long", self.cx.welcome.peer));
            } else if conversation.keepalive_at() <= now && self.has_greeted() {
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
        let speaks = conversation.is_open() && self.has_greeted();
        let keepalive = speaks.then(|| conversation.keepalive_at());
        self.lost_at().into_iter().chain(keepalive).chain(self.cx.timers.next()).min()
    }

    /// Where the machine is.
    pub fn phase(&self) -> Option<&Phase> {
        self.phase.as_ref()
    }

    /// Whether the last effect was given.
    pub fn is_finished(&self) -> bool {
        matches!(self.phase, Some(Phase::Finished(_)))
    }

    /// What was offered, once it is known.
    pub fn offer(&self) -> Option<&crate::wire::ValidatedOffer> {
        self.cx.offer.as_ref()
    }

    /// Which migration it is, once it is known.
    pub fn migration(&self) -> crate::wire::MigrationId {
        self.cx.migration
    }

    /// A keepalive before the versions are agreed could not be understood.
    fn has_greeted(&self) -> bool {
        !matches!(&self.phase, Some(Phase::Greeting(greeting)) if !greeting.has_greeted())
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.cx.conversation.hear(self.cx.now, bytes);
        loop {
            match self.cx.conversation.next_message() {
                Ok(None) => return,
                Ok(Some(Message::Keepalive)) => {}
                Ok(Some(Message::Cancel(reason))) => self.step(Event::Lost(reason)),
                Ok(Some(message)) => self.step(Event::Message(message)),
                Err(error) => return self.lose(format!("{} cannot be understood: {error}", self.cx.welcome.peer)),
            }
        }
    }

    fn lose(&mut self, cause: String) {
        if self.cx.conversation.is_open() {
            self.cx.conversation.close();
            let hint = format!("network migration-nic; on {}: network migration-nic", self.cx.welcome.peer);
            self.step(Event::Lost(Reason::new(cause, hint)));
        }
    }

    fn step(&mut self, event: Event) {
        let phase = self.phase.take().expect("a phase is put back after each step");
        self.phase = Some(phase.step(&mut self.cx, event));
    }
}
