//! What must never happen, each by its name.

use std::collections::BTreeMap;
use std::fmt;

use protocol::lease::identity::{Epoch, Incarnation};
use protocol::time::Duration;

use super::world::{HEALTHY, World};

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// At most one host runs a VM.
    AtMostOneHostRunsAVm,
    /// Whoever runs a VM holds its lease.
    TheRunnerHoldsTheLease,
    /// No two hosts hold one epoch.
    NoTwoHoldersOfAnEpoch,
    /// Nobody is told that he holds an epoch older than one that somebody was told he holds.
    EpochsNeverGoBack,
    /// Once a write of an epoch has landed on a VM's disk, no write of an older epoch does.
    NoWriteOfAnOldEpochLands,
    /// A VM is where every host believes it to be: one VM, one lease.
    AVmHasOneLease,
    /// Every request is answered.
    EveryRequestEnds,
    /// Once faults heal, every VM that is wanted runs.
    EveryAcquireEndsOnceFaultsHeal,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtMostOneHostRunsAVm => "at most one host runs a VM",
            Self::TheRunnerHoldsTheLease => "the runner holds the lease",
            Self::NoTwoHoldersOfAnEpoch => "no two holders of an epoch",
            Self::EpochsNeverGoBack => "epochs never go back",
            Self::NoWriteOfAnOldEpochLands => "no write of an old epoch lands after one of a newer epoch",
            Self::AVmHasOneLease => "a VM has one lease",
            Self::EveryRequestEnds => "every request ends",
            Self::EveryAcquireEndsOnceFaultsHeal => "every acquire ends once faults heal",
        })
    }
}

/// A broken promise, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// How.
    pub what: String,
}

/// What was promised to whom so far.
#[derive(Debug, Default)]
pub struct Checker {
    holders: BTreeMap<(usize, Epoch), Incarnation>,
    newest: BTreeMap<usize, Epoch>,
    written: BTreeMap<usize, Epoch>,
    violation: Option<Violation>,
}

impl Checker {
    /// The first broken promise.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// A promise is broken; only the first counts.
    pub fn broken(&mut self, invariant: Invariant, what: String) {
        self.violation.get_or_insert(Violation { invariant, what });
    }

    /// Somebody says, or a block says, that `who` holds the epoch.
    pub fn decided(&mut self, vm: usize, epoch: Epoch, who: Incarnation) {
        let known = *self.holders.entry((vm, epoch)).or_insert(who);
        if known != who {
            let what = format!("epoch {epoch} of vm-{vm} is held by {known} and by {who}");
            self.broken(Invariant::NoTwoHoldersOfAnEpoch, what);
        }
    }

    /// `who` is told that it holds the epoch. `stale`: it was frozen past its deadline, and does not know yet.
    pub fn told(&mut self, vm: usize, epoch: Epoch, who: Incarnation, stale: bool) {
        self.decided(vm, epoch, who);
        let newest = self.newest.entry(vm).or_insert(epoch);
        let before = *newest;
        *newest = before.max(epoch);
        if before > epoch && !stale {
            let what = format!("{who} is told that it holds epoch {epoch} of vm-{vm} after epoch {before} was given");
            self.broken(Invariant::EpochsNeverGoBack, what);
        }
    }

    /// The holder of an epoch, if somebody was told.
    pub fn holder(&self, vm: usize, epoch: Epoch) -> Option<Incarnation> {
        self.holders.get(&(vm, epoch)).copied()
    }

    /// A write of the guest landed.
    pub fn landed(&mut self, vm: usize, epoch: Epoch) {
        let newest = self.written.entry(vm).or_insert(epoch);
        let before = *newest;
        *newest = before.max(epoch);
        if before > epoch {
            let what = format!("a write of epoch {epoch} of vm-{vm} lands after one of epoch {before}");
            self.broken(Invariant::NoWriteOfAnOldEpochLands, what);
        }
    }
}

impl World {
    pub(super) fn check_runner(&mut self, host: usize, vm: usize) {
        let now = self.queue.now();
        let running: Vec<usize> =
            self.hosts.iter().filter(|h| h.executes(vm) && now >= h.stale_until).map(|h| h.index).collect();
        if running.len() > 1 {
            let what = format!("vm-{vm} runs on hosts {running:?}");
            self.checker.broken(Invariant::AtMostOneHostRunsAVm, what);
        }
        let Some(instance) = self.hosts[host].instances.get(&vm) else { return };
        let epoch = instance.epoch;
        let holder = self.checker.holder(vm, epoch);
        if holder.is_none_or(|holder| holder.host != self.hosts[host].identity()) {
            let what = format!("host-{host} runs vm-{vm} in epoch {epoch}, whose holder is {holder:?}");
            self.checker.broken(Invariant::TheRunnerHoldsTheLease, what);
        }
    }

    pub(super) fn check_end(&mut self) {
        for vm in 0..self.vms {
            if !self.hosts.iter().any(|host| host.executes(vm)) {
                let what = format!("vm-{vm} runs nowhere {HEALTHY} after the last fault");
                self.checker.broken(Invariant::EveryAcquireEndsOnceFaultsHeal, what);
            }
        }
        let now = self.queue.now();
        for host in &self.hosts {
            for (began, wish) in host.wishes.values() {
                if now.since(*began) > Duration::from_secs(60) {
                    let what = format!("host-{} waits since {began} for {wish:?}", host.index);
                    self.checker.broken(Invariant::EveryRequestEnds, what);
                }
            }
        }
    }
}
