//! What goes wrong in a world, drawn from its seed.

use protocol::time::Duration;

use crate::rng::Rng;

/// Which of the fences of DESIGN.md, section 7, stand. Each is tested with the others switched off, under the faults
/// that it is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fences {
    /// The host's own clock: no process stops for long.
    Clock,
    /// The clock and a hardware watchdog: processes and whole hosts stop for any time, their clocks go on.
    Watchdog,
    /// The storage's locks: hosts may stop together with their clocks. Nothing resets them.
    Storage,
}

/// The faults of one world. Rates are parts per million of I/Os or messages; spans are means.
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    /// The fences that stand.
    pub(crate) fences: Fences,
    /// Most hosts have I/O of at most this, when nothing is wrong.
    pub(crate) latency_most: Duration,
    /// An I/O that takes up to twenty seconds.
    pub(crate) slow_ppm: u64,
    /// An I/O that is reported as failed; a write may have landed, may land late, torn, or never.
    pub(crate) fail_ppm: u64,
    /// A write that other I/O can see half done, or a read that sees two moments.
    pub(crate) split_ppm: u64,
    /// A message between hosts that is lost.
    pub(crate) message_loss_ppm: u64,
    /// Between two crashes of some host.
    pub(crate) crash_every: Option<Duration>,
    /// Between two deaths of some lease process.
    pub(crate) restart_every: Option<Duration>,
    /// Between two stops of some process or host.
    pub(crate) freeze_every: Option<Duration>,
    /// Between two cuts of some host from the datastore.
    pub(crate) cut_every: Option<Duration>,
    /// Between two actions of the operator.
    pub(crate) action_every: Duration,
    /// How long things go wrong.
    pub(crate) lasts: Duration,
    /// Largest deviation of a clock's rate from true time, parts per million.
    pub(crate) drift_ppm: u64,
}

impl Faults {
    /// The faults of a world with this luck.
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let fences = [Fences::Clock, Fences::Watchdog, Fences::Storage][rng.index(3)];
        let mut rare = |least: u64, most: u64| {
            let often = rng.chance(600_000);
            let span = rng.between(least, most);
            often.then(|| Duration::from_secs(span))
        };
        let (crash_every, restart_every) = (rare(10, 60), rare(5, 40));
        let (freeze_every, cut_every) = (rare(5, 40), rare(5, 40));
        let mut rate = |most: u64| if rng.chance(500_000) { rng.below(most) } else { 0 };
        Self {
            fences,
            slow_ppm: rate(20_000),
            fail_ppm: rate(50_000),
            split_ppm: rate(400_000),
            message_loss_ppm: rate(300_000),
            crash_every,
            restart_every,
            freeze_every,
            cut_every,
            latency_most: Duration::from_millis([2, 20, 200][rng.index(3)]),
            action_every: Duration::from_millis(rng.between(500, 4_000)),
            lasts: Duration::from_secs(rng.between(20, 90)),
            drift_ppm: [0, 4_900][rng.index(2)],
        }
    }

    /// The longest time for which the fences that stand allow a process or host to stop.
    pub(crate) fn freeze_most(&self) -> Duration {
        match self.fences {
            Fences::Clock => Duration::from_millis(900),
            Fences::Watchdog | Fences::Storage => Duration::from_secs(60),
        }
    }
}
