//! What goes wrong in a world: drawn from its seed, and how it happens.

use protocol::lease::deaths::Deaths;
use protocol::time::{Duration, Instant};

use super::event::Event;
use super::host::Frozen;
use super::world::World;
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
    /// A stun that the source calls off before it tells the destination to take the VM; it stuns again later.
    pub(crate) called_off_ppm: u64,
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
    /// How long the server keeps the locks of a client that it does not hear of: less than the expiry of a host lease, so that a VM may
    /// start elsewhere at once, or so long that nobody waits for it.
    pub(crate) server_lease: Duration,
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
        let slow_ppm = rate(20_000);
        Self {
            fences,
            slow_ppm,
            // In three of four worlds as servers come.
            server_lease: Duration::from_secs(if slow_ppm % 2 == 0 { 60 } else { 11 }),
            fail_ppm: rate(50_000),
            split_ppm: rate(400_000),
            message_loss_ppm: rate(300_000),
            called_off_ppm: 0,
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

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A host loses power.
    Crash,
    /// A lease process dies.
    Restart,
    /// A process or host stops for a while.
    Freeze,
    /// A host does not reach the datastore for a while.
    Cut,
}

impl World {
    pub(super) fn fault(&mut self, fault: Fault) {
        if self.healed {
            return;
        }
        let every = match fault {
            Fault::Crash => self.faults.crash_every,
            Fault::Restart => self.faults.restart_every,
            Fault::Freeze => self.faults.freeze_every,
            Fault::Cut => self.faults.cut_every,
        };
        let next = self.rng.span(Duration::ZERO, every.unwrap_or_default() * 2);
        self.queue.after(next, Event::Fault(fault));
        let host = self.rng.index(self.hosts.len());
        if !self.hosts[host].up {
            return;
        }
        match fault {
            Fault::Crash => {
                self.note(|| format!("host-{host} loses power"));
                self.crash(host);
            }
            Fault::Restart => self.lose_process(host),
            Fault::Freeze => self.freeze(host),
            Fault::Cut if self.rng.chance(300_000) => {
                self.note(|| format!("the answers to host-{host} are late"));
                self.hosts[host].lags = true;
                let lasts = self.rng.span(Duration::from_secs(1), Duration::from_secs(8));
                self.queue.after(lasts, Event::Sever { host });
            }
            Fault::Cut => self.sever(host),
        }
    }

    pub(super) fn crash(&mut self, host: usize) {
        let off = self.rng.span(Duration::from_secs(1), Duration::from_secs(20));
        let now = self.queue.now();
        let it = &mut self.hosts[host];
        it.clock.go_on(now);
        it.up = false;
        it.process = None;
        it.frozen = None;
        it.deferred.clear();
        it.instances.clear();
        it.wishes.clear();
        it.incoming.clear();
        it.remembered = None;
        it.stale_until = Instant::ZERO;
        it.deaths = Deaths::default();
        self.queue.after(off, Event::Boot { host });
    }

    pub(super) fn boot(&mut self, host: usize) {
        if self.hosts[host].up {
            return;
        }
        self.note(|| format!("host-{host} boots"));
        self.hosts[host].up = true;
        self.hosts[host].boot += 1;
        self.start_process(host);
    }

    fn freeze(&mut self, host: usize) {
        if self.hosts[host].frozen.is_some() {
            return;
        }
        let lasts = self.rng.latency(Duration::from_millis(10), self.faults.freeze_most());
        let whole = self.faults.fences == Fences::Clock || self.rng.chance(500_000);
        let now = self.queue.now();
        self.hosts[host].frozen = Some(if whole { Frozen::Host } else { Frozen::Process });
        let clock_stops = whole && self.faults.fences == Fences::Storage && self.rng.chance(700_000);
        if clock_stops {
            self.hosts[host].clock.stop(now);
        }
        self.note(|| format!("host-{host} stops ({}) for {lasts}", if whole { "all of it" } else { "lease" }));
        self.blind(host, lasts);
        self.call_for_rescue(host);
        self.queue.after(lasts, Event::Thaw { host });
    }

    /// With no other fence than the storage's, a host whose lease process is away may run VMs that have another
    /// runner by now; their writes are refused, and they end soon after the lease process is back.
    pub(super) fn blind(&mut self, host: usize, lasts: Duration) {
        if self.faults.fences == Fences::Storage && lasts > Duration::from_secs(1) {
            let until = self.queue.now() + lasts + Duration::from_secs(15);
            self.hosts[host].stale_until = until.max(self.hosts[host].stale_until);
        }
    }

    pub(super) fn thaw(&mut self, host: usize) {
        let now = self.queue.now();
        let it = &mut self.hosts[host];
        if it.frozen.take().is_none() {
            return;
        }
        it.clock.go_on(now);
        let mut deferred = std::mem::take(&mut it.deferred);
        self.note(|| format!("host-{host} goes on"));
        // Nobody promises in which order what waited is served.
        self.rng.shuffle(&mut deferred);
        for event in deferred {
            let delay = self.rng.span(Duration::ZERO, Duration::from_millis(3));
            self.queue.after(delay, event);
        }
        if let Some(process) = &mut self.hosts[host].process {
            process.timer += 1;
            let (serial, timer) = (process.serial, process.timer);
            let delay = self.rng.span(Duration::ZERO, Duration::from_millis(3));
            self.queue.after(delay, Event::Timer { host, process: serial, timer });
        }
        for vm in 0..self.vms {
            if self.hosts[host].executes(vm) {
                self.check_runner(host, vm);
            }
        }
    }

    pub(super) fn sever(&mut self, host: usize) {
        if self.healed {
            return;
        }
        self.note(|| format!("host-{host} is cut off"));
        self.call_for_rescue(host);
        self.hosts[host].lags = false;
        self.hosts[host].cut = true;
        let lasts = self.rng.latency(Duration::from_millis(100), Duration::from_secs(40));
        self.queue.after(lasts, Event::Mend { host });
    }

    pub(super) fn mend(&mut self, host: usize) {
        self.hosts[host].cut = false;
        self.hosts[host].lags = false;
    }

    pub(super) fn heal(&mut self) {
        self.note(|| "all heals".to_owned());
        self.healed = true;
        self.faults.slow_ppm = 0;
        self.faults.fail_ppm = 0;
        for host in 0..self.hosts.len() {
            self.mend(host);
            self.thaw(host);
        }
    }
}
