//! What all phases of a destination share.

use std::collections::VecDeque;

use model::diagnosis::{Diagnosis, Reason};
use model::names::{HostName, VmName};
use model::receipt::{Receipt, Verdict};

use super::effect::{Effect, Progress, Timer};
use super::finished::Finished;
use crate::checks::Finding;
use crate::session::PhaseName;
use crate::session::outcome::diagnose;
use crate::session::{Conversation, Draft, Outcome, Timers, VmNow};
use crate::time::{Duration, Instant};
use crate::wire::message::RunState;
use crate::wire::{Message, MigrationId, ValidatedOffer};

pub use crate::source::Ending;

/// What a destination knows before the source has said anything.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// This host.
    pub here: HostName,
    /// The peer, as its key proved.
    pub peer: HostName,
    /// This host's build, for people.
    pub build: String,
    /// The wall clock now, seconds since 1970-01-01 UTC.
    pub started_unix_s: u64,
}

/// What all phases share.
#[derive(Debug)]
pub struct Context {
    pub(super) welcome: Welcome,
    pub(super) migration: MigrationId,
    pub(super) offer: Option<ValidatedOffer>,
    pub(super) now: Instant,
    pub(super) conversation: Conversation,
    pub(super) timers: Timers<Timer>,
    pub(super) effects: VecDeque<Effect>,
    pub(super) draft: Option<Draft>,
    pub(super) findings: Vec<Finding>,
    /// The VM has its disks: a control plane that began in the middle of the move may say so before it is asked.
    pub(super) disks_open: bool,
    pub(super) phase: PhaseName,
    pub(super) reported: Instant,
}

impl Context {
    pub(super) fn new(now: Instant, welcome: Welcome, conversation: Conversation) -> Self {
        Self {
            welcome,
            migration: MigrationId(0),
            offer: None,
            now,
            conversation,
            timers: Timers::new(),
            effects: VecDeque::new(),
            draft: None,
            findings: Vec::new(),
            disks_open: false,
            phase: PhaseName::Hello,
            reported: Instant::ZERO,
        }
    }

    /// From now on it is known what comes.
    pub(super) fn learn(&mut self, offer: ValidatedOffer) {
        let (unix_s, here) = (self.welcome.started_unix_s, self.welcome.here.clone());
        self.draft = Some(Draft::new(self.now, unix_s, self.migration, &offer, here));
        self.offer = Some(offer);
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(super) fn say(&mut self, message: &Message) {
        if let Some(bytes) = self.conversation.say(self.now, message) {
            self.effect(Effect::SendControl(bytes));
        }
    }

    pub(super) fn enter(&mut self, phase: PhaseName) {
        self.timers.clear();
        self.phase = phase;
        let now = self.now;
        if let Some(draft) = &mut self.draft {
            draft.enter(now, phase);
        }
        self.report(0, None);
    }

    pub(super) fn deadline(&mut self, timer: Timer, after: Duration) {
        self.timers.set(timer, self.now + after);
    }

    pub(super) fn report(&mut self, pages_arrived: u64, note: Option<String>) {
        self.reported = self.now;
        let vm = self.offer.as_ref().map(|offer| offer.vm.name.clone());
        let progress = Progress { phase: self.phase, vm, pages_arrived, pages: self.pages(), note };
        self.effect(Effect::Report(progress));
    }

    pub(super) fn report_is_due(&self) -> bool {
        self.now.since(self.reported) >= Duration::from_millis(200)
    }

    pub(super) fn pages(&self) -> u64 {
        self.offer.as_ref().map_or(0, ValidatedOffer::pages)
    }

    pub(super) fn receipt(&mut self) -> Option<&mut Receipt> {
        self.draft.as_mut().map(Draft::receipt_mut)
    }

    /// The VM's name, for a person; empty before the offer.
    pub(super) fn vm_name(&self) -> Option<&VmName> {
        self.offer.as_ref().map(|offer| &offer.vm.name)
    }

    pub(super) fn offered_run_state(&self) -> RunState {
        self.offer.as_ref().map_or(RunState::Running, |offer| offer.run_state)
    }

    pub(super) fn nonsense(&self, message: &Message) -> Reason {
        let peer = &self.welcome.peer;
        let cause = format!("{peer} said \"{}\" in the phase {}, where it means nothing", message.name(), self.phase);
        Reason::new(cause, format!("check that both hosts run builds that fit together: host show, on {peer} too"))
    }

    pub(super) fn late(&self, what: &str) -> Reason {
        let peer = &self.welcome.peer;
        Reason::new(
            format!("{peer} did not {what} in time"),
            format!("on {peer}: log show migrate, network migration-nic"),
        )
    }

    /// The last effect. `receipt` is the source's, if it came.
    pub(super) fn finish(
        &mut self,
        vm: VmNow,
        verdict: Verdict,
        reasons: &[Reason],
        receipt: Option<Receipt>,
    ) -> Finished {
        self.timers.clear();
        let now = self.now;
        let own = self.draft.as_mut().map(|draft| draft.close(now, verdict, reasons));
        // The source writes the receipt, unless it died before it could.
        let writes_receipt = verdict == Verdict::Moved && receipt.is_none();
        let diagnosis = match &self.offer {
            Some(offer) => diagnose(&offer.vm.name, verdict, &vm, &self.welcome.peer, reasons),
            None => {
                let what = format!("a migration from {} ended before it said which VM", self.welcome.peer);
                Some(Diagnosis::of(what, reasons.to_vec()))
            }
        };
        let outcome = Outcome {
            verdict,
            diagnosis,
            findings: std::mem::take(&mut self.findings),
            link: None,
            forecast: None,
            vm,
            receipt: receipt.or(own),
            writes_receipt,
        };
        self.effect(Effect::Finish(Box::new(outcome)));
        Finished
    }

    /// As far as this host knows the VM is where it was.
    pub(super) fn still_there(&self) -> VmNow {
        VmNow::On(self.welcome.peer.clone(), self.offered_run_state())
    }
}

/// What host-b shares when host-a has greeted it and offered a VM.
#[cfg(test)]
pub(super) fn example(offer: crate::wire::message::Offer) -> Context {
    use crate::session::Versions;
    use crate::wire::message::Hello;

    let (here, peer): (HostName, HostName) = ("host-b".parse().unwrap(), "host-a".parse().unwrap());
    let mut conversation = Conversation::new(Instant::ZERO, Versions::OURS);
    let hello = Hello { oldest: 1, newest: 1, migration: MigrationId(7), host: peer.clone(), build: String::new() };
    conversation.agree(&hello).unwrap();
    let welcome = Welcome { here, peer, build: String::new(), started_unix_s: 0 };
    let mut cx = Context::new(Instant::ZERO, welcome, conversation);
    cx.learn(ValidatedOffer::new(offer).unwrap());
    cx
}
