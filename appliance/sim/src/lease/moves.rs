//! Moves of VMs: what the two hosts tell each other, and what they do about it.

use protocol::lease::identity::Epoch;
use protocol::lease::vm_lease::{Answer, LeaseError, Request};
use protocol::time::Duration;

use super::event::Event;
use super::faults::Fences;
use super::guest::Stage;
use super::wishes::Wish;
use super::world::{World, vm_name};

/// A move of a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    /// Names it.
    pub(crate) id: u64,
    /// The source.
    pub(crate) from: usize,
    /// The destination.
    pub(crate) to: usize,
    /// The instance that moves.
    pub(crate) instance: u64,
    /// The epoch that the source holds.
    pub(crate) base: Epoch,
}

/// What hosts tell each other in a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Source to destination: be the destination.
    Invite,
    /// Destination to source: prepared.
    Ready,
    /// Source to destination: the VM is stopped; I resume only if I win the epoch.
    Stopped,
    /// Destination to source: I run it.
    Done,
}

impl World {
    pub(super) fn invite(&mut self, from: usize, to: usize, vm: usize) {
        let id = self.name();
        let Some(instance) = self.hosts[from].instances.get(&vm).copied() else { return };
        if instance.stage == Stage::Running && self.hosts[from].frozen.is_none() {
            let moving = Move { id, from, to, instance: instance.id, base: instance.epoch };
            self.send(to, vm, Message::Invite, moving);
        }
    }

    pub(super) fn send(&mut self, to: usize, vm: usize, message: Message, moving: Move) {
        if !self.healed && self.rng.chance(self.faults.message_loss_ppm) {
            return;
        }
        let takes = self.rng.latency(Duration::from_micros(200), Duration::from_millis(400));
        self.queue.after(takes, Event::Message { to, vm, message, moving });
    }

    pub(super) fn told(&mut self, to: usize, vm: usize, message: Message, moving: Move) {
        if !self.hosts[to].up {
            return;
        }
        match message {
            Message::Invite => {
                let source = self.hosts[moving.from].identity();
                if !self.hosts[to].instances.contains_key(&vm) {
                    self.ask(to, Wish::Prepare(vm, moving), Request::Prepare(vm_name(vm), source, moving.base));
                }
            }
            Message::Ready => {
                let Some(instance) = self.hosts[to].instance_mut(vm, moving.instance) else { return };
                if instance.stage != Stage::Running || instance.epoch != moving.base {
                    return;
                }
                instance.stage = Stage::Stopped;
                instance.stops += 1;
                self.drained.insert((moving.instance, instance.stops - 1));
                let (client, id) = (self.hosts[to].client(), moving.instance);
                self.locks.release(vm, client, id);
                self.note(|| format!("host-{to} stops vm-{vm} for its move to host-{}", moving.to));
                if self.faults.called_off_ppm > 0 && self.rng.chance(self.faults.called_off_ppm) {
                    let after = self.rng.span(Duration::from_millis(10), Duration::from_secs(2));
                    return self.queue.after(after, Event::CallOff { host: to, vm, moving });
                }
                self.send(moving.to, vm, Message::Stopped, moving);
                let patience = self.rng.span(Duration::from_millis(100), Duration::from_secs(2));
                self.queue.after(patience, Event::Patience { host: to, vm, instance: id });
            }
            Message::Stopped => {
                if self.hosts[to].incoming.remove(&vm) == Some(moving) {
                    self.ask(to, Wish::Commit(vm, moving), Request::Commit(vm_name(vm), moving.base));
                }
            }
            Message::Done => {
                if self.hosts[to].instance(vm, moving.instance).is_some_and(|i| i.stage == Stage::Stopped) {
                    self.destroy(to, vm);
                }
            }
        }
    }

    pub(super) fn committed(&mut self, host: usize, vm: usize, moving: Move, epoch: Epoch) {
        self.outcome.counts.moves += 1;
        let source = self.hosts[moving.from].instance(vm, moving.instance);
        self.outcome.counts.moves_after_all += u64::from(source.is_some_and(|instance| instance.called_off));
        self.given(host, vm, epoch);
        self.launch(host, vm, epoch);
        self.send(moving.from, vm, Message::Done, moving);
    }

    pub(super) fn patience(&mut self, host: usize, vm: usize, id: u64) {
        let Some(instance) = self.hosts[host].instance(vm, id) else { return };
        if instance.stage == Stage::Stopped {
            let wish = Wish::ResolveSource(vm, id, instance.epoch);
            self.ask(host, wish, Request::Resolve(vm_name(vm), instance.epoch));
        }
    }

    /// The stun took too long: the VM goes on, and is stunned again soon. The destination stays prepared.
    pub(super) fn call_off(&mut self, host: usize, vm: usize, moving: Move) {
        let locked = self.faults.fences == Fences::Storage;
        let Some(instance) = self.hosts[host].instance_mut(vm, moving.instance) else { return };
        if instance.stage != Stage::Stopped || instance.epoch != moving.base {
            return;
        }
        instance.stage = if locked { Stage::AwaitLock } else { Stage::AwaitWord };
        instance.called_off = true;
        self.note(|| format!("host-{host} calls the stun of vm-{vm} off"));
        self.lock(host, vm, moving.instance);
        let again = self.rng.span(Duration::from_millis(50), Duration::from_secs(3));
        self.queue.after(again, Event::Message { to: host, vm, message: Message::Ready, moving });
    }

    pub(super) fn resolved(
        &mut self,
        host: usize,
        vm: usize,
        id: u64,
        wish: Wish,
        mine: Option<Epoch>,
        result: &Result<Answer, LeaseError>,
    ) {
        let Some(instance) = self.hosts[host].instance(vm, id) else { return };
        if instance.stage != Stage::Stopped {
            return;
        }
        match (mine, result) {
            (Some(epoch), _) => {
                self.given(host, vm, epoch);
                let waits = self.faults.fences == Fences::Storage;
                if let Some(instance) = self.hosts[host].instance_mut(vm, id) {
                    instance.epoch = epoch;
                    instance.called_off = false;
                    instance.stage = if waits { Stage::AwaitLock } else { Stage::Running };
                }
                if waits { self.lock(host, vm, id) } else { self.runs(host, vm, id) }
            }
            // Where its lease is damaged a person kills what stands still.
            (None, Ok(_)) => self.destroy(host, vm),
            (None, Err(LeaseError::Corrupt { .. })) if self.is_damaged => self.destroy(host, vm),
            (None, Err(_)) => self.retry(host, wish),
        }
    }
}
