//! What every contestant can do, so that all are measured by the same hand.

use std::time::Duration;

use crate::bench::case::{Case, Rivals};
use crate::bench::conversation::Conversation;
use crate::error::Result;

/// The longest that a move between processes of this machine may take; one that does not converge never ends.
pub(super) const MOVE_BOUND: Duration = Duration::from_secs(300);
/// The same between nested hosts, whose guests are smaller.
pub(super) const NESTED_MOVE_BOUND: Duration = Duration::from_secs(120);

/// A program that runs and moves guests.
pub(super) trait Contestant {
    /// As a reader of the page sees it.
    fn name(&self) -> String;

    /// Whether it takes part in cases of these rivals.
    fn is_among(&self, rivals: Rivals) -> bool {
        rivals == Rivals::Programs
    }

    /// Whether its guests are moved, or only started.
    fn moves(&self) -> bool {
        true
    }

    /// Starts a guest of the case.
    fn start(&mut self, case: Case) -> Result<Box<dyn Guest + '_>>;

    /// After a failure that the guest did not end well after: forgets what guests run on, if there can be another.
    fn give_up(&mut self) {}
}

/// A witness that runs.
pub(super) trait Guest {
    /// This machine's TSC when its start was ordered.
    fn ordered_tsc(&self) -> u64;

    /// Its serial port, on whichever end it runs.
    fn serial(&mut self) -> Result<&mut Conversation>;

    /// The process of this machine that is its machine; none where it runs in a nested host.
    fn machine(&self) -> Option<u32>;

    /// All processes of this machine that do the contestant's work.
    fn workers(&mut self) -> Result<Vec<u32>>;

    /// Does what may be done before the clock of the move starts.
    fn prepare_move(&mut self) -> Result<()>;

    /// Moves it to the other end.
    fn migrate(&mut self) -> Result<Moved>;

    /// Ends it.
    fn end(self: Box<Self>) -> Result<()>;
}

/// A move as the contestant tells of it, and how long it took by this process's clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    /// From the order until the guest runs at the other end.
    pub(super) runs_there: Duration,
    /// From the order until the order is done.
    pub(super) whole: Duration,
    /// Bytes sent, as the contestant counts them.
    pub(super) sent_bytes: u64,
    /// How long the guest stood still, as the contestant says.
    pub(super) stun: Duration,
}
