//! Rounds: pages travel while the guest runs.
//!
//! A round sends what was dirty, waits until the destination has stored it (so that nothing is queued anywhere when
//! the stun begins), harvests the dirty log and decides what follows.

use model::diagnosis::Reason;

use super::context::{Context, Ending};
use super::effect::{Effect, Input, PagesSent, Timer};
use super::greeting::end_without_guest;
use super::machine::{Phase, Step};
use super::pump::Pump;
use super::running::Running;
use super::stunned::Stunned;
use crate::convergence::{Convergence, Decision, Part, RoundMeasure};
use crate::forecast::DirtySample;
use crate::pages::PageSet;
use crate::session::PhaseName;
use crate::time::{Duration, Instant};
use crate::verify::RoundNumber;
use crate::wire::message::SwitchReady;
use crate::wire::{Message, ValidatedOffer};

/// The destination's VMM is built and its lease prepared within this time after the first round.
const SWITCH_READY: Duration = Duration::from_secs(60);
/// Between two looks at the dirty log while the destination gets ready.
const NEXT_HARVEST: Duration = Duration::from_millis(20);
/// The same while there is nothing to send, but the stun would take too long.
const IDLE_ROUND: Duration = Duration::from_millis(100);

/// Starting the vCPUs, where the rest was rehearsed.
const STARTING: Duration = Duration::from_millis(2);

/// What the phase waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// Batches of the round are on their way.
    Sending,
    /// The destination stores the last of them.
    Stored,
    /// The dirty log is being harvested.
    Harvest,
    /// The destination is not ready for the switchover.
    Ready,
}

/// What the link is expected to carry before the first round has shown it, bytes a second: what was measured, or most
/// of what the NIC tells.
fn expected_bandwidth(offer: &ValidatedOffer) -> u64 {
    let told = offer.source.nic.speed_mbits.map(|mbits| u64::from(mbits) * 100_000);
    offer.link.bandwidth_bytes_per_s.or(told).unwrap_or(100_000_000)
}

/// What to expect of the rounds before the first of them.
pub(super) fn expectation(cx: &Context) -> Convergence {
    let plan = &cx.plan;
    let (rtt, bandwidth) = (Duration::from_micros(plan.offer.link.rtt_us), expected_bandwidth(&plan.offer));
    Convergence::new(cx.now, plan.policy, plan.costs, plan.offer.state_bytes, rtt, bandwidth)
}

/// The rounds of a migration.
#[derive(Debug)]
pub struct Precopy {
    pub(super) pump: Pump,
    pub(super) convergence: Convergence,
    /// When the harvest that is waited for was asked for.
    pub(super) asked: Instant,
    /// Harvested and not yet sent.
    pub(super) pending: PageSet,
    pub(super) waiting: Waiting,
    pub(super) ready: bool,
    /// The guest was stunned and is being resumed: it does not run yet.
    pub(super) resuming: bool,
}

impl Precopy {
    pub(super) fn begin(cx: &mut Context, ready: Option<SwitchReady>, sample: DirtySample) -> Self {
        cx.enter(PhaseName::PreCopy);
        let pages = cx.plan.offer.pages();
        let mut convergence = expectation(cx);
        convergence.expect(sample);
        let pump = Pump::new(pages);
        let pending = PageSet::full(pages);
        let (waiting, asked) = (Waiting::Harvest, cx.now);
        let mut precopy = Self { pump, convergence, asked, pending, waiting, ready: false, resuming: false };
        precopy.harvest(cx);
        cx.deadline(Timer::SwitchReady, SWITCH_READY);
        if let Some(ready) = ready {
            precopy.note_ready(cx, ready);
        }
        precopy
    }

    /// Ends the migration; the guest runs, or is about to.
    pub fn abort(self, cx: &mut Context, ending: Ending) -> Running {
        if self.convergence.throttle_percent() > 0 {
            cx.effect(Effect::Throttle { percent: 0 });
        }
        cx.effect(Effect::StopDirtyLog);
        if self.resuming { Running::being_resumed(cx, ending) } else { Running::never_stopped(cx, ending) }
    }

    fn next_round(&mut self, cx: &mut Context) {
        let pages = cx.plan.offer.pages();
        let dirty = std::mem::replace(&mut self.pending, PageSet::empty(pages));
        self.waiting = Waiting::Sending;
        self.pump.start_round(cx, dirty);
        self.report(cx);
    }

    /// Pages that the round has still to send and that cost something.
    fn unsent(&self, cx: &Context) -> u64 {
        let (sent, pages) = self.pump.progress();
        if self.pump.round() > 1 {
            return pages - sent;
        }
        // The first round passes over all pages, and where those are that the guest never touched is not known.
        (u128::from(pages - sent) * u128::from(cx.plan.touched_pages) / u128::from(pages.max(1))) as u64
    }

    fn report(&self, cx: &mut Context) {
        let (sent, pages) = self.pump.progress();
        let prediction = self.convergence.predict(self.pending.count().max(self.unsent(cx)));
        let note = self.note(cx);
        cx.report(self.pump.round(), sent, pages, Some(prediction), note);
    }

    fn note(&self, cx: &Context) -> Option<String> {
        let percent = self.convergence.throttle_percent();
        let throttled = (percent > 0).then(|| format!("vCPUs that dirty are slowed by {percent} %"));
        let waiting = self.waiting == Waiting::Ready && !self.ready;
        throttled.or_else(|| waiting.then(|| format!("{} is getting ready", cx.plan.destination)))
    }

    fn harvest(&mut self, cx: &mut Context) {
        cx.timers.stop(Timer::NextHarvest);
        self.waiting = Waiting::Harvest;
        self.asked = cx.now;
        cx.effect(Effect::HarvestDirty);
    }

    fn sent(mut self, cx: &mut Context, sent: &PagesSent) -> Phase {
        if let Err(reason) = self.pump.sent(cx, sent) {
            return self.abort(cx, Ending::failed(reason)).settle(cx);
        }
        if self.pump.is_done() {
            self.waiting = Waiting::Stored;
        }
        if cx.report_is_due() {
            self.report(cx);
        }
        self.into()
    }

    fn stored(mut self, cx: &mut Context, round: RoundNumber) -> Phase {
        if round != self.pump.round() || self.waiting != Waiting::Stored {
            return self.into();
        }
        let measure = self.pump.close_round(cx);
        self.convergence.round_ended(measure);
        self.harvest(cx);
        self.into()
    }

    fn harvested(mut self, cx: &mut Context, dirty: &PageSet) -> Phase {
        if self.pump.round() == 0 {
            self.convergence.harvested(cx.now, cx.now.since(self.asked), 0);
            let left = self.convergence.predict(cx.plan.touched_pages).left_us;
            cx.draft.foresee(cx.now, left.map(Duration::from_micros));
            self.next_round(cx);
            return self.into();
        }
        self.convergence.harvested(cx.now, cx.now.since(self.asked), dirty.count());
        self.pending.union(dirty);
        cx.draft.receipt_mut().dirty_pages_per_s = self.convergence.dirty_pages_per_s();
        if self.waiting != Waiting::Harvest {
            return self.into();
        }
        // One that is being resumed cannot be stunned.
        if !self.ready || self.resuming {
            self.waiting = Waiting::Ready;
            cx.deadline(Timer::NextHarvest, NEXT_HARVEST);
            self.report(cx);
            return self.into();
        }
        self.decide(cx)
    }

    fn decide(mut self, cx: &mut Context) -> Phase {
        match self.convergence.decide(self.pending.count()) {
            Decision::NextRound if self.pending.is_empty() => {
                // Nothing to send, and no stun allowed: look again a little later, but not for ever.
                self.waiting = Waiting::Ready;
                self.convergence.round_ended(RoundMeasure { pages: 0, bytes: 0, took: IDLE_ROUND });
                cx.deadline(Timer::NextHarvest, IDLE_ROUND);
            }
            Decision::NextRound => self.next_round(cx),
            Decision::Throttle { percent } => {
                cx.effect(Effect::Throttle { percent });
                self.next_round(cx);
            }
            Decision::Stun => return Stunned::begin(self, cx).into(),
            Decision::GiveUp => {
                let reason = self.promise_cannot_be_kept(cx);
                return self.abort(cx, Ending::failed(reason)).settle(cx);
            }
        }
        self.into()
    }

    fn promise_cannot_be_kept(&self, cx: &Context) -> Reason {
        let prediction = self.convergence.predict(self.pending.count());
        let (took, most) = (prediction.stun_us / 1_000, self.convergence.policy().stun_max.millis());
        let vm = &cx.plan.offer.vm.name;
        let anyway = format!(
            "raise stun_ms_max in [migration] of the vm.toml of {vm}, or accept a stun of any length: --on-no-convergence force"
        );
        if let Some(parts) = self.convergence.what_takes_too_long() {
            let least = self.convergence.predict(0).stun_us / 1_000;
            let longest = parts.iter().max_by_key(|(_, takes)| *takes).map(|(part, _)| *part);
            let parts: Vec<_> = parts.iter().map(|(part, takes)| format!("{part} {} ms", takes.millis())).collect();
            let cause = format!(
                "the stun would take {least} ms with no page left to send, and {most} ms are accepted: {}",
                parts.join(", ")
            );
            let there = &cx.plan.destination;
            let mend = match longest {
                Some(Part::Lease | Part::Disks) => {
                    format!("on {there}: datastore list, log show lease; then try again")
                }
                Some(Part::Hashing) => format!("verify = \"audit\" in [migration] of the vm.toml of {vm}"),
                Some(Part::CalledOff) => format!("network ping {there}; datastore list; then try again"),
                _ => format!("network ping {there}; then try again"),
            };
            return Reason::new(cause, format!("{mend}, {anyway}"));
        }
        let cause = format!(
            "the stun would take {took} ms, and {most} ms are accepted: the guest dirties {} MiB/s and the link carries {} MiB/s",
            prediction.dirty_pages_per_s / 256,
            prediction.bandwidth_bytes_per_s >> 20,
        );
        let more =
            if self.convergence.policy().bounded { "let it take more of the link (--bandwidth-max), " } else { "" };
        Reason::new(cause, format!("{more}move it when it is calmer, {anyway}"))
    }

    fn note_ready(&mut self, cx: &mut Context, ready: SwitchReady) {
        self.ready = true;
        cx.timers.stop(Timer::SwitchReady);
        // A peer may say anything.
        let told = |us: u64| Duration::from_micros(us.min(10_000_000));
        let costs = self.convergence.costs_mut();
        costs.lease = told(ready.lease_us);
        if let Some(rehearsal) = ready.rehearsal {
            costs.state = told(rehearsal.state_us);
            // The lease is asked once more when the disks are there, which is a look and no round, and the vCPUs start.
            costs.resume = STARTING + told(rehearsal.disks_us) + costs.lease / 2;
        }
    }

    fn became_ready(mut self, cx: &mut Context, ready: SwitchReady) -> Phase {
        self.note_ready(cx, ready);
        if self.waiting == Waiting::Ready {
            self.harvest(cx);
        }
        self.into()
    }
}

impl Step for Precopy {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        match message {
            Message::RoundStored { round } => self.stored(cx, round),
            Message::SwitchReady(ready) => self.became_ready(cx, ready),
            other => {
                let reason = cx.nonsense(&other);
                self.lost(cx, reason)
            }
        }
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::PagesSent(sent) => self.sent(cx, &sent),
            Input::DirtyHarvested(Ok(dirty)) => self.harvested(cx, &dirty),
            Input::DirtyHarvested(Err(reason)) => self.lost(cx, reason),
            Input::GuestResumed(Ok(())) => Self { resuming: false, ..self }.into(),
            Input::GuestResumed(Err(reason)) => self.guest_gone(cx, reason),
            _ => self.into(),
        }
    }

    fn timeout(mut self, cx: &mut Context, timer: Timer) -> Phase {
        match timer {
            Timer::NextHarvest => {
                self.harvest(cx);
                self.into()
            }
            Timer::SwitchReady => {
                let reason = cx.late("get ready for the switchover");
                self.lost(cx, reason)
            }
            _ => self.into(),
        }
    }

    fn lost(self, cx: &mut Context, reason: Reason) -> Phase {
        self.abort(cx, Ending::failed(reason)).settle(cx)
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        let ending = Ending::cancelled(&cx.here());
        self.abort(cx, ending).settle(cx)
    }

    fn guest_gone(self, cx: &mut Context, reason: Reason) -> Phase {
        end_without_guest(cx, reason).into()
    }
}
