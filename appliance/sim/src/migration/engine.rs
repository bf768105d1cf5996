//! The migration processes: what reaches them whichever side they are, and what they leave when they die.

use protocol::destination::{self, Destination};
use protocol::session::Outcome;
use protocol::source::{self, Source};
use protocol::time::{Duration, Instant};

use super::event::Event;
use super::faults::{Fault, When};
use super::guest::Life;
use super::host::Side;
use super::invariants::{self as promise, Kept};
use super::settling::ASK_AGAIN;
use super::world::World;

/// What a migration process does.
#[derive(Debug)]
pub enum Engine {
    /// Nothing, or it does not exist.
    Idle,
    /// It moves the VM out.
    Source(Box<Source>),
    /// It takes the VM in.
    Destination(Box<Destination>),
}

impl World {
    pub(super) fn control_arrives(&mut self, side: Side, generation: u64, bytes: Vec<u8>) -> Kept {
        if !self.link.carries {
            return Ok(());
        }
        match side {
            Side::Source => self.source_hears(generation, source::Input::Control(bytes)),
            Side::Destination => self.destination_hears(generation, destination::Input::Control(bytes)),
        }
    }

    pub(super) fn link_down(&mut self, side: Side, generation: u64) -> Kept {
        let cause = "the connection was lost".to_owned();
        match side {
            Side::Source => self.source_hears(generation, source::Input::LinkDown { cause }),
            Side::Destination => self.destination_hears(generation, destination::Input::LinkDown { cause }),
        }
    }

    pub(super) fn engine_hears_cancel(&mut self, side: Side) -> Kept {
        let generation = self.host(side).generation;
        match self.hosts[side.index()].engine {
            Engine::Idle => Ok(()),
            Engine::Source(_) => self.source_hears(generation, source::Input::Cancel),
            Engine::Destination(_) => self.destination_hears(generation, destination::Input::Cancel),
        }
    }

    pub(super) fn engine_wakes(&mut self, side: Side, generation: u64) -> Kept {
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
            Engine::Source(source) => source.poll_timeout(),
            Engine::Destination(destination) => destination.poll_timeout(),
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
        self.link.sent[from.index()] += 1;
        let number = When::Message(from, self.link.sent[from.index()]);
        let (mut later, mut copies) = (Duration::ZERO, 1);
        for (_, fault) in self.setup.faults.iter().filter(|(when, _)| *when == number) {
            match fault {
                Fault::Doubled => copies = 2,
                Fault::Delayed(span) => later = *span,
                _ => self.link.carries = false,
            }
        }
        let at = self.link.control_arrives(self.queue.now(), from, later);
        if self.link.carries {
            let generation = self.host(from.other()).generation;
            for _ in 0..copies {
                self.queue.at(at, Event::Control(from.other(), generation, bytes.clone()));
            }
        }
    }

    pub(super) fn finished(&mut self, side: Side, outcome: Outcome) -> Kept {
        promise::the_outcome_is_the_truth(&self.hosts[side.index()], &self.hosts, &outcome)?;
        promise::a_failure_says_where_and_why(&outcome)?;
        let host = self.host(side);
        host.outcome = Some(outcome);
        host.engine_ends();
        self.host_takes_up(side, ASK_AGAIN)
    }

    /// A migration process starts, and knows nothing of the move; what it left standing still is the host role's, which asks the lease.
    pub(super) fn engine_restarts(&mut self, side: Side, boot: u64) -> Kept {
        self.restarts -= 1;
        if !self.hosts[side.index()].up || self.hosts[side.index()].boot != boot {
            return Ok(());
        }
        match self.hosts[side.index()].vmm.as_ref().map(|vmm| vmm.life) {
            Some(Life::Running) => {
                let host = self.host(side);
                host.throttle = 0;
                host.vmm.iter_mut().for_each(|vmm| vmm.log = false);
                Ok(())
            }
            Some(Life::Stunned | Life::Loaded) => self.host_takes_up(side, Duration::ZERO),
            Some(Life::Incoming) | None => {
                self.host(side).vmm = None;
                Ok(())
            }
        }
    }
}
