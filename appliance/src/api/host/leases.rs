//! What is shown of the leases of VMs.

use model::names::{DatastoreName, HostName, VmName};
use serde::{Deserialize, Serialize};

/// The lease of a VM that a host holds, or of which it is not known who does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// The VM.
    pub vm: VmName,
    /// Its datastore.
    pub datastore: DatastoreName,
    /// Who holds it; absent where that is not known.
    pub holder: Option<HostName>,
    /// The epoch: how many holders it has had; absent where that is not known.
    pub epoch: Option<u64>,
    /// The holder's own lease.
    pub life: HolderLife,
    /// Since when it holds the VM without a break, seconds since 1970 on its own wall clock, if it said so.
    pub since_unix_s: Option<u64>,
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
    /// The VM's lease is damaged: nobody can tell who holds it, and nobody comes to hold it.
    Damaged,
    /// The lease role of the host that answers does not: what runs there is known without it, and nothing else.
    Unheard,
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
    pub row: LeaseRow,
    /// Its identity, 32 hex digits.
    pub identity: String,
    /// Its life: each boot, and each loss of its host lease, begins a new one.
    pub generation: u64,
    /// It is this host.
    pub own: bool,
}
