//! The congestion controller: tolerates random loss, yields to delay.
//!
//! A migration link is a short path that is mostly ours, where a lost packet is no sign of a full queue but a growing
//! round-trip time is. Once a round trip the controller looks at the least RTT of that round, which scheduling and
//! delayed acknowledgements inflate least, and at what was lost:
//!
//! - more than 3 % lost: the window falls by a fifth;
//! - a standing queue (RTT well over its least): it falls by a sixteenth, but not below what the path has delivered in
//!   a least RTT and the tolerated delay, so that a busy host does not talk itself down;
//! - no queue, and far below what filled the path before: it doubles;
//! - in between, and for some rounds after a fall: it grows by a sixteenth, or less near where the path was full;
//! - persistent congestion (RFC 9002 section 7.6): it falls by half.
//!
//! It grows only while it is what limits.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use quinn_proto::RttEstimator;
use quinn_proto::congestion::{Controller, ControllerFactory};

/// More lost than this in a round trip is congestion: 3 %.
const TOLERATED_LOSS: (u64, u64) = (3, 100);
/// A standing queue of so much is tolerated: receivers' batches, 1 ms of acknowledgement delay, waking up.
const TOLERATED_QUEUE: Duration = Duration::from_micros(1_500);
/// A window to which delay alone does not cut: what the slowest link that is not warned of (1 Gbit/s) carries in the
/// tolerated time. Delay that so little causes is not a queue on the wire but a host that is slow to answer.
const LEAST_BY_DELAY: u64 = 187_500;
/// Less than this is no queue.
const NO_QUEUE: Duration = Duration::from_micros(300);
/// Rounds after a fall in which the window grows slowly.
const CAREFUL_ROUNDS: u32 = 16;
/// Loss is judged over so many packets at least: of fewer, chance alone takes 3 %.
const JUDGED_PACKETS: u64 = 400;
const JUDGED_LOST_PACKETS: u64 = 8;
/// Shorter rounds tell nothing about a rate.
const LEAST_ROUND: Duration = Duration::from_micros(200);
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
    /// Whether the window doubles each round trip.
    doubling: bool,
    /// Rounds in which it does not, whatever the RTT.
    careful: u32,
    /// The window that filled the path when that was last seen: doubling towards it, not beyond.
    full: u64,
    /// The last round lost too much to grow on.
    losing: bool,
    in_flight: u64,
    /// Least RTT seen. quinn's own begins with a guess.
    least: Duration,
    round: Round,
    /// Bytes acknowledged or lost since loss was judged, and of these the lost ones.
    judged: (u64, u64),
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

fn is_congestion(carried: u64, lost: u64) -> bool {
    let (parts, of) = TOLERATED_LOSS;
    lost * of > carried * parts
}

impl Gentle {
    fn new(now: Instant, mtu: u16, meter: Arc<PathMeter>) -> Self {
        let mtu = u64::from(mtu);
        let window = FIRST_PACKETS * mtu;
        meter.window.store(window, Relaxed);
        Self {
            mtu,
            window,
            doubling: true,
            careful: 0,
            full: u64::MAX,
            losing: false,
            in_flight: 0,
            least: Duration::MAX,
            round: Round::new(now),
            judged: (0, 0),
            rates: VecDeque::with_capacity(10),
            meter,
        }
    }

    fn set_window(&mut self, window: u64) {
        self.window = window.clamp(LEAST_PACKETS * self.mtu, MOST_BYTES);
        self.meter.window.store(self.window, Relaxed);
    }

    /// What part of the acknowledged bytes the window grows by: all, a 16th, or a 64th near where the path was full.
    fn caution(&self) -> u64 {
        let near = self.full / 4 * 3..self.full.saturating_add(self.full / 8);
        match (self.doubling, near.contains(&self.window)) {
            (true, _) => 1,
            (false, true) => 64,
            (false, false) => 16,
        }
    }

    fn end_round(&mut self, now: Instant) {
        let least = self.least;
        let round = std::mem::replace(&mut self.round, Round::new(now));
        let elapsed = now.saturating_duration_since(round.began);
        if elapsed > Duration::ZERO {
            self.measured((round.acked as f64 / elapsed.as_secs_f64()) as u64, round.app_limited);
        }
        let queue = round.rtt_least.saturating_sub(least);
        self.careful = self.careful.saturating_sub(1);
        self.judged.0 += round.acked + round.lost;
        self.judged.1 += round.lost;
        let (carried, lost) = self.judged;
        let congested = is_congestion(carried, lost) && lost >= JUDGED_LOST_PACKETS * self.mtu;
        if congested || carried >= JUDGED_PACKETS * self.mtu {
            self.judged = (0, 0);
        }
        self.losing = is_congestion(round.acked + round.lost, round.lost) && round.lost > self.mtu;
        if congested {
            self.careful = CAREFUL_ROUNDS;
            self.set_window(self.window / 5 * 4);
            self.full = self.window;
        } else if queue > TOLERATED_QUEUE + least / 2 {
            if self.doubling {
                self.careful = CAREFUL_ROUNDS;
                self.full = self.window;
            }
            let carried = self.meter.rate() as f64 * (least + least / 2 + TOLERATED_QUEUE).as_secs_f64();
            let harmless = LEAST_BY_DELAY.max(carried as u64).min(self.window);
            self.set_window((self.window / 16 * 15).max(harmless));
        }
        let far_below = self.window < self.full / 2;
        self.doubling = self.careful == 0 && !self.losing && far_below && queue <= NO_QUEUE.max(least / 4);
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
        // Not the very best: after an acknowledgement that was lost, the next makes a round look faster than the line.
        let mut sorted: Vec<u64> = self.rates.iter().copied().collect();
        sorted.sort_unstable();
        self.meter.rate.store(sorted[sorted.len() - 1 - sorted.len() / 4], Relaxed);
    }
}

impl Controller for Gentle {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.meter.delivered.fetch_add(bytes, Relaxed);
        self.round.acked += bytes;
        self.round.app_limited |= app_limited;
        let sample = now.saturating_duration_since(sent);
        self.round.rtt_least = self.round.rtt_least.min(sample);
        self.least = self.least.min(sample);
        // What paces or what the caller holds back is no limit of the window's.
        let limits = self.in_flight + self.round.acked >= self.window / 2;
        if !app_limited && limits && !self.losing {
            self.set_window(self.window + bytes / self.caution());
        }
        if now.saturating_duration_since(self.round.began) >= rtt.get().max(LEAST_ROUND) {
            self.end_round(now);
        }
    }

    fn on_end_acks(&mut self, _now: Instant, in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        self.in_flight = in_flight;
        self.meter.in_flight.store(in_flight, Relaxed);
    }

    fn on_congestion_event(&mut self, _now: Instant, _sent: Instant, persistent: bool, lost_bytes: u64) {
        self.meter.lost.fetch_add(lost_bytes, Relaxed);
        self.round.lost += lost_bytes;
        if persistent {
            self.careful = CAREFUL_ROUNDS;
            self.doubling = false;
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
