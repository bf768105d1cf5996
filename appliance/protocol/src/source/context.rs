//! What all phases of a source share.

use std::collections::VecDeque;

use model::diagnosis::Reason;
use model::names::HostName;
use model::receipt::Verdict;

use super::effect::{Effect, Progress, Timer};
use super::finished::Finished;
use crate::checks::Finding;
use crate::checks::link::Seen;
use crate::convergence::{Costs, Policy, Prediction};
use crate::forecast::Forecast;
use crate::session::PhaseName;
use crate::session::outcome::diagnose;
use crate::session::{Conversation, Draft, Outcome, Timers, VmNow};
use crate::time::{Duration, Instant};
use crate::wire::{Message, MigrationId, ValidatedOffer};

/// What is to be moved, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The migration; random.
    pub migration: MigrationId,
    /// Where to.
    pub destination: HostName,
    /// This host's build, for people.
    pub build: String,
    /// What the destination is told; the link as it is measured takes the place of what it says of the link.
    pub offer: ValidatedOffer,
    /// What the operator wants.
    pub policy: Policy,
    /// What is expected of the fixed parts of the stun.
    pub costs: Costs,
    /// Pages of the guest's memory that exist: it never touched the others, and sending them costs nothing.
    pub touched_pages: u64,
    /// The wall clock now, seconds since 1970-01-01 UTC.
    pub started_unix_s: u64,
}

/// Why a migration ends without the VM having moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Failed or cancelled.
    pub verdict: Verdict,
    /// Why, for a person; at least one.
    pub reasons: Vec<Reason>,
}

impl Ending {
    /// It failed.
    pub fn failed(reason: Reason) -> Self {
        Self { verdict: Verdict::Failed, reasons: vec![reason] }
    }

    /// A person wanted it so.
    pub fn cancelled(on: &HostName) -> Self {
        let reason = Reason::new(format!("it was cancelled on {on}"), "vm migrate starts it again");
        Self { verdict: Verdict::Cancelled, reasons: vec![reason] }
    }
}

/// What all phases share: the plan, the control stream, the timers, the receipt in the making, and the effects that
/// wait to be taken.
#[derive(Debug)]
pub struct Context {
    pub(super) plan: Plan,
    pub(super) now: Instant,
    pub(super) conversation: Conversation,
    pub(super) timers: Timers<Timer>,
    pub(super) effects: VecDeque<Effect>,
    pub(super) draft: Draft,
    pub(super) findings: Vec<Finding>,
    pub(super) link: Option<Seen>,
    pub(super) forecast: Option<Forecast>,
    pub(super) reported: Instant,
}

impl Context {
    pub(super) fn new(now: Instant, plan: Plan, conversation: Conversation) -> Self {
        let draft = Draft::new(now, plan.started_unix_s, plan.migration, &plan.offer, plan.destination.clone());
        Self {
            plan,
            now,
            conversation,
            timers: Timers::new(),
            effects: VecDeque::new(),
            draft,
            findings: Vec::new(),
            link: None,
            forecast: None,
            reported: Instant::ZERO,
        }
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    pub(super) fn say(&mut self, message: &Message) {
        if let Some(bytes) = self.conversation.say(self.now, message) {
            self.effect(Effect::SendControl(bytes));
        }
    }

    /// A new phase begins: its timers are its own.
    pub(super) fn enter(&mut self, phase: PhaseName) {
        self.timers.clear();
        self.draft.enter(self.now, phase);
        self.report(0, 0, 0, None, None);
    }

    pub(super) fn deadline(&mut self, timer: Timer, after: Duration) {
        self.timers.set(timer, self.now + after);
    }

    pub(super) fn report(
        &mut self,
        round: u16,
        pages_sent: u64,
        pages: u64,
        prediction: Option<Prediction>,
        note: Option<String>,
    ) {
        self.reported = self.now;
        let phase = self.draft.phase();
        self.effect(Effect::Report(Progress { phase, round, pages_sent, pages, prediction, note }));
    }

    /// Whether enough time has passed for another report of the same kind.
    pub(super) fn report_is_due(&self) -> bool {
        self.now.since(self.reported) >= Duration::from_millis(200)
    }

    pub(super) fn here(&self) -> HostName {
        self.plan.offer.source.host.clone()
    }

    pub(super) fn right(&self) -> crate::session::RightToRun {
        crate::session::RightToRun::never_given_up(self.plan.offer.epoch)
    }

    /// The peer said something that this phase does not expect.
    pub(super) fn nonsense(&self, message: &Message) -> Reason {
        let cause = format!(
            "{} said \"{}\" in the phase {}, where it means nothing",
            self.plan.destination,
            message.name(),
            self.draft.phase()
        );
        Reason::new(
            cause,
            format!("check that both hosts run builds that fit together: host show, on {} too", self.plan.destination),
        )
    }

    /// The peer did not say in time what it should have.
    pub(super) fn late(&self, what: &str) -> Reason {
        let peer = &self.plan.destination;
        Reason::new(
            format!("{peer} did not {what} in time"),
            format!("on {peer}: log show migrate, network migration-nic"),
        )
    }

    /// The last effect.
    pub(super) fn finish(&mut self, vm: VmNow, verdict: Verdict, reasons: &[Reason]) -> Finished {
        self.timers.clear();
        let pages_moved = !self.draft.receipt().phases.is_empty()
            && !matches!(self.draft.phase(), PhaseName::Probe | PhaseName::Offer);
        let receipt = self.draft.close(self.now, verdict, reasons);
        let diagnosis = diagnose(&self.plan.offer.vm.name, verdict, &vm, &self.here(), reasons);
        let receipt = pages_moved.then_some(receipt);
        let outcome = Outcome {
            verdict,
            diagnosis,
            findings: std::mem::take(&mut self.findings),
            link: self.link,
            forecast: self.forecast,
            vm,
            receipt,
            writes_receipt: true,
        };
        self.effect(Effect::Finish(Box::new(outcome)));
        Finished
    }

    /// The VM is on the source, in the state that it had when it was offered.
    pub(super) fn still_here(&self) -> VmNow {
        VmNow::On(self.here(), self.plan.offer.run_state)
    }
}
