//! Keeps the pages of a round flowing: a few batches at a time, so that the transport always has something to send
//! and never too much.

use std::collections::BTreeMap;

use model::diagnosis::Reason;

use super::context::Context;
use super::effect::{Batch, Effect, PagesSent};
use crate::convergence::RoundMeasure;
use crate::pages::{PageSet, Sweep, Window};
use crate::time::Duration;
use crate::verify::{PageTable, RoundNumber};
use crate::wire::Message;

/// Pages of a batch, about: 2 MiB.
pub const BATCH_PAGES: u64 = 512;
/// Batches that the transport may hold at once.
pub const BATCHES_IN_FLIGHT: usize = 4;

/// The pages that were sent, and those of the round that is on its way.
#[derive(Debug)]
pub struct Pump {
    table: PageTable,
    round: RoundNumber,
    sweep: Sweep,
    in_flight: BTreeMap<u32, Vec<Window>>,
    next_batch: u32,
    /// Pages of the round.
    pages: u64,
}

impl Pump {
    /// Nothing was sent yet of a guest with `pages` pages.
    pub fn new(pages: u64) -> Self {
        Self {
            table: PageTable::new(pages),
            round: 0,
            sweep: Sweep::default(),
            in_flight: BTreeMap::new(),
            next_batch: 0,
            pages: 0,
        }
    }

    /// The number of the round.
    pub fn round(&self) -> RoundNumber {
        self.round
    }

    /// What was sent of each page last.
    pub fn table(&self) -> &PageTable {
        &self.table
    }

    /// Whether every page of the round is in the transport's hands.
    pub fn is_done(&self) -> bool {
        self.sweep.left() == 0 && self.in_flight.is_empty()
    }

    /// Pages of the round, and those that are on their way.
    pub fn progress(&self) -> (u64, u64) {
        (self.pages - self.sweep.left(), self.pages)
    }

    /// Begins a round with these pages; the one before is done.
    pub fn start_round(&mut self, cx: &mut Context, pages: PageSet) {
        self.round += 1;
        self.pages = pages.count();
        cx.draft.begin_round(cx.now);
        self.sweep = Sweep::new(pages);
        self.fill(cx);
    }

    fn fill(&mut self, cx: &mut Context) {
        while self.in_flight.len() < BATCHES_IN_FLIGHT && self.sweep.left() > 0 {
            let windows = self.sweep.take(BATCH_PAGES);
            let id = self.next_batch;
            self.next_batch += 1;
            self.in_flight.insert(id, windows.clone());
            cx.effect(Effect::SendPages(Batch { id, round: self.round, windows }));
        }
    }

    /// The transport has taken a batch. When the round is done, the destination is told.
    ///
    /// # Errors
    /// The answer does not fit the batch: a defect of this host.
    pub fn sent(&mut self, cx: &mut Context, sent: &PagesSent) -> Result<(), Reason> {
        let windows = self.in_flight.remove(&sent.batch).unwrap_or_default();
        let pages: u64 = windows.iter().map(Window::count).sum();
        if pages == 0 || pages != sent.hashes.len() as u64 {
            let cause = format!("{} pages of a batch of {pages} were sent", sent.hashes.len());
            return Err(Reason::new(cause, "this is a defect of Godwit; please report it with what log show says"));
        }
        for (page, hash) in windows.iter().flat_map(Window::iter).zip(&sent.hashes) {
            self.table.set(page, self.round, *hash);
        }
        cx.draft.sent(pages, sent.zero_pages, sent.bytes);
        cx.draft.receipt_mut().compression_saved_bytes += sent.saved_bytes;
        self.fill(cx);
        if self.is_done() {
            cx.say(&Message::RoundEnd { round: self.round, pages: self.pages });
        }
        Ok(())
    }

    /// The round has ended; writes it down.
    pub fn close_round(&self, cx: &mut Context) -> RoundMeasure {
        let round = cx.draft.end_round(cx.now);
        RoundMeasure { pages: round.pages, bytes: round.bytes, took: Duration::from_micros(round.us) }
    }
}
