//! What one measurement gives.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::world::carrier::Tally;

/// Payload, and the processor time of the thread at each end.
pub(crate) struct Figures {
    pub(crate) what: String,
    pub(crate) mtu: u16,
    pub(crate) gbits: f64,
    /// Gbit/s divided by the processors that the sender, and the receiver, kept busy.
    pub(crate) per_core: [f64; 2],
    /// What the wire says of it, where it says anything.
    pub(crate) wire: Option<Tally>,
}

impl Figures {
    pub(crate) fn new(what: String, mtu: u16, bytes: u64, time: Duration, busy: [Duration; 2]) -> Self {
        let per_core = busy.map(|busy| gbits(bytes, busy));
        Self { what, mtu, gbits: gbits(bytes, time), per_core, wire: None }
    }
}

fn gbits(bytes: u64, time: Duration) -> f64 {
    bytes as f64 * 8.0 / time.as_secs_f64() / 1e9
}

/// Processor time of this thread.
pub(crate) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The middle one by payload.
pub(crate) fn median(mut figures: Vec<Figures>) -> Figures {
    figures.sort_by(|one, other| one.gbits.total_cmp(&other.gbits));
    figures.swap_remove(figures.len() / 2)
}
