//! The guest is stopped; its last pages and its state travel.
//!
//! The source still has its right to run the VM: it may call the stun off when it becomes too long, and the rounds go
//! on, or abort. That ends with the hand-over.

use model::diagnosis::Reason;
use model::vm_config::Verify;
use xxhash_rust::xxh3::xxh3_128;

use super::context::{Context, Ending};
use super::effect::{Effect, Input, PagesSent, Stopped, Timer};
use super::greeting::end_without_guest;
use super::handed_over::HandedOver;
use super::machine::{Phase, Step};
use super::precopy::{Precopy, Waiting};
use super::pump::Pump;
use super::running::Running;
use super::stun::Stun;
use crate::convergence::{Convergence, NoConvergence};
use crate::pages::PageSet;
use crate::session::{ClockReading, PhaseName};
use crate::time::{Duration, Instant};
use crate::verify::MemoryDigest;
use crate::wire::Message;
use crate::wire::message::{HandOver, RunState, STATE_PART_BYTES_MAX, StatePart};

/// A stun that the operator forced is called off after this time all the same.
const FORCED_STUN: Duration = Duration::from_secs(60);
/// Pages that are hashed at a time.
pub(super) const HASH_PAGES: u64 = 32_768;

/// What the phase waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StunStep {
    Stop,
    Harvest,
    Sending,
    Hashing,
}

/// What is known of the guest once it stands still.
#[derive(Debug)]
struct Still {
    at: Instant,
    run_state: RunState,
    state_bytes: u32,
    state_hash: u128,
    clock: ClockReading,
}

/// A stun that can still be called off.
#[derive(Debug)]
pub struct Stunned {
    pump: Pump,
    convergence: Convergence,
    pending: PageSet,
    waiting: StunStep,
    began: Instant,
    still: Option<Still>,
    memory: MemoryDigest,
    /// When the hashing of memory began.
    hashing: Option<Instant>,
    /// The destination has stored the last pages.
    stored: bool,
    /// The stun is to be called off as soon as the guest stands still: it cannot be resumed before.
    call_off: Option<CallOff>,
}

#[derive(Debug)]
enum CallOff {
    /// And the rounds go on.
    Overrun,
    /// And the migration ends.
    Abort(Ending),
}

impl Stunned {
    pub(super) fn begin(precopy: Precopy, cx: &mut Context) -> Self {
        let Precopy { pump, convergence, pending, .. } = precopy;
        cx.draft.receipt_mut().predicted_stun_us = convergence.predict(pending.count()).stun_us;
        cx.enter(PhaseName::Stun);
        let forced = convergence.policy().no_convergence == NoConvergence::Force;
        cx.deadline(Timer::StunOverrun, if forced { FORCED_STUN } else { convergence.policy().stun_max });
        cx.effect(Effect::StunGuest);
        Self {
            pump,
            convergence,
            pending,
            waiting: StunStep::Stop,
            began: cx.now,
            still: None,
            memory: MemoryDigest::default(),
            hashing: None,
            stored: false,
            call_off: None,
        }
    }

    /// Ends the migration; the guest goes on here, as it was before the stun.
    pub fn abort(self, cx: &mut Context, ending: Ending) -> Running {
        if self.convergence.throttle_percent() > 0 {
            cx.effect(Effect::Throttle { percent: 0 });
        }
        cx.effect(Effect::StopDirtyLog);
        let right = cx.right();
        Running::resuming(cx, ending, right)
    }

    fn stopped(mut self, cx: &mut Context, stopped: Stopped) -> Phase {
        match self.call_off.take() {
            Some(CallOff::Overrun) => return self.call_off(cx).into(),
            Some(CallOff::Abort(ending)) => return self.abort(cx, ending).settle(cx),
            None => {}
        }
        let stun = &mut cx.draft.receipt_mut().stun;
        stun.stop_us = stopped.stop_us;
        stun.state_us = stopped.save_us;
        self.waiting = StunStep::Harvest;
        // The state is taken before the last harvest, because saving it may write to the guest's memory.
        cx.effect(Effect::HarvestDirty);
        let clock = ClockReading::new(cx.now, stopped.clock_ns);
        for (index, part) in stopped.state.chunks(STATE_PART_BYTES_MAX).enumerate() {
            let clock_ns = Some(clock.at(cx.now));
            let (total, offset) = (stopped.state.len() as u32, (index * STATE_PART_BYTES_MAX) as u32);
            cx.say(&Message::State(StatePart { total, offset, bytes: part.to_vec(), clock_ns }));
        }
        self.still = Some(Still {
            at: cx.now,
            run_state: stopped.run_state,
            state_bytes: stopped.state.len() as u32,
            state_hash: xxh3_128(&stopped.state),
            clock,
        });
        self.into()
    }

    fn harvested(mut self, cx: &mut Context, dirty: &PageSet) -> Phase {
        self.pending.union(dirty);
        let last = std::mem::replace(&mut self.pending, PageSet::empty(dirty.pages()));
        self.waiting = StunStep::Sending;
        self.pump.start_round(cx, last);
        if self.pump.is_done() {
            // Not one page: the round ends as it begins.
            cx.say(&Message::RoundEnd { round: self.pump.round(), pages: 0 });
            return self.all_sent(cx);
        }
        self.into()
    }

    fn sent(mut self, cx: &mut Context, sent: &PagesSent) -> Phase {
        if let Err(reason) = self.pump.sent(cx, sent) {
            return self.lost(cx, reason);
        }
        if self.pump.is_done() { self.all_sent(cx) } else { self.into() }
    }

    fn all_sent(mut self, cx: &mut Context) -> Phase {
        if cx.plan.offer.verify == Verify::Full {
            self.waiting = StunStep::Hashing;
            self.hashing = Some(cx.now);
            self.hash_next(cx);
            return self.into();
        }
        self.hand_over(cx)
    }

    fn hash_next(&self, cx: &mut Context) {
        let first = self.memory.next_page();
        let count = HASH_PAGES.min(cx.plan.offer.pages() - first);
        cx.effect(Effect::HashRange { first, count });
    }

    fn hand_over(mut self, cx: &mut Context) -> Phase {
        let Some(still) = self.still.take() else { return self.into() };
        self.pump.close_round(cx);
        let hashing = self.hashing.map_or(Duration::ZERO, |since| cx.now.since(since));
        let stun = &mut cx.draft.receipt_mut().stun;
        stun.last_pages_us = cx.now.since(still.at).saturating_sub(hashing).micros();
        stun.verify_us = hashing.micros();
        let full = cx.plan.offer.verify == Verify::Full;
        let hand_over = HandOver {
            last_round: self.pump.round(),
            digest: self.pump.table().digest(),
            memory_digest: full.then(|| self.memory.digest()),
            state_bytes: still.state_bytes,
            state_hash: still.state_hash,
            run_state: still.run_state,
            clock_ns: Some(still.clock.at(cx.now)),
        };
        HandedOver::begin(cx, &hand_over, Stun::new(self.began, still.clock)).into()
    }

    /// The guest asked for a reset in the last moment, and runs again: there was no stun, and what the reset took says nothing of the next.
    fn reset(mut self, cx: &mut Context) -> Phase {
        match self.call_off.take() {
            Some(CallOff::Abort(ending)) => self.abort(cx, ending).settle(cx),
            Some(CallOff::Overrun) | None => self.go_on(cx).into(),
        }
    }

    /// The stun took too long and is called off.
    fn call_off(mut self, cx: &mut Context) -> Precopy {
        self.convergence.stun_overran(cx.now.since(self.began));
        self.go_on(cx)
    }

    /// The guest goes on, and so do the rounds. What is being sent or harvested goes on too.
    fn go_on(self, cx: &mut Context) -> Precopy {
        cx.enter(PhaseName::PreCopy);
        let right = cx.right();
        cx.effect(Effect::ResumeGuest(right));
        cx.say(&Message::StunCancelled);
        let waiting = match self.waiting {
            StunStep::Stop => {
                cx.effect(Effect::HarvestDirty);
                Waiting::Harvest
            }
            StunStep::Harvest => Waiting::Harvest,
            StunStep::Sending => Waiting::Sending,
            StunStep::Hashing if !self.stored => Waiting::Stored,
            // Word that the last pages are stored has come already, and comes only once.
            StunStep::Hashing => {
                self.pump.close_round(cx);
                cx.effect(Effect::HarvestDirty);
                Waiting::Harvest
            }
        };
        Precopy {
            pump: self.pump,
            convergence: self.convergence,
            asked: cx.now,
            pending: self.pending,
            waiting,
            ready: true,
            resuming: true,
        }
    }
}

impl Step for Stunned {
    fn message(mut self, cx: &mut Context, message: Message) -> Phase {
        match message {
            Message::RoundStored { round } => {
                self.stored |= round == self.pump.round();
                self.into()
            }
            // Some builds tell anew how long their lease takes, whenever they have tried again.
            Message::SwitchReady(_) => self.into(),
            other => {
                let reason = cx.nonsense(&other);
                self.lost(cx, reason)
            }
        }
    }

    fn input(mut self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::GuestStunned(Ok(stopped)) => self.stopped(cx, stopped),
            Input::GuestReset => self.reset(cx),
            // What could not be stunned still runs, or its VMM says so when it is resumed.
            Input::GuestStunned(Err(reason)) => self.abort(cx, Ending::failed(reason)).settle(cx),
            Input::DirtyHarvested(Ok(dirty)) => self.harvested(cx, &dirty),
            Input::DirtyHarvested(Err(reason)) => self.lost(cx, reason),
            Input::PagesSent(sent) => self.sent(cx, &sent),
            Input::RangeHashed { first, hashes } if first == self.memory.next_page() && !hashes.is_empty() => {
                self.memory.extend(&hashes);
                if self.memory.next_page() < cx.plan.offer.pages() {
                    self.hash_next(cx);
                    return self.into();
                }
                self.hand_over(cx)
            }
            _ => self.into(),
        }
    }

    fn timeout(mut self, cx: &mut Context, timer: Timer) -> Phase {
        if timer != Timer::StunOverrun {
            return self.into();
        }
        if self.waiting == StunStep::Stop {
            self.call_off.get_or_insert(CallOff::Overrun);
            return self.into();
        }
        self.call_off(cx).into()
    }

    fn lost(mut self, cx: &mut Context, reason: Reason) -> Phase {
        let ending = Ending::failed(reason);
        if self.waiting == StunStep::Stop {
            self.call_off = Some(CallOff::Abort(ending));
            return self.into();
        }
        self.abort(cx, ending).settle(cx)
    }

    fn cancel(mut self, cx: &mut Context) -> Phase {
        let ending = Ending::cancelled(&cx.here());
        if self.waiting == StunStep::Stop {
            self.call_off = Some(CallOff::Abort(ending));
            return self.into();
        }
        self.abort(cx, ending).settle(cx)
    }

    fn guest_gone(self, cx: &mut Context, reason: Reason) -> Phase {
        end_without_guest(cx, reason).into()
    }
}
