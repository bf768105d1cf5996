//! What is shown of VMs, their clones and their moves.

use model::config_tree::ConfigError;
use model::diagnosis::Reason;
use model::names::{DatastoreName, HostName, VmName};
use model::units::Bytes;
use serde::{Deserialize, Serialize};

/// Where a VM is in its life, as this host knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// It runs nowhere.
    Stopped,
    /// It is being started here.
    Starting,
    /// It runs here.
    Running,
    /// It is paused here.
    Paused,
    /// It is being moved from here.
    MovingOut,
    /// It is being moved to here.
    MovingIn,
    /// Its vCPUs are being stopped here.
    Pausing,
    /// Its vCPUs are being started again here.
    Resuming,
    /// Its power button is being pressed here.
    Stopping,
    /// It is being killed here.
    Killing,
    /// Its guest ended here, and its monitor is not gone yet.
    Ending,
    /// It does not run here, and a lease that this host may hold all the same is being given up.
    Releasing,
    /// It is stopped, and is being cloned here.
    Cloning,
    /// It is being made here, as the clone of another VM.
    Making,
    /// Another host holds its lease.
    Elsewhere(HostName),
    /// A host holds its lease whose own lease has expired.
    Orphaned(HostName),
    /// The same of this host: it ran here until this host's lease had expired.
    LostHere,
    /// It ended here because this host could not renew its lease. Whether another host runs it since, its lease does not tell.
    EndedHere,
    /// What lies in its folder is no VM that could be started.
    Broken(Flaw),
    /// The datastore does not tell.
    Unknown,
    /// It does not run here, and may run elsewhere: the lease role of the host that answers does not.
    Unheard,
    /// It does not run here, and may run elsewhere: its lease is damaged.
    LeaseDamaged,
}

/// Why a folder of a datastore's `vms/` is no VM that could be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flaw {
    /// No VM can have its name.
    Name,
    /// There is no vm.toml in it.
    NoConfig,
    /// Its vm.toml cannot be read, is too large, or is not text.
    Unreadable,
    /// Its vm.toml has errors.
    Errors,
}

/// A VM in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRow {
    /// Its name, as its folder has it: of a VM that is broken by its name it is no [`VmName`].
    pub name: String,
    /// Its datastore.
    pub datastore: DatastoreName,
    /// Where it is in its life.
    pub state: VmState,
    /// vCPUs; absent where its vm.toml cannot be read.
    pub cpus: Option<u8>,
    /// Memory; absent where its vm.toml cannot be read.
    pub memory: Option<Bytes>,
    /// Why no more is known of it than what this host itself does with it; absent where its datastore and its lease tell.
    pub unknown: Option<Reason>,
}

/// A VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmDetail {
    /// As in a list.
    pub row: VmRow,
    /// Its vm.toml.
    pub config: Option<model::vm_config::VmConfig>,
    /// Errors of its vm.toml.
    pub config_errors: Vec<ConfigError>,
    /// Who holds its lease.
    pub holder: VmHolder,
    /// Holders that its lease has had; 0 where it does not tell.
    pub epoch: u64,
    /// CPU time of its vCPUs here, microseconds.
    pub cpu_us: u64,
    /// Requests of its guest to its disks that the storage failed since it runs here.
    pub failed_requests: u64,
    /// What the work on it here waits for, where that takes longer than it should.
    pub waits_for: Option<String>,
    /// How it ended the last time here.
    pub last_end: Option<String>,
    /// Process of its monitor here.
    pub pid: Option<u32>,
}

/// Who holds a VM, as far as its lease tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmHolder {
    /// Its lease does not tell: any host may hold and run it.
    Unknown,
    /// The same, because the lease role of the host that answers does not.
    Unheard,
    /// The same, because its lease is damaged, and how, for a person.
    Damaged(String),
    /// Nobody.
    Nobody,
    /// A host.
    Host {
        /// Its name.
        name: HostName,
        /// It is the host that answers, and nothing of the VM goes on there.
        idle: bool,
        /// Since when it holds the VM without a break, seconds since 1970 on its own wall clock, if it said so.
        since_unix_s: Option<u64>,
    },
}

/// A VM that was made as the clone of another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneDetail {
    /// Its name.
    pub name: VmName,
    /// The VM that it is a clone of.
    pub source: VmName,
    /// The datastore of both.
    pub datastore: DatastoreName,
    /// What that is: `nfs 4.1`, `directory`.
    pub kind: String,
    /// Its files, but for its vm.toml.
    pub files: Vec<ClonedFile>,
    /// Bytes that were copied, of all files.
    pub copied: Bytes,
    /// Bytes that are holes in the copies.
    pub holes: Bytes,
    /// Who copied; absent where there was nothing but holes.
    pub copied_by: Option<CopiedBy>,
    /// Milliseconds that the copying took.
    pub ms: u64,
    /// From whom the lease of the VM was taken for the copying, who had not given it up, and why that was right.
    pub taken_from: Option<String>,
}

/// A file of a clone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClonedFile {
    /// Its path in the clone's folder.
    pub file: String,
    /// Its size.
    pub size: Bytes,
    /// Bytes of it that were copied; absent of one that lies elsewhere on the datastore, and that both VMs use.
    pub copied: Option<Bytes>,
}

/// Who carried what was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopiedBy {
    /// The datastore's server: nothing of it passed this host.
    Server,
    /// This host's kernel, of a datastore that is a directory.
    Kernel,
    /// This host, which read and wrote all of it.
    ThisHost,
}

/// A migration, under way or ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationRow {
    /// Its identity.
    pub id: String,
    /// The VM.
    pub vm: VmName,
    /// From where.
    pub source: HostName,
    /// To where.
    pub destination: HostName,
    /// The phase, or the verdict.
    pub state: String,
    /// Thousandths of memory sent, while it is under way.
    pub thousandths: Option<u16>,
    /// Seconds since it began.
    pub began_s: u64,
}
