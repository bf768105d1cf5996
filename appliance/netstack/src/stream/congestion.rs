//! The congestion controller: tolerates random loss, yields to delay.
//!
//! A migration link is a short path that is mostly ours, where a lost packet is no sign of a full queue but a growing
//! round-trip time is. Doubling each round trip until the RTT stands out; then a sixteenth of what is acknowledged,
//! as long as the window is what limits; once a round trip it steps back: by a fifth when more than 3 % were lost, by
//! a sixteenth when the RTT is well over its least, by half in persistent congestion (RFC 9002 section 7.6).

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

/// More lost than this in a round trip is congestion: 3 %.
const TOLERATED_LOSS: (u64, u64) = (3, 100);
/// How much the RTT may exceed its least at all, for the receiver's batches and the wake-up of processes.
const SLACK: Duration = Duration::from_micros(500);
const START_SLACK: Duration = Duration::from_micros(300);
const LEAST_PACKETS: u64 = 16;
const FIRST_PACKETS: u64 = 64;
/// quinn paces no window beyond 4 GiB; nothing here comes near.
const MOST_BYTES: u64 = 1 << 30;

/// What a controller knows of its path, readable while the connection owns the controller.
#[derive(Debug, Default)]
pub(crate) struct PathMeter {
    window: AtomicU64,
    in_flight: AtomicU64,
    delivered: AtomicU64,
    lost: AtomicU64,
    rate: AtomicU64,
}

impl PathMeter {
    /// Bytes that may be in flight.
    pub(crate) fn window(&self) -> u64 {
        self.window.load(Relaxed)
    }

    /// Bytes sent and neither acknowledged nor lost, as of the last acknowledgement.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Bytes acknowledged so far.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Relaxed)
    }

    /// Bytes lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Bytes a second: the best of the last rounds.
    pub(crate) fn rate(&self) -> u64 {
        self.rate.load(Relaxed)
    }
}

/// Makes one controller for one connection.
#[derive(Debug)]
pub(crate) struct Factory {
    pub(crate) meter: Arc<PathMeter>,
}

impl ControllerFactory for Factory {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        Box::new(Gentle::new(now, mtu, Arc::clone(&self.meter)))
    }
}

/// The controller.
#[derive(Debug, Clone)]
pub(crate) struct Gentle {
    mtu: u64,
    window: u64,
    starting: bool,
    round: Round,
    rates: VecDeque<u64>,
    meter: Arc<PathMeter>,
}

/// What is counted in one round trip.
#[derive(Debug, Clone, Copy)]
struct Round {
    began: Instant,
    acked: u64,
    lost: u64,
    rtt_least: Duration,
    app_limited: bool,
}

impl Round {
    fn new(now: Instant) -> Self {
        Self { began: now, acked: 0, lost: 0, rtt_least: Duration::MAX, app_limited: false }
    }
}

impl Gentle {
    fn new(now: Instant, mtu: u16, meter: Arc<PathMeter>) -> Self {
        let mtu = u64::from(mtu);
        let window = FIRST_PACKETS * mtu;
        meter.window.store(window, Relaxed);
        Self { mtu, window, starting: true, round: Round::new(now), rates: VecDeque::with_capacity(10), meter }
    }

    fn set_window(&mut self, window: u64) {
        self.window = window.clamp(LEAST_PACKETS * self.mtu, MOST_BYTES);
        self.meter.window.store(self.window, Relaxed);
    }

    fn end_round(&mut self, now: Instant, rtt: &RttEstimator) {
        let round = std::mem::replace(&mut self.round, Round::new(now));
        let least = rtt.min();
        let (loss_parts, loss_of) = TOLERATED_LOSS;
        if round.lost * loss_of > (round.acked + round.lost) * loss_parts {
            self.starting = false;
            self.set_window(self.window / 5 * 4);
        } else if self.starting && round.rtt_least > least + (least / 4).max(START_SLACK) {
            self.starting = false;
        } else if round.rtt_least > least + least / 2 + SLACK {
            self.set_window(self.window / 16 * 15);
        }
        let elapsed = now.saturating_duration_since(round.began);
        if elapsed > Duration::ZERO {
            let rate = (round.acked as f64 / elapsed.as_secs_f64()) as u64;
            self.measured(rate, round.app_limited);
        }
    }

    /// A round in which the application had nothing to send tells how much it sent, not what the path carries.
    fn measured(&mut self, rate: u64, app_limited: bool) {
        let best = self.rates.iter().copied().max().unwrap_or(0);
        if app_limited && rate < best {
            return;
        }
        if self.rates.len() == 10 {
            self.rates.pop_front();
        }
        self.rates.push_back(rate);
        self.meter.rate.store(self.rates.iter().copied().max().unwrap_or(0), Relaxed);
    }
}

impl Controller for Gentle {
    fn on_ack(&mut self, now: Instant, _sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.meter.delivered.fetch_add(bytes, Relaxed);
        self.round.acked += bytes;
        self.round.app_limited |= app_limited;
        self.round.rtt_least = self.round.rtt_least.min(rtt.conservative());
        if !app_limited {
            let growth = if self.starting { bytes } else { bytes / 16 };
            self.set_window(self.window + growth);
        }
        if now.saturating_duration_since(self.round.began) >= rtt.get().max(Duration::from_micros(200)) {
            self.end_round(now, rtt);
        }
    }

    fn on_end_acks(&mut self, _now: Instant, in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        self.meter.in_flight.store(in_flight, Relaxed);
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, persistent: bool, lost_bytes: u64) {
        self.meter.lost.fetch_add(lost_bytes, Relaxed);
        self.round.lost += lost_bytes;
        if persistent {
            self.starting = false;
            self.set_window(self.window / 2);
        }
    }

    fn on_mtu_update(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
        self.set_window(self.window.max(FIRST_PACKETS * self.mtu));
    }

    fn window(&self) -> u64 {
        self.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        FIRST_PACKETS * self.mtu
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
