//! What a migration asks of the lease, and the right that comes of it.
//!
//! A migration never touches a sector. It asks; who carries the question out answers each one exactly once.

use model::names::{HostName, VmName};

use crate::lease::identity::{Epoch, HostId};
use crate::lease::vm_lease::{Answer, LeaseError, Request};

/// A question to the lease of the VM that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAsk {
    /// Destination, in pre-copy: phase 1 of the next epoch, without proposing anything yet. Answered by
    /// [`LeaseAnswer::Prepared`], [`LeaseAnswer::Unknown`] or [`LeaseAnswer::Damaged`].
    Prepare,
    /// Destination, in the stun: phase 2 with this host as the holder, under the ballot of the last `Prepare`.
    Commit,
    /// Either side, when it does not know the outcome: the next epoch at a higher ballot, so that it is learned or
    /// won.
    Reclaim,
    /// Source, before the vCPUs of a stun that was called off go on: that it holds the epoch of the move still. What the
    /// destination prepared stays prepared.
    Confirm,
}

/// What the lease answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseAnswer {
    /// Phase 1 is done.
    Prepared,
    /// This host holds the epoch, by decision of the lease.
    Won {
        /// The epoch.
        epoch: u64,
    },
    /// Another host holds the epoch, by decision of the lease. This is never said of an attempt that was only
    /// overtaken.
    Lost {
        /// Who.
        holder: HostName,
        /// The epoch.
        epoch: u64,
    },
    /// Nothing is known: the datastore does not answer, or another ballot was higher. The question may have had
    /// its effect all the same.
    Unknown {
        /// What happened.
        cause: String,
    },
    /// To [`LeaseAsk::Commit`]: phase 1 is not known any more, so nothing of phase 2 was begun. The lease role was started anew, or another
    /// of this host has asked about the VM since, and may have won it.
    NotPrepared,
    /// Nothing is known, and asked again the lease would say the same: what was decided is lost, or the VM was given a
    /// new lease without it (`docs/decisions/a-damaged-lease.md`). The question may have had its effect all the same.
    Damaged {
        /// How, for a person.
        cause: String,
    },
}

impl LeaseAsk {
    /// The request to the keeper of the VM's datastore. `source` is the host that moves the VM, `base` the epoch that
    /// it holds.
    pub fn request(self, vm: VmName, source: HostId, base: Epoch) -> Request {
        match self {
            Self::Prepare => Request::Prepare(vm, source, base),
            Self::Commit => Request::Commit(vm, base),
            Self::Reclaim => Request::Resolve(vm, base),
            Self::Confirm => Request::Confirm(vm, base),
        }
    }

    /// What the keeper's reply says to the migration that moves the VM out of the epoch `base`. Only an epoch after
    /// that one is a decision, but to [`Self::Confirm`]; `name` knows the hosts of the datastore.
    pub fn answer(
        self,
        base: Epoch,
        reply: Result<Answer, LeaseError>,
        name: impl Fn(HostId) -> Option<HostName>,
    ) -> LeaseAnswer {
        let unknown = |cause: String| LeaseAnswer::Unknown { cause };
        match reply {
            Ok(Answer::Prepared(_)) if self == Self::Prepare => LeaseAnswer::Prepared,
            Ok(Answer::Held { epoch, .. }) if epoch > base || self == Self::Confirm => {
                LeaseAnswer::Won { epoch: epoch.0 }
            }
            Ok(Answer::HeldBy(holder)) if holder.epoch > base => match name(holder.who.host) {
                Some(host) => LeaseAnswer::Lost { holder: host, epoch: holder.epoch.0 },
                None => unknown(format!("its holder {} is not known by name yet", holder.who.host)),
            },
            Ok(_) => unknown("the next epoch of the lease is not decided".to_owned()),
            Err(error @ (LeaseError::Corrupt { .. } | LeaseError::DirectoryCorrupt(_) | LeaseError::NoLease)) => {
                LeaseAnswer::Damaged { cause: error.to_string() }
            }
            Err(LeaseError::NotPrepared) if self == Self::Commit => LeaseAnswer::NotPrepared,
            Err(error) => unknown(error.to_string()),
        }
    }
}

/// The right to let the vCPUs run here. It exists only where the lease names this host: the source has it until it
/// hands over, and again if it won the next epoch; the destination gets it by winning.
///
/// ```compile_fail
/// // Nobody outside makes one.
/// let right = protocol::session::RightToRun { epoch: 1, assurance: protocol::session::LeaseAsk::Confirm };
/// ```
/// ```compile_fail
/// // Nobody doubles one.
/// fn double(right: protocol::session::RightToRun) -> [protocol::session::RightToRun; 2] {
///     [right.clone(), right]
/// }
/// ```
/// ```
/// fn epoch(right: protocol::session::RightToRun) -> u64 {
///     right.epoch()
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct RightToRun {
    epoch: u64,
    /// The question with which a host makes sure of it.
    assurance: LeaseAsk,
}

impl RightToRun {
    /// The right that a source has had since it started the VM, or got it by an earlier move.
    pub(crate) fn never_given_up(epoch: u64) -> Self {
        Self { epoch, assurance: LeaseAsk::Confirm }
    }

    /// The right that a decision of the lease gives.
    pub(crate) fn won(epoch: u64) -> Self {
        Self { epoch, assurance: LeaseAsk::Reclaim }
    }

    /// The epoch that gives the right.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What a source asks the lease when it has taken the locks of the disks back, and before the vCPUs run: it may have stood
    /// still with its clock since the lease said last that the VM is its own. Before the hand-over a look tells; once the next
    /// epoch was at stake only that epoch does.
    pub fn assurance(&self) -> LeaseAsk {
        self.assurance
    }
}
