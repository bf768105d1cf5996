//! What the host role does with a VM of which the lease did not tell whose it is: it leaves it as it stands, and asks on. A control plane
//! that starts does so with what was moving in.

use protocol::destination::Input;
use protocol::lease::vm_lease::{Answer, LeaseError, Request};
use protocol::time::Duration;

use super::engine::Engine;
use super::event::Event;
use super::guest::Life;
use super::host::Side;
use super::invariants::{self as promise, Kept};
use super::keeper::{Asker, vm_name};
use super::world::World;

/// Between two questions.
pub(super) const ASK_AGAIN: Duration = Duration::from_secs(2);

impl World {
    /// A migration process ended; what it left standing still is the host role's, which asks the lease after so long.
    pub(super) fn host_takes_up(&mut self, side: Side, after: Duration) -> Kept {
        let stands = |life| matches!(life, Life::Stunned | Life::Loaded);
        let Some(vmm) = self.hosts[side.index()].vmm.as_ref().filter(|vmm| stands(vmm.life)).map(|vmm| vmm.id) else {
            return Ok(());
        };
        let host = self.host(side);
        host.undecided = Some(vmm);
        // The end of its connection to the VMM ends both.
        host.throttle = 0;
        host.vmm.iter_mut().for_each(|vmm| vmm.log = false);
        if after == Duration::ZERO {
            return self.host_settles(side, vmm);
        }
        self.queue.after(after, Event::HostSettles(side, vmm));
        Ok(())
    }

    pub(super) fn host_settles(&mut self, side: Side, vmm: u64) -> Kept {
        if !self.is_undecided(side, vmm) {
            return Ok(());
        }
        if self.queue.now() < self.hosts[side.index()].lease_away_until {
            self.queue.after(ASK_AGAIN, Event::HostSettles(side, vmm));
            return Ok(());
        }
        self.ask(side, Request::Resolve(vm_name(), self.base), Asker::Settling(vmm))
    }

    fn is_undecided(&self, side: Side, vmm: u64) -> bool {
        let host = &self.hosts[side.index()];
        host.is_undecided() && host.undecided == Some(vmm)
    }

    pub(super) fn host_is_told(&mut self, side: Side, vmm: u64, reply: Result<Answer, LeaseError>) -> Kept {
        if !self.is_undecided(side, vmm) {
            return Ok(());
        }
        match reply {
            Ok(Answer::Held { .. }) => self.undecided_goes_on(side),
            Ok(Answer::HeldBy(_)) => {
                self.vmm_ends(side, "the VM is another host's");
                Ok(())
            }
            _ => {
                self.queue.after(ASK_AGAIN, Event::HostSettles(side, vmm));
                Ok(())
            }
        }
    }

    fn undecided_goes_on(&mut self, side: Side) -> Kept {
        if side == Side::Destination {
            promise::disks_are_opened_after_they_were_let_go(&self.hosts[0])?;
        }
        let (run_state, every) = (self.setup.run_state, self.setup.write_every);
        self.host(side).undecided = None;
        let Some(vmm) = &mut self.hosts[side.index()].vmm else { return Ok(()) };
        (vmm.life, vmm.run_state) = (Life::Running, run_state);
        let id = vmm.id;
        // The source's guest has never left off.
        if side == Side::Destination {
            self.queue.after(every, Event::GuestWrites(side, id));
        }
        self.guest_is_let_go(side)?;
        if self.hosts[side.index()].control_plane_died {
            self.disks_are_open();
        }
        Ok(())
    }

    pub(super) fn control_plane_dies(&mut self) {
        let host = self.host(Side::Destination);
        if !host.up || host.control_plane_died {
            return;
        }
        host.control_plane_died = true;
        let boot = host.boot;
        let pause = self.rng.latency(Duration::from_millis(2), Duration::from_secs(1));
        self.restarts += 1;
        self.queue.after(pause, Event::ControlPlaneStarts(boot));
    }

    /// What was moving in has its state and is the lease's to give, or nothing will ever come of it.
    pub(super) fn control_plane_starts(&mut self, boot: u64) -> Kept {
        self.restarts -= 1;
        let host = &mut self.hosts[Side::Destination.index()];
        host.control_plane_is_back = host.boot == boot;
        let Some(vmm) = host.vmm.as_ref().filter(|_| host.boot == boot) else { return Ok(()) };
        match vmm.life {
            Life::Incoming => self.vmm_ends(Side::Destination, "its control plane ended it"),
            Life::Loaded => {
                let vmm = vmm.id;
                host.undecided = Some(vmm);
                return self.host_settles(Side::Destination, vmm);
            }
            Life::Running | Life::Stunned => {}
        }
        Ok(())
    }

    /// Whether a control plane that did not follow the move knows that the VM is this host's.
    pub(super) fn has_settled_here(&self) -> bool {
        let host = &self.hosts[Side::Destination.index()];
        let runs = host.vmm.as_ref().is_some_and(|vmm| vmm.life == Life::Running);
        host.control_plane_is_back && runs && host.undecided.is_none()
    }

    /// A migration process that lives may wait for that; where it is not reached, it asks.
    fn disks_are_open(&mut self) {
        if matches!(self.hosts[Side::Destination.index()].engine, Engine::Destination(_)) && self.rng.chance(500_000) {
            self.answer_destination(Input::DisksOpened(Ok(())));
        }
    }
}
