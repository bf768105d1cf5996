//! What hosts want of their leases, and what they do about the answers.

use protocol::lease::host_lease::Standing;
use protocol::lease::identity::Epoch;
use protocol::lease::keeper::Input;
use protocol::lease::vm_lease::{Answer, LeaseError, Request, Take};
use protocol::time::Duration;

use super::event::Event;
use super::guest::Stage;
use super::host::Frozen;
use super::moves::{Message, Move};
use super::world::{World, vm_name};

/// Why a host asked its lease process for something.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wish {
    /// To start a VM.
    Start(usize),
    /// A VM runs, the lease process is new: is it still held?
    Confirm(usize, u64),
    /// The lock of a VM's disk was taken: does this host still hold the VM?
    Assure(usize, u64),
    /// A VM was stopped.
    GiveUp(usize),
    /// As the destination of a move.
    Prepare(usize, Move),
    /// As the destination of a move.
    Commit(usize, Move),
    /// As the source of a move that did not hear of its end: VM, instance, epoch.
    ResolveSource(usize, u64, Epoch),
    /// As the destination of a move whose commit has an unknown end.
    ResolveDestination(usize, Move),
    /// The VM's lease is damaged.
    Mend,
    /// Somebody wants to know.
    Query,
}

impl World {
    pub(super) fn ask(&mut self, host: usize, wish: Wish, request: Request) {
        let now = self.queue.now();
        if self.hosts[host].process.is_none() || self.hosts[host].frozen == Some(Frozen::Process) {
            return self.retry(host, wish);
        }
        let id = self.hosts[host].request_id();
        self.hosts[host].wishes.insert(id, (now, wish));
        self.feed(host, Input::Request(id, request));
    }

    /// What must not be dropped is asked again.
    pub(super) fn retry(&mut self, host: usize, wish: Wish) {
        let vm = match wish {
            Wish::Confirm(vm, _) | Wish::ResolveSource(vm, ..) | Wish::ResolveDestination(vm, _) | Wish::GiveUp(vm) => {
                vm
            }
            Wish::Start(_) | Wish::Assure(..) | Wish::Prepare(..) | Wish::Commit(..) | Wish::Mend | Wish::Query => {
                return;
            }
        };
        let pause = self.rng.span(Duration::from_millis(200), Duration::from_secs(1));
        self.queue.after(pause, Event::Again { host, vm, wish });
    }

    pub(super) fn again(&mut self, host: usize, vm: usize, wish: Wish) {
        if !self.hosts[host].up {
            return;
        }
        let name = vm_name(vm);
        match wish {
            Wish::Confirm(_, id) if self.hosts[host].instance(vm, id).is_some() => {
                self.ask(host, wish, Request::Acquire(name, Take::IfFree));
            }
            Wish::ResolveSource(_, id, base) if self.hosts[host].instance(vm, id).is_some() => {
                self.ask(host, wish, Request::Resolve(name, base));
            }
            Wish::ResolveDestination(_, moving) if !self.hosts[host].instances.contains_key(&vm) => {
                self.ask(host, wish, Request::Resolve(name, moving.base));
            }
            Wish::GiveUp(_) if !self.hosts[host].instances.contains_key(&vm) => {
                self.ask(host, wish, Request::GiveUp(name));
            }
            _ => {}
        }
    }

    pub(super) fn replied(&mut self, host: usize, wish: Wish, result: Result<Answer, LeaseError>) {
        self.note(|| format!("host-{host} {wish:?}: {result:?}"));
        let mine = match &result {
            Ok(Answer::Held { epoch, taken_from }) => {
                self.outcome.counts.takeovers += u64::from(taken_from.is_some());
                Some(*epoch)
            }
            _ => None,
        };
        match wish {
            Wish::Start(vm) => {
                if let Some(epoch) = mine {
                    self.given(host, vm, epoch);
                    self.launch(host, vm, epoch);
                } else if let Err(LeaseError::Corrupt { tenancy, .. }) = result
                    && self.is_damaged
                {
                    self.mend_lease(host, vm, tenancy);
                }
            }
            Wish::Assure(vm, id) => self.assured(host, vm, id, mine, &result),
            Wish::Confirm(vm, id) => self.confirmed(host, vm, id, mine, &result),
            Wish::Prepare(vm, moving) => {
                if let Ok(Answer::Prepared(_)) = result {
                    self.hosts[host].incoming.insert(vm, moving);
                    self.send(moving.from, vm, Message::Ready, moving);
                }
            }
            Wish::Commit(vm, moving) => match (mine, result) {
                (Some(epoch), _) => self.committed(host, vm, moving, epoch),
                (None, Err(LeaseError::Contended | LeaseError::OutcomeUnknown | LeaseError::Fenced)) => {
                    self.ask(host, Wish::ResolveDestination(vm, moving), Request::Resolve(vm_name(vm), moving.base));
                }
                _ => {}
            },
            Wish::ResolveDestination(vm, moving) => match (mine, result) {
                (Some(epoch), _) => self.committed(host, vm, moving, epoch),
                (None, Err(LeaseError::OutcomeUnknown | LeaseError::Storage | LeaseError::NotLive)) => {
                    self.retry(host, wish);
                }
                _ => {}
            },
            Wish::ResolveSource(vm, id, _) => self.resolved(host, vm, id, wish, mine, &result),
            Wish::GiveUp(_) if result.is_err() => self.retry(host, wish),
            Wish::Mend => self.outcome.counts.mended += u64::from(result == Ok(Answer::GivenUp)),
            Wish::GiveUp(_) | Wish::Query => {}
        }
    }

    /// A host was told that it holds an epoch.
    pub(super) fn given(&mut self, host: usize, vm: usize, epoch: Epoch) {
        let stale = self.queue.now() < self.hosts[host].stale_until;
        let standing = self.hosts[host].process.as_ref().map(|p| p.keeper.standing());
        if let Some(Standing::Live(who)) = standing {
            self.checker.told(vm, epoch, who, stale);
        }
    }

    fn confirmed(&mut self, host: usize, vm: usize, id: u64, mine: Option<Epoch>, result: &Result<Answer, LeaseError>) {
        let Some(instance) = self.hosts[host].instance(vm, id) else { return };
        // It was stopped for a move meanwhile: now only the next epoch counts.
        if instance.stage == Stage::Stopped {
            return;
        }
        match mine {
            // Proving it may have taken winning the next epoch: the VM ran all the while, and goes on.
            Some(epoch) => {
                self.given(host, vm, epoch);
                if let Some(instance) = self.hosts[host].instance_mut(vm, id) {
                    instance.epoch = epoch;
                }
            }
            None if result.is_ok() => {
                let holder = self.checker.holder(vm, instance.epoch);
                self.note(|| format!("host-{host} kills vm-{vm}: not held; its epoch was {holder:?}'s"));
                self.destroy(host, vm);
            }
            None => self.retry(host, Wish::Confirm(vm, id)),
        }
    }
}
