//! What goes wrong, when, and how it happens.

use protocol::time::{Duration, Instant};
use protocol::{destination, source};

use super::engine::Engine;
use super::event::Event;
use super::host::Side;
use super::invariants::Kept;
use super::ways::Way;
use super::world::World;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The migration process ends; another one starts a moment later and finds what it left.
    MigrateDies(Side),
    /// The VMM ends.
    VmmDies(Side),
    /// The host ends, with all its processes.
    HostDies(Side),
    /// The connection ends, and both sides are told.
    ConnectionDies,
    /// The connection carries nothing any more, and nobody is told.
    ConnectionFallsSilent,
    /// A person cancels on this host.
    Cancel(Side),
    /// This host's reads and writes of the lease area fail for so long.
    DatastoreAway(Side, Duration),
    /// This host's lease role cannot be asked for so long: every question fails at once, and leases are kept.
    LeaseRoleAway(Side, Duration),
    /// This host's lease role takes up what it is asked only after so long, whether or not anybody still waits for it.
    LeaseRoleSlow(Side, Duration),
    /// Who waits for an answer of this host's lease role hears that there will be none; what was asked has its effect.
    LeaseAnswersLost(Side),
    /// The migration process of this host stands still for so long, and then hears everything in its order.
    MigrateStands(Side, Duration),
    /// The control plane of the destination ends; the next one settles by the lease what was moving in, beside a migration
    /// process that lives. What it is asked for a move that it did not begin it does not do.
    ControlPlaneDies,
    /// That the connection, or a VMM, is gone is told twice from now on: whoever finds out says so.
    EndsAreToldTwice,
    /// What one host wrote about the VM into the lease area cannot be read, for so long or for ever.
    LeaseDamaged(Option<Duration>),
    /// A control message arrives twice. Only of [`When::Message`].
    Doubled,
    /// A control message, and all that follow it, arrives so much later. Only of [`When::Message`].
    Delayed(Duration),
    /// What is told or done in this step is so much later, and what comes the same way waits behind it. Only of [`When::Step`].
    Late(Duration),
    /// What is told in this step is told twice, unless a monitor says it or the transport: each of their answers is to one
    /// request, and taken once. Only of [`When::Step`].
    Twice,
}

/// When a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the migration machines are told the `n`-th thing.
    Step(u64),
    /// With the `n`-th control message that this side sends; where the connection falls silent, instead of it.
    Message(Side, u64),
}

impl World {
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
            Fault::Doubled | Fault::Delayed(_) | Fault::Late(_) | Fault::Twice => Ok(()),
            Fault::Cancel(side) => self.engine_hears_cancel(side),
            Fault::LeaseRoleAway(side, span) => {
                self.host(side).lease_away_until = self.queue.now() + span;
                Ok(())
            }
            Fault::LeaseRoleSlow(side, span) => {
                self.host(side).lease_slow_until = self.queue.now() + span;
                Ok(())
            }
            Fault::LeaseAnswersLost(side) => self.lease_answers_are_lost(side),
            Fault::MigrateStands(side, span) => {
                self.ways.hold(Way::Process(side), self.queue.now() + span);
                Ok(())
            }
            Fault::EndsAreToldTwice => {
                self.ends_are_told_twice = true;
                Ok(())
            }
            Fault::ControlPlaneDies => {
                self.control_plane_dies();
                Ok(())
            }
            Fault::LeaseDamaged(span) => {
                self.datastore.is_damaged(span.map_or(Instant::NEVER, |span| self.queue.now() + span));
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

    pub(super) fn vmm_dies(&mut self, side: Side, cause: &str) -> Kept {
        if self.host(side).vmm.is_some() {
            self.host(side).hurt = true;
            self.vmm_ends(side, cause);
        }
        Ok(())
    }

    /// The VMM is gone, and a migration process that it had hears of it.
    pub(super) fn vmm_ends(&mut self, side: Side, cause: &str) {
        self.host(side).vmm = None;
        let (after, generation, cause) = (self.short(), self.host(side).generation, cause.to_owned());
        let event = match self.hosts[side.index()].engine {
            Engine::Idle => return,
            Engine::Source(_) => Event::SourceHears(generation, Box::new(source::Input::GuestGone { cause })),
            Engine::Destination(_) => {
                Event::DestinationHears(generation, Box::new(destination::Input::GuestGone { cause }))
            }
        };
        self.queue.after(after, event);
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
}
