//! The world: takes the next event and lets it happen, from the first boot until the VM runs somewhere for good.

use model::receipt::Verdict;
use protocol::lease::identity::Epoch;
use protocol::session::Outcome;
use protocol::time::Duration;
use protocol::wire::{MigrationId, ValidatedOffer};

use super::datastore::Datastore;
use super::engine::Engine;
use super::event::Event;
use super::faults::{Fault, When};
use super::guest::{self, PAGES};
use super::host::{Host, Side};
use super::invariants::{self as promise, Kept, broken};
use super::link::Link;
use super::setup::Setup;
use super::ways::Ways;
use crate::events::EventQueue;
use crate::rng::Rng;
use crate::violation::Violation;

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
    /// Where the VM stood still when all machines had ended, because its lease would never tell whose it is.
    pub undecided: [bool; 2],
    /// From the beginning of the move to the end of all machines, in the time of this world.
    pub took: Duration,
    /// How far the clock of the guest that runs at the end is ahead of the time of this world, nanoseconds; behind is negative.
    pub clock_ahead_ns: i64,
}

impl Ended {
    /// Whether the VM moved, by the source's word.
    pub fn moved(&self) -> bool {
        self.outcomes[0].as_ref().is_some_and(|outcome| outcome.verdict == Verdict::Moved)
    }
}

/// The world.
#[derive(Debug)]
pub struct World {
    pub(super) setup: Setup,
    pub(super) queue: EventQueue<Event>,
    pub(super) rng: Rng,
    pub(super) hosts: [Host; 2],
    pub(super) link: Link,
    pub(super) ways: Ways,
    pub(super) ends_are_told_twice: bool,
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
    pub(super) restarts: u32,
    pub(super) started_by_person: Option<Side>,
    /// The move is over, and what follows is a person's.
    pub(super) is_over: bool,
    pub(super) migration: MigrationId,
}

/// Everything ends within this time after the last fault, or does not end.
const PATIENCE: Duration = Duration::from_secs(400);
/// How long a VM is watched that stands still.
const TIME_GOES_BY: Duration = Duration::from_secs(20);

impl World {
    /// A world in which both hosts are up and the VM runs on the source.
    pub fn new(setup: Setup) -> Self {
        let mut rng = Rng::new(setup.seed);
        let (link, datastore) = (Link::new(rng.fork(), setup.one_way), Datastore::new(rng.fork(), setup.datastore));
        Self {
            setup,
            queue: EventQueue::new(),
            rng,
            hosts: [Host::new(Side::Source), Host::new(Side::Destination)],
            link,
            ways: Ways::default(),
            ends_are_told_twice: false,
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
            is_over: false,
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
        let began = self.queue.now();
        let deadline = began + PATIENCE;
        while !self.is_settled() {
            if self.queue.now() > deadline {
                return Err(self.does_not_end());
            }
            self.step()?;
        }
        let took = self.queue.now().since(began);
        self.time_goes_by()?;
        promise::nothing_is_left_over(&self.hosts)?;
        promise::a_failed_migration_leaves_the_vm_on_its_source(&self.hosts, self.setup.run_state)?;
        let outcomes = [self.hosts[0].outcome.clone(), self.hosts[1].outcome.clone()];
        let undecided = self.hosts.each_ref().map(|host| host.is_undecided());
        let runner = self.the_vm_can_be_started()?;
        let clock_ahead_ns = self.hosts[runner.index()].vmm.as_ref().map_or(0, |vmm| vmm.clock_ahead_ns);
        let (steps, messages, stuns) = (self.steps, self.link.sent, self.stuns);
        Ok(Ended { outcomes, runner, steps, messages, stuns, undecided, took, clock_ahead_ns })
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
            self.boot(side)?;
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

    pub(super) fn boot(&mut self, side: Side) -> Kept {
        let (now, chance) = (self.queue.now(), self.rng.next_u64());
        self.host(side).boots(now, chance);
        self.keeper_goes_on(side)
    }

    fn is_settled(&self) -> bool {
        let idle = |host: &Host| matches!(host.engine, Engine::Idle);
        let is_settled = |host: &Host| !host.is_undecided() || self.datastore.is_damaged_for_good();
        self.restarts == 0 && self.hosts.iter().all(idle) && self.hosts.iter().all(is_settled)
    }

    /// What stands still under a damaged lease stays as it is, however often the lease is asked.
    fn time_goes_by(&mut self) -> Kept {
        let until = self.queue.now() + if self.has_undecided() { TIME_GOES_BY } else { Duration::ZERO };
        while self.queue.now() < until {
            self.step()?;
        }
        Ok(())
    }

    pub(super) fn has_undecided(&self) -> bool {
        self.hosts.iter().any(|host| host.is_undecided())
    }

    /// Takes the next event.
    pub(super) fn step(&mut self) -> Kept {
        let Some(event) = self.queue.next() else { return broken("every_migration_ends", "nothing happens any more") };
        let Some(event) = self.put_back(event) else { return Ok(()) };
        let (concerned, mut again) = (event.engine(), None);
        if concerned.is_some_and(|(side, generation)| self.hosts[side.index()].generation == generation) {
            self.steps += 1;
            let due: Vec<_> = self.setup.faults.iter().filter(|(when, _)| *when == When::Step(self.steps)).collect();
            let (mut late, due) = (None, due.into_iter().map(|(_, fault)| *fault).collect::<Vec<_>>());
            for fault in due {
                match fault {
                    Fault::Late(span) => late = Some(span),
                    Fault::Twice => again = event.again(),
                    fault => self.fault(fault)?,
                }
            }
            if let Some(span) = late {
                self.is_late(event, span);
                return Ok(());
            }
        }
        if self.ends_are_told_twice && event.is_an_end() {
            again = event.again();
        }
        for event in [Some(event), again].into_iter().flatten() {
            self.happen(event)?;
        }
        promise::at_most_one_host_runs(&self.hosts)?;
        // Before the move it is being started, after it a person may kill it.
        if self.offer.is_some() && !self.is_over { promise::a_whole_copy_is_left(&self.hosts) } else { Ok(()) }
    }

    fn happen(&mut self, event: Event) -> Kept {
        match event {
            Event::Control(side, generation, bytes) => self.control_arrives(side, generation, bytes),
            Event::Record(side, generation, bytes) => self.record_arrives(side, generation, bytes),
            Event::LinkDown(side, generation) => self.link_down(side, generation),
            Event::SourceDoes(generation, doing) => self.source_does(generation, doing),
            Event::SourceHears(generation, input) => self.source_hears(generation, *input),
            Event::DestinationDoes(generation, doing) => self.destination_does(generation, doing),
            Event::DestinationHears(generation, input) => self.destination_hears(generation, *input),
            Event::EngineWakes(side, generation) => self.engine_wakes(side, generation),
            Event::EngineRestarts(side, boot) => self.engine_restarts(side, boot),
            Event::KeeperWakes(side, boot) => self.keeper_wakes(side, boot),
            Event::IoApplies(access) => {
                self.datastore.apply(self.queue.now(), &access);
                Ok(())
            }
            Event::IoEnds(side, boot, id, access) => self.io_ends(side, boot, id, access),
            Event::Asks(side, boot, request, asker) if self.hosts[side.index()].boot == boot => {
                self.ask(side, request, asker)
            }
            Event::Asks(..) => Ok(()),
            Event::ControlPlaneStarts(boot) => self.control_plane_starts(boot),
            Event::HostSettles(side, vmm) => self.host_settles(side, vmm),
            Event::GuestWrites(side, id) => {
                self.guest_writes(side, id);
                Ok(())
            }
        }
    }

    pub(super) fn host(&mut self, side: Side) -> &mut Host {
        &mut self.hosts[side.index()]
    }

    pub(super) fn short(&mut self) -> Duration {
        self.rng.latency(Duration::from_micros(20), Duration::from_millis(1))
    }
}
