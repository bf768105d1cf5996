//! What goes wrong, and when.

use protocol::time::Duration;

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Where the VM runs at first.
    Source,
    /// Where it is to run.
    Destination,
}

impl Side {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Source, Self::Destination];

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    /// An index for arrays.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The migration process ends; another one starts a moment later and finds what it left.
    MigrateDies(Side),
    /// The VMM ends.
    VmmDies(Side),
    /// The host ends, with all its processes.
    HostDies(Side),
    /// The connection ends, and both sides are told.
    ConnectionDies,
    /// The connection carries nothing any more, and nobody is told.
    ConnectionFallsSilent,
    /// A person cancels on this host.
    Cancel(Side),
    /// This host's reads and writes of the lease area fail for so long.
    DatastoreAway(Side, Duration),
    /// This host's lease role cannot be asked for so long: every question fails at once, and leases are kept.
    LeaseRoleAway(Side, Duration),
}

/// When a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the migration machines are told the `n`-th thing.
    Step(u64),
    /// Instead of the `n`-th control message that this side sends (a connection that then stays silent).
    Message(Side, u64),
}
