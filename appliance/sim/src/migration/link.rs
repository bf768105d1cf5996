//! The connection: control messages arrive in order, records in any order; all of it can end at any time.

use protocol::time::{Duration, Instant};

use super::host::Side;
use crate::rng::Rng;

/// One connection between the two migration processes.
#[derive(Clone, Debug)]
pub struct Link {
    rng: Rng,
    one_way: Duration,
    /// Whether anything still arrives.
    pub carries: bool,
    /// Control messages that each side has sent.
    pub sent: [u64; 2],
    last_control: [Instant; 2],
}

impl Link {
    /// A fresh connection, over a link that takes so long at least, each way.
    pub fn new(rng: Rng, one_way: Duration) -> Self {
        Self { rng, one_way, carries: true, sent: [0; 2], last_control: [Instant::ZERO; 2] }
    }

    fn delay(&mut self) -> Duration {
        self.rng.latency(Duration::from_micros(100), Duration::from_millis(3))
    }

    /// When a control message that is sent now arrives, `later` than it would otherwise. Those after it do not overtake it.
    pub fn control_arrives(&mut self, now: Instant, from: Side, later: Duration) -> Instant {
        let at = (now + self.one_way + self.delay() + later).max(self.last_control[from.index()]);
        self.last_control[from.index()] = at;
        at
    }

    /// When a record that is sent now arrives: lost and sent again, it may be late.
    pub fn record_arrives(&mut self, now: Instant) -> Instant {
        let late = self.rng.chance(100_000);
        now + self.one_way + self.delay() + if late { self.delay() * 10 } else { Duration::ZERO }
    }
}
