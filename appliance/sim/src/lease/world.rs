//! The world: hosts that keep leases on one datastore, what they do, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet};

use model::limits;
use model::names::VmName;
use protocol::lease::identity::{AreaId, Epoch};
use protocol::lease::keeper::{Access, Effect, Input, Io, IoId, IoResult};
use protocol::lease::layout::{Area, Geometry};
use protocol::lease::record::Watchdog;
use protocol::lease::vm_lease::{Answer, LeaseError, Request, Take};
use protocol::time::{Duration, Instant};

use super::clock::Clock;
use super::disk::{Client, Disk, Locks};
use super::faults::{Faults, Fences};
use super::host::{Frozen, Host, Instance, Move, Stage, Wish};
use super::invariants::{Checker, Invariant};
use super::seeds::{Outcome, Size};
use crate::events::EventQueue;
use crate::rng::Rng;

const IO_BOUND: Duration = Duration::from_millis(limits::LEASE_IO_BOUND_MS);
/// What a kill takes at most, less the time until the fence itself is begun.
const KILL_MOST: Duration = Duration::from_millis(limits::LEASE_KILL_MS - 100);
const WATCHDOG: Duration = Duration::from_millis(limits::LEASE_WATCHDOG_MS);
/// A little less than what a writer waits by its own clock, which may be fast.
const LATE_MOST: Duration = Duration::from_millis(limits::LEASE_SETTLE_MS * 9 / 10);
const HEALTHY: Duration = Duration::from_secs(90);

/// What is going to happen.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A lease process wakes.
    Timer { host: usize, process: u64, timer: u64 },
    /// An I/O is handed to the kernel.
    Issue { host: usize, process: u64, io: Io },
    /// A part of a read sees the disk.
    Sample { buffer: u64, from: usize, to: usize, offset: u64 },
    /// A part of a write reaches the disk.
    Land { offset: u64, data: Vec<u8> },
    /// An I/O ends.
    Return { host: usize, process: u64, io: IoId, buffer: Option<u64>, result: Ending },
    /// The VMs of a host are dead, as a fence asked.
    Killed { host: usize, boot: u64, process: u64 },
    /// A VM writes to its disk.
    Guest { host: usize, vm: usize, instance: u64 },
    /// Such a write arrives.
    GuestLand { host: usize, client: Client, vm: usize, instance: u64, epoch: Epoch },
    /// A VM asks for the lock of its disk.
    Lock { host: usize, vm: usize, instance: u64 },
    /// A host tells another.
    Message { to: usize, vm: usize, message: Message, moving: Move },
    /// The source of a move has waited for long enough.
    Patience { host: usize, vm: usize, instance: u64 },
    /// The same request again.
    Again { host: usize, vm: usize, wish: Wish },
    /// The operator does something.
    Operator,
    /// Somebody wants the VMs of a host that seems to be in trouble to run elsewhere, as soon as they may.
    Rescue { vm: usize, from: usize, until: Instant },
    /// Something goes wrong.
    Fault(Fault),
    /// A host gets power.
    Boot { host: usize },
    /// A lease process is started.
    Restart { host: usize, boot: u64 },
    /// What was stopped goes on.
    Thaw { host: usize },
    /// A host that was slow to hear of its I/O hears of none any more.
    Sever { host: usize },
    /// A host reaches the datastore again.
    Mend { host: usize },
    /// Did anybody feed the watchdog since?
    Watchdog { host: usize, boot: u64, fed: Instant },
    /// From now on nothing goes wrong.
    Heal,
    /// The kernel's NFS clients speak to the server.
    Hear,
}

/// How an I/O ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Well.
    Done,
    /// It failed.
    Failed,
}

/// What hosts tell each other in a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Source to destination: be the destination.
    Invite,
    /// Destination to source: prepared.
    Ready,
    /// Source to destination: the VM is stopped; I resume only if I win the epoch.
    Stopped,
    /// Destination to source: I run it.
    Done,
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

/// A world under way.
#[derive(Debug)]
pub(crate) struct World {
    rng: Rng,
    faults: Faults,
    area: Area,
    queue: EventQueue<Event>,
    disk: Disk,
    locks: Locks,
    hosts: Vec<Host>,
    vms: usize,
    checker: Checker,
    healed: bool,
    buffers: BTreeMap<u64, Vec<u8>>,
    /// Instances that were stopped in order, and the epoch in which they ran.
    drained: BTreeSet<(u64, Epoch)>,
    counter: u64,
    outcome: Outcome,
    traced: bool,
}

fn vm_name(vm: usize) -> VmName {
    format!("vm-{vm}").parse().expect("a VM name")
}

/// When an I/O that `takes` so long and `ends` then meets the disk: at any moment of it, or, where only the answer or only
/// the question is late, at its begin or its end.
fn when(rng: &mut Rng, ends: Instant, takes: Duration, lags: bool) -> Instant {
    match rng.below(4) {
        0 if lags => ends,
        1 | 2 if lags => ends - takes,
        _ => ends - rng.span(Duration::ZERO, takes),
    }
}

impl World {
    /// The world of this seed. With `traced` it keeps a diary.
    pub(crate) fn new(seed: u64, size: Option<Size>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let faults = Faults::draw(&mut rng);
        let size = size.unwrap_or_else(|| Size { hosts: rng.between(2, 5) as usize, vms: rng.between(1, 4) as usize });
        let stride = [512, 4_096][rng.index(2)];
        let slots = size.hosts as u64 + rng.below(3);
        let geometry = Geometry::new(stride, slots as u16, size.vms as u16).expect("a valid geometry");
        let area = Area { id: AreaId(u128::from(rng.next_u64())), geometry };
        let mut world = Self {
            disk: Disk::new(geometry.area_bytes()),
            rng,
            faults,
            area,
            queue: EventQueue::new(),
            locks: Locks::default(),
            hosts: Vec::new(),
            vms: size.vms,
            checker: Checker::default(),
            healed: false,
            buffers: BTreeMap::new(),
            drained: BTreeSet::new(),
            counter: 0,
            outcome: Outcome {
                events: 0,
                starts: 0,
                moves: 0,
                takeovers: 0,
                fences: 0,
                violation: None,
                trace: Vec::new(),
            },
            traced,
        };
        world.populate(size.hosts);
        world
    }

    fn populate(&mut self, hosts: usize) {
        let drift = self.faults.drift_ppm as i64;
        // In some worlds all hosts boot at once and want the same slot.
        let spread = Duration::from_millis([200, 3_000][self.rng.index(2)]);
        let alike = self.rng.chance(500_000);
        for index in 0..hosts {
            let origin = Instant::ZERO + self.rng.span(Duration::ZERO, Duration::from_secs(100_000));
            let gain = self.rng.between(0, 2 * drift as u64) as i64 - drift;
            let slots = u128::from(self.area.geometry.slots());
            let drawn = u128::from(self.rng.next_u64());
            let identity = if alike { drawn - drawn % slots } else { drawn };
            self.hosts.push(Host::new(index, identity, Clock::new(Instant::ZERO, origin, gain)));
            let boot = self.rng.span(Duration::ZERO, spread);
            self.queue.after(boot, Event::Boot { host: index });
        }
        self.queue.after(self.faults.lasts, Event::Heal);
        self.queue.after(self.faults.action_every, Event::Operator);
        self.queue.after(Duration::from_secs(1), Event::Hear);
        let f = self.faults.clone();
        for (every, fault) in [
            (f.crash_every, Fault::Crash),
            (f.restart_every, Fault::Restart),
            (f.freeze_every, Fault::Freeze),
            (f.cut_every, Fault::Cut),
        ] {
            if let Some(every) = every {
                let first = self.rng.span(Duration::from_secs(2), every * 2);
                self.queue.after(first, Event::Fault(fault));
            }
        }
    }

    /// Runs to the end, or to the first broken promise.
    pub(crate) fn run(mut self) -> Outcome {
        let end = Instant::ZERO + self.faults.lasts + HEALTHY;
        while self.checker.violation().is_none() && self.queue.next_at().is_some_and(|at| at <= end) {
            let Some(event) = self.queue.next() else { break };
            self.handle(event);
        }
        self.check_end();
        self.outcome.events = self.queue.handled();
        self.outcome.violation = self.checker.violation().cloned();
        self.outcome
    }

    fn check_end(&mut self) {
        for vm in 0..self.vms {
            if !self.hosts.iter().any(|host| host.executes(vm)) {
                let what = format!("vm-{vm} runs nowhere {HEALTHY} after the last fault");
                self.checker.broken(Invariant::EveryAcquireEndsOnceFaultsHeal, what);
            }
        }
        let now = self.queue.now();
        for host in &self.hosts {
            for (began, wish) in host.wishes.values() {
                if now.since(*began) > Duration::from_secs(60) {
                    let what = format!("host-{} waits since {began} for {wish:?}", host.index);
                    self.checker.broken(Invariant::EveryRequestEnds, what);
                }
            }
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.traced {
            let line = format!("{} {}", self.queue.now(), what());
            self.outcome.trace.push(line);
        }
    }

    fn name(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    /// Whether an event concerns something that is stopped: then it happens when that goes on.
    fn defers(&self, event: &Event) -> Option<usize> {
        let (host, process_only) = match event {
            Event::Timer { host, .. } | Event::Issue { host, .. } | Event::Return { host, .. } => (*host, true),
            Event::Killed { host, .. }
            | Event::Guest { host, .. }
            | Event::Lock { host, .. }
            | Event::Patience { host, .. }
            | Event::Restart { host, .. }
            | Event::Again { host, .. } => (*host, false),
            Event::Message { to, .. } => (*to, false),
            _ => return None,
        };
        match self.hosts[host].frozen {
            Some(Frozen::Host) => Some(host),
            Some(Frozen::Process) if process_only => Some(host),
            _ => None,
        }
    }

    fn handle(&mut self, event: Event) {
        if let Some(host) = self.defers(&event) {
            return self.hosts[host].deferred.push(event);
        }
        match event {
            Event::Timer { host, process, timer } => self.timer(host, process, timer),
            Event::Issue { host, process, io } => self.issue(host, process, io),
            Event::Sample { buffer, from, to, offset } => {
                if let Some(bytes) = self.buffers.get_mut(&buffer) {
                    bytes[from..to].copy_from_slice(self.disk.read(offset + from as u64, to - from));
                }
            }
            Event::Land { offset, data } => self.disk.write(offset, &data),
            Event::Return { host, process, io, buffer, result } => self.returned(host, process, io, buffer, result),
            Event::Killed { host, boot, process } => self.killed(host, boot, process),
            Event::Guest { host, vm, instance } => self.guest(host, vm, instance),
            Event::GuestLand { host, client, vm, instance, epoch } => {
                self.guest_land(host, client, vm, instance, epoch);
            }
            Event::Lock { host, vm, instance } => self.lock(host, vm, instance),
            Event::Message { to, vm, message, moving } => self.told(to, vm, message, moving),
            Event::Patience { host, vm, instance } => self.patience(host, vm, instance),
            Event::Again { host, vm, wish } => self.again(host, vm, wish),
            Event::Operator => self.operator(),
            Event::Rescue { vm, from, until } => self.rescue(vm, from, until),
            Event::Fault(fault) => self.fault(fault),
            Event::Boot { host } => self.boot(host),
            Event::Restart { host, boot } => self.restarted(host, boot),
            Event::Thaw { host } => self.thaw(host),
            Event::Sever { host } => self.sever(host),
            Event::Mend { host } => {
                self.hosts[host].cut = false;
                self.hosts[host].lags = false;
            }
            Event::Watchdog { host, boot, fed } => {
                let it = &self.hosts[host];
                if it.up && it.boot == boot && it.fed == fed {
                    self.note(|| format!("host-{host} is reset by its watchdog"));
                    self.crash(host);
                }
            }
            Event::Heal => self.heal(),
            Event::Hear => self.hear(),
        }
    }

    // ---- the lease process ----

    fn feed(&mut self, host: usize, input: Input) {
        let now = self.hosts[host].clock.shows(self.queue.now());
        if let Some(process) = &mut self.hosts[host].process {
            process.keeper.handle_input(now, input);
            self.pump(host);
        }
    }

    fn timer(&mut self, host: usize, process: u64, timer: u64) {
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
                self.outcome.fences += 1;
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

    // ---- I/O ----

    fn issue(&mut self, host: usize, process: u64, io: Io) {
        let now = self.queue.now();
        if self.hosts[host].process.as_ref().is_none_or(|p| p.serial != process) {
            return;
        }
        let clock = &self.hosts[host].clock;
        let bound = clock.when(clock.shows(now) + IO_BOUND);
        let slow = self.rng.chance(self.faults.slow_ppm);
        let most = if slow { Duration::from_secs(20) } else { self.faults.latency_most };
        let lags = self.hosts[host].lags;
        let takes = if lags {
            self.rng.span(Duration::from_millis(500), Duration::from_millis(5_500))
        } else {
            self.rng.latency(Duration::from_micros(300), most)
        };
        let fails = self.hosts[host].cut || self.rng.chance(self.faults.fail_ppm) || now + takes >= bound;
        let quick = !self.hosts[host].cut && now + takes < bound;
        let ends = if quick { now + takes } else { bound };
        let mut buffer = None;
        match io.access {
            Access::Read { offset, bytes } => {
                if !fails {
                    buffer = Some(self.sample(ends, takes, lags, offset, bytes));
                }
            }
            Access::Write { offset, data } if fails => self.land_perhaps(ends, offset, &data),
            Access::Write { offset, data } => self.land(ends, takes, lags, offset, data),
        }
        let result = if fails { Ending::Failed } else { Ending::Done };
        self.queue.at(ends, Event::Return { host, process, io: io.id, buffer, result });
    }

    /// A read that sees the disk at some moment of its duration, or two parts of it at two moments.
    fn sample(&mut self, ends: Instant, takes: Duration, lags: bool, offset: u64, bytes: usize) -> u64 {
        let buffer = self.name();
        self.buffers.insert(buffer, vec![0; bytes]);
        let at = |rng: &mut Rng| when(rng, ends, takes, lags);
        if self.rng.chance(self.faults.split_ppm) {
            let cut = self.rng.index(bytes / 512) * 512;
            let (first, second) = (at(&mut self.rng), at(&mut self.rng));
            self.queue.at(first, Event::Sample { buffer, from: 0, to: cut, offset });
            self.queue.at(second, Event::Sample { buffer, from: cut, to: bytes, offset });
        } else {
            let moment = at(&mut self.rng);
            self.queue.at(moment, Event::Sample { buffer, from: 0, to: bytes, offset });
        }
        buffer
    }

    /// A write that is reported as done has landed by then; others may see a half of it before.
    fn land(&mut self, ends: Instant, takes: Duration, lags: bool, offset: u64, data: Vec<u8>) {
        let at = when(&mut self.rng, ends, takes, lags);
        if self.rng.chance(self.faults.split_ppm) {
            let cut = self.rng.index(data.len());
            let sooner = at - self.rng.span(Duration::ZERO, at.since(ends - takes));
            self.queue.at(sooner, Event::Land { offset, data: data[..cut].to_vec() });
            self.queue.at(at, Event::Land { offset: offset + cut as u64, data: data[cut..].to_vec() });
        } else {
            self.queue.at(at, Event::Land { offset, data });
        }
    }

    /// A write that is not reported as done lands before, late, torn, or never.
    fn land_perhaps(&mut self, ends: Instant, offset: u64, data: &[u8]) {
        let now = self.queue.now();
        let whole = if self.rng.chance(200_000) { self.rng.index(data.len()) } else { data.len() };
        let at = match self.rng.below(3) {
            0 => return,
            1 => now + self.rng.span(Duration::ZERO, ends.since(now)),
            _ => ends + self.rng.latency(Duration::from_millis(1), LATE_MOST),
        };
        self.queue.at(at, Event::Land { offset, data: data[..whole].to_vec() });
    }

    fn returned(&mut self, host: usize, process: u64, io: IoId, buffer: Option<u64>, ending: Ending) {
        let bytes = buffer.and_then(|buffer| self.buffers.remove(&buffer));
        if self.hosts[host].process.as_ref().is_none_or(|p| p.serial != process) {
            return;
        }
        let result = match (ending, bytes) {
            (Ending::Failed, _) => IoResult::Failed,
            (Ending::Done, Some(bytes)) => IoResult::Read(bytes),
            (Ending::Done, None) => IoResult::Written,
        };
        self.feed(host, Input::IoEnded(io, result));
    }

    // ---- what hosts want of their leases ----

    fn ask(&mut self, host: usize, wish: Wish, request: Request) {
        let now = self.queue.now();
        if self.hosts[host].process.is_none() || self.hosts[host].frozen == Some(Frozen::Process) {
            return self.retry(host, wish);
        }
        let id = self.hosts[host].request_id();
        self.hosts[host].wishes.insert(id, (now, wish));
        self.feed(host, Input::Request(id, request));
    }

    /// What must not be dropped is asked again.
    fn retry(&mut self, host: usize, wish: Wish) {
        let vm = match wish {
            Wish::Confirm(vm, _) | Wish::ResolveSource(vm, ..) | Wish::GiveUp(vm) => vm,
            Wish::ResolveDestination(vm, _) => vm,
            Wish::Start(_) | Wish::Prepare(..) | Wish::Commit(..) | Wish::Query => return,
        };
        let pause = self.rng.span(Duration::from_millis(200), Duration::from_secs(1));
        self.queue.after(pause, Event::Again { host, vm, wish });
    }

    fn again(&mut self, host: usize, vm: usize, wish: Wish) {
        if !self.hosts[host].up {
            return;
        }
        let name = vm_name(vm);
        match wish {
            Wish::Confirm(_, id) if self.hosts[host].instance(vm, id).is_some() => {
                self.ask(host, wish, Request::Acquire(name, Take::IfFree));
            }
            Wish::ResolveSource(_, id, base) if self.hosts[host].instance(vm, id).is_some() => {
                self.ask(host, wish, Request::Resolve(name, base));
            }
            Wish::ResolveDestination(_, moving) if !self.hosts[host].instances.contains_key(&vm) => {
                self.ask(host, wish, Request::Resolve(name, moving.base));
            }
            Wish::GiveUp(_) if !self.hosts[host].instances.contains_key(&vm) => {
                self.ask(host, wish, Request::GiveUp(name));
            }
            _ => {}
        }
    }

    fn replied(&mut self, host: usize, wish: Wish, result: Result<Answer, LeaseError>) {
        self.note(|| format!("host-{host} {wish:?}: {result:?}"));
        let mine = match &result {
            Ok(Answer::Held { epoch, taken_from }) => {
                self.outcome.takeovers += u64::from(taken_from.is_some());
                Some(*epoch)
            }
            _ => None,
        };
        match wish {
            Wish::Start(vm) => {
                if let Some(epoch) = mine {
                    self.given(host, vm, epoch);
                    if !self.hosts[host].instances.contains_key(&vm) {
                        self.launch(host, vm, epoch);
                    }
                }
            }
            Wish::Confirm(vm, id) => self.confirmed(host, vm, id, mine, &result),
            Wish::Prepare(vm, moving) => {
                if let Ok(Answer::Prepared(_)) = result {
                    self.hosts[host].incoming.insert(vm, moving);
                    self.send(moving.from, vm, Message::Ready, moving);
                }
            }
            Wish::Commit(vm, moving) => match (mine, result) {
                (Some(epoch), _) => self.committed(host, vm, moving, epoch),
                (None, Err(LeaseError::Contended | LeaseError::OutcomeUnknown | LeaseError::Fenced)) => {
                    self.ask(host, Wish::ResolveDestination(vm, moving), Request::Resolve(vm_name(vm), moving.base));
                }
                _ => {}
            },
            Wish::ResolveDestination(vm, moving) => match (mine, result) {
                (Some(epoch), _) => self.committed(host, vm, moving, epoch),
                (None, Err(LeaseError::OutcomeUnknown | LeaseError::Storage | LeaseError::NotLive)) => {
                    self.retry(host, wish);
                }
                _ => {}
            },
            Wish::ResolveSource(vm, id, _) => self.resolved(host, vm, id, wish, mine, &result),
            Wish::GiveUp(_) if result.is_err() => self.retry(host, wish),
            Wish::GiveUp(_) | Wish::Query => {}
        }
    }

    /// A host was told that it holds an epoch.
    fn given(&mut self, host: usize, vm: usize, epoch: Epoch) {
        let stale = self.queue.now() < self.hosts[host].stale_until;
        let standing = self.hosts[host].process.as_ref().map(|p| p.keeper.standing());
        if let Some(protocol::lease::host_lease::Standing::Live(who)) = standing {
            self.checker.told(vm, epoch, who, stale);
        }
    }

    /// A VM begins its life on a host, if the lease is still held at this very moment.
    fn launch(&mut self, host: usize, vm: usize, epoch: Epoch) {
        let now = self.hosts[host].clock.shows(self.queue.now());
        let holds = self.hosts[host].process.as_ref().and_then(|p| p.keeper.holds(now, &vm_name(vm)));
        if holds != Some(epoch) {
            return;
        }
        let id = self.name();
        let stage = if self.faults.fences == Fences::Storage { Stage::AwaitLock } else { Stage::Running };
        self.hosts[host].instances.insert(vm, Instance { id, epoch, stage });
        if stage == Stage::Running {
            self.runs(host, vm, id);
        } else {
            self.lock(host, vm, id);
        }
    }

    /// The vCPUs of a VM begin to run, or go on.
    fn runs(&mut self, host: usize, vm: usize, id: u64) {
        self.outcome.starts += 1;
        self.note(|| format!("host-{host} runs vm-{vm}"));
        self.check_runner(host, vm);
        self.queue.after(Duration::from_millis(50), Event::Guest { host, vm, instance: id });
    }

    fn check_runner(&mut self, host: usize, vm: usize) {
        let now = self.queue.now();
        let running: Vec<usize> =
            self.hosts.iter().filter(|h| h.executes(vm) && now >= h.stale_until).map(|h| h.index).collect();
        if running.len() > 1 {
            let what = format!("vm-{vm} runs on hosts {running:?}");
            self.checker.broken(Invariant::AtMostOneHostRunsAVm, what);
        }
        let Some(instance) = self.hosts[host].instances.get(&vm) else { return };
        let epoch = instance.epoch;
        let holder = self.checker.holder(vm, epoch);
        if holder.is_none_or(|holder| holder.host != self.hosts[host].identity()) {
            let what = format!("host-{host} runs vm-{vm} in epoch {epoch}, whose holder is {holder:?}");
            self.checker.broken(Invariant::TheRunnerHoldsTheLease, what);
        }
    }

    fn confirmed(&mut self, host: usize, vm: usize, id: u64, mine: Option<Epoch>, result: &Result<Answer, LeaseError>) {
        let Some(instance) = self.hosts[host].instance(vm, id).map(|i| *i) else { return };
        // It was stopped for a move meanwhile: now only the next epoch counts.
        if instance.stage == Stage::Stopped {
            return;
        }
        match mine {
            // Proving it may have taken winning the next epoch: the VM ran all the while, and goes on.
            Some(epoch) => {
                self.given(host, vm, epoch);
                if let Some(instance) = self.hosts[host].instance(vm, id) {
                    instance.epoch = epoch;
                }
            }
            None if result.is_ok() => {
                let holder = self.checker.holder(vm, instance.epoch);
                self.note(|| format!("host-{host} kills vm-{vm}: not held; its epoch was {holder:?}'s"));
                self.destroy(host, vm);
            }
            None => self.retry(host, Wish::Confirm(vm, id)),
        }
    }

    fn destroy(&mut self, host: usize, vm: usize) {
        let client = self.hosts[host].client();
        if let Some(instance) = self.hosts[host].instances.remove(&vm) {
            self.locks.release(vm, client, instance.id);
        }
    }

    // ---- moves ----

    fn send(&mut self, to: usize, vm: usize, message: Message, moving: Move) {
        if !self.healed && self.rng.chance(self.faults.message_loss_ppm) {
            return;
        }
        let takes = self.rng.latency(Duration::from_micros(200), Duration::from_millis(400));
        self.queue.after(takes, Event::Message { to, vm, message, moving });
    }

    fn told(&mut self, to: usize, vm: usize, message: Message, moving: Move) {
        if !self.hosts[to].up {
            return;
        }
        match message {
            Message::Invite => {
                let source = self.hosts[moving.from].identity();
                if !self.hosts[to].instances.contains_key(&vm) {
                    self.ask(to, Wish::Prepare(vm, moving), Request::Prepare(vm_name(vm), source, moving.base));
                }
            }
            Message::Ready => {
                let Some(instance) = self.hosts[to].instance(vm, moving.instance) else { return };
                if instance.stage != Stage::Running || instance.epoch != moving.base {
                    return;
                }
                instance.stage = Stage::Stopped;
                self.drained.insert((moving.instance, moving.base));
                let (client, id) = (self.hosts[to].client(), moving.instance);
                self.locks.release(vm, client, id);
                self.note(|| format!("host-{to} stops vm-{vm} for its move to host-{}", moving.to));
                self.send(moving.to, vm, Message::Stopped, moving);
                let patience = self.rng.span(Duration::from_millis(100), Duration::from_secs(2));
                self.queue.after(patience, Event::Patience { host: to, vm, instance: id });
            }
            Message::Stopped => {
                if self.hosts[to].incoming.remove(&vm) == Some(moving) {
                    self.ask(to, Wish::Commit(vm, moving), Request::Commit(vm_name(vm), moving.base));
                }
            }
            Message::Done => {
                if self.hosts[to].instance(vm, moving.instance).is_some_and(|i| i.stage == Stage::Stopped) {
                    self.destroy(to, vm);
                }
            }
        }
    }

    fn committed(&mut self, host: usize, vm: usize, moving: Move, epoch: Epoch) {
        self.outcome.moves += 1;
        self.given(host, vm, epoch);
        if !self.hosts[host].instances.contains_key(&vm) {
            self.launch(host, vm, epoch);
        }
        self.send(moving.from, vm, Message::Done, moving);
    }

    fn patience(&mut self, host: usize, vm: usize, id: u64) {
        let Some(instance) = self.hosts[host].instance(vm, id).map(|i| *i) else { return };
        if instance.stage == Stage::Stopped {
            let wish = Wish::ResolveSource(vm, id, instance.epoch);
            self.ask(host, wish, Request::Resolve(vm_name(vm), instance.epoch));
        }
    }

    fn resolved(
        &mut self,
        host: usize,
        vm: usize,
        id: u64,
        wish: Wish,
        mine: Option<Epoch>,
        result: &Result<Answer, LeaseError>,
    ) {
        let Some(instance) = self.hosts[host].instance(vm, id).map(|i| *i) else { return };
        if instance.stage != Stage::Stopped {
            return;
        }
        match (mine, result) {
            (Some(epoch), _) => {
                self.given(host, vm, epoch);
                let waits = self.faults.fences == Fences::Storage;
                if let Some(instance) = self.hosts[host].instance(vm, id) {
                    instance.epoch = epoch;
                    instance.stage = if waits { Stage::AwaitLock } else { Stage::Running };
                }
                if waits { self.lock(host, vm, id) } else { self.runs(host, vm, id) }
            }
            (None, Ok(_)) => self.destroy(host, vm),
            (None, Err(_)) => self.retry(host, wish),
        }
    }

    // ---- guests and fences ----

    fn guest(&mut self, host: usize, vm: usize, id: u64) {
        if !self.hosts[host].up {
            return;
        }
        let client = self.hosts[host].client();
        let Some(instance) = self.hosts[host].instance(vm, id).map(|i| *i) else { return };
        let next = self.rng.span(Duration::from_millis(300), Duration::from_millis(700));
        self.queue.after(next, Event::Guest { host, vm, instance: id });
        if instance.stage == Stage::Running {
            let takes = self.rng.latency(Duration::from_millis(1), Duration::from_millis(200));
            let land = Event::GuestLand { host, client, vm, instance: id, epoch: instance.epoch };
            self.queue.after(takes, land);
        }
    }

    fn guest_land(&mut self, host: usize, client: Client, vm: usize, id: u64, epoch: Epoch) {
        let same_boot = self.hosts[host].up && self.hosts[host].client() == client;
        // A stop drains the I/O of the VM first: what is still on its way then has been waited for.
        let drained = |i: &Instance| i.stage != Stage::Running || i.epoch != epoch;
        let gone = same_boot && self.hosts[host].instance(vm, id).is_none_or(|i| drained(i));
        if gone || self.drained.contains(&(id, epoch)) {
            return;
        }
        let accepted = match self.faults.fences {
            // A fence ends the I/O of the VM; what a host sent before it lost power still arrives.
            Fences::Clock | Fences::Watchdog => true,
            Fences::Storage => self.locks.accepts(vm, client, id),
        };
        if accepted {
            self.checker.landed(vm, epoch);
        } else if same_boot && self.hosts[host].instance(vm, id).is_some_and(|i| i.stage == Stage::Running) {
            self.note(|| format!("host-{host} loses vm-{vm}: the server refuses its writes"));
            self.destroy(host, vm);
        }
    }

    fn lock(&mut self, host: usize, vm: usize, id: u64) {
        let now = self.queue.now();
        let client = self.hosts[host].client();
        let own = self.hosts[host].clock.shows(now);
        let held = self.hosts[host].process.as_ref().and_then(|p| p.keeper.holds(own, &vm_name(vm)));
        let frozen = self.hosts[host].frozen.is_some();
        let Some(instance) = self.hosts[host].instance(vm, id).map(|i| *i) else { return };
        if instance.stage != Stage::AwaitLock {
            return;
        }
        if self.hosts[host].cut || frozen || held != Some(instance.epoch) {
            if held.is_none() && !frozen {
                return self.destroy(host, vm);
            }
        } else if self.locks.take(now, vm, client, id) {
            if let Some(instance) = self.hosts[host].instance(vm, id) {
                instance.stage = Stage::Running;
            }
            return self.runs(host, vm, id);
        }
        self.queue.after(Duration::from_millis(500), Event::Lock { host, vm, instance: id });
    }

    fn killed(&mut self, host: usize, boot: u64, process: u64) {
        if self.hosts[host].boot != boot || !self.hosts[host].up {
            return;
        }
        for vm in 0..self.vms {
            self.destroy(host, vm);
        }
        self.hosts[host].incoming.clear();
        self.hosts[host].stale_until = Instant::ZERO;
        if self.hosts[host].process.as_ref().is_some_and(|p| p.serial == process) {
            self.feed(host, Input::Killed);
        }
    }

    fn hear(&mut self) {
        let now = self.queue.now();
        for host in &self.hosts {
            if host.up && !host.cut && host.frozen != Some(Frozen::Host) {
                self.locks.hear(now, host.client());
            }
        }
        self.queue.after(Duration::from_secs(1), Event::Hear);
    }

    // ---- what goes wrong ----

    fn fault(&mut self, fault: Fault) {
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

    fn sever(&mut self, host: usize) {
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

    fn crash(&mut self, host: usize) {
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
        self.queue.after(off, Event::Boot { host });
    }

    fn lose_process(&mut self, host: usize) {
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

    fn restarted(&mut self, host: usize, boot: u64) {
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

    fn start_process(&mut self, host: usize) {
        let watchdog = if self.faults.fences == Fences::Watchdog { Watchdog::Hardware } else { Watchdog::None };
        let (now, chance) = (self.queue.now(), self.rng.next_u64());
        self.hosts[host].start_process(now, self.area, watchdog, chance);
        self.pump(host);
    }

    fn boot(&mut self, host: usize) {
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
    fn blind(&mut self, host: usize, lasts: Duration) {
        if self.faults.fences == Fences::Storage && lasts > Duration::from_secs(1) {
            let until = self.queue.now() + lasts + Duration::from_secs(15);
            self.hosts[host].stale_until = until.max(self.hosts[host].stale_until);
        }
    }

    fn thaw(&mut self, host: usize) {
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

    fn heal(&mut self) {
        self.note(|| "all heals".to_owned());
        self.healed = true;
        self.faults.slow_ppm = 0;
        self.faults.fail_ppm = 0;
        for host in 0..self.hosts.len() {
            self.hosts[host].cut = false;
            self.hosts[host].lags = false;
            self.thaw(host);
        }
    }

    // ---- the operator ----

    fn operator(&mut self) {
        if self.healed {
            self.queue.after(Duration::from_secs(3), Event::Operator);
            for vm in 0..self.vms {
                if !self.hosts.iter().any(|host| host.instances.contains_key(&vm)) {
                    // At random first; in the end at each in turn: a host may hold a VM without knowing, because its
                    // lease process died with the answer, and then only that host can start it.
                    let drawn = self.rng.index(self.hosts.len());
                    let patient = self.queue.now() < Instant::ZERO + self.faults.lasts + HEALTHY / 2;
                    let turn = self.queue.now().nanos() / Duration::from_secs(3).nanos();
                    self.start(if patient { drawn } else { turn as usize % self.hosts.len() }, vm);
                }
            }
            return;
        }
        let next = self.rng.span(Duration::from_millis(1), self.faults.action_every * 2);
        self.queue.after(next, Event::Operator);
        let vm = self.rng.index(self.vms);
        let host = self.rng.index(self.hosts.len());
        let runner = self.hosts.iter().find(|h| h.up && h.instances.contains_key(&vm)).map(|h| h.index);
        match self.rng.below(100) {
            0..40 => {
                self.start(host, vm);
                if self.rng.chance(300_000) {
                    self.start((host + 1) % self.hosts.len(), vm);
                }
            }
            40..70 => {
                if let Some(from) = runner.filter(|from| *from != host) {
                    self.invite(from, host, vm);
                }
            }
            70..85 => {
                if let Some(host) = runner.filter(|h| self.hosts[*h].frozen.is_none()) {
                    self.stop(host, vm);
                }
            }
            _ if self.hosts[host].up && self.hosts[host].frozen.is_none() => {
                self.ask(host, Wish::Query, Request::Query(vm_name(vm)));
            }
            _ => {}
        }
    }

    /// A host is in trouble: from shortly before its lease can expire, another asks for its VMs again and again.
    fn call_for_rescue(&mut self, from: usize) {
        let vms: Vec<usize> = self.hosts[from].instances.keys().copied().collect();
        for vm in vms {
            let begins = self.rng.span(Duration::from_secs(9), Duration::from_secs(13));
            let until = self.queue.now() + Duration::from_secs(25);
            self.queue.after(begins, Event::Rescue { vm, from, until });
        }
    }

    fn rescue(&mut self, vm: usize, from: usize, until: Instant) {
        let elsewhere = self.hosts.iter().any(|h| h.index != from && h.instances.contains_key(&vm));
        if elsewhere || self.queue.now() > until {
            return;
        }
        let step = self.rng.below(self.hosts.len() as u64 - 1) as usize + 1;
        self.start((from + step) % self.hosts.len(), vm);
        let again = self.rng.span(Duration::from_millis(50), Duration::from_millis(400));
        self.queue.after(again, Event::Rescue { vm, from, until });
    }

    fn start(&mut self, host: usize, vm: usize) {
        let it = &self.hosts[host];
        // As the control plane does: a VM that is being started is not started again.
        let pending = it.wishes.values().any(|(_, wish)| matches!(wish, Wish::Start(started) if *started == vm));
        if it.up && it.frozen.is_none() && !pending && !it.instances.contains_key(&vm) {
            self.ask(host, Wish::Start(vm), Request::Acquire(vm_name(vm), Take::IfFree));
        }
    }

    fn stop(&mut self, host: usize, vm: usize) {
        if self.hosts[host].instances.get(&vm).is_some_and(|i| i.stage == Stage::Running) {
            self.note(|| format!("host-{host} stops vm-{vm}"));
            self.drained.extend(self.hosts[host].instances.get(&vm).map(|i| (i.id, i.epoch)));
            self.destroy(host, vm);
            self.ask(host, Wish::GiveUp(vm), Request::GiveUp(vm_name(vm)));
        }
    }

    fn invite(&mut self, from: usize, to: usize, vm: usize) {
        let id = self.name();
        let Some(instance) = self.hosts[from].instances.get(&vm).copied() else { return };
        if instance.stage == Stage::Running && self.hosts[from].frozen.is_none() {
            let moving = Move { id, from, to, instance: instance.id, base: instance.epoch };
            self.send(to, vm, Message::Invite, moving);
        }
    }
}
