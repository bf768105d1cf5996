//! VMs that run: from their launch over the lock of their disk and what they write there to their end.

use model::limits;
use protocol::lease::identity::Epoch;
use protocol::lease::keeper::HostView;
use protocol::lease::vm_lease::{Answer, LeaseError, Request};
use protocol::lease::watch::{DeadBoot, Life};
use protocol::time::Duration;

use super::event::Event;
use super::faults::Fences;
use super::host::{Frozen, Host};
use super::locks::Client;
use super::wishes::Wish;
use super::world::{World, vm_name};

/// A host whose lease was not seen to change for longer has no turn.
const SIGN_OF_LIFE_MS: u64 = 4 * limits::LEASE_RENEWAL_MS;

/// Pause between two tries to take a lock, or to hear of the lease.
const LOCK_AGAIN: Duration = Duration::from_millis(500);

/// One VM on one host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instance {
    /// Names it for ever.
    pub(crate) id: u64,
    /// The epoch under which it runs.
    pub(crate) epoch: Epoch,
    /// How far it is.
    pub(crate) stage: Stage,
    /// How often it was stopped, each time with its I/O drained.
    pub(crate) stops: u32,
    /// A stun was called off before the next epoch was at stake: a look at the lease is enough to go on.
    pub(crate) called_off: bool,
}

/// A write of a VM that is on its way to the disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GuestWrite {
    /// The host that sent it, and what it was to the server then.
    host: usize,
    client: Client,
    vm: usize,
    /// As the instance was then.
    instance: Instance,
}

/// How far a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits for the server's lock on its disk.
    AwaitLock,
    /// It has the lock, and asks the lease once more: what the lease said before the lock was taken may be old, if the host
    /// stood still with its clock in between.
    AwaitWord,
    /// Its vCPUs run.
    Running,
    /// It is stopped for a move, and will run again only if this host wins the next epoch.
    Stopped,
}

impl World {
    /// A VM begins its life on a host, if it has none there and the lease is still held at this very moment.
    pub(super) fn launch(&mut self, host: usize, vm: usize, epoch: Epoch) {
        let has_it = self.hosts[host].instances.contains_key(&vm);
        if has_it || self.hosts[host].holds(self.queue.now(), vm) != Some(epoch) {
            return;
        }
        let id = self.name();
        let stage = if self.faults.fences == Fences::Storage { Stage::AwaitLock } else { Stage::Running };
        self.hosts[host].instances.insert(vm, Instance { id, epoch, stage, stops: 0, called_off: false });
        if stage == Stage::Running {
            self.runs(host, vm, id);
        } else {
            self.lock(host, vm, id);
        }
    }

    pub(super) fn lock(&mut self, host: usize, vm: usize, id: u64) {
        let now = self.queue.now();
        let client = self.hosts[host].client();
        let held = self.hosts[host].holds(now, vm);
        let frozen = self.hosts[host].frozen.is_some();
        let Some(instance) = self.hosts[host].instance(vm, id) else { return };
        match instance.stage {
            Stage::AwaitLock => {}
            // Asked again: the lease process may have died with the question.
            Stage::AwaitWord if !frozen => {
                self.ask_to_be_assured(host, vm, instance);
                return self.queue.after(LOCK_AGAIN, Event::Lock { host, vm, instance: id });
            }
            Stage::AwaitWord => return self.queue.after(LOCK_AGAIN, Event::Lock { host, vm, instance: id }),
            Stage::Running | Stage::Stopped => return,
        }
        // Of one whose stun was called off, a lease process that was started meanwhile may have had to win the next epoch.
        let holds_it = held.is_some_and(|held| held == instance.epoch || instance.called_off);
        if self.hosts[host].cut || frozen || !holds_it {
            if held.is_none() && !frozen {
                return self.destroy(host, vm);
            }
        } else if self.locks.take(now, vm, client, id) {
            if let Some(instance) = self.hosts[host].instance_mut(vm, id) {
                instance.stage = Stage::AwaitWord;
            }
            self.ask_to_be_assured(host, vm, instance);
        } else {
            self.restart_dead_clients(host);
        }
        self.queue.after(LOCK_AGAIN, Event::Lock { host, vm, instance: id });
    }

    /// Whoever waits for a lock makes the server give up what it keeps for boots that are dead, as its lease process sees it now.
    fn restart_dead_clients(&mut self, host: usize) {
        let Some(process) = &self.hosts[host].process else { return };
        for dead in process.keeper.dead_boots() {
            let client = Host::client_of(dead.boot);
            let takes = self.net.latency(Duration::from_millis(1), Duration::from_secs(4));
            self.queue.after(takes, Event::RestartClient { host, client });
        }
    }

    pub(super) fn restart_client(&mut self, host: usize, client: Client) {
        if !self.hosts[host].up || self.hosts[host].cut {
            return;
        }
        self.hosts[host].deaths.settle(Host::boot_of(client));
        if self.locks.restart(client) {
            self.outcome.counts.restarted_clients += 1;
            self.note(|| {
                format!("host-{host} makes the server give up the locks of host-{}, boot {}", client.0, client.1)
            });
        }
    }

    /// Not only a look: the decision may not have been made known yet, or the next epoch be at stake.
    fn ask_to_be_assured(&mut self, host: usize, vm: usize, instance: Instance) {
        let request = if instance.called_off {
            Request::Confirm(vm_name(vm), instance.epoch)
        } else {
            Request::Resolve(vm_name(vm), Epoch(instance.epoch.0.saturating_sub(1)))
        };
        self.ask(host, Wish::Assure(vm, instance.id), request);
    }

    /// The lease says who holds a VM whose lock this host has.
    pub(super) fn assured(
        &mut self,
        host: usize,
        vm: usize,
        id: u64,
        mine: Option<Epoch>,
        result: &Result<Answer, LeaseError>,
    ) {
        if self.hosts[host].instance(vm, id).is_none_or(|instance| instance.stage != Stage::AwaitWord) {
            return;
        }
        match (mine, result) {
            (Some(epoch), _) => {
                self.given(host, vm, epoch);
                if let Some(instance) = self.hosts[host].instance_mut(vm, id) {
                    instance.called_off &= instance.epoch == epoch;
                    (instance.epoch, instance.stage) = (epoch, Stage::Running);
                }
                self.runs(host, vm, id);
            }
            (None, Ok(_)) => self.destroy(host, vm),
            (None, Err(LeaseError::Corrupt { .. })) if self.is_damaged => self.destroy(host, vm),
            // The next look asks again.
            (None, Err(_)) => {}
        }
    }

    /// The vCPUs of a VM begin to run, or go on.
    pub(super) fn runs(&mut self, host: usize, vm: usize, id: u64) {
        self.outcome.counts.starts += 1;
        self.note(|| format!("host-{host} runs vm-{vm}"));
        self.check_runner(host, vm);
        self.queue.after(Duration::from_millis(50), Event::Guest { host, vm, instance: id });
    }

    pub(super) fn guest(&mut self, host: usize, vm: usize, id: u64) {
        if !self.hosts[host].up {
            return;
        }
        let client = self.hosts[host].client();
        let Some(instance) = self.hosts[host].instance(vm, id) else { return };
        let next = self.rng.span(Duration::from_millis(300), Duration::from_millis(700));
        self.queue.after(next, Event::Guest { host, vm, instance: id });
        if instance.stage == Stage::Running {
            let takes = self.rng.latency(Duration::from_millis(1), Duration::from_millis(200));
            self.queue.after(takes, Event::GuestLand(GuestWrite { host, client, vm, instance }));
        }
    }

    pub(super) fn guest_land(&mut self, write: GuestWrite) {
        let GuestWrite { host, client, vm, instance: Instance { id, epoch, stops, .. } } = write;
        let same_boot = self.hosts[host].up && self.hosts[host].client() == client;
        // A stop drains the I/O of the VM first: what is still on its way then has been waited for.
        let drained = |i: Instance| i.stage != Stage::Running || i.epoch != epoch;
        let gone = same_boot && self.hosts[host].instance(vm, id).is_none_or(drained);
        if gone || self.drained.contains(&(id, stops)) {
            return;
        }
        let accepted = match self.faults.fences {
            // A fence ends the I/O of the VM; what a host sent before it lost power still arrives.
            Fences::Clock | Fences::Watchdog => true,
            Fences::Storage => self.locks.accepts(vm, client, id),
        };
        if accepted {
            self.checker.landed(vm, epoch);
        } else if same_boot && self.hosts[host].instance(vm, id).is_some_and(|i| i.stage == Stage::Running) {
            self.note(|| format!("host-{host} loses vm-{vm}: the server refuses its writes"));
            self.destroy(host, vm);
        }
    }

    pub(super) fn destroy(&mut self, host: usize, vm: usize) {
        let client = self.hosts[host].client();
        if let Some(instance) = self.hosts[host].instances.remove(&vm) {
            self.locks.release(vm, client, instance.id);
        }
    }

    pub(super) fn hear(&mut self) {
        let now = self.queue.now();
        for host in &self.hosts {
            if host.up && !host.cut && host.frozen != Some(Frozen::Host) {
                self.locks.hear(now, host.client());
            }
        }
        for host in 0..self.hosts.len() {
            self.tell_of_earlier_boots(host);
            if self.tells_of_deaths {
                self.tell_of_deaths(host);
            }
        }
        self.queue.after(Duration::from_secs(1), Event::Hear);
    }

    /// A host that has its lease again after a reboot tells the server that what it was before is dead.
    fn tell_of_earlier_boots(&mut self, host: usize) {
        let it = &self.hosts[host];
        let Some(process) = it.process.as_ref().filter(|_| it.frozen.is_none() && it.told_of_earlier < it.boot) else {
            return;
        };
        let is_earlier = |dead: &DeadBoot| Host::client_of(dead.boot).0 == host;
        if process.keeper.dead_boots().iter().any(is_earlier) {
            self.hosts[host].told_of_earlier = self.hosts[host].boot;
            self.restart_dead_clients(host);
        }
    }

    /// A host that sees others die tells the server when it is its turn, some time after it looked.
    fn tell_of_deaths(&mut self, host: usize) {
        let now = self.queue.now();
        let it = &mut self.hosts[host];
        let (own, now) = (it.boot_id(), it.clock.shows(now));
        let Some(process) = it.process.as_ref().filter(|_| it.frozen.is_none()) else { return };
        it.deaths.observe(now, process.keeper.dead_boots().iter().map(|dead| dead.boot));
        let hosts = process.keeper.hosts();
        let live = |view: &&HostView| matches!(view.life, Life::Alive { silent_ms } if silent_ms < SIGN_OF_LIFE_MS);
        let before = hosts.iter().filter(live).position(|view| view.record.boot == own);
        for boot in it.deaths.due(now, before) {
            let client = Host::client_of(boot);
            let takes = self.net.latency(Duration::from_millis(1), Duration::from_secs(3));
            self.queue.after(takes, Event::RestartClient { host, client });
        }
    }
}
