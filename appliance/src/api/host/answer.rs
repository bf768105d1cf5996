//! What the control plane answers, and what it shows of itself.

use model::config_tree::ConfigError;
use model::diagnosis::{Diagnosis, Reason};
use model::names::{DatastoreName, HostName, VmName};
use model::receipt::Receipt;
use serde::{Deserialize, Serialize};

use super::datastores::{DatastoreDetail, DatastoreRow};
use super::hosts::{HostDetail, HostRow, HostSeen};
use super::leases::{LeaseDetail, LeaseRow};
use super::network::{MigrationNicDetail, NicRow, PingDetail, PortGroupRow};
use super::vms::{CloneDetail, MigrationRow, VmDetail, VmRow};
use crate::api::cpu::{CpuComparison, SharedBaseline};

/// What the control plane answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostAnswer {
    /// To `Alive`; and before anything is done for a request that a person typed: from here on it may be carried out. One that was
    /// given up before this was taken by the socket is not.
    TakenUp,
    /// More is to come: what it is at, and how far, 0 to 1000.
    Progress {
        /// What it is doing.
        doing: String,
        /// Thousandths done, where that is known.
        thousandths: Option<u16>,
    },
    /// Done, with a line for a person.
    Done(String),
    /// Not done, and why.
    Refused(Diagnosis),
    /// To `HostShow`.
    Host(Box<HostDetail>),
    /// To `HostShowOther`.
    HostSeen(Box<HostSeen>),
    /// To `HostList`.
    Hosts(Vec<HostRow>),
    /// To `HostCheck` and `VmCheck`: what was looked at, and what is wrong with it.
    Checks(Vec<Check>),
    /// To `HostCpu`.
    Cpu(Box<model::cpu_report::CpuReport>),
    /// To `HostCpuCompare`.
    CpuComparison(Box<CpuComparison>),
    /// To `HostCpuBaseline`.
    CpuBaseline(Box<SharedBaseline>),
    /// To `VmList`.
    Vms(Vec<VmRow>),
    /// To `VmShow`.
    Vm(Box<VmDetail>),
    /// To `VmConsole`.
    Console,
    /// To `VmMigrate`, when it ended; one that is not waited for is answered by [`Self::Done`].
    Migrated(Box<Receipt>),
    /// To `VmClone`, when it is made.
    Cloned(Box<CloneDetail>),
    /// To `MigrationList`.
    Migrations(Vec<MigrationRow>),
    /// To `MigrationShow`.
    Migration(Box<Receipt>),
    /// To `DatastoreList`.
    Datastores(Vec<DatastoreRow>),
    /// To `DatastoreShow`.
    Datastore(Box<DatastoreDetail>),
    /// To `NetworkNics`.
    Nics(Vec<NicRow>),
    /// To `PortGroupList`.
    PortGroups(Vec<PortGroupRow>),
    /// To `LeaseList`.
    Leases(Vec<LeaseRow>),
    /// To `LeaseShow`.
    Lease(Box<LeaseDetail>),
    /// To `MigrationNic`.
    MigrationNic(Box<MigrationNicDetail>),
    /// To `NetworkPing`.
    Ping(Box<PingDetail>),
    /// To `LogShow`.
    Log(Vec<LogLine>),
    /// To `ConfigShow`.
    Config(Box<ConfigDetail>),
    /// To `Names`.
    Names(Names),
    /// To `News`.
    News {
        /// The number of the last item.
        last: u64,
        /// The items, the oldest first.
        items: Vec<NewsItem>,
    },
}

impl HostAnswer {
    /// Whether the command that it answers was not done, or found something wrong, or could not tell all that was asked.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Checks(checks) => checks.iter().any(|check| !check.problems.is_empty()),
            Self::Ping(path) => !path.problems.is_empty(),
            Self::Leases(leases) => leases.iter().any(LeaseRow::is_untold),
            _ => false,
        }
    }
}

/// Something that happened on this host by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewsItem {
    /// When: seconds and milliseconds since the machine started.
    pub uptime: String,
    /// How bad it is: `error`, `warning`, or `info`.
    pub level: String,
    /// What.
    pub text: String,
}

/// One check and what it found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at: `KVM`, `datastore lab`.
    pub subject: String,
    /// What it found in a word or two where it is well.
    pub found: String,
    /// What is wrong; empty where it is well.
    pub problems: Vec<Reason>,
    /// What a person should know although nothing is wrong.
    pub warnings: Vec<Reason>,
}

impl Check {
    /// One that found nothing wrong, and nothing to know of.
    pub fn well(subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self { subject: subject.into(), found: found.into(), problems: Vec::new(), warnings: Vec::new() }
    }
}

/// A line of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Milliseconds since the machine started; absent where the line has not the journal's form.
    pub at_ms: Option<u64>,
    /// The role that wrote it.
    pub role: String,
    /// `error`, `warning`, `info` or `debug`; absent where the line has not the journal's form.
    pub level: Option<String>,
    /// What it says; the whole line where it has not the journal's form.
    pub text: String,
}

/// The configuration that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDetail {
    /// The layers that were read, the lowest first.
    pub layers: Vec<String>,
    /// Errors in them.
    pub errors: Vec<ConfigError>,
    /// The configuration in force.
    pub config: Option<model::host_config::HostConfig>,
}

/// Live names for completion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    /// VMs.
    pub vms: Vec<VmName>,
    /// Hosts.
    pub hosts: Vec<HostName>,
    /// Datastores.
    pub datastores: Vec<DatastoreName>,
    /// Migrations under way or ended.
    pub migrations: Vec<String>,
}
