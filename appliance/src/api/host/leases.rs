//! What is shown of the leases of VMs.

use model::diagnosis::Reason;
use model::names::{DatastoreName, HostName, VmName};
use serde::{Deserialize, Serialize};

/// The lease of a VM that a host holds, or of which it is not known who does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// The VM; absent where not even the names of the datastore's VMs are known, or not all.
    pub vm: Option<VmName>,
    /// Its datastore.
    pub datastore: DatastoreName,
    /// Who holds it, as far as that is known.
    pub state: LeaseState,
}

impl LeaseRow {
    /// Whether the lease itself said nothing: what is told is what the host that answers knows without it.
    pub fn is_untold(&self) -> bool {
        matches!(self.state, LeaseState::Unheard(_) | LeaseState::Unknown { .. })
    }
}

/// Who holds a VM, as far as that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeaseState {
    /// A host does.
    Held(HeldLease),
    /// The lease is damaged: nobody can tell who holds it, and nobody comes to hold it.
    Damaged,
    /// The lease role of the host that answers does not: what runs there is known without it, and nothing else.
    Unheard(Option<RunsHere>),
    /// The datastore does not tell, or this host holds no lease there: what runs here is known without it, and nothing else.
    Unknown {
        /// It runs here.
        runs: Option<RunsHere>,
        /// Why no more is known.
        why: Reason,
    },
}

/// The lease of a VM that a host holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    /// Who holds it.
    pub holder: HostName,
    /// The epoch: how many holders it has had.
    pub epoch: u64,
    /// The holder's own lease.
    pub life: HolderLife,
    /// Since when it holds the VM without a break, seconds since 1970 on its own wall clock, if it said so.
    pub since_unix_s: Option<u64>,
}

/// A VM that runs on the host that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunsHere {
    /// That host.
    pub holder: HostName,
    /// The epoch in which it came to hold the VM.
    pub epoch: u64,
}

/// The host lease of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderLife {
    /// It renews it.
    Renews {
        /// Milliseconds since it was last seen to.
        silent_ms: u64,
    },
    /// It was not seen to for longer than a few renewals: it may come back, and until it has expired no other host may run the VM.
    Silent {
        /// Milliseconds since it was last seen to.
        silent_ms: u64,
    },
    /// It is over for good: that life of the host runs no VM any more.
    Over,
}

/// The lease of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseDetail {
    /// The VM.
    pub vm: VmName,
    /// Its datastore.
    pub datastore: DatastoreName,
    /// Who holds it, if anybody does.
    pub holder: Option<LeaseHolder>,
    /// Where the VM is, for a person, as far as that is known.
    pub place: Option<String>,
    /// What a person can do.
    pub next: String,
}

/// The holder of a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseHolder {
    /// As in a list.
    pub held: HeldLease,
    /// Its identity, 32 hex digits.
    pub identity: String,
    /// Its life: each boot, and each loss of its host lease, begins a new one.
    pub generation: u64,
    /// It is this host.
    pub own: bool,
}
