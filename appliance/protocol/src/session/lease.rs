//! What a migration asks of the lease, and the right that comes of it.
//!
//! A migration never touches a sector. It asks; who carries the question out answers each one exactly once.

use model::names::HostName;

/// A question to the lease of the VM that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseAsk {
    /// Destination, in pre-copy: phase 1 of the next epoch, without proposing anything yet. Answered by
    /// [`LeaseAnswer::Prepared`] or [`LeaseAnswer::Unknown`].
    Prepare,
    /// Destination, in the stun: phase 2 with this host as the holder, under the ballot of the last `Prepare`.
    Commit,
    /// Either side, when it does not know the outcome: the next epoch at a higher ballot, so that it is learned or
    /// won.
    Reclaim,
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
}

/// The right to let the vCPUs run here. It exists only where the lease names this host: the source has it until it
/// hands over, and again if it won the next epoch; the destination gets it by winning.
///
/// ```compile_fail
/// // Nobody outside makes one.
/// let right = protocol::session::RightToRun { epoch: 1 };
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
}

impl RightToRun {
    /// The right that a source has had since it started the VM, or got it by an earlier move.
    pub(crate) fn never_given_up(epoch: u64) -> Self {
        Self { epoch }
    }

    /// The right that a decision of the lease gives.
    pub(crate) fn won(epoch: u64) -> Self {
        Self { epoch }
    }

    /// The epoch that gives the right.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}
