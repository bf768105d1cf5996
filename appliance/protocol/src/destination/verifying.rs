//! Everything has arrived and matches. At the depth `full` all of memory is hashed; then the state is restored.
//!
//! In this order: restoring the state writes to memory, where KVM keeps the guest's clock.

use model::diagnosis::Reason;

use super::committing::Committing;
use super::context::{Context, Ending};
use super::discarding::Discarding;
use super::effect::{Effect, Input};
use super::machine::{Phase, Step};
use crate::session::{ClockReading, PhaseName};
use crate::time::Instant;
use crate::verify::{MemoryDigest, PageHash, PageTable};
use crate::wire::Message;
use crate::wire::message::{HandOver, Resumed};

/// Pages that are hashed at a time.
pub(super) const HASH_PAGES: u64 = 32_768;

/// The last phase that can be given up.
#[derive(Debug)]
pub struct Verifying {
    table: PageTable,
    hand_over: HandOver,
    timings: Resumed,
    /// What the guest's clock should show, where the source says it.
    clock: Option<ClockReading>,
    /// When what goes on began.
    began: Instant,
    memory: MemoryDigest,
    /// The state, until it is being restored.
    state: Option<Vec<u8>>,
}

impl Verifying {
    /// The hand-over arrived at `since`, and everything has by now.
    pub(super) fn begin(
        cx: &mut Context,
        table: PageTable,
        state: Vec<u8>,
        hand_over: HandOver,
        since: Instant,
        clock: Option<ClockReading>,
    ) -> Self {
        cx.enter(PhaseName::Verify);
        let timings = Resumed { last_pages_us: cx.now.since(since).micros(), ..Resumed::default() };
        let (began, memory, state) = (cx.now, MemoryDigest::default(), Some(state));
        let mut verifying = Self { table, hand_over, timings, clock, began, memory, state };
        if hand_over.memory_digest.is_some() {
            verifying.hash_next(cx);
        } else {
            verifying.load(cx);
        }
        verifying
    }

    /// Ends the migration; the VM is the source's, once it has won the epoch.
    pub fn discard(self, cx: &mut Context, ending: Ending) -> Discarding {
        Discarding::begin(cx, ending)
    }

    fn hash_next(&self, cx: &mut Context) {
        let first = self.memory.next_page();
        cx.effect(Effect::HashRange { first, count: HASH_PAGES.min(self.table.pages() - first) });
    }

    fn hashed(mut self, cx: &mut Context, hashes: &[PageHash]) -> Phase {
        self.memory.extend(hashes);
        if self.memory.next_page() < self.table.pages() {
            self.hash_next(cx);
            return self.into();
        }
        if self.hand_over.memory_digest != Some(self.memory.digest()) {
            let (here, source) = (&cx.welcome.here, &cx.welcome.peer);
            let cause = format!("the memory that arrived on {here} is not the memory of {source}");
            let hint = "vm migrate again, and report this with: host support".to_owned();
            return self.lost(cx, Reason::new(cause, hint));
        }
        self.timings.verify_us = cx.now.since(self.began).micros();
        self.load(cx);
        self.into()
    }

    fn load(&mut self, cx: &mut Context) {
        if let Some(state) = self.state.take() {
            self.began = cx.now;
            cx.effect(Effect::LoadState { state, clock: self.clock });
        }
    }

    fn loaded(mut self, cx: &mut Context) -> Phase {
        self.timings.restore_us = cx.now.since(self.began).micros();
        Committing::begin(cx, self.table, self.hand_over.run_state, self.timings).into()
    }
}

impl Step for Verifying {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        let reason = cx.nonsense(&message);
        self.lost(cx, reason)
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::StateLoaded(Ok(())) => self.loaded(cx),
            Input::StateLoaded(Err(reason)) => self.lost(cx, reason),
            Input::RangeHashed { first, hashes }
                if self.state.is_some() && first == self.memory.next_page() && !hashes.is_empty() =>
            {
                self.hashed(cx, &hashes)
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
