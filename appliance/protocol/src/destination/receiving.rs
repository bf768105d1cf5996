//! Pages arrive; meanwhile the VMM is built and phase 1 of the lease's next epoch is run.
//!
//! A round is stored when as many pages were stored or overtaken as the source says it had. The hand-over is complete
//! when all rounds are stored, no other record is being stored, and all of the state is there; then the digests must match, or nothing is committed.

use std::collections::BTreeMap;

use model::diagnosis::Reason;
use model::limits;
use model::vm_config::Verify;
use xxhash_rust::xxh3::xxh3_128;

use super::context::{Context, Ending};
use super::discarding::Discarding;
use super::effect::{Effect, Input, PagesStored, Timer};
use super::machine::{Phase, Step};
use super::phase_one::{Again, PhaseOne};
use super::verifying::Verifying;
use crate::session::PhaseName;
use crate::session::{ClockReading, LeaseAnswer, LeaseAsk};
use crate::time::{Duration, Instant};
use crate::verify::{PageTable, RoundNumber};
use crate::wire::Message;
use crate::wire::message::{HandOver, Rehearsal, StatePart, SwitchReady};

/// Between two attempts at phase 1.
const PREPARE_RETRY: Duration = Duration::from_millis(500);
/// What was handed over arrives within this time, or is given up.
const LAST_PAGES: Duration = Duration::from_secs(7);

/// How far a round is.
#[derive(Clone, Copy, Debug, Default)]
struct Arrivals {
    /// Pages that the round has, once it is told.
    pages: Option<u64>,
    /// Pages that were stored or overtaken.
    stored: u64,
    /// The source was told.
    told: bool,
}

/// Pages arrive.
#[derive(Debug)]
pub struct Receiving {
    table: PageTable,
    rounds: BTreeMap<RoundNumber, Arrivals>,
    /// Records that were admitted and are being stored.
    storing: u64,
    built: Option<Rehearsal>,
    prepared: Option<Duration>,
    phase_one: PhaseOne,
    asked: Instant,
    ready_told: bool,
    state: Vec<u8>,
    hand_over: Option<(HandOver, Instant)>,
    /// What the guest's clock should show, once the source has said it.
    clock: Option<ClockReading>,
}

impl Receiving {
    pub(super) fn begin(cx: &mut Context) -> Self {
        cx.enter(PhaseName::PreCopy);
        cx.say(&Message::Reserved);
        let audit = cx.offer.as_ref().is_some_and(|offer| offer.verify == Verify::Audit);
        let stun_max = Duration::from_micros(cx.offer.as_ref().map_or(0, |offer| offer.stun_us_max));
        cx.effect(Effect::BuildVmm { dirty_log: audit });
        cx.effect(Effect::Lease(LeaseAsk::Prepare));
        Self {
            table: PageTable::new(cx.pages()),
            rounds: BTreeMap::new(),
            storing: 0,
            built: None,
            prepared: None,
            phase_one: PhaseOne::new(stun_max),
            asked: cx.now,
            ready_told: false,
            state: Vec::new(),
            hand_over: None,
            clock: None,
        }
    }

    /// What lies in the guest's memory.
    pub fn table(&self) -> &PageTable {
        &self.table
    }

    /// A record is going to be stored.
    pub(super) fn admitted(&mut self) {
        self.storing += 1;
    }

    /// Ends the migration; the VM is the source's.
    pub fn discard(self, cx: &mut Context, ending: Ending) -> Discarding {
        Discarding::begin(cx, ending)
    }

    fn tell_if_ready(mut self, cx: &mut Context) -> Phase {
        if let (Some(_), Some(lease), false) = (self.built, self.prepared, self.ready_told) {
            self.ready_told = true;
            cx.say(&Message::SwitchReady(SwitchReady { lease_us: lease.micros(), rehearsal: self.built }));
        }
        self.into()
    }

    fn prepare(&mut self, cx: &mut Context) {
        self.asked = cx.now;
        cx.effect(Effect::Lease(LeaseAsk::Prepare));
    }

    fn prepared(mut self, cx: &mut Context, answer: &LeaseAnswer) -> Phase {
        match answer {
            LeaseAnswer::Prepared => {
                let (takes, again) = self.phase_one.took(cx.now.since(self.asked));
                match again {
                    Again::AtOnce => self.prepare(cx),
                    Again::Later => cx.deadline(Timer::Prepare, PREPARE_RETRY),
                    Again::Never => {
                        self.prepared = Some(takes);
                        return self.tell_if_ready(cx);
                    }
                }
                self.into()
            }
            LeaseAnswer::NotPrepared => self.into(),
            LeaseAnswer::Unknown { cause } => {
                let note = format!("the lease cannot be prepared yet: {cause}");
                cx.report(self.table.arrived(), Some(note));
                cx.deadline(Timer::Prepare, PREPARE_RETRY);
                self.into()
            }
            // The VM cannot come here, and still runs on the source: it is not to be stunned for this.
            LeaseAnswer::Damaged { cause } => {
                let hint = "host check tells what mends it, where the VM runs on no host".to_owned();
                self.lost(cx, Reason::new(cause.clone(), hint))
            }
            LeaseAnswer::Won { .. } | LeaseAnswer::Lost { .. } => {
                let cause = "the next epoch of the VM's lease was decided before the commit".to_owned();
                let hint = "vm migrate again: the next move uses the epoch after it".to_owned();
                self.lost(cx, Reason::new(cause, hint))
            }
        }
    }

    fn stored(mut self, cx: &mut Context, pages: &PagesStored) -> Phase {
        self.storing = self.storing.saturating_sub(1);
        for (page, hash) in &pages.stored {
            self.table.set(*page, pages.round, *hash);
        }
        let round = self.rounds.entry(pages.round).or_default();
        round.stored = round.stored.saturating_add(pages.covered);
        if cx.report_is_due() {
            cx.report(self.table.arrived(), None);
        }
        self.round_changed(cx, pages.round)
    }

    fn round_changed(mut self, cx: &mut Context, number: RoundNumber) -> Phase {
        let round = self.rounds.entry(number).or_default();
        if round.pages.is_some_and(|pages| round.stored > pages) {
            let cause = format!("more pages arrived of round {number} than it has");
            return self
                .lost(cx, Reason::new(cause, "this is a defect of Godwit; please report it with: host support"));
        }
        if round.pages == Some(round.stored) && !round.told {
            round.told = true;
            cx.say(&Message::RoundStored { round: number });
        }
        self.complete(cx)
    }

    fn round_end(mut self, cx: &mut Context, number: RoundNumber, pages: u64) -> Phase {
        self.rounds.entry(number).or_default().pages = Some(pages);
        self.round_changed(cx, number)
    }

    fn state_part(mut self, cx: &mut Context, part: &StatePart) -> Phase {
        if part.offset == 0 {
            self.state.clear();
        }
        if part.offset as usize != self.state.len() {
            return self.lost(cx, Reason::new("a part of the state is missing", "vm migrate again"));
        }
        self.state.extend_from_slice(&part.bytes);
        self.hear_clock(cx, part.clock_ns);
        self.into()
    }

    fn hear_clock(&mut self, cx: &Context, ns: Option<u64>) {
        let heard = ns.map(|ns| ClockReading::heard(cx.now, ns, rtt(cx)));
        self.clock = self.clock.into_iter().chain(heard).reduce(ClockReading::or_ahead);
    }

    fn handed_over(mut self, cx: &mut Context, hand_over: HandOver) -> Phase {
        if self.prepared.is_none() || self.built.is_none() {
            let cause = "the source handed over before this host was ready".to_owned();
            return self.lost(cx, Reason::new(cause, "vm migrate again"));
        }
        self.hand_over = Some((hand_over, cx.now));
        self.hear_clock(cx, hand_over.clock_ns);
        cx.deadline(Timer::LastPages, LAST_PAGES);
        self.complete(cx)
    }

    /// Goes on to the verification when everything has arrived.
    fn complete(self, cx: &mut Context) -> Phase {
        let Some((hand_over, since)) = self.hand_over else { return self.into() };
        let told = |number: RoundNumber| self.rounds.get(&number).is_some_and(|round| round.told);
        // What is no part of these rounds would be written after all was compared.
        if self.storing > 0 || !(1..=hand_over.last_round).all(told) {
            return self.into();
        }
        if let Some(cause) = self.mismatch(&hand_over) {
            let hint = "vm migrate again; if it happens again, check the memory and the NICs of both hosts";
            return self.lost(cx, Reason::new(cause, hint));
        }
        Verifying::begin(cx, self.table, self.state, hand_over, since, self.clock).into()
    }

    fn mismatch(&self, hand_over: &HandOver) -> Option<String> {
        if self.table.digest() != hand_over.digest {
            return Some("the pages that arrived are not the pages that were sent".to_owned());
        }
        let same = self.state.len() as u64 == u64::from(hand_over.state_bytes)
            && xxh3_128(&self.state) == hand_over.state_hash;
        (!same).then(|| "the state that arrived is not the state that was sent".to_owned())
    }
}

/// The round trip as the source measured it, at most what a link may have.
fn rtt(cx: &Context) -> Duration {
    let measured = cx.offer.as_ref().map_or(0, |offer| offer.link.rtt_us);
    Duration::from_micros(measured).min(Duration::from_millis(limits::MIGRATION_RTT_MS_MAX))
}

impl Step for Receiving {
    fn message(mut self, cx: &mut Context, message: Message) -> Phase {
        match message {
            Message::RoundEnd { round, pages } => self.round_end(cx, round, pages),
            Message::State(part) => self.state_part(cx, &part),
            Message::HandOver(hand_over) => self.handed_over(cx, hand_over),
            Message::StunCancelled => {
                self.state.clear();
                self.clock = None;
                self.into()
            }
            other => {
                let reason = cx.nonsense(&other);
                self.lost(cx, reason)
            }
        }
    }

    fn input(mut self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::PagesStored(pages) => self.stored(cx, &pages),
            Input::VmmBuilt(Ok(rehearsal)) => {
                self.built = Some(rehearsal);
                self.tell_if_ready(cx)
            }
            Input::VmmBuilt(Err(reason)) => self.lost(cx, reason),
            Input::Lease(_, answer) => self.prepared(cx, &answer),
            _ => self.into(),
        }
    }

    fn timeout(mut self, cx: &mut Context, timer: Timer) -> Phase {
        match timer {
            Timer::Prepare => {
                self.prepare(cx);
                self.into()
            }
            Timer::LastPages => {
                let reason = cx.late("send the last pages");
                self.lost(cx, reason)
            }
            _ => self.into(),
        }
    }

    fn lost(self, cx: &mut Context, reason: Reason) -> Phase {
        self.discard(cx, Ending::failed(reason)).into()
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        let ending = Ending::cancelled(&cx.welcome.here);
        self.discard(cx, ending).into()
    }

    fn guest_gone(self, cx: &mut Context, reason: Reason) -> Phase {
        self.lost(cx, reason)
    }
}

#[cfg(test)]
mod tests {
    use super::super::context;
    use super::*;
    use crate::checks::facts::example;
    use crate::destination::Finished;
    use crate::wire::FrameReader;
    use crate::wire::message::Offer;

    /// What is awaited and what the source was told of the lease, after phase 1 took these times one after the other.
    fn after_phase_one(took_ms: &[u64]) -> (usize, Option<u64>) {
        let mut cx = context::example(Offer { stun_us_max: 60_000, ..example::offer() });
        let mut phase: Phase = Receiving::begin(&mut cx).into();
        let mut step = |work: &mut dyn FnMut(Receiving) -> Phase| {
            let Phase::Receiving(receiving) = std::mem::replace(&mut phase, Finished.into()) else {
                panic!("{phase:?}")
            };
            phase = work(*receiving);
        };
        step(&mut |receiving| receiving.input(&mut cx, Input::VmmBuilt(Ok(Rehearsal::default()))));
        for ms in took_ms {
            if cx.timers.is_set(Timer::Prepare) {
                cx.timers.stop(Timer::Prepare);
                step(&mut |receiving| receiving.timeout(&mut cx, Timer::Prepare));
            }
            cx.now += Duration::from_millis(*ms);
            let answer = || Input::Lease(LeaseAsk::Prepare, LeaseAnswer::Prepared);
            step(&mut |receiving| receiving.input(&mut cx, answer()));
        }
        let mut told = None;
        let mut asked = 0;
        for effect in cx.effects {
            match effect {
                Effect::Lease(LeaseAsk::Prepare) => asked += 1,
                Effect::SendControl(bytes) => {
                    let mut reader = FrameReader::default();
                    reader.push(&bytes);
                    let frame = reader.next_frame().unwrap().unwrap();
                    if let Ok(Message::SwitchReady(ready)) = Message::decode(&frame, Some(1)) {
                        told = Some(ready.lease_us);
                    }
                }
                _ => {}
            }
        }
        (asked - took_ms.len(), told)
    }

    #[test]
    fn the_source_is_told_what_the_lease_takes_when_it_is_known_not_to_have_been_slow_by_accident() {
        assert_eq!(after_phase_one(&[]), (1, None));
        assert_eq!(after_phase_one(&[4]), (0, Some(4_000)));
        assert_eq!(after_phase_one(&[40]), (1, None), "it is asked once more before anything is told");
        assert_eq!(after_phase_one(&[40, 5]), (0, Some(5_000)));
        assert_eq!(after_phase_one(&[60, 55]), (0, None), "it stays slow: it is asked again a little later");
        assert_eq!(after_phase_one(&[60, 55, 52, 53]), (0, Some(52_000)));
    }
}
