//! What is asked of a VM's lease, and what is answered.

use model::limits;
use model::names::VmName;

use crate::lease::identity::{Epoch, HostId, Incarnation, Slot, Tenancy};
use crate::lease::paxos::slots_text;
use crate::lease::record::Watchdog;
use crate::lease::watch::{Death, Life};

/// What is asked of a VM's lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Become the holder, if nobody who lives holds it. To be asked only while the VM neither runs here nor moves in or
    /// away: that this host holds it already is said on the strength of one read, and a move that is prepared and
    /// committed after that read would make it untrue.
    Acquire(VmName, Take),
    /// The VM does not run here any more: let others have it at once.
    GiveUp(VmName),
    /// As the destination of a move that the living holder, this host in this epoch, invited: phase 1 of the next
    /// epoch. An invitation is for one epoch: one that arrives late must not put the next at stake.
    Prepare(VmName, HostId, Epoch),
    /// Phase 2 of what was prepared for the epoch after this one, which the source holds and runs no longer.
    Commit(VmName, Epoch),
    /// Learn who holds the epoch after this one, or win it. Only the source of a move, and a destination that has
    /// prepared (its block says so), contend; anybody else only learns.
    Resolve(VmName, Epoch),
    /// That this host still holds this epoch, by a look: as the source of a move that has handed nothing over, before it lets
    /// the VM go on. A destination may have promised the next epoch, and keeps that promise: without the hand-over it proposes
    /// nothing. Where a value was proposed after all, this is [`Request::Resolve`] for the epoch before.
    Confirm(VmName, Epoch),
    /// Who holds it.
    Query(VmName),
    /// The same for who asks of many and asks again: damage is told at the first read, which a write may have been in the way of.
    Glance(VmName),
    /// Give the VM a new lease, which nobody holds, instead of one that is damaged. The VM must not run here, and no life may be
    /// left of any other host, unless a person vouches that it runs nowhere: what was decided last is lost.
    Mend(VmName, Vouched),
    /// The VM is deleted: its place is free again. It must be held here, or by nobody who lives.
    Forget(VmName),
}

impl Request {
    /// The VM it is about.
    pub fn vm(&self) -> &VmName {
        match self {
            Self::Acquire(vm, _)
            | Self::GiveUp(vm)
            | Self::Prepare(vm, ..)
            | Self::Commit(vm, _)
            | Self::Resolve(vm, _)
            | Self::Confirm(vm, _)
            | Self::Query(vm)
            | Self::Glance(vm)
            | Self::Mend(vm, _)
            | Self::Forget(vm) => vm,
        }
    }

    /// Whether this host does not hold the VM any more as soon as this is asked for.
    pub fn ends_holding(&self) -> bool {
        matches!(self, Self::GiveUp(_) | Self::Mend(..) | Self::Forget(_))
    }
}

/// How much a contender may dare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// Only what no living host holds.
    IfFree,
    /// From a living host too, if it still holds it in this epoch: a person has made sure that the VM does not run there.
    ByForce(Epoch),
}

/// Whether a person says of a VM whose lease is damaged that it runs on no host, and is not being brought up on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vouched {
    /// Nobody does.
    No,
    /// Somebody does, who was told that the lease in this use of a place is damaged: of another one by now, nothing is said.
    Of(Tenancy),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This host, in this life, holds the epoch and may run the VM.
    Held {
        /// The epoch.
        epoch: Epoch,
        /// From whom it was taken, if from a holder that had not given it up.
        taken_from: Option<Taken>,
    },
    /// Somebody else holds it.
    HeldBy(Holder),
    /// It is given up (or was not held here); to [`Request::Mend`]: it is new, and nobody held it.
    GivenUp,
    /// Phase 1 is over; the epoch that [`Request::Commit`] can win.
    Prepared(Epoch),
    /// To [`Request::Query`], and to [`Request::Mend`] of one that is not damaged, or of which another was first to replace it and that is
    /// held; none if nobody holds it.
    Holder(Option<Holder>),
    /// The VM has no lease any more.
    Forgotten,
}

/// A VM lease that was taken from a dead host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Whose it was.
    pub from: Incarnation,
    /// Why that host does not run the VM.
    pub death: Death,
    /// What it published to reset it. With none, wait for the storage's fence before the VM runs.
    pub watchdog: Watchdog,
}

/// Who holds a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The holder.
    pub who: Incarnation,
    /// Its epoch.
    pub epoch: Epoch,
    /// What is known of its life.
    pub life: Life,
    /// Since when it holds the VM without a break, seconds since 1970 on its own wall clock, if it said so.
    pub since: Option<u64>,
}

/// Why a request came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// This host does not hold its own lease on the datastore.
    #[error("this host does not hold its own lease on the datastore (yet)")]
    NotLive,
    /// The host lease was lost while the request was under way.
    #[error("this host lost its lease on the datastore meanwhile")]
    Fenced,
    /// The storage failed or did not answer; nothing was decided by this request.
    #[error("the datastore failed or did not answer")]
    Storage,
    /// The storage failed when the decision may already have been written.
    #[error("the datastore failed or did not answer when the decision was being written: the outcome is not known")]
    OutcomeUnknown,
    /// The commit met a higher ballot: whoever entered it decides.
    #[error("another host contends for the epoch: the outcome is not known")]
    Contended,
    /// Nothing was prepared, or another request has made it void: nothing of the commit was begun.
    #[error("no move to this host has been prepared")]
    NotPrepared,
    /// Hosts were looked at, and too long ago when what that allows was to be decided.
    #[error("the datastore is too slow to be sure that no other host came meanwhile, and nothing was changed")]
    StaleLook,
    /// No such VM has a lease here.
    #[error("the VM has no lease on this datastore")]
    NoLease,
    /// What the hosts of these slots wrote about the VM is lost.
    #[error("the lease records of {} are corrupt in both copies", slots_text(.slots))]
    Corrupt {
        /// The slots.
        slots: Vec<Slot>,
        /// The use of the place that they are of.
        tenancy: Tenancy,
    },
    /// What the hosts of these slots wrote about the directory of leases is lost.
    #[error("the records of {} in the directory of leases are corrupt in both copies", slots_text(.0))]
    DirectoryCorrupt(Vec<Slot>),
    /// The directory of leases cannot be read.
    #[error("the directory of leases cannot be read")]
    DirectoryUnreadable,
    /// No place is left.
    #[error("the lease area has no place for another VM (at most {} have one)", limits::LEASE_VMS_MAX)]
    DirectoryFull,
    /// The lease is damaged, and hosts that may come to run the VM are left: each of them may hold it.
    #[error("the hosts of {} may run the VM", slots_text(&[&live[..], &untold[..]].concat()))]
    MayRunOn {
        /// Those that live, or cannot be read.
        live: Vec<Slot>,
        /// Those that have expired, and could not be told that their lives are over: there is no room for so many. One that was frozen
        /// together with its clock would go on.
        untold: Vec<Slot>,
    },
    /// The VM's monitor is still there.
    #[error("the VM still runs here")]
    StillRuns,
    /// Too many requests wait.
    #[error("too many lease requests wait already")]
    Busy,
}
