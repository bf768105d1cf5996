//! Each host's keeper of leases: what it is asked, what it wants done, and who hears of its answers.

use model::diagnosis::Reason;
use protocol::destination;
use protocol::lease::host_lease::Standing;
use protocol::lease::keeper::{self, Access, Effect, IoId, IoResult, RequestId};
use protocol::lease::vm_lease::{Answer, LeaseError, Request, Vouched};
use protocol::session::{LeaseAnswer, LeaseAsk};
use protocol::source;
use protocol::time::Instant;

use super::event::Event;
use super::host::{self, Side};
use super::invariants::Kept;
use super::world::World;

/// Who waits for a reply of the keeper.
#[derive(Clone, Copy, Debug)]
pub enum Asker {
    /// The migration process of this generation.
    Engine(u64, LeaseAsk),
    /// The same, of a source, before it lets the guest go on.
    Assurance(u64, LeaseAsk),
    /// A person who starts the VM.
    Person,
    /// The host role, which settles whose this VMM is.
    Settling(u64),
}

/// The name of the VM.
pub(super) fn vm_name() -> model::names::VmName {
    "web".parse().expect("a VM name")
}

impl World {
    pub(super) fn ask(&mut self, side: Side, request: Request, asker: Asker) -> Kept {
        let (now, host) = (self.queue.now(), &self.hosts[side.index()]);
        // A person asks when all is over, and one thing after the other.
        if now < host.lease_slow_until && !matches!(asker, Asker::Person) {
            self.queue.at(host.lease_slow_until, Event::Asks(side, host.boot, request, asker));
            return Ok(());
        }
        self.asked += 1;
        let id = self.asked;
        let host = self.host(side);
        host.askers.insert(id, asker);
        if let Some(keeper) = &mut host.keeper {
            keeper.handle_input(now, keeper::Input::Request(RequestId(id), request));
        }
        self.keeper_goes_on(side)
    }

    pub(super) fn engine_asks(&mut self, side: Side, ask: LeaseAsk) -> Kept {
        if self.queue.now() < self.host(side).lease_away_until {
            let answer = LeaseAnswer::Unknown { cause: "the lease role does not answer".to_owned() };
            let generation = self.host(side).generation;
            self.answer_engine(side, generation, ask, answer);
            return Ok(());
        }
        let generation = self.host(side).generation;
        self.ask(side, self.request(ask), Asker::Engine(generation, ask))
    }

    /// A source asks before it lets the guest go on, as often as it takes to be told: in the product the control plane goes
    /// on asking for a migration process that was not.
    pub(super) fn source_asks_to_be_assured(&mut self, generation: u64, ask: LeaseAsk) -> Kept {
        if self.queue.now() < self.host(Side::Source).lease_away_until {
            self.source_will_ask_again(ask);
            return Ok(());
        }
        self.ask(Side::Source, self.request(ask), Asker::Assurance(generation, ask))
    }

    fn request(&self, ask: LeaseAsk) -> Request {
        ask.request(vm_name(), host::id(Side::Source), self.base)
    }

    fn replied(&mut self, side: Side, id: u64, reply: Result<Answer, LeaseError>) -> Kept {
        let Some(asker) = self.host(side).askers.remove(&id) else { return Ok(()) };
        match asker {
            Asker::Person => {
                match reply {
                    Ok(Answer::Held { .. }) => self.started_by_person = Some(side),
                    // It runs nowhere, and this person knows that.
                    Err(LeaseError::Corrupt { tenancy, .. }) => {
                        let mend = Request::Mend(vm_name(), Vouched::Of(tenancy));
                        return self.ask(side, mend, Asker::Person);
                    }
                    _ => {}
                }
            }
            Asker::Settling(vmm) => self.host_is_told(side, vmm, reply)?,
            Asker::Engine(generation, ask) => {
                let answer = self.answer(ask, reply);
                self.answer_engine(side, generation, ask, answer);
            }
            Asker::Assurance(generation, _) if self.host(side).generation != generation => {}
            Asker::Assurance(_, ask) => match self.answer(ask, reply) {
                LeaseAnswer::Won { .. } => self.source_will_go_on(),
                LeaseAnswer::Unknown { .. } => self.source_will_ask_again(ask),
                other => {
                    let cause = format!("its lease does not say that it is this host's still: {other:?}");
                    self.answer_source(source::Input::GuestResumed(Err(Reason::new(cause, ""))));
                }
            },
        }
        Ok(())
    }

    pub(super) fn lease_answers_are_lost(&mut self, side: Side) -> Kept {
        let waiting = self.hosts[side.index()].askers.iter().filter(|(_, asker)| !matches!(asker, Asker::Person));
        for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.replied(side, id, Err(LeaseError::OutcomeUnknown))?;
        }
        Ok(())
    }

    fn answer(&self, ask: LeaseAsk, reply: Result<Answer, LeaseError>) -> LeaseAnswer {
        let names = self.hosts.each_ref().map(|host| (host::id(host.side), host.name.clone()));
        let name = |id| names.iter().find(|(known, _)| *known == id).map(|(_, name)| name.clone());
        ask.answer(self.base, reply, name)
    }

    fn answer_engine(&mut self, side: Side, generation: u64, ask: LeaseAsk, answer: LeaseAnswer) {
        let event = match side {
            Side::Source => Event::SourceHears(generation, Box::new(source::Input::Lease(ask, answer))),
            Side::Destination => Event::DestinationHears(generation, Box::new(destination::Input::Lease(ask, answer))),
        };
        let after = self.short();
        self.queue.after(after, event);
    }

    pub(super) fn keeper_wakes(&mut self, side: Side, boot: u64) -> Kept {
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

    /// Carries out what the keeper wants, and plans its next wake-up.
    pub(super) fn keeper_goes_on(&mut self, side: Side) -> Kept {
        while let Some(effect) = self.host(side).keeper.as_mut().and_then(keeper::Keeper::poll_effect) {
            match effect {
                Effect::Io(io) => self.io_begins(side, io),
                Effect::Fence(_) => self.fenced(side)?,
                Effect::FeedWatchdog | Effect::Note(_) | Effect::Remember(_) => {}
                Effect::Reply(id, reply) => self.replied(side, id.0, reply)?,
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

    pub(super) fn io_ends(&mut self, side: Side, boot: u64, id: IoId, access: Option<Access>) -> Kept {
        if self.hosts[side.index()].boot != boot || self.host(side).io.remove(&id).is_none() {
            return Ok(());
        }
        let result = match access {
            Some(access @ Access::Read { .. }) => self.datastore.apply(self.queue.now(), &access),
            Some(Access::Write { .. }) => IoResult::Written,
            None => IoResult::Failed,
        };
        let now = self.queue.now();
        if let Some(keeper) = &mut self.host(side).keeper {
            keeper.handle_input(now, keeper::Input::IoEnded(id, result));
        }
        self.keeper_goes_on(side)
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

    pub(super) fn holds(&self, side: Side, now: Instant) -> bool {
        let keeper = self.hosts[side.index()].keeper.as_ref();
        keeper.is_some_and(|keeper| keeper.holds(now, &vm_name()).is_some())
    }

    pub(super) fn is_live(&self, side: Side) -> bool {
        let keeper = self.hosts[side.index()].keeper.as_ref();
        keeper.is_some_and(|keeper| matches!(keeper.standing(), Standing::Live(_)))
    }
}
