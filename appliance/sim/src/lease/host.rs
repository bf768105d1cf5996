//! A host of the world: its clock, its lease process and its VMs.

use std::collections::BTreeMap;

use protocol::lease::deaths::Deaths;
use protocol::lease::host_lease::{HostIdentity, Remembered};
use protocol::lease::identity::{BootId, Epoch, HostId};
use protocol::lease::keeper::{Keeper, RequestId};
use protocol::lease::layout::Area;
use protocol::lease::record::Watchdog;
use protocol::time::Instant;

use super::clock::Clock;
use super::event::Event;
use super::guest::{Instance, Stage};
use super::locks::Client;
use super::moves::Move;
use super::process::Process;
use super::wishes::Wish;
use super::world::vm_name;

/// What is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Frozen {
    /// The lease process only: VMs run on.
    Process,
    /// All of the host.
    Host,
}

/// A host.
#[derive(Debug)]
pub(crate) struct Host {
    /// Its number.
    pub(crate) index: usize,
    /// It has power.
    pub(crate) up: bool,
    /// How often it was booted.
    pub(crate) boot: u64,
    /// The boot in which it told the server that its earlier ones are dead.
    pub(crate) told_of_earlier: u64,
    /// The deaths that it saw in this boot.
    pub(crate) deaths: Deaths,
    /// Its clock.
    pub(crate) clock: Clock,
    /// What is stopped.
    pub(crate) frozen: Option<Frozen>,
    /// What happens when it goes on.
    pub(crate) deferred: Vec<Event>,
    /// Until then it may not know that it was declared dead while all of it was stopped.
    pub(crate) stale_until: Instant,
    /// It does not reach the datastore.
    pub(crate) cut: bool,
    /// It hears late of its I/O.
    pub(crate) lags: bool,
    /// Its lease process.
    pub(crate) process: Option<Process>,
    /// How many lease processes it had.
    pub(crate) processes: u64,
    /// Its VMs.
    pub(crate) instances: BTreeMap<usize, Instance>,
    /// What it asked for.
    pub(crate) wishes: BTreeMap<RequestId, (Instant, Wish)>,
    /// Moves to this host that are prepared.
    pub(crate) incoming: BTreeMap<usize, Move>,
    /// When the watchdog was fed last.
    pub(crate) fed: Instant,
    /// What the lease process left to the next one of this boot.
    pub(crate) remembered: Option<Remembered>,
    identity: HostId,
    requests: u64,
}

impl Host {
    /// A host that is off.
    pub(crate) fn new(index: usize, identity: u128, clock: Clock) -> Self {
        Self {
            index,
            up: false,
            boot: 0,
            told_of_earlier: 0,
            deaths: Deaths::default(),
            clock,
            frozen: None,
            deferred: Vec::new(),
            stale_until: Instant::ZERO,
            cut: false,
            lags: false,
            process: None,
            processes: 0,
            instances: BTreeMap::new(),
            wishes: BTreeMap::new(),
            incoming: BTreeMap::new(),
            fed: Instant::ZERO,
            remembered: None,
            identity: HostId(identity),
            requests: 0,
        }
    }

    /// Its identity.
    pub(crate) fn identity(&self) -> HostId {
        self.identity
    }

    /// Starts a lease process.
    pub(crate) fn start_process(&mut self, now: Instant, area: Area, watchdog: Watchdog, chance: u64) -> u64 {
        self.processes += 1;
        let identity = HostIdentity {
            host: self.identity,
            boot: self.boot_id(),
            name: format!("host-{}", self.index).parse().expect("a host name"),
            watchdog,
        };
        let keeper = Keeper::new(area, identity, self.remembered, chance, self.clock.shows(now));
        self.process = Some(Process { serial: self.processes, keeper, timer: 0 });
        self.processes
    }

    /// This boot, as hosts know it.
    pub(crate) fn boot_id(&self) -> BootId {
        Self::boot_of((self.index, self.boot))
    }

    /// A boot, as the server's locks know it.
    pub(crate) fn client_of(boot: BootId) -> Client {
        ((boot.0 & 0xffff) as usize, (boot.0 >> 16) as u64)
    }

    /// The same the other way round.
    pub(crate) fn boot_of((index, boot): Client) -> BootId {
        BootId(u128::from(boot) << 16 | index as u128)
    }

    /// A name for the next request.
    pub(crate) fn request_id(&mut self) -> RequestId {
        self.requests += 1;
        RequestId(self.requests)
    }

    /// This boot, as the server's locks know it.
    pub(crate) fn client(&self) -> Client {
        Self::client_of(self.boot_id())
    }

    /// Whether the vCPUs of a VM run here at this moment.
    pub(crate) fn executes(&self, vm: usize) -> bool {
        let running = self.instances.get(&vm).is_some_and(|instance| instance.stage == Stage::Running);
        running && self.up && self.frozen != Some(Frozen::Host)
    }

    /// The instance, if it is still the one that is meant.
    pub(crate) fn instance(&self, vm: usize, id: u64) -> Option<Instance> {
        self.instances.get(&vm).copied().filter(|instance| instance.id == id)
    }

    /// The same, to be changed.
    pub(crate) fn instance_mut(&mut self, vm: usize, id: u64) -> Option<&mut Instance> {
        self.instances.get_mut(&vm).filter(|instance| instance.id == id)
    }

    /// Whether this lease process lives.
    pub(crate) fn has_process(&self, serial: u64) -> bool {
        self.process.as_ref().is_some_and(|process| process.serial == serial)
    }

    /// The epoch in which this host holds a VM at true time `now`.
    pub(crate) fn holds(&self, now: Instant, vm: usize) -> Option<Epoch> {
        self.process.as_ref()?.keeper.holds(self.clock.shows(now), &vm_name(vm))
    }
}
