//! The world: hosts that keep leases on one datastore. It takes the next event and lets it happen.

use std::collections::{BTreeMap, BTreeSet};

use model::names::VmName;
use protocol::lease::identity::AreaId;
use protocol::lease::layout::{Area, Geometry};
use protocol::time::{Duration, Instant};

use super::clock::Clock;
use super::damage::SPARE_PLACES;
use super::event::Event;
use super::faults::{Fault, Faults};
use super::host::{Frozen, Host};
use super::invariants::Checker;
use super::locks::Locks;
use super::seeds::{Outcome, Size};
use crate::disk::Disk;
use crate::events::EventQueue;
use crate::rng::Rng;

/// How long a world goes on after the last fault.
pub(super) const HEALTHY: Duration = Duration::from_secs(90);

/// What a world is like, apart from its luck.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setup {
    /// Its hosts and VMs; drawn where absent.
    pub(crate) size: Option<Size>,
    /// It keeps a diary.
    pub(crate) traced: bool,
    /// Leases of VMs are damaged in it.
    pub(crate) is_damaged: bool,
}

/// A world under way.
#[derive(Debug)]
pub(crate) struct World {
    pub(super) rng: Rng,
    /// How long a server takes to be told of a dead host: drawn apart, so that the worlds of kept seeds go on as they did otherwise.
    pub(super) net: Rng,
    /// What is damaged and when, in a world in which anything is.
    pub(super) luck_of_damage: Rng,
    /// Leases are damaged in this world.
    pub(super) is_damaged: bool,
    /// Hosts tell the server of each death that they see, and not only for a VM that waits for a lock.
    pub(super) tells_of_deaths: bool,
    pub(super) faults: Faults,
    pub(super) area: Area,
    pub(super) queue: EventQueue<Event>,
    pub(super) disk: Disk,
    pub(super) locks: Locks,
    pub(super) hosts: Vec<Host>,
    pub(super) vms: usize,
    pub(super) checker: Checker,
    pub(super) healed: bool,
    pub(super) buffers: BTreeMap<u64, Vec<u8>>,
    /// Instances that were stopped in order, and the epoch in which they ran.
    pub(super) drained: BTreeSet<(u64, u32)>,
    counter: u64,
    pub(super) outcome: Outcome,
    traced: bool,
}

/// The name of a VM.
pub(super) fn vm_name(vm: usize) -> VmName {
    format!("vm-{vm}").parse().expect("a VM name")
}

impl World {
    /// The world of this seed.
    pub(crate) fn new(seed: u64, setup: Setup) -> Self {
        let Setup { size, traced, is_damaged } = setup;
        let mut rng = Rng::new(seed);
        let mut faults = Faults::draw(&mut rng);
        // Not drawn: the seeds that once failed are to stay the worlds that they were, and none of them is of this kind.
        faults.called_off_ppm = if seed % 4 == 2 { 500_000 } else { 0 };
        let size = size.unwrap_or_else(|| Size { hosts: rng.between(2, 5) as usize, vms: rng.between(1, 4) as usize });
        let stride = [512, 4_096][rng.index(2)];
        let slots = size.hosts as u64 + rng.below(3);
        let places = size.vms + if is_damaged { SPARE_PLACES } else { 0 };
        let geometry = Geometry::new(stride, slots as u16, places as u16).expect("a valid geometry");
        let area = Area { id: AreaId(u128::from(rng.next_u64())), geometry };
        let mut world = Self {
            disk: Disk::new(geometry.area_bytes()),
            rng,
            net: Rng::new(!seed),
            luck_of_damage: Rng::new(seed.rotate_left(32)),
            is_damaged,
            // Not drawn, as above.
            tells_of_deaths: seed % 5 == 3,
            locks: Locks::new(faults.server_lease),
            faults,
            area,
            queue: EventQueue::new(),
            hosts: Vec::new(),
            vms: size.vms,
            checker: Checker::of_a_world(is_damaged),
            healed: false,
            buffers: BTreeMap::new(),
            drained: BTreeSet::new(),
            counter: 0,
            outcome: Outcome::default(),
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
        if self.is_damaged {
            self.queue.after(Duration::from_secs(5), Event::Damage);
        }
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
        self.outcome.counts.events = self.queue.handled();
        self.outcome.violation = self.checker.violation().cloned();
        self.outcome
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if self.traced {
            let line = format!("{} {}", self.queue.now(), what());
            self.outcome.trace.push(line);
        }
    }

    pub(super) fn name(&mut self) -> u64 {
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
            | Event::RestartClient { host, .. }
            | Event::Patience { host, .. }
            | Event::CallOff { host, .. }
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
            Event::Sample { buffer, from, to, offset } => self.sampled(buffer, from, to, offset),
            Event::Land { offset, data } => self.disk.write(offset, &data),
            Event::Return { host, process, io, buffer, result } => self.returned(host, process, io, buffer, result),
            Event::Killed { host, boot, process } => self.killed(host, boot, process),
            Event::Guest { host, vm, instance } => self.guest(host, vm, instance),
            Event::GuestLand(write) => self.guest_land(write),
            Event::Lock { host, vm, instance } => self.lock(host, vm, instance),
            Event::RestartClient { host, client } => self.restart_client(host, client),
            Event::Message { to, vm, message, moving } => self.told(to, vm, message, moving),
            Event::Patience { host, vm, instance } => self.patience(host, vm, instance),
            Event::CallOff { host, vm, moving } => self.call_off(host, vm, moving),
            Event::Again { host, vm, wish } => self.again(host, vm, wish),
            Event::Operator => self.operator(),
            Event::Rescue { vm, from, until } => self.rescue(vm, from, until),
            Event::Fault(fault) => self.fault(fault),
            Event::Boot { host } => self.boot(host),
            Event::Restart { host, boot } => self.restarted(host, boot),
            Event::Thaw { host } => self.thaw(host),
            Event::Sever { host } => self.sever(host),
            Event::Mend { host } => self.mend(host),
            Event::Watchdog { host, boot, fed } => self.watchdog(host, boot, fed),
            Event::Damage => self.damage(),
            Event::Heal => self.heal(),
            Event::Hear => self.hear(),
        }
    }
}
