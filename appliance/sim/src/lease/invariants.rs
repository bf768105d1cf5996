//! What must never happen, each by its name:
//!
//! - `at_most_one_host_runs_a_vm`;
//! - `the_runner_holds_the_lease`;
//! - `no_two_holders_of_an_epoch`: nobody is told that he holds an epoch that another was told he holds;
//! - `epochs_never_go_back`: nor one that is older than one that somebody was told he holds;
//! - `no_write_of_an_old_epoch_lands` on a VM's disk once one of a newer epoch has;
//! - `every_request_ends`;
//! - `every_acquire_ends_once_faults_heal`: every VM that is wanted runs in the end.

use std::collections::BTreeMap;

use protocol::lease::identity::{Epoch, Incarnation};
use protocol::time::Duration;

use super::world::{HEALTHY, World};
use crate::violation::Violation;

/// What was promised to whom so far.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    holders: BTreeMap<(usize, Epoch), Incarnation>,
    newest: BTreeMap<usize, Epoch>,
    written: BTreeMap<usize, Epoch>,
    violation: Option<Violation>,
    /// Epochs begin again when a damaged lease is mended: nothing is said of them.
    epochs_begin_again: bool,
}

impl Checker {
    /// What is to be promised in a world in which leases are damaged, or not.
    pub(crate) fn of_a_world(is_damaged: bool) -> Self {
        Self { epochs_begin_again: is_damaged, ..Self::default() }
    }

    /// The first broken promise.
    pub(crate) fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// A promise is broken; only the first counts.
    pub(crate) fn broken(&mut self, promise: &'static str, detail: String) {
        self.violation.get_or_insert(Violation { promise, detail });
    }

    /// Somebody says, or a block says, that `who` holds the epoch.
    fn decided(&mut self, vm: usize, epoch: Epoch, who: Incarnation) {
        let known = *self.holders.entry((vm, epoch)).or_insert(who);
        if known != who {
            let detail = format!("epoch {epoch} of vm-{vm} is held by {known} and by {who}");
            self.broken("no_two_holders_of_an_epoch", detail);
        }
    }

    /// `who` is told that it holds the epoch. `stale`: it was frozen past its deadline, and does not know yet.
    pub(crate) fn told(&mut self, vm: usize, epoch: Epoch, who: Incarnation, stale: bool) {
        if self.epochs_begin_again {
            return;
        }
        self.decided(vm, epoch, who);
        let newest = self.newest.entry(vm).or_insert(epoch);
        let before = *newest;
        *newest = before.max(epoch);
        if before > epoch && !stale {
            let detail = format!("{who} is told that it holds epoch {epoch} of vm-{vm} after epoch {before} was given");
            self.broken("epochs_never_go_back", detail);
        }
    }

    /// The holder of an epoch, if somebody was told.
    pub(crate) fn holder(&self, vm: usize, epoch: Epoch) -> Option<Incarnation> {
        self.holders.get(&(vm, epoch)).copied()
    }

    /// A write of the guest landed.
    pub(crate) fn landed(&mut self, vm: usize, epoch: Epoch) {
        if self.epochs_begin_again {
            return;
        }
        let newest = self.written.entry(vm).or_insert(epoch);
        let before = *newest;
        *newest = before.max(epoch);
        if before > epoch {
            let detail = format!("a write of epoch {epoch} of vm-{vm} lands after one of epoch {before}");
            self.broken("no_write_of_an_old_epoch_lands", detail);
        }
    }
}

impl World {
    pub(super) fn check_runner(&mut self, host: usize, vm: usize) {
        let now = self.queue.now();
        let running: Vec<usize> =
            self.hosts.iter().filter(|h| h.executes(vm) && now >= h.stale_until).map(|h| h.index).collect();
        if running.len() > 1 {
            let detail = format!("vm-{vm} runs on hosts {running:?}");
            self.checker.broken("at_most_one_host_runs_a_vm", detail);
        }
        if self.is_damaged {
            return;
        }
        let Some(instance) = self.hosts[host].instances.get(&vm) else { return };
        let epoch = instance.epoch;
        let holder = self.checker.holder(vm, epoch);
        if holder.is_none_or(|holder| holder.host != self.hosts[host].identity()) {
            let detail = format!("host-{host} runs vm-{vm} in epoch {epoch}, whose holder is {holder:?}");
            self.checker.broken("the_runner_holds_the_lease", detail);
        }
    }

    pub(super) fn check_end(&mut self) {
        for vm in 0..self.vms {
            if !self.hosts.iter().any(|host| host.executes(vm)) {
                let detail = format!("vm-{vm} runs nowhere {HEALTHY} after the last fault");
                self.checker.broken("every_acquire_ends_once_faults_heal", detail);
            }
        }
        let now = self.queue.now();
        for host in &self.hosts {
            for (began, wish) in host.wishes.values() {
                if now.since(*began) > Duration::from_secs(60) {
                    let detail = format!("host-{} waits since {began} for {wish:?}", host.index);
                    self.checker.broken("every_request_ends", detail);
                }
            }
        }
    }
}
