//! A host: its keeper of leases, its VMM and its migration process.

use std::collections::BTreeMap;

use model::names::HostName;
use protocol::lease::host_lease::HostIdentity;
use protocol::lease::identity::{BootId, HostId};
use protocol::lease::keeper::{IoId, Keeper};
use protocol::lease::record::Watchdog;
use protocol::session::Outcome;
use protocol::time::Instant;

use super::datastore::area;
use super::engine::Engine;
use super::guest::{Life, Vmm};
use super::keeper::Asker;
use super::storing::Storing;

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Where the VM runs at first.
    Source,
    /// Where it is to run.
    Destination,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Source, Self::Destination];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// An index for arrays.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// One host.
#[derive(Debug)]
pub struct Host {
    /// Which one.
    pub side: Side,
    /// Its name.
    pub name: HostName,
    /// It runs.
    pub up: bool,
    /// Counts its boots.
    pub boot: u64,
    /// Its leases; none while it is down.
    pub keeper: Option<Keeper>,
    /// The keeper's next wake-up that is planned.
    pub keeper_wakes: Instant,
    /// I/O of the keeper that goes on.
    pub io: BTreeMap<IoId, ()>,
    /// Replies that are awaited.
    pub askers: BTreeMap<u64, Asker>,
    /// The VM's process.
    pub vmm: Option<Vmm>,
    /// The migration process.
    pub engine: Engine,
    /// What that has to store.
    pub storing: Option<Storing>,
    /// Counts the migration processes.
    pub generation: u64,
    /// The engine's next wake-up that is planned.
    pub engine_wakes: Instant,
    /// How the last migration process that ended properly said it ended.
    pub outcome: Option<Outcome>,
    /// The host, its VMM, or its lease ended: promises about what still runs here are void.
    pub hurt: bool,
    /// This VMM stood still after a move of which the lease did not tell whose it is: the host role asks on.
    pub undecided: Option<u64>,
    /// Until then the lease role cannot be asked.
    pub lease_away_until: Instant,
    /// Until then the lease role takes up nothing that it is asked.
    pub lease_slow_until: Instant,
    /// The control plane that took part in the move ended: another one does not know of the move.
    pub control_plane_died: bool,
    /// Another control plane runs since.
    pub control_plane_is_back: bool,
    /// The VM's slowing, percent.
    pub throttle: u8,
}

/// The identity of a host.
pub fn id(side: Side) -> HostId {
    HostId(1000 + side.index() as u128)
}

impl Host {
    /// A host that is down.
    pub fn new(side: Side) -> Self {
        let name = if side == Side::Source { "host-a" } else { "host-b" };
        Self {
            side,
            name: name.parse().expect("a host name"),
            up: false,
            boot: 0,
            keeper: None,
            keeper_wakes: Instant::NEVER,
            io: BTreeMap::new(),
            askers: BTreeMap::new(),
            vmm: None,
            engine: Engine::Idle,
            storing: None,
            generation: 0,
            engine_wakes: Instant::NEVER,
            outcome: None,
            hurt: false,
            undecided: None,
            lease_away_until: Instant::ZERO,
            lease_slow_until: Instant::ZERO,
            control_plane_died: false,
            control_plane_is_back: false,
            throttle: 0,
        }
    }

    /// It boots.
    pub fn boots(&mut self, now: Instant, chance: u64) {
        self.up = true;
        self.boot += 1;
        let identity = HostIdentity {
            host: id(self.side),
            boot: BootId(u128::from(self.boot) * 10 + self.side.index() as u128),
            name: self.name.clone(),
            watchdog: Watchdog::Hardware,
        };
        self.keeper = Some(Keeper::new(area(), identity, None, chance, now));
    }

    /// Whether its VMM is live: the vCPUs run, or a person paused them.
    pub fn runs_the_vm(&self) -> bool {
        self.vmm.as_ref().is_some_and(|vmm| vmm.life == Life::Running)
    }

    /// Whether a VMM is here of which the lease does not tell whose it is.
    pub fn is_undecided(&self) -> bool {
        self.undecided.is_some() && self.vmm.as_ref().map(|vmm| vmm.id) == self.undecided
    }

    /// Whether it has all of the VM: it runs here, or could.
    pub fn has_all_of_the_vm(&self) -> bool {
        self.vmm.as_ref().is_some_and(|vmm| vmm.life != Life::Incoming)
    }

    /// It is dead.
    pub fn dies(&mut self) {
        self.up = false;
        self.hurt = true;
        self.keeper = None;
        self.keeper_wakes = Instant::NEVER;
        self.io.clear();
        self.askers.clear();
        self.vmm = None;
        self.engine_ends();
    }

    /// The migration process is gone.
    pub fn engine_ends(&mut self) {
        self.engine = Engine::Idle;
        self.storing = None;
        self.generation += 1;
        self.engine_wakes = Instant::NEVER;
    }
}
