//! The world: takes the next event and lets it happen.

use model::cpu_report::{Baseline, CpuReport};
use model::receipt::Verdict;
use model::units::Bytes;
use model::vm_config::Verify;
use protocol::checks::facts::{DatastoreFacts, HostFacts, LinkFacts, VmFacts};
use protocol::convergence::{Costs, NoConvergence, Policy};
use protocol::destination::{self, Destination, Recovery, Welcome};
use protocol::lease::host_lease::Standing;
use protocol::lease::identity::Epoch;
use protocol::lease::keeper::{self, Access, Effect as KeeperEffect, IoId, IoResult, RequestId};
use protocol::lease::vm_lease::{Answer, LeaseError, Request, Take};
use protocol::session::{LeaseAnswer, LeaseAsk, Outcome};
use protocol::source::{self, Plan, Source};
use protocol::time::{Duration, Instant};
use protocol::wire::message::{Offer, RunState};
use protocol::wire::{MigrationId, ValidatedOffer};

use super::datastore::Datastore;
use super::faults::{Fault, Side, When};
use super::guest::{self, Life, PAGES, Vmm};
use super::host::{self, Asker, Engine, Host};
use super::invariants::{self as promise, Kept, Violation, broken};
use super::link::Link;
use crate::events::EventQueue;
use crate::rng::Rng;

/// What a world is like.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The seed of every choice.
    pub seed: u64,
    /// What goes wrong, and when.
    pub faults: Vec<(When, Fault)>,
    /// Whether the VM runs or is paused.
    pub run_state: RunState,
    /// How deeply the move is verified.
    pub verify: Verify,
    /// Between two writes of the guest.
    pub write_every: Duration,
    /// What the operator wants.
    pub policy: Policy,
    /// How long it takes to stop the vCPUs.
    pub stop: Duration,
    /// How long an access to the lease area takes at most.
    pub datastore: Duration,
}

impl Setup {
    /// A calm guest and no faults.
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            faults: Vec::new(),
            run_state: RunState::Running,
            verify: Verify::Audit,
            write_every: Duration::from_millis(2),
            policy: Policy {
                stun_max: Duration::from_millis(300),
                throttle: true,
                no_convergence: NoConvergence::Abort,
            },
            stop: Duration::from_millis(1),
            datastore: Duration::from_millis(20),
        }
    }
}

/// How a world ended, all promises kept.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What each machine said; none where its process or host died.
    pub outcomes: [Option<Outcome>; 2],
    /// Who runs the VM at the end.
    pub runner: Side,
    /// Things that the migration machines were told.
    pub steps: u64,
    /// Control messages that each side sent.
    pub messages: [u64; 2],
    /// Times that a guest was stunned.
    pub stuns: u64,
}

impl Ended {
    /// Whether the VM moved, by the source's word.
    pub fn moved(&self) -> bool {
        self.outcomes[0].as_ref().is_some_and(|outcome| outcome.verdict == Verdict::Moved)
    }
}

/// What is going to happen.
#[derive(Debug)]
pub(super) enum Event {
    /// Bytes arrive at the engine of this generation.
    Control(Side, u64, Vec<u8>),
    /// A record arrives.
    Record(Side, u64, Vec<u8>),
    /// The connection is seen to be gone.
    LinkDown(Side, u64),
    /// An effect of a source is to be carried out.
    SourceDoes(u64, Doing),
    /// A source is answered.
    SourceHears(u64, Box<source::Input>),
    /// An effect of a destination is to be carried out.
    DestinationDoes(u64, DestinationDoing),
    /// A destination is answered.
    DestinationHears(u64, Box<destination::Input>),
    /// The engine's deadline.
    EngineWakes(Side, u64),
    /// Another migration process starts.
    EngineRestarts(Side, u64),
    /// The keeper's deadline.
    KeeperWakes(Side, u64),
    /// An access to the lease area has its effect.
    IoApplies(Access),
    /// An access to the lease area ends.
    IoEnds(Side, u64, IoId, Option<Access>),
    /// The guest writes.
    GuestWrites(Side, u64),
}

/// Effects of a source that take a moment.
#[derive(Debug)]
pub(super) enum Doing {
    Read(source::Batch),
    Stun,
    Resume(protocol::session::RightToRun),
    Release,
}

/// Effects of a destination that take a moment.
#[derive(Debug)]
pub(super) enum DestinationDoing {
    Load(Vec<u8>),
    OpenDisks,
    Resume(protocol::session::RightToRun, RunState),
    Discard,
}

/// The world.
#[derive(Debug)]
pub struct World {
    pub(super) setup: Setup,
    pub(super) queue: EventQueue<Event>,
    pub(super) rng: Rng,
    pub(super) hosts: [Host; 2],
    pub(super) link: Link,
    pub(super) datastore: Datastore,
    /// What the guest wrote, wherever it ran.
    pub(super) truth: Vec<u64>,
    pub(super) writes: u64,
    pub(super) offer: Option<ValidatedOffer>,
    pub(super) base: Epoch,
    pub(super) asked: u64,
    pub(super) vmms: u64,
    pub(super) stuns: u64,
    steps: u64,
    restarts: u32,
    started_by_person: Option<Side>,
    migration: MigrationId,
}

/// Everything ends within this time after the last fault, or does not end.
const PATIENCE: Duration = Duration::from_secs(400);

impl World {
    /// A world in which both hosts are up and the VM runs on the source.
    pub fn new(setup: Setup) -> Self {
        let mut rng = Rng::new(setup.seed);
        let (link, datastore) = (Link::new(rng.fork()), Datastore::new(rng.fork(), setup.datastore));
        Self {
            setup,
            queue: EventQueue::new(),
            rng,
            hosts: [Host::new(Side::Source), Host::new(Side::Destination)],
            link,
            datastore,
            truth: vec![0; PAGES as usize],
            writes: 0,
            offer: None,
            base: Epoch(0),
            asked: 0,
            vmms: 0,
            stuns: 0,
            steps: 0,
            restarts: 0,
            started_by_person: None,
            migration: MigrationId(0xfeed),
        }
    }

    /// Lets the world happen from beginning to end.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn run(mut self) -> Result<Ended, Violation> {
        self.prepare()?;
        self.begin()?;
        let deadline = self.queue.now() + PATIENCE;
        while !self.is_settled() {
            if self.queue.now() > deadline {
                return Err(self.does_not_end());
            }
            self.step()?;
        }
        promise::nothing_is_left_over(&self.hosts)?;
        promise::a_failed_migration_leaves_the_vm_on_its_source(&self.hosts, self.setup.run_state)?;
        let outcomes = [self.hosts[0].outcome.clone(), self.hosts[1].outcome.clone()];
        let runner = self.the_vm_can_be_started()?;
        Ok(Ended { outcomes, runner, steps: self.steps, messages: self.link.sent, stuns: self.stuns })
    }

    fn does_not_end(&self) -> Violation {
        let phases = self.hosts.each_ref().map(|host| match &host.engine {
            Engine::Idle => "idle".to_owned(),
            Engine::Source(source) => format!("{:?}", source.phase()).chars().take(60).collect(),
            Engine::Destination(destination) => format!("{:?}", destination.phase()).chars().take(60).collect(),
        });
        Violation { promise: "every_migration_ends", detail: format!("{phases:?}") }
    }

    /// Boots both hosts and starts the VM on the source.
    fn prepare(&mut self) -> Kept {
        for side in Side::BOTH {
            let (now, chance) = (self.queue.now(), self.rng.next_u64());
            self.host(side).boots(now, chance);
            self.keeper_goes_on(side)?;
        }
        let deadline = self.queue.now() + Duration::from_secs(60);
        self.person_starts_the_vm(&[Side::Source], deadline)?;
        for index in 0..guest::WORKING_SET / 2 {
            self.guest_writes_page(Side::Source, guest::place(index));
        }
        let run_state = self.setup.run_state;
        if let Some(vmm) = &mut self.host(Side::Source).vmm {
            vmm.run_state = run_state;
        }
        while !self.is_live(Side::Destination) {
            self.step()?;
        }
        Ok(())
    }

    fn is_live(&self, side: Side) -> bool {
        let keeper = self.hosts[side.index()].keeper.as_ref();
        keeper.is_some_and(|keeper| matches!(keeper.standing(), Standing::Live(_)))
    }

    /// Asks for the lease until it is held on one of these hosts (it may belong to one that lives and whose VMM died),
    /// then the VM runs there.
    fn person_starts_the_vm(&mut self, sides: &[Side], deadline: Instant) -> Result<Side, Violation> {
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

    /// After whatever happened the VM runs, or can be started on a host that is up.
    fn the_vm_can_be_started(&mut self) -> Result<Side, Violation> {
        for side in Side::BOTH {
            if self.hosts[side.index()].vmm.is_some() {
                return Ok(side);
            }
        }
        self.datastore.heals();
        for side in Side::BOTH {
            if !self.hosts[side.index()].up {
                let (now, chance) = (self.queue.now(), self.rng.next_u64());
                self.host(side).boots(now, chance);
                self.keeper_goes_on(side)?;
            }
        }
        let deadline = self.queue.now() + Duration::from_secs(120);
        self.person_starts_the_vm(&Side::BOTH, deadline)
    }

    /// A person types `vm migrate`.
    fn begin(&mut self) -> Kept {
        let now = self.queue.now();
        let held = self.hosts[0].keeper.as_ref().and_then(|keeper| keeper.holds(now, &vm_name()));
        self.base = held.unwrap_or_default();
        let plan = self.plan();
        self.offer = Some(plan.offer.clone());
        self.link = Link::new(self.rng.fork());
        self.hosts[1].engine = Engine::Destination(Box::new(Destination::new(now, self.welcome())));
        self.hosts[0].engine = Engine::Source(Box::new(Source::new(now, plan)));
        self.engine_goes_on(Side::Source)?;
        self.engine_goes_on(Side::Destination)
    }

    fn plan(&self) -> Plan {
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
            link: LinkFacts { rtt_us: 500, mtu: 9000, ..LinkFacts::default() },
            run_state: self.setup.run_state,
            epoch: self.base.0,
            state_bytes: 3000,
            stun_us_max: self.setup.policy.stun_max.micros(),
            verify: self.setup.verify,
            check_only: false,
            force_link: false,
        };
        Plan {
            migration: self.migration,
            destination: self.hosts[1].name.clone(),
            build: "sim".to_owned(),
            offer: ValidatedOffer::new(offer).expect("the offer is within its bounds"),
            policy: self.setup.policy,
            costs: Costs::expected(1),
            bandwidth_bytes_per_s: 100_000_000,
            started_unix_s: 1_800_000_000,
        }
    }

    fn welcome(&self) -> Welcome {
        Welcome {
            here: self.hosts[1].name.clone(),
            peer: self.hosts[0].name.clone(),
            build: "sim".to_owned(),
            started_unix_s: 1_800_000_000,
        }
    }

    pub(super) fn host(&mut self, side: Side) -> &mut Host {
        &mut self.hosts[side.index()]
    }

    pub(super) fn holds(&self, side: Side, now: Instant) -> bool {
        let keeper = self.hosts[side.index()].keeper.as_ref();
        keeper.is_some_and(|keeper| keeper.holds(now, &vm_name()).is_some())
    }

    fn is_settled(&self) -> bool {
        let idle = |host: &Host| matches!(host.engine, Engine::Idle);
        self.restarts == 0 && self.hosts.iter().all(idle)
    }

    pub(super) fn short(&mut self) -> Duration {
        self.rng.latency(Duration::from_micros(20), Duration::from_millis(1))
    }

    /// Takes the next event.
    fn step(&mut self) -> Kept {
        let Some(event) = self.queue.next() else { return broken("every_migration_ends", "nothing happens any more") };
        if self.concerns_an_engine(&event) {
            self.steps += 1;
            let due: Vec<_> = self.setup.faults.iter().filter(|(when, _)| *when == When::Step(self.steps)).collect();
            for fault in due.into_iter().map(|(_, fault)| *fault).collect::<Vec<_>>() {
                self.fault(fault)?;
            }
        }
        self.happen(event)?;
        promise::at_most_one_host_runs(&self.hosts)
    }

    fn concerns_an_engine(&self, event: &Event) -> bool {
        let (side, generation) = match event {
            Event::Control(side, generation, _)
            | Event::Record(side, generation, _)
            | Event::LinkDown(side, generation)
            | Event::EngineWakes(side, generation) => (*side, *generation),
            Event::SourceDoes(generation, _) | Event::SourceHears(generation, _) => (Side::Source, *generation),
            Event::DestinationDoes(generation, _) | Event::DestinationHears(generation, _) => {
                (Side::Destination, *generation)
            }
            _ => return false,
        };
        self.hosts[side.index()].generation == generation
    }

    fn happen(&mut self, event: Event) -> Kept {
        match event {
            Event::Control(side, generation, bytes) => self.control_arrives(side, generation, bytes),
            Event::Record(side, generation, bytes) => self.record_arrives(side, generation, &bytes),
            Event::LinkDown(side, generation) => self.link_down(side, generation),
            Event::SourceDoes(generation, doing) => self.source_does(generation, doing),
            Event::SourceHears(generation, input) => self.source_hears(generation, *input),
            Event::DestinationDoes(generation, doing) => self.destination_does(generation, doing),
            Event::DestinationHears(generation, input) => self.destination_hears(generation, *input),
            Event::EngineWakes(side, generation) => self.engine_wakes(side, generation),
            Event::EngineRestarts(side, boot) => self.engine_restarts(side, boot),
            Event::KeeperWakes(side, boot) => self.keeper_wakes(side, boot),
            Event::IoApplies(access) => {
                self.datastore.apply(&access);
                Ok(())
            }
            Event::IoEnds(side, boot, id, access) => self.io_ends(side, boot, id, access),
            Event::GuestWrites(side, id) => {
                self.guest_writes(side, id);
                Ok(())
            }
        }
    }

    // The guest.

    fn guest_writes(&mut self, side: Side, id: u64) {
        let executes = match &self.hosts[side.index()].vmm {
            Some(vmm) if vmm.id == id => vmm.executes(),
            _ => return,
        };
        if executes {
            let page = guest::place(self.rng.below(guest::WORKING_SET));
            self.guest_writes_page(side, page);
        }
        let throttle = u64::from(self.hosts[side.index()].throttle.min(99));
        let every = self.setup.write_every * 100 / (100 - throttle);
        self.queue.after(every, Event::GuestWrites(side, id));
    }

    pub(super) fn guest_writes_page(&mut self, side: Side, page: u64) {
        self.writes += 1;
        // Now and then a page becomes zero again.
        let version = if self.rng.chance(100_000) { 0 } else { self.writes };
        let writes = self.writes;
        if let Some(vmm) = &mut self.host(side).vmm {
            vmm.write(page, version);
            vmm.writes = writes;
            self.truth[page as usize] = version;
        }
    }

    /// A guest is let go: the moment of truth.
    pub(super) fn guest_is_let_go(&mut self, side: Side) -> Kept {
        let now = self.queue.now();
        let holds = self.holds(side, now);
        let host = &self.hosts[side.index()];
        promise::the_runner_holds_the_lease(host, holds)?;
        promise::every_page_arrives(host, &self.truth, self.writes)?;
        promise::the_run_state_travels(host, self.setup.run_state)?;
        promise::at_most_one_host_runs(&self.hosts)
    }

    // Faults.

    pub(super) fn fault(&mut self, fault: Fault) -> Kept {
        match fault {
            Fault::MigrateDies(side) => self.migrate_dies(side),
            Fault::VmmDies(side) => self.vmm_dies(side, "its VMM crashed"),
            Fault::HostDies(side) => {
                self.host(side).dies();
                self.connection_ends(Some(side))
            }
            Fault::ConnectionDies => self.connection_ends(None),
            Fault::ConnectionFallsSilent => {
                self.link.carries = false;
                Ok(())
            }
            Fault::Cancel(side) => self.engine_hears_cancel(side),
            Fault::LeaseRoleAway(side, span) => {
                self.host(side).lease_away_until = self.queue.now() + span;
                Ok(())
            }
            Fault::DatastoreAway(side, span) => {
                self.datastore.goes_away(side, self.queue.now() + span);
                Ok(())
            }
        }
    }

    fn migrate_dies(&mut self, side: Side) -> Kept {
        if matches!(self.hosts[side.index()].engine, Engine::Idle) {
            return Ok(());
        }
        self.host(side).engine_ends();
        let (pause, boot) = (self.rng.span(Duration::from_millis(20), Duration::from_secs(1)), self.host(side).boot);
        self.restarts += 1;
        self.queue.after(pause, Event::EngineRestarts(side, boot));
        self.connection_ends(Some(side))
    }

    /// A migration process starts and finds what the one before left.
    fn engine_restarts(&mut self, side: Side, boot: u64) -> Kept {
        self.restarts -= 1;
        let now = self.queue.now();
        if !self.hosts[side.index()].up || self.hosts[side.index()].boot != boot {
            return Ok(());
        }
        let life = self.hosts[side.index()].vmm.as_ref().map(|vmm| vmm.life);
        let engine = match (side, life, &self.offer) {
            (_, Some(Life::Running), _) => {
                let host = self.host(side);
                host.throttle = 0;
                host.vmm.iter_mut().for_each(|vmm| vmm.log = false);
                return Ok(());
            }
            (Side::Source, Some(Life::Stunned), _) => Engine::Source(Box::new(Source::recover(now, self.plan()))),
            (Side::Destination, Some(Life::Loaded), Some(offer)) => {
                let recovery =
                    Recovery { migration: self.migration, offer: offer.clone(), run_state: self.setup.run_state };
                Engine::Destination(Box::new(Destination::recover(now, self.welcome(), recovery)))
            }
            _ => {
                self.host(side).vmm = None;
                return Ok(());
            }
        };
        self.host(side).engine = engine;
        self.engine_goes_on(side)
    }

    pub(super) fn vmm_dies(&mut self, side: Side, cause: &str) -> Kept {
        if self.host(side).vmm.take().is_none() {
            return Ok(());
        }
        self.host(side).hurt = true;
        let (after, generation, cause) = (self.short(), self.host(side).generation, cause.to_owned());
        let event = match self.hosts[side.index()].engine {
            Engine::Idle => return Ok(()),
            Engine::Source(_) => Event::SourceHears(generation, Box::new(source::Input::GuestGone { cause })),
            Engine::Destination(_) => {
                Event::DestinationHears(generation, Box::new(destination::Input::GuestGone { cause }))
            }
        };
        self.queue.after(after, event);
        Ok(())
    }

    /// The connection ends; who did not die is told, sometimes only by the silence.
    fn connection_ends(&mut self, dead: Option<Side>) -> Kept {
        self.link.carries = false;
        for side in Side::BOTH {
            if Some(side) != dead && self.rng.chance(700_000) {
                let (after, generation) = (self.short(), self.host(side).generation);
                self.queue.after(after, Event::LinkDown(side, generation));
            }
        }
        Ok(())
    }

    // The keeper of leases.

    pub(super) fn ask(&mut self, side: Side, request: Request, asker: Asker) -> Kept {
        self.asked += 1;
        let (id, now) = (self.asked, self.queue.now());
        let host = self.host(side);
        host.askers.insert(id, asker);
        if let Some(keeper) = &mut host.keeper {
            keeper.handle_input(now, keeper::Input::Request(RequestId(id), request));
        }
        self.keeper_goes_on(side)
    }

    pub(super) fn engine_asks(&mut self, side: Side, ask: LeaseAsk) -> Kept {
        if self.queue.now() < self.host(side).lease_away_until {
            let (after, generation) = (self.short(), self.host(side).generation);
            let answer = LeaseAnswer::Unknown { cause: "the lease role does not answer".to_owned() };
            let event = match side {
                Side::Source => Event::SourceHears(generation, Box::new(source::Input::Lease(ask, answer))),
                Side::Destination => {
                    Event::DestinationHears(generation, Box::new(destination::Input::Lease(ask, answer)))
                }
            };
            self.queue.after(after, event);
            return Ok(());
        }
        let request = ask.request(vm_name(), host::id(Side::Source), self.base);
        let generation = self.host(side).generation;
        self.ask(side, request, Asker::Engine(generation, ask))
    }

    fn keeper_wakes(&mut self, side: Side, boot: u64) -> Kept {
        let now = self.queue.now();
        let host = self.host(side);
        if host.boot != boot || host.keeper_wakes > now {
            return Ok(());
        }
        host.keeper_wakes = Instant::NEVER;
        if let Some(keeper) = &mut host.keeper {
            keeper.handle_timeout(now);
        }
        self.keeper_goes_on(side)
    }

    fn io_ends(&mut self, side: Side, boot: u64, id: IoId, access: Option<Access>) -> Kept {
        if self.hosts[side.index()].boot != boot || self.host(side).io.remove(&id).is_none() {
            return Ok(());
        }
        let result = match access {
            Some(access @ Access::Read { .. }) => self.datastore.apply(&access),
            Some(Access::Write { .. }) => IoResult::Written,
            None => IoResult::Failed,
        };
        let now = self.queue.now();
        if let Some(keeper) = &mut self.host(side).keeper {
            keeper.handle_input(now, keeper::Input::IoEnded(id, result));
        }
        self.keeper_goes_on(side)
    }

    /// Carries out what the keeper wants, and plans its next wake-up.
    fn keeper_goes_on(&mut self, side: Side) -> Kept {
        while let Some(effect) = self.host(side).keeper.as_mut().and_then(keeper::Keeper::poll_effect) {
            match effect {
                KeeperEffect::Io(io) => self.io_begins(side, io),
                KeeperEffect::Fence(_) => self.fenced(side)?,
                KeeperEffect::FeedWatchdog | KeeperEffect::Note(_) | KeeperEffect::Remember(_) => {}
                KeeperEffect::Reply(id, reply) => self.replied(side, id.0, reply)?,
            }
        }
        let host = self.host(side);
        let boot = host.boot;
        if let Some(at) = host.keeper.as_ref().map(keeper::Keeper::poll_timeout)
            && at < host.keeper_wakes
        {
            host.keeper_wakes = at;
            self.queue.at(at, Event::KeeperWakes(side, boot));
        }
        Ok(())
    }

    fn io_begins(&mut self, side: Side, io: keeper::Io) {
        let (now, boot) = (self.queue.now(), self.host(side).boot);
        self.host(side).io.insert(io.id, ());
        let course = self.datastore.course(now, side);
        if let (Some(at), Access::Write { .. }) = (course.applied, &io.access) {
            self.queue.at(at, Event::IoApplies(io.access.clone()));
        }
        // A read is taken at its end: it sees at least what was written before it began.
        let end = Event::IoEnds(side, boot, io.id, course.succeeds.then_some(io.access));
        self.queue.at(course.ends, end);
    }

    fn fenced(&mut self, side: Side) -> Kept {
        self.host(side).hurt = true;
        self.vmm_dies(side, "the host lost its lease, and its VMs were killed")?;
        let now = self.queue.now();
        if let Some(keeper) = &mut self.host(side).keeper {
            keeper.handle_input(now, keeper::Input::Killed);
        }
        Ok(())
    }

    fn replied(&mut self, side: Side, id: u64, reply: Result<Answer, LeaseError>) -> Kept {
        let Some(asker) = self.host(side).askers.remove(&id) else { return Ok(()) };
        match asker {
            Asker::Person => {
                if matches!(reply, Ok(Answer::Held { .. })) {
                    self.started_by_person = Some(side);
                }
            }
            Asker::Engine(generation, ask) => {
                let names = self.hosts.each_ref().map(|host| (host::id(host.side), host.name.clone()));
                let name = |id| names.iter().find(|(known, _)| *known == id).map(|(_, name)| name.clone());
                let answer = ask.answer(self.base, reply, name);
                let event = match side {
                    Side::Source => Event::SourceHears(generation, Box::new(source::Input::Lease(ask, answer))),
                    Side::Destination => {
                        Event::DestinationHears(generation, Box::new(destination::Input::Lease(ask, answer)))
                    }
                };
                let after = self.short();
                self.queue.after(after, event);
            }
        }
        Ok(())
    }

    // The engines.

    fn control_arrives(&mut self, side: Side, generation: u64, bytes: Vec<u8>) -> Kept {
        if !self.link.carries {
            return Ok(());
        }
        match side {
            Side::Source => self.source_hears(generation, source::Input::Control(bytes)),
            Side::Destination => self.destination_hears(generation, destination::Input::Control(bytes)),
        }
    }

    fn link_down(&mut self, side: Side, generation: u64) -> Kept {
        let cause = "the connection was lost".to_owned();
        match side {
            Side::Source => self.source_hears(generation, source::Input::LinkDown { cause }),
            Side::Destination => self.destination_hears(generation, destination::Input::LinkDown { cause }),
        }
    }

    fn engine_hears_cancel(&mut self, side: Side) -> Kept {
        let generation = self.host(side).generation;
        match self.hosts[side.index()].engine {
            Engine::Idle => Ok(()),
            Engine::Source(_) => self.source_hears(generation, source::Input::Cancel),
            Engine::Destination(_) => self.destination_hears(generation, destination::Input::Cancel),
        }
    }

    fn engine_wakes(&mut self, side: Side, generation: u64) -> Kept {
        let now = self.queue.now();
        let host = self.host(side);
        if host.generation != generation || host.engine_wakes > now {
            return Ok(());
        }
        host.engine_wakes = Instant::NEVER;
        match &mut host.engine {
            Engine::Idle => {}
            Engine::Source(source) => source.handle_timeout(now),
            Engine::Destination(destination) => destination.handle_timeout(now),
        }
        self.engine_goes_on(side)
    }

    /// Carries out what an engine wants, and plans its next wake-up.
    pub(super) fn engine_goes_on(&mut self, side: Side) -> Kept {
        match side {
            Side::Source => self.source_effects()?,
            Side::Destination => self.destination_effects()?,
        }
        let host = self.host(side);
        let at = match &host.engine {
            Engine::Idle => None,
            Engine::Source(source) => source.poll_timeout().map(|deadline| deadline.at),
            Engine::Destination(destination) => destination.poll_timeout().map(|deadline| deadline.at),
        };
        if let Some(at) = at
            && at < host.engine_wakes
        {
            host.engine_wakes = at;
            let generation = host.generation;
            self.queue.at(at, Event::EngineWakes(side, generation));
        }
        Ok(())
    }

    pub(super) fn send_control(&mut self, from: Side, bytes: Vec<u8>) {
        let now = self.queue.now();
        let at = self.link.control_arrives(now, from);
        let number = When::Message(from, self.link.sent[from.index()]);
        if self.setup.faults.iter().any(|(when, _)| *when == number) {
            self.link.carries = false;
        }
        if self.link.carries {
            let generation = self.host(from.other()).generation;
            self.queue.at(at, Event::Control(from.other(), generation, bytes));
        }
    }

    pub(super) fn finished(&mut self, side: Side, outcome: Outcome) -> Kept {
        promise::the_outcome_is_the_truth(&self.hosts[side.index()], &self.hosts, &outcome)?;
        promise::a_failure_says_where_and_why(&outcome)?;
        let host = self.host(side);
        host.outcome = Some(outcome);
        host.engine_ends();
        Ok(())
    }
}

pub(super) fn vm_name() -> model::names::VmName {
    "web".parse().expect("a VM name")
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
            writable: true,
            trouble: String::new(),
        }],
        port_groups: Vec::new(),
        maintenance: false,
        slots_free: 1,
        vms: Vec::new(),
    }
}
