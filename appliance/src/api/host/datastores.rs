//! What is shown of datastores.

use model::diagnosis::Reason;
use model::names::{DatastoreName, VmName};
use model::units::Bytes;
use serde::{Deserialize, Serialize};

/// A datastore in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreRow {
    /// Its name.
    pub name: DatastoreName,
    /// `nfs 4.1`, `directory`.
    pub kind: String,
    /// `available`, `mounting`, `lost for 12 s`.
    pub state: String,
    /// All its room.
    pub size: Bytes,
    /// What is free of it.
    pub free: Bytes,
    /// Where it lies: `192.168.0.2:/lab`.
    pub place: String,
}

/// A datastore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreDetail {
    /// As in a list.
    pub row: DatastoreRow,
    /// What is wrong with it.
    pub problems: Vec<Reason>,
    /// What is to be known of it although nothing is wrong.
    pub warnings: Vec<Reason>,
    /// VMs on it.
    pub vms: Vec<VmName>,
    /// State of this host's lease on it.
    pub lease: String,
    /// Seconds that its server keeps the locks of a host that it does not hear of, where it tells.
    pub server_lease_s: Option<u64>,
}
