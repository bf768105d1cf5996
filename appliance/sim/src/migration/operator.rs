//! A person: starts the VM, and types `vm migrate`.

use model::cpu_report::{Baseline, CpuReport};
use model::units::Bytes;
use protocol::checks::facts::{DatastoreFacts, HostFacts, LinkFacts, NicFacts, VmFacts};
use protocol::checks::physical_network::{Found, Heard};
use protocol::convergence::Costs;
use protocol::destination::{Destination, Welcome};
use protocol::lease::vm_lease::{Request, Take};
use protocol::source::{Plan, Source};
use protocol::time::{Duration, Instant};
use protocol::uplink_probe::{Agreed, Token};
use protocol::wire::ValidatedOffer;
use protocol::wire::message::{Offer, RunState};

use super::engine::Engine;
use super::event::Event;
use super::guest::{Life, PAGES, Vmm};
use super::host::{Host, Side};
use super::invariants::{self as promise, Kept};
use super::keeper::{Asker, vm_name};
use super::link::Link;
use super::world::World;
use crate::violation::Violation;

impl World {
    /// Asks for the lease until it is held on one of these hosts (it may belong to one that lives and whose VMM died),
    /// then the VM runs there.
    pub(super) fn person_starts_the_vm(&mut self, sides: &[Side], deadline: Instant) -> Result<Side, Violation> {
        self.started_by_person = None;
        let side = loop {
            if let Some(side) = self.started_by_person {
                break side;
            }
            if self.queue.now() > deadline {
                let detail = format!("the VM cannot be started on {sides:?}");
                return Err(Violation { promise: "nothing_is_orphaned", detail });
            }
            let waiting = |host: &Host| host.askers.values().any(|asker| matches!(asker, Asker::Person));
            let asked = self.hosts.iter().any(waiting);
            let side = sides[self.rng.index(sides.len())];
            if !asked && self.is_live(side) {
                self.ask(side, Request::Acquire(vm_name(), Take::IfFree), Asker::Person)?;
            }
            self.step()?;
        };
        let now = self.queue.now();
        self.vmms += 1;
        let vmm = Vmm::new(self.vmms, Life::Running, RunState::Running);
        let (id, holds) = (vmm.id, self.holds(side, now));
        self.host(side).vmm = Some(vmm);
        promise::the_runner_holds_the_lease(&self.hosts[side.index()], holds)?;
        self.truth = vec![0; PAGES as usize];
        self.writes = 0;
        self.queue.after(self.setup.write_every, Event::GuestWrites(side, id));
        promise::at_most_one_host_runs(&self.hosts)?;
        Ok(side)
    }

    /// After whatever happened the VM runs, or can be started on a host that is up. Where it stands still under a damaged
    /// lease, a person kills it first, or one of two copies: the other ends when the VM comes to be held anew.
    pub(super) fn the_vm_can_be_started(&mut self) -> Result<Side, Violation> {
        self.is_over = true;
        if let Some(side) = Side::BOTH.into_iter().find(|side| self.hosts[side.index()].runs_the_vm()) {
            return Ok(side);
        }
        let mut sides = Side::BOTH.to_vec();
        if self.has_undecided() {
            let kept = Side::BOTH[self.rng.index(2)];
            let kept = Some(kept).filter(|side| self.hosts[side.index()].is_undecided() && self.rng.chance(700_000));
            for side in Side::BOTH.into_iter().filter(|side| Some(*side) != kept) {
                self.host(side).vmm = None;
            }
            sides.retain(|side| Some(*side) != kept);
        }
        self.datastore.heals();
        for side in Side::BOTH {
            if !self.hosts[side.index()].up {
                self.boot(side)?;
            }
        }
        let deadline = self.queue.now() + Duration::from_secs(120);
        let side = self.person_starts_the_vm(&sides, deadline)?;
        while self.has_undecided() {
            if self.queue.now() > deadline {
                let detail = "it stands still where the VM is another host's".to_owned();
                return Err(Violation { promise: "nothing_is_left_over", detail });
            }
            self.step()?;
        }
        Ok(side)
    }

    /// A person types `vm migrate`.
    pub(super) fn begin(&mut self) -> Kept {
        let now = self.queue.now();
        let held = self.hosts[0].keeper.as_ref().and_then(|keeper| keeper.holds(now, &vm_name()));
        self.base = held.unwrap_or_default();
        let plan = self.plan();
        self.offer = Some(plan.offer.clone());
        self.link = Link::new(self.rng.fork(), self.setup.one_way);
        self.hosts[1].engine = Engine::Destination(Box::new(Destination::new(now, self.welcome())));
        self.hosts[0].engine = Engine::Source(Box::new(Source::new(now, plan)));
        self.engine_goes_on(Side::Source)?;
        self.engine_goes_on(Side::Destination)
    }

    pub(super) fn plan(&self) -> Plan {
        let offer = Offer {
            vm: VmFacts {
                name: vm_name(),
                memory: Bytes(PAGES * 4096),
                cpus: 1,
                baseline: Baseline::V2,
                affinity: None,
                datastore: "nfs1".parse().expect("a datastore name"),
                media: Vec::new(),
                nics: Vec::new(),
            },
            config_text: String::new(),
            machine: Vec::new(),
            source: facts(&self.hosts[0]),
            link: LinkFacts::default(),
            run_state: self.setup.run_state,
            epoch: self.base.0,
            state_bytes: 3000,
            stun_us_max: self.setup.policy.stun_max.micros(),
            verify: self.setup.verify,
            check_only: self.setup.check_only,
            force_link: false,
            probe: vec![port_group()],
        };
        Plan {
            migration: self.migration,
            destination: self.hosts[1].name.clone(),
            build: "sim".to_owned(),
            offer: ValidatedOffer::new(offer).expect("the offer is within its bounds"),
            policy: self.setup.policy,
            costs: Costs::expected(1),
            touched_pages: PAGES,
            started_unix_s: 1_800_000_000,
        }
    }

    pub(super) fn welcome(&self) -> Welcome {
        Welcome {
            here: self.hosts[1].name.clone(),
            peer: self.hosts[0].name.clone(),
            build: "sim".to_owned(),
            started_unix_s: 1_800_000_000,
        }
    }
}

/// The port group whose uplinks are probed.
fn port_group() -> Agreed {
    let label = heard().label;
    Agreed { label, source: Token([1; Token::BYTES]), destination: Token([2; Token::BYTES]) }
}

/// What each end hears on its uplink.
pub(super) fn heard() -> Found {
    Found { label: "lab".parse().expect("a label"), heard: Heard::Frames }
}

/// The facts of a host that lacks nothing.
pub(super) fn facts(host: &Host) -> HostFacts {
    HostFacts {
        host: host.name.clone(),
        cpu: CpuReport {
            brand: String::new(),
            vendor: "AuthenticAMD".to_owned(),
            signature: [0; 3],
            tsc_khz: 2_000_000,
            leaves: Vec::new(),
        },
        memory_free: Bytes::mib(1024),
        datastores: vec![DatastoreFacts {
            name: "nfs1".parse().expect("a datastore name"),
            identity: "nfs".to_owned(),
            area: Some("0".repeat(32)),
            writable: true,
            trouble: String::new(),
        }],
        port_groups: Vec::new(),
        maintenance: false,
        nic: NicFacts { speed_mbits: Some(10_000), full_duplex: Some(true), mtu: 9000 },
        slots_free: 1,
        vms: Vec::new(),
    }
}
