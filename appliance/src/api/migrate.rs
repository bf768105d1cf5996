//! What the control plane and the migration engine say to each other. One connection, messages both ways.

use std::fmt;

use std::net::IpAddr;

use model::cpu_report::CpuReport;
use model::diagnosis::{Diagnosis, Reason};
use model::host_config::MigrationNic;
use model::names::{DatastoreName, HostName, PortGroupName, VmName};
use model::receipt::Receipt;
use protocol::checks::Finding;
use protocol::checks::facts::HostFacts;
use protocol::checks::physical_network::Found;
use protocol::convergence::NoConvergence;
use protocol::session::{PhaseName, VmNow};
use protocol::uplink_probe::Agreed;
use serde::{Deserialize, Serialize};
use vmm::machine::spec::MachineSpec;

use crate::api::host::{MigrationNicDetail, PingDetail};

/// Identity of a migration, shown as 16 hex digits.
pub type MigrationId = u64;

/// What the control plane says to the migration engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum ToMigrate {
    /// Brings the migration stack up, or changes what it knows of its own host. Comes first.
    Configure(Box<Own>),
    /// The hosts that may connect, all of them; what is not in this list is refused.
    Peers(Vec<Peer>),
    /// Moves a VM away. Beside it: a connection to its monitor (`api::vmm`) and the memfd of its memory.
    Start(Box<Outgoing>),
    /// Gives a migration up.
    Cancel(MigrationId),
    /// Of a move away that an earlier control plane began: what becomes of it is told on this connection. Answered by its
    /// `Progress`, or by `Unknown`.
    Follow(MigrationId),
    /// To `Incoming`, before `Accept` or `Refuse`: what this host has, for the checks of both hosts together.
    Facts(MigrationId, Box<HostFacts>),
    /// To `Incoming`: the VM is built and waits. Beside it: a connection to its monitor, which was sent `Build`, and
    /// the memfd of its memory.
    Accept {
        /// Which migration.
        id: MigrationId,
        /// How long the disks will take to be opened and locked, by what it just took to do as much, microseconds.
        disks_us: u64,
    },
    /// To `Incoming`: it cannot come here, every reason.
    Refuse(MigrationId, Vec<Reason>),
    /// To `ProbeUplinks`: they listen.
    UplinksOpen(MigrationId),
    /// To `HearUplinks`, or to an `Incoming` that names port groups to probe, before `Accept` or `Refuse`: what was heard; none where nobody
    /// listened.
    UplinksHeard(MigrationId, Option<Vec<Found>>),
    /// To `OpenDisks`.
    DisksOpen(MigrationId, Result<(), String>),
    /// To `Resumed`: the port groups were told.
    Announced {
        /// Which migration.
        id: MigrationId,
        /// How many frames were sent; 0 for a VM without NICs.
        frames: u32,
    },
    /// Asks for `Nic`.
    Nic,
    /// Measures the path to a host, with a number of its own; `Cancel` gives it up. Answered by `Progress` and `Pinged`.
    Ping(MigrationId, HostName),
}

/// What the migration engine says to the control plane.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum FromMigrate {
    /// The stack is up, or why not.
    Configured(Result<(), String>),
    /// The state of the migration NIC.
    Nic(Box<MigrationNicDetail>),
    /// To `Ping`: what was measured, or why nothing was.
    Pinged(MigrationId, Result<Box<PingDetail>, Reason>),
    /// A peer wants to move a VM to here.
    Incoming(Box<Incoming>),
    /// To `Follow`: no such move is under way.
    Unknown(MigrationId),
    /// How far a migration is.
    Progress(MigrationProgress),
    /// At the source: probe frames are to be sent on the uplinks of these port groups, and listened for; then `UplinksOpen`.
    ProbeUplinks(MigrationId, Vec<Agreed>),
    /// At the source: that ends; then `UplinksHeard`.
    HearUplinks(MigrationId),
    /// At the destination, after the commit: this host runs the VM now. Its disks are to be opened for writing and
    /// attached, its taps plugged in; then `DisksOpen`. Asked again while it is not answered.
    OpenDisks(MigrationId, VmName),
    /// At the destination: the VM runs; its port groups are to be told (RARP), then `Announced`.
    Resumed {
        /// Which migration.
        id: MigrationId,
        /// Which VM.
        vm: VmName,
        /// The epoch in which this host holds the VM now.
        epoch: u64,
    },
    /// At the source: the VM runs elsewhere; its monitor here may end.
    Release(MigrationId),
    /// Something happened to the migration NIC by itself.
    News {
        /// Somebody should look at it.
        warning: bool,
        /// What.
        text: String,
    },
    /// A migration ended, on either host.
    Ended(Box<Ended>),
}

/// What the migration engine has to know of its own host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// The host's name.
    pub name: HostName,
    /// Its identity.
    pub identity: [u8; 16],
    /// The migration NIC.
    pub nic: MigrationNic,
    /// What its processor can show.
    pub cpu: CpuReport,
}

/// A host that may connect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: HostName,
    /// Its identity.
    pub identity: [u8; 16],
    /// Its address in the migration network.
    pub address: IpAddr,
    /// Its UDP port.
    pub port: u16,
    /// Its public key (Ed25519, RFC 8410 SubjectPublicKeyInfo or the raw 32 bytes: see `netstack`).
    pub public_key: Vec<u8>,
}

/// A VM that is to be moved away.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Identity of the migration, random.
    pub id: MigrationId,
    /// The VM, as the destination has to know it.
    pub vm: VmToMove,
    /// What this host has, for the checks of both hosts together.
    pub facts: Box<HostFacts>,
    /// Where to.
    pub destination: HostName,
    /// What is wanted of it.
    pub wish: Wish,
    /// The port groups whose uplinks both hosts probe.
    pub probe: Vec<Agreed>,
}

/// What a person wants of a move.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Only the checks.
    pub check_only: bool,
    /// A link that is slower, farther or narrower than it should be is accepted, and a port group that is another physical network.
    pub force_link: bool,
    /// What to do with a guest that dirties its memory faster than the link carries.
    pub no_convergence: NoConvergence,
    /// How much of the link it may take while the guest runs; the stun takes all of it.
    pub bandwidth_max: Option<BandwidthMax>,
}

impl fmt::Display for Wish {
    /// The options that say it, as they are typed, each with a blank before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { check_only, force_link, no_convergence, bandwidth_max } = self;
        f.write_str(if *check_only { " --check" } else { "" })?;
        f.write_str(if *force_link { " --force" } else { "" })?;
        if let Some(BandwidthMax(mbits)) = bandwidth_max {
            write!(f, " --bandwidth-max {mbits}")?;
        }
        f.write_str(match no_convergence {
            NoConvergence::Abort => "",
            NoConvergence::Wait => " --on-no-convergence wait",
            NoConvergence::Force => " --on-no-convergence force",
        })
    }
}

/// A bound on what a move sends, in Mbit/s: 1 to [`BandwidthMax::MOST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BandwidthMax(u32);

impl BandwidthMax {
    /// The greatest, Mbit/s: more than any link carries.
    pub const MOST: u32 = 1_000_000;

    /// The same in bytes a second.
    pub fn bytes_per_s(self) -> u64 {
        u64::from(self.0) * 1_000_000 / 8
    }
}

/// A text that is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is a whole number of Mbit/s, from 1 to {most}", most = BandwidthMax::MOST)]
pub struct UnknownBandwidthMax;

impl std::str::FromStr for BandwidthMax {
    type Err = UnknownBandwidthMax;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mbits = text.parse().ok().filter(|mbits| (1..=Self::MOST).contains(mbits));
        mbits.map(Self).ok_or(UnknownBandwidthMax)
    }
}

/// A VM as both hosts of a migration have to know it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VmToMove {
    /// Its name.
    pub name: VmName,
    /// Its datastore.
    pub datastore: DatastoreName,
    /// Its vm.toml.
    pub config: String,
    /// Its machine.
    pub spec: MachineSpec,
    /// Labels and VLANs of the port groups of its NICs.
    pub port_groups: Vec<(PortGroupName, Option<u16>)>,
    /// The epoch in which the source holds it.
    pub epoch: u64,
    /// The vCPUs do not run: it arrives paused.
    pub paused: bool,
}

/// A VM that a peer wants to move to here. The control plane looks whether it can come, builds it and accepts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Incoming {
    /// Identity of the migration.
    pub id: MigrationId,
    /// The VM.
    pub vm: VmToMove,
    /// Where it runs.
    pub source: HostName,
    /// Only the checks: nothing is to be built; `Accept` comes without descriptors.
    pub check_only: bool,
    /// The port groups whose uplinks both hosts probe.
    pub probe: Vec<Agreed>,
}

/// How far a migration is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationProgress {
    /// Identity of the migration.
    pub id: MigrationId,
    /// The phase; none before the first, while the move is queued or connects.
    pub phase: Option<PhaseName>,
    /// The same with what a person wants to know of it: `pre-copy round 2`.
    pub doing: String,
    /// Thousandths of the memory that are there.
    pub thousandths: Option<u16>,
}

/// What a host has of a VM at the end of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VmHere {
    /// It runs here, or is paused as it was before.
    Runs,
    /// Its lease is this host's, but its vCPUs are gone.
    Stopped,
    /// Its vCPUs are gone, and whether its lease is this host's could not be learned in time.
    Unknown,
    /// It stands still here with all of its state, and its lease will not tell whose it is: the control plane settles it.
    Undecided,
    /// Nothing.
    Nothing,
}

impl VmHere {
    /// What `host` has of a VM that is there, as its engine saw it.
    pub fn of(now: &VmNow, host: &HostName) -> Self {
        match now {
            VmNow::On(on, _) if on == host => Self::Runs,
            VmNow::StoppedOn(on) if on == host => Self::Stopped,
            VmNow::NotHere => Self::Unknown,
            VmNow::Undecided(on) if on == host => Self::Undecided,
            VmNow::Undecided(_) | VmNow::On(..) | VmNow::StoppedOn(_) => Self::Nothing,
        }
    }
}

/// How a migration ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Identity of the migration.
    pub id: MigrationId,
    /// What this host has of the VM now.
    pub vm: VmHere,
    /// The epoch in which this host holds it, if it is here.
    pub epoch: u64,
    /// The receipt; at the source only, and not of a check.
    pub receipt: Option<Receipt>,
    /// Why it was not moved.
    pub failure: Option<Diagnosis>,
    /// What the checks found; at the source only.
    pub findings: Vec<Finding>,
    /// The migration link as the checks saw it, for a person; at the source only, and empty where they did not come so
    /// far.
    pub link: String,
    /// What a move would be like, for a person; at the source only, of a check in which the guest could be watched.
    pub forecast: Option<String>,
}

impl Ended {
    /// One of which nothing came, with the VM still here.
    pub fn nothing_moved(id: MigrationId, epoch: u64) -> Self {
        Self {
            id,
            vm: VmHere::Runs,
            epoch,
            receipt: None,
            failure: None,
            findings: Vec::new(),
            link: String::new(),
            forecast: None,
        }
    }
}
