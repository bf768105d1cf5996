//! Carries out what a destination wants.

use model::diagnosis::Reason;
use protocol::destination::{Effect, Input};
use protocol::session::{ClockReading, RightToRun};
use protocol::wire::message::{Rehearsal, RunState};

use super::engine::Engine;
use super::event::Event;
use super::guest::{Life, Vmm};
use super::host::Side;
use super::invariants::{self as promise, Kept, broken};
use super::operator::{facts, heard};
use super::storing::Storing;
use super::world::World;

/// What a destination that rehearsed tells of it.
const REHEARSAL: Rehearsal = Rehearsal { state_us: 4_000, disks_us: 5_000 };

/// Effects of a destination that take a moment.
#[derive(Debug)]
pub(super) enum DestinationDoing {
    Store,
    Load(Vec<u8>, Option<ClockReading>),
    OpenDisks,
    Resume(RightToRun, RunState),
    Discard,
}

impl World {
    pub(super) fn destination_hears(&mut self, generation: u64, input: Input) -> Kept {
        let now = self.queue.now();
        let host = self.host(Side::Destination);
        if host.generation != generation {
            return Ok(());
        }
        if let Engine::Destination(destination) = &mut host.engine {
            destination.handle_input(now, input);
        }
        self.engine_goes_on(Side::Destination)
    }

    pub(super) fn destination_effects(&mut self) -> Kept {
        loop {
            let Engine::Destination(destination) = &mut self.hosts[1].engine else { return Ok(()) };
            let Some(effect) = destination.poll_effect() else { return Ok(()) };
            self.destination_effect(effect)?;
        }
    }

    fn destination_effect(&mut self, effect: Effect) -> Kept {
        let is_unknown = self.hosts[1].control_plane_died;
        match effect {
            Effect::SendControl(bytes) => self.send_control(Side::Destination, bytes),
            // Nobody there listens to this move any more.
            Effect::Examine(_) | Effect::Announce if is_unknown => {}
            Effect::Reserve { .. } if is_unknown => {
                self.answer_destination(Input::Reserved(Err(Reason::new("the VM was not built", ""))));
            }
            // It lets go of the VMM, which ends the log; whether the VMM ends is the lease's word.
            Effect::Discard if is_unknown => {
                self.hosts[1].storing = None;
                self.hosts[1].vmm.iter_mut().for_each(|vmm| vmm.log = false);
                self.answer_destination(Input::Discarded);
            }
            Effect::Examine(_) => {
                let facts = facts(&self.hosts[1]);
                let uplinks = Some(vec![heard()]);
                self.answer_destination(Input::Examined { facts: Box::new(facts), findings: Vec::new(), uplinks });
            }
            Effect::Reserve { .. } => {
                self.vmms += 1;
                self.hosts[1].vmm = Some(Vmm::new(self.vmms, Life::Incoming, RunState::Running));
                self.hosts[1].storing = Some(Storing::new(self.vmms));
                self.answer_destination(Input::Reserved(Ok(())));
            }
            Effect::BuildVmm { dirty_log } => {
                self.hosts[1].vmm.iter_mut().for_each(|vmm| vmm.log = dirty_log);
                self.answer_destination(Input::VmmBuilt(Ok(REHEARSAL)));
            }
            Effect::Lease(ask) => self.engine_asks(Side::Destination, ask)?,
            Effect::LoadState { state, clock } => self.destination_will(DestinationDoing::Load(state, clock)),
            Effect::HashRange { first, count } => {
                let hashes = self.hashes(Side::Destination, first, count);
                self.answer_destination(Input::RangeHashed { first, hashes });
            }
            Effect::OpenDisks => self.destination_will(DestinationDoing::OpenDisks),
            Effect::ResumeGuest(right, run_state) => {
                self.destination_will(DestinationDoing::Resume(right, run_state));
            }
            Effect::HarvestDirty => {
                let dirty = self.hosts[1].vmm.as_mut().map(Vmm::harvest);
                if let Some(dirty) = dirty {
                    self.answer_destination(Input::DirtyHarvested(Ok(dirty)));
                }
            }
            Effect::StopDirtyLog => self.hosts[1].vmm.iter_mut().for_each(|vmm| vmm.log = false),
            Effect::Discard => {
                self.hosts[1].storing = None;
                self.destination_will(DestinationDoing::Discard);
            }
            Effect::Announce => self.answer_destination(Input::Announced { frames: 1 }),
            Effect::Report(_) => {}
            Effect::Finish(outcome) => self.finished(Side::Destination, *outcome)?,
        }
        Ok(())
    }

    pub(super) fn answer_destination(&mut self, input: Input) {
        let (after, generation) = (self.short(), self.host(Side::Destination).generation);
        self.queue.after(after, Event::DestinationHears(generation, Box::new(input)));
    }

    pub(super) fn destination_will(&mut self, doing: DestinationDoing) {
        let (after, generation) = (self.short(), self.host(Side::Destination).generation);
        self.queue.after(after, Event::DestinationDoes(generation, doing));
    }

    /// A VMM that is asked does it, even if the process that asked has ended since; only the answer is lost.
    pub(super) fn destination_does(&mut self, generation: u64, doing: DestinationDoing) -> Kept {
        let alive = self.host(Side::Destination).generation == generation;
        let now = self.queue.now();
        let answer = match doing {
            DestinationDoing::Store => return self.stores(generation),
            DestinationDoing::Load(state, clock) => {
                promise::nothing_is_written_after_all_was_compared(&self.hosts[1])?;
                let Some(vmm) = &mut self.hosts[1].vmm else { return Ok(()) };
                vmm.restore(&state, clock.filter(|_| self.setup.sets_clock), now);
                Input::StateLoaded(Ok(()))
            }
            // Who followed the move has died, and who came after knows of it if the VM is settled here.
            DestinationDoing::OpenDisks if self.hosts[1].control_plane_died && !self.has_settled_here() => {
                return Ok(());
            }
            DestinationDoing::OpenDisks => {
                promise::disks_are_opened_after_they_were_let_go(&self.hosts[0])?;
                Input::DisksOpened(Ok(()))
            }
            DestinationDoing::Resume(_right, run_state) => {
                let every = self.setup.write_every;
                let Some(vmm) = &mut self.hosts[1].vmm else { return Ok(()) };
                vmm.life = Life::Running;
                vmm.run_state = run_state;
                let (id, clock_ns) = (vmm.id, vmm.clock_ns(now));
                self.queue.after(every, Event::GuestWrites(Side::Destination, id));
                self.guest_is_let_go(Side::Destination)?;
                Input::GuestResumed(Ok(clock_ns))
            }
            // The control plane ends the VMM when it hears of the end, and of a process that ended it does not.
            DestinationDoing::Discard if !alive => return Ok(()),
            DestinationDoing::Discard if self.hosts[1].control_plane_died => {
                self.hosts[1].vmm.iter_mut().for_each(|vmm| vmm.log = false);
                Input::Discarded
            }
            DestinationDoing::Discard => {
                if self.hosts[1].runs_the_vm() {
                    return broken("nothing_is_lost", "a running guest was discarded");
                }
                self.hosts[1].vmm = None;
                Input::Discarded
            }
        };
        if alive {
            self.answer_destination(answer);
        }
        Ok(())
    }
}
