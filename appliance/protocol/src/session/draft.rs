//! A receipt in the making.

use model::diagnosis::Reason;
use model::names::HostName;
use model::receipt::{Audit, Phase, Receipt, Round, Stun, Verdict};

use crate::session::PhaseName;
use crate::time::{Duration, Instant};
use crate::wire::{MigrationId, ValidatedOffer};

/// What is written down while a migration goes on.
#[derive(Clone, Debug)]
pub struct Draft {
    receipt: Receipt,
    started: Instant,
    phase: Option<(PhaseName, Instant)>,
    /// The round that goes on, as far as it was sent, and since when.
    round: Option<(Round, Instant)>,
}

impl Draft {
    /// Starts at `now`, which is `started_unix_s` by the wall clock.
    pub fn new(
        now: Instant,
        started_unix_s: u64,
        migration: MigrationId,
        offer: &ValidatedOffer,
        destination: HostName,
    ) -> Self {
        let receipt = Receipt {
            id: migration.to_string(),
            vm: offer.vm.name.clone(),
            source: offer.source.host.clone(),
            destination,
            verdict: Verdict::Failed,
            reason: String::new(),
            epoch: offer.epoch,
            started_unix_s,
            total_us: 0,
            memory_bytes: offer.vm.memory.0,
            sent_bytes: 0,
            zero_pages: 0,
            compression_saved_bytes: 0,
            throughput_bytes_per_s: 0,
            dirty_pages_per_s: 0,
            clock_step_us: None,
            predicted_stun_us: 0,
            stun_max_us: offer.stun_us_max,
            stun: Stun::default(),
            audit: Audit::default(),
            phases: Vec::new(),
            rounds: Vec::new(),
            predicted_moved_us: None,
        };
        Self { receipt, started: now, phase: None, round: None }
    }

    /// What is written so far.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// The same, to write.
    pub fn receipt_mut(&mut self) -> &mut Receipt {
        &mut self.receipt
    }

    /// A phase begins, and the one before ends.
    pub fn enter(&mut self, now: Instant, name: PhaseName) {
        self.leave(now);
        self.phase = Some((name, now));
    }

    /// The phase that goes on.
    pub fn phase(&self) -> PhaseName {
        self.phase.map_or(PhaseName::Hello, |(name, _)| name)
    }

    fn leave(&mut self, now: Instant) {
        if let Some((name, since)) = self.phase.take() {
            self.receipt.phases.push(Phase { name: name.to_string(), us: now.since(since).micros() });
        }
    }

    /// The first round begins, and the VM will run on the destination after this time, if the rounds end.
    pub fn foresee(&mut self, now: Instant, left: Option<Duration>) {
        self.receipt.predicted_moved_us = left.map(|left| (now.since(self.started) + left).micros());
    }

    /// A round begins.
    pub fn begin_round(&mut self, now: Instant) {
        self.round = Some((Round::default(), now));
    }

    /// Pages of the round were sent: how many, how many of them zero, and the bytes of their records.
    pub fn sent(&mut self, pages: u64, zero_pages: u64, bytes: u64) {
        if let Some((round, _)) = &mut self.round {
            round.pages += pages;
            round.zero_pages += zero_pages;
            round.bytes += bytes;
        }
    }

    /// The round has ended, or is broken off; gives it as it is written down. Nothing happens where none goes on.
    pub fn end_round(&mut self, now: Instant) -> Round {
        let Some((mut round, since)) = self.round.take() else { return Round::default() };
        round.us = now.since(since).micros();
        self.receipt.rounds.push(round);
        let bytes: u64 = self.receipt.rounds.iter().map(|round| round.bytes).sum();
        let us: u64 = self.receipt.rounds.iter().map(|round| round.us).sum();
        self.receipt.sent_bytes = bytes;
        self.receipt.zero_pages = self.receipt.rounds.iter().map(|round| round.zero_pages).sum();
        self.receipt.throughput_bytes_per_s = (u128::from(bytes) * 1_000_000 / u128::from(us.max(1))) as u64;
        round
    }

    /// The receipt of a migration that ends now. A round that still goes on counts as far as it was sent.
    pub fn close(&mut self, now: Instant, verdict: Verdict, reasons: &[Reason]) -> Receipt {
        self.leave(now);
        self.end_round(now);
        let causes: Vec<_> = reasons.iter().map(|reason| reason.cause.as_str()).collect();
        self.receipt.verdict = verdict;
        self.receipt.reason = causes.join("; ");
        self.receipt.total_us = now.since(self.started).micros();
        self.receipt.clone()
    }
}
