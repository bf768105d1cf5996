//! What the console asks the control plane, and what it answers.

use std::net::IpAddr;

use model::config_tree::ConfigError;
use model::diagnosis::{Diagnosis, Reason};
use model::names::{DatastoreName, HostName, MacAddress, PortGroupName, VmName, VswitchName};
use model::receipt::Receipt;
use model::units::Bytes;
use serde::{Deserialize, Serialize};

use crate::api::cpu::{CpuComparison, SharedBaseline};
use crate::api::migrate::Wish;

/// One request. The answer is one [`HostAnswer`], with `Progress` before it where the request takes long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostRequest {
    /// `host show`
    HostShow,
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
    /// `vm migrate VM HOST [--check] [--force] [--bandwidth-max MBITS] [--on-no-convergence wait|force|abort]`
    VmMigrate {
        /// The VM.
        vm: VmName,
        /// Where to.
        destination: HostName,
        /// What is wanted of the move.
        wish: Wish,
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
    /// What the command that waits on this connection waits for is to be given up (Ctrl-C).
    Cancel,
}

impl HostRequest {
    /// Whether it only asks: nothing is left half done where its answer is not waited for.
    pub fn only_asks(&self) -> bool {
        matches!(
            self,
            Self::HostShow
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
}

/// What the control plane answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostAnswer {
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
    /// To `VmMigrate`, when it ended.
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

/// This host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostDetail {
    /// Its name.
    pub name: HostName,
    /// Its random identity, 32 hex digits.
    pub identity: String,
    /// Godwit's version.
    pub version: String,
    /// The kernel's version.
    pub kernel: String,
    /// Seconds since it booted.
    pub uptime_s: u64,
    /// The processor.
    pub cpu: String,
    /// Logical processors.
    pub cpus: u32,
    /// All memory.
    pub memory: Bytes,
    /// Memory that is free for VMs.
    pub memory_free: Bytes,
    /// VMs that run here.
    pub vms: u32,
    /// Addresses of the management network.
    pub addresses: Vec<String>,
    /// Whether KVM can be used.
    pub kvm: bool,
    /// It is in maintenance: no VM starts here or moves to here.
    pub maintenance: bool,
    /// Errors in the configuration that it came up with.
    pub config_errors: Vec<ConfigError>,
}

/// A host that shares a datastore with this one, or this one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRow {
    /// Its name.
    pub name: HostName,
    /// `this host`, `alive` or `silent`.
    pub state: HostState,
    /// Two living hosts have this name: the rest is what the one said that spoke last.
    pub named_twice: bool,
    /// It is in maintenance: no VM starts there or moves to there.
    pub maintenance: bool,
    /// Seconds since its last sign of life, as this host's clock saw it, or the datastore's before this host looked.
    pub seen_s: u64,
    /// VMs that run there.
    pub vms: u32,
    /// Its logical processors; absent where an older build does not tell.
    pub cpus: Option<u32>,
    /// The share of the last seconds in which they were busy, all together, thousandths; absent where it does not tell.
    pub busy_permille: Option<u16>,
    /// All its memory.
    pub memory: Bytes,
    /// Memory that is free there.
    pub memory_free: Bytes,
    /// Its migration address, where it has one.
    pub migration_address: Option<IpAddr>,
    /// Godwit's version there.
    pub version: String,
}

/// Whether a host shows signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostState {
    /// The host that answers.
    ThisHost,
    /// It renews its lease.
    Alive,
    /// It does not.
    Silent,
    /// It was shut down.
    Off,
}

impl HostState {
    /// Whether it runs, as far as is known.
    pub fn runs(self) -> bool {
        matches!(self, Self::ThisHost | Self::Alive)
    }
}

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
    /// What lies in its folder is no VM that could be started.
    Broken(Flaw),
    /// The datastore does not tell.
    Unknown,
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
    /// What the work on it here waits for, where that takes longer than it should.
    pub waits_for: Option<String>,
    /// How it ended the last time here.
    pub last_end: Option<String>,
    /// Process of its monitor here.
    pub pid: Option<u32>,
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

/// Who holds a VM, as far as its lease tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VmHolder {
    /// Its lease does not tell: any host may hold and run it.
    Unknown,
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

/// A VM that a host holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// The VM.
    pub vm: VmName,
    /// Its datastore.
    pub datastore: DatastoreName,
    /// Who holds it.
    pub holder: HostName,
    /// The epoch: how many holders it has had.
    pub epoch: u64,
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
    pub row: LeaseRow,
    /// Its identity, 32 hex digits.
    pub identity: String,
    /// Its life: each boot, and each loss of its host lease, begins a new one.
    pub generation: u64,
    /// It is this host.
    pub own: bool,
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

/// A physical NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicRow {
    /// The kernel's name.
    pub name: String,
    /// Its MAC address, as the hardware has it.
    pub mac: Option<MacAddress>,
    /// Its PCI address.
    pub pci: Option<String>,
    /// Its driver.
    pub driver: Option<String>,
    /// Whether it has a link.
    pub link: bool,
    /// Mbit/s, where the driver tells.
    pub speed_mbits: Option<u32>,
    /// Bytes of payload in a frame.
    pub mtu: u32,
    /// What uses it: `management`, `migration`, `vswitch vs0`.
    pub used_by: Option<String>,
}

/// A port group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortGroupRow {
    /// Its label.
    pub name: PortGroupName,
    /// Its vswitch.
    pub vswitch: VswitchName,
    /// Its VLAN.
    pub vlan: Option<u16>,
    /// The vswitch's uplink, where it has one.
    pub uplink: Option<String>,
    /// VMs plugged in here.
    pub vms: Vec<VmName>,
}

/// The migration NIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationNicDetail {
    /// The kernel's name, or what the configuration calls it where it is not there; empty where none is configured.
    pub nic: String,
    /// Its MAC address.
    pub mac: Option<MacAddress>,
    /// Its address in the migration stack, with its prefix.
    pub address: String,
    /// The gateway to other networks.
    pub gateway: Option<IpAddr>,
    /// The VLAN; untagged if absent.
    pub vlan: Option<u16>,
    /// UDP port.
    pub port: u16,
    /// Whether it has a link.
    pub link: bool,
    /// Mbit/s, where the driver tells.
    pub speed_mbits: Option<u32>,
    /// Bytes of IP packet in a frame.
    pub mtu: u32,
    /// The public key by which other hosts know this one, hex.
    pub public_key: String,
    /// Frames sent since the stack came up; a batch that the NIC cuts counts once.
    pub frames_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Frames received; a batch that the NIC put together counts once.
    pub frames_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Frames that were dropped on their way in: by the device, or because they were not taken in time.
    pub drops: u64,
    /// Frames that did not leave: the NIC refused them, or its link was down.
    pub drops_out: u64,
    /// Connections to other hosts: moves and measurements under way.
    pub connections: u32,
    /// The hosts that it may talk to, by what they said of themselves on the datastores.
    pub peers: Vec<MigrationPeer>,
    /// Who spoke to it by ARP or neighbour discovery: peers and gateways of its own network.
    pub neighbours: Vec<MigrationNeighbour>,
    /// What is wrong with it.
    pub problems: Vec<Reason>,
    /// What a person should know although VMs can be moved.
    pub warnings: Vec<Reason>,
}

/// A host that the migration stack may talk to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationPeer {
    /// Its name.
    pub host: HostName,
    /// The address of its migration stack.
    pub address: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// The neighbour that it is reached by: itself, or the gateway; absent where neither was asked for yet.
    pub mac: Option<MacAddress>,
    /// Whether it lies behind the gateway.
    pub routed: bool,
}

/// Whom ARP or neighbour discovery resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationNeighbour {
    /// Its address.
    pub address: IpAddr,
    /// Its NIC's MAC address.
    pub mac: MacAddress,
    /// How long ago it said so, seconds.
    pub age_s: u64,
}

/// The path to another host over the migration NIC, as it was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingDetail {
    /// The host.
    pub host: HostName,
    /// The address and port of its migration stack.
    pub address: String,
    /// The least round-trip time, microseconds.
    pub rtt_us: u64,
    /// What arrived, bytes a second.
    pub bandwidth_bytes_per_s: u64,
    /// The part of what was sent to measure the bandwidth that was lost, thousandths.
    pub loss_permille: u16,
    /// The largest IP packet that arrived, bytes; absent where the search for it did not end in time.
    pub path_mtu: Option<u16>,
    /// The MTU of this host's migration NIC.
    pub mtu_here: u16,
    /// The MTU of the other's.
    pub mtu_there: u16,
    /// What stands in the way of a move.
    pub problems: Vec<Reason>,
    /// What a person should know although nothing is wrong.
    pub warnings: Vec<Reason>,
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
