//! How far this host's own life is.

use model::limits;

use super::effect::{Fence, Remembered};
use crate::lease::identity::{Generation, Slot};
use crate::lease::record::HostRecord;
use crate::time::{Duration, Instant};

/// From the start of a renewal until the start of the next.
pub(super) const RENEWAL: Duration = Duration::from_millis(limits::LEASE_RENEWAL_MS);
/// An I/O that takes longer is taken for failed.
pub(super) const IO_BOUND: Duration = Duration::from_millis(limits::LEASE_IO_BOUND_MS);

#[derive(Clone, Debug)]
pub(super) enum State {
    Looking,
    Claiming(Claiming),
    Live(Live),
    Fencing(Fencing),
    Leaving(Live),
    Left,
}

#[derive(Clone, Debug)]
pub(super) struct Claiming {
    pub(super) slot: Slot,
    pub(super) sequence: u64,
    pub(super) record: HostRecord,
    pub(super) ticket: u64,
    /// The claim is void if its write ends later.
    pub(super) write_by: Instant,
    /// Set when the write has ended.
    pub(super) proof: Option<Proof>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Proof {
    /// A look that begins now or later proves the claim.
    pub(super) at: Instant,
    /// When to ask for such a look (again).
    pub(super) ask_at: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Live {
    pub(super) slot: Slot,
    pub(super) generation: Generation,
    pub(super) sequence: u64,
    /// Start of the last successful renewal.
    pub(super) renewed_at: Instant,
    /// Start of the next one.
    pub(super) next_at: Instant,
    /// The renewal under way: one at a time, so that renewals cannot overtake another.
    pub(super) in_flight: Option<Renewal>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Renewal {
    pub(super) ticket: u64,
    pub(super) sequence: u64,
    pub(super) began: Instant,
    /// It says that the host left.
    pub(super) last: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Fencing {
    pub(super) why: Fence,
}

impl Live {
    /// When it must fence.
    pub(super) fn fence_at(&self) -> Instant {
        fence_at(self.renewed_at)
    }

    /// What it leaves to the next process.
    pub(super) fn remembered(&self) -> Remembered {
        Remembered { slot: self.slot, generation: self.generation, renewed_at: self.renewed_at.nanos() }
    }
}

impl Remembered {
    pub(super) fn renewed_at(&self) -> Instant {
        Instant::from_nanos(self.renewed_at)
    }

    /// When the life that it is about must fence, on the clock of the host that lives it.
    pub fn fence_at(&self) -> Instant {
        fence_at(self.renewed_at())
    }
}

/// When a host whose last successful renewal began at `renewed_at` must fence.
fn fence_at(renewed_at: Instant) -> Instant {
    renewed_at + RENEWAL + IO_BOUND
}
