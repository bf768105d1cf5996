//! The lease process of a host: the machine under test, what it is told, and what is done of what it wants.

use model::limits;
use protocol::lease::keeper::{Effect, Input, Keeper};
use protocol::lease::record::Watchdog;
use protocol::time::{Duration, Instant};

use super::event::Event;
use super::faults::Fences;
use super::guest::{Instance, Stage};
use super::wishes::Wish;
use super::world::World;

/// What a kill takes at most, less the time until the fence itself is begun.
const KILL_MOST: Duration = Duration::from_millis(limits::LEASE_KILL_MS - 100);
const WATCHDOG: Duration = Duration::from_millis(limits::LEASE_WATCHDOG_MS);

/// The lease process of a host.
#[derive(Debug)]
pub(crate) struct Process {
    /// Names it among all that this host had.
    pub(crate) serial: u64,
    /// The machine under test.
    pub(crate) keeper: Keeper,
    /// Only the newest timer counts.
    pub(crate) timer: u64,
}

impl World {
    pub(super) fn feed(&mut self, host: usize, input: Input) {
        let now = self.hosts[host].clock.shows(self.queue.now());
        if let Some(process) = &mut self.hosts[host].process {
            process.keeper.handle_input(now, input);
            self.pump(host);
        }
    }

    pub(super) fn timer(&mut self, host: usize, process: u64, timer: u64) {
        let now = self.hosts[host].clock.shows(self.queue.now());
        let Some(running) = self.hosts[host].process.as_mut().filter(|p| p.serial == process && p.timer == timer)
        else {
            return;
        };
        running.keeper.handle_timeout(now);
        self.pump(host);
    }

    fn pump(&mut self, host: usize) {
        let mut effects = Vec::new();
        while let Some(effect) = self.hosts[host].process.as_mut().and_then(|p| p.keeper.poll_effect()) {
            effects.push(effect);
        }
        for effect in effects {
            self.carry_out(host, effect);
        }
        let late = self.rng.span(Duration::ZERO, Duration::from_millis(5));
        let it = &mut self.hosts[host];
        let Some(process) = &mut it.process else { return };
        process.timer += 1;
        let (serial, timer) = (process.serial, process.timer);
        let at = it.clock.when(process.keeper.poll_timeout());
        if at < Instant::NEVER {
            self.queue.at(at.max(self.queue.now()) + late, Event::Timer { host, process: serial, timer });
        }
    }

    fn carry_out(&mut self, host: usize, effect: Effect) {
        let Some(process) = self.hosts[host].process.as_ref().map(|p| p.serial) else { return };
        match effect {
            Effect::Io(io) => {
                let dispatch = self.rng.span(Duration::ZERO, Duration::from_millis(2));
                self.queue.after(dispatch, Event::Issue { host, process, io });
            }
            Effect::Fence(why) => {
                self.outcome.counts.fences += 1;
                self.note(|| format!("host-{host} fences: {why:?}"));
                // All of the time that a kill may take is used, but for what a stop of the host may need of it.
                let stops = self.faults.fences == Fences::Clock && self.faults.freeze_every.is_some();
                let most = if stops {
                    KILL_MOST.saturating_sub(self.faults.freeze_most() + Duration::from_millis(300))
                } else {
                    KILL_MOST
                };
                let least = if self.rng.chance(500_000) { most / 2 } else { Duration::from_millis(5) };
                let takes = self.rng.span(least, most);
                let boot = self.hosts[host].boot;
                // A VM that hangs in the kernel does not die: the watchdog is there for that too.
                if self.faults.fences == Fences::Watchdog && self.rng.chance(100_000) {
                    return self.note(|| format!("host-{host} cannot kill its VMs"));
                }
                self.queue.after(takes, Event::Killed { host, boot, process });
            }
            Effect::FeedWatchdog => {
                let (now, boot) = (self.queue.now(), self.hosts[host].boot);
                self.hosts[host].fed = now;
                if self.faults.fences == Fences::Watchdog {
                    self.queue.after(WATCHDOG, Event::Watchdog { host, boot, fed: now });
                }
            }
            Effect::Reply(id, result) => {
                if let Some((_, wish)) = self.hosts[host].wishes.remove(&id) {
                    self.replied(host, wish, result);
                }
            }
            Effect::Remember(what) => self.hosts[host].remembered = what,
            Effect::Note(note) => self.note(|| format!("host-{host} notes {note:?}")),
        }
    }

    pub(super) fn killed(&mut self, host: usize, boot: u64, process: u64) {
        if self.hosts[host].boot != boot || !self.hosts[host].up {
            return;
        }
        for vm in 0..self.vms {
            self.destroy(host, vm);
        }
        self.hosts[host].incoming.clear();
        self.hosts[host].stale_until = Instant::ZERO;
        if self.hosts[host].has_process(process) {
            self.feed(host, Input::Killed);
        }
    }

    /// Did anybody feed it since?
    pub(super) fn watchdog(&mut self, host: usize, boot: u64, fed: Instant) {
        let it = &self.hosts[host];
        if it.up && it.boot == boot && it.fed == fed {
            self.note(|| format!("host-{host} is reset by its watchdog"));
            self.crash(host);
        }
    }

    pub(super) fn start_process(&mut self, host: usize) {
        let watchdog = if self.faults.fences == Fences::Watchdog { Watchdog::Hardware } else { Watchdog::None };
        let (now, chance) = (self.queue.now(), self.rng.next_u64());
        self.hosts[host].start_process(now, self.area, watchdog, chance);
        self.pump(host);
    }

    pub(super) fn lose_process(&mut self, host: usize) {
        if self.hosts[host].frozen.is_some() || self.hosts[host].process.is_none() {
            return;
        }
        self.note(|| format!("host-{host} loses its lease process"));
        let most = if self.faults.fences == Fences::Clock { 800 } else { 20_000 };
        let gone = self.rng.latency(Duration::from_millis(20), Duration::from_millis(most));
        self.blind(host, gone);
        self.call_for_rescue(host);
        let it = &mut self.hosts[host];
        it.process = None;
        it.incoming.clear();
        let boot = it.boot;
        let wishes: Vec<Wish> = std::mem::take(&mut it.wishes).into_values().map(|(_, wish)| wish).collect();
        for wish in wishes {
            match wish {
                Wish::Commit(vm, moving) => self.retry(host, Wish::ResolveDestination(vm, moving)),
                wish => self.retry(host, wish),
            }
        }
        self.queue.after(gone, Event::Restart { host, boot });
    }

    pub(super) fn restarted(&mut self, host: usize, boot: u64) {
        if !self.hosts[host].up || self.hosts[host].boot != boot || self.hosts[host].process.is_some() {
            return;
        }
        self.start_process(host);
        let running: Vec<(usize, Instance)> = self.hosts[host].instances.iter().map(|(vm, i)| (*vm, *i)).collect();
        for (vm, instance) in running {
            // A stopped VM asks about the next epoch by itself.
            if instance.stage != Stage::Stopped {
                self.retry(host, Wish::Confirm(vm, instance.id));
            }
        }
    }
}
