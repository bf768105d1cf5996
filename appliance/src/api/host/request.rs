//! What the console asks the control plane.

use model::names::{DatastoreName, HostName, VmName};
use serde::{Deserialize, Serialize};

use crate::api::migrate::Wish;

/// One request. The answer is one [`HostAnswer`](super::HostAnswer), with `Progress` before it where the request takes long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostRequest {
    /// `host show`
    HostShow,
    /// `host show HOST`
    HostShowOther(HostName),
    /// `host list`
    HostList,
    /// `host check`
    HostCheck,
    /// `host cpu`
    HostCpu,
    /// `host cpu --compare HOST`
    HostCpuCompare(HostName),
    /// `host cpu --baseline`
    HostCpuBaseline,
    /// `host maintenance enter`, or `exit`
    HostMaintenance {
        /// It is to be in maintenance.
        on: bool,
    },
    /// `host reboot`
    HostReboot,
    /// `host shutdown`
    HostShutdown,
    /// `vm list`
    VmList,
    /// `vm show VM`
    VmShow(VmName),
    /// `vm check VM`
    VmCheck(VmName),
    /// `vm start VM`
    VmStart(VmName),
    /// `vm stop VM`
    VmStop(VmName),
    /// `vm kill VM`
    VmKill(VmName),
    /// `vm pause VM`
    VmPause(VmName),
    /// `vm resume VM`
    VmResume(VmName),
    /// `vm clone VM NEW`
    VmClone {
        /// The VM.
        vm: VmName,
        /// The name of its clone.
        new: VmName,
    },
    /// `vm console VM`; beside the answer: a connection to the VM's monitor (`api::vmm`).
    VmConsole(VmName),
    /// `vm migrate VM HOST [--check] [--force] [--no-wait] [--bandwidth-max MBITS] [--on-no-convergence wait|force|abort]`
    VmMigrate {
        /// The VM.
        vm: VmName,
        /// Where to.
        destination: HostName,
        /// What is wanted of the move.
        wish: Wish,
        /// The console is not kept until it ends.
        no_wait: bool,
    },
    /// `lease list`
    LeaseList,
    /// `lease show VM`
    LeaseShow(VmName),
    /// `lease break VM [--force]`
    LeaseBreak {
        /// The VM.
        vm: VmName,
        /// Although its holder lives.
        force: bool,
    },
    /// `migration list`
    MigrationList,
    /// `migration show ID`
    MigrationShow(String),
    /// `migration cancel ID`
    MigrationCancel(String),
    /// `datastore list`
    DatastoreList,
    /// `datastore show DATASTORE`
    DatastoreShow(DatastoreName),
    /// `network nics`
    NetworkNics,
    /// `network port-group list`
    PortGroupList,
    /// `network migration-nic`
    MigrationNic,
    /// `network ping HOST`
    NetworkPing(HostName),
    /// `log show [ROLE]`
    LogShow {
        /// All roles if absent.
        role: Option<String>,
        /// The last so many lines.
        lines: u32,
    },
    /// `config show`
    ConfigShow,
    /// The live names that completion offers.
    Names,
    /// What happened on this host by itself after the item with this number; answered when there is something, or after half a
    /// minute.
    News {
        /// The last item that was seen; absent for who comes new and is told no old news.
        after: Option<u64>,
    },
    /// Whether the control plane lives: answered by `TakenUp` at once, whatever else it waits for.
    Alive,
    /// What the command that waits on this connection waits for is to be given up (Ctrl-C).
    Cancel,
}

impl HostRequest {
    /// Whether it only asks: nothing is left half done where its answer is not waited for.
    pub fn only_asks(&self) -> bool {
        matches!(
            self,
            Self::HostShow
                | Self::HostShowOther(_)
                | Self::HostList
                | Self::HostCheck
                | Self::HostCpu
                | Self::HostCpuCompare(_)
                | Self::HostCpuBaseline
                | Self::VmList
                | Self::VmShow(_)
                | Self::VmCheck(_)
                | Self::LeaseList
                | Self::LeaseShow(_)
                | Self::MigrationList
                | Self::MigrationShow(_)
                | Self::DatastoreList
                | Self::DatastoreShow(_)
                | Self::NetworkNics
                | Self::PortGroupList
                | Self::MigrationNic
                | Self::LogShow { .. }
                | Self::ConfigShow
                | Self::Names
        )
    }

    /// Whether a person typed it. `TakenUp` comes before its answer.
    pub fn is_typed(&self) -> bool {
        !matches!(self, Self::Names | Self::News { .. } | Self::Alive | Self::Cancel)
    }

    /// The VM that it does something with.
    pub fn changes(&self) -> Option<&VmName> {
        match self {
            Self::VmStart(vm)
            | Self::VmStop(vm)
            | Self::VmKill(vm)
            | Self::VmPause(vm)
            | Self::VmResume(vm)
            | Self::LeaseBreak { vm, .. }
            | Self::VmClone { vm, .. }
            | Self::VmMigrate { vm, wish: Wish { check_only: false, .. }, .. } => Some(vm),
            _ => None,
        }
    }

    /// What is ordered, as it is typed; None where nothing is changed.
    pub fn order(&self) -> Option<String> {
        Some(match self {
            Self::VmStart(vm) => format!("vm start {vm}"),
            Self::VmStop(vm) => format!("vm stop {vm}"),
            Self::VmKill(vm) => format!("vm kill {vm}"),
            Self::VmPause(vm) => format!("vm pause {vm}"),
            Self::VmResume(vm) => format!("vm resume {vm}"),
            Self::VmClone { vm, new } => format!("vm clone {vm} {new}"),
            Self::VmConsole(vm) => format!("vm console {vm}"),
            Self::VmMigrate { vm, destination, wish, no_wait } if !wish.check_only => {
                format!("vm migrate {vm} {destination}{wish}{}", if *no_wait { " --no-wait" } else { "" })
            }
            Self::LeaseBreak { vm, force } => format!("lease break {vm}{}", if *force { " --force" } else { "" }),
            Self::MigrationCancel(id) => format!("migration cancel {id}"),
            Self::HostMaintenance { on } => format!("host maintenance {}", if *on { "enter" } else { "exit" }),
            Self::HostReboot => "host reboot".to_owned(),
            Self::HostShutdown => "host shutdown".to_owned(),
            _ => return None,
        })
    }
}
