//! What is asked of the lease role: the right to run VMs, on each datastore. A connection carries one request at a
//! time; one that watches carries events only. DESIGN.md, section 7.

use std::time::Duration;

use model::limits;
use model::names::{DatastoreName, HostName, VmName};
use protocol::lease::identity::Slot;
use protocol::lease::paxos::slots_text;
use protocol::lease::record::Watchdog;
use protocol::lease::watch::Death;
use serde::{Deserialize, Serialize};

/// How long a host lease may take until it is held: after a crash this host's last life has to expire, what it had begun to write has to
/// have settled, and a slot has to be claimed.
pub const HELD_BOUND: Duration = Duration::from_millis(
    limits::LEASE_EXPIRY_MS + limits::LEASE_SETTLE_MS + limits::LEASE_CLAIM_IO_MS + limits::LEASE_CLAIM_WAIT_MS,
);

/// A VM on a datastore.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VmOnDatastore {
    /// The datastore.
    pub datastore: DatastoreName,
    /// The VM.
    pub vm: VmName,
}

/// How the lease of a VM is damaged, for a person: in the records of the hosts in these slots, whose names are these, where they were
/// looked up.
pub fn damage_text(vm: &VmName, slots: &[Slot], hosts: Option<&[&str]>) -> String {
    let whose = match hosts {
        None => String::new(),
        Some([]) => " (those of no host)".to_owned(),
        Some(hosts) => format!(" (those of {})", hosts.join(", ")),
    };
    format!("the lease of VM {vm} is damaged: its records of {}{whose} are corrupt in both copies", slots_text(slots))
}

/// The lease area of a datastore, from its root.
pub const LEASE_AREA: &str = "godwit/lease";

/// How a lease area is damaged whose header no host can read, for a person.
pub fn area_damage_text(datastore: &DatastoreName) -> String {
    format!("{LEASE_AREA} on datastore {datastore} is no lease area, or its header is damaged")
}

/// VMs of which one request asks who holds them: the answer has to fit into a message.
pub const LISTED_MAX: usize = 64;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseRequest {
    /// Begins to renew this host's lease on a datastore, in a new or the existing area. Answered when the first
    /// renewal is durable. Asked again with the same values it answers at once.
    Open {
        /// The datastore.
        datastore: DatastoreName,
        /// The file or block device of its lease area.
        area: String,
        /// This host's random identity.
        host: [u8; 16],
        /// This host's name, which others show.
        name: HostName,
        /// The watchdog device that is fed while the lease is held, if any.
        watchdog: Option<String>,
    },
    /// Gives the host lease on a datastore up; refused while VMs are held there.
    Close(DatastoreName),
    /// Takes the lease of a VM that nobody holds, or whose holder's host lease has expired.
    Acquire(VmOnDatastore),
    /// Takes the lease of a VM from who holds it in this epoch, a host that lives too: a person says that the VM does not run
    /// there.
    Seize {
        /// The VM.
        vm: VmOnDatastore,
        /// The epoch.
        epoch: u64,
    },
    /// Registers the VM's monitor, which is killed when the host lease is lost. Must come before the VM runs.
    /// Beside it: a pidfd. Answered with `Held` where this host holds the VM at that moment, with `Done` where it does
    /// not (yet: the destination of a move).
    Guard(VmOnDatastore),
    /// Gives the lease of a VM that does not run any more up.
    GiveUp(VmOnDatastore),
    /// Gives a VM whose lease is damaged a new one, which nobody holds.
    Mend {
        /// The VM.
        vm: VmOnDatastore,
        /// A person says that it runs on no host, of the lease that was told to be damaged with this mark: without, no other host may
        /// live.
        vouched: Option<u64>,
    },
    /// Who holds a VM.
    Query(VmOnDatastore),
    /// Who holds each of these VMs of a datastore.
    List {
        /// The datastore.
        datastore: DatastoreName,
        /// The VMs, [`LISTED_MAX`] at most.
        vms: Vec<VmName>,
    },
    /// The hosts of a datastore and whether they live.
    Hosts(DatastoreName),
    /// The boots of hosts that died lately, by a look at the datastore that begins after this request.
    DeadBoots(DatastoreName),
    /// How this host's own leases are.
    Status,
    /// Nothing: that the role answers at all. No datastore and no keeper is asked for it.
    Ping,
    /// The destination of a move, in pre-copy: phase 1 of the epoch after `epoch`.
    Prepare {
        /// The VM.
        vm: VmOnDatastore,
        /// The source's identity, which must hold it now.
        source: [u8; 16],
        /// The epoch that the source holds: an invitation is for one epoch.
        epoch: u64,
    },
    /// The destination, in the stun: phase 2 of the epoch that was prepared. The commit.
    Commit {
        /// The VM.
        vm: VmOnDatastore,
        /// The epoch that the source held.
        epoch: u64,
    },
    /// Source or destination, when the outcome of the commit is unknown: learns the decision of the epoch after
    /// `epoch`, or wins it for this host at a higher ballot.
    Resolve {
        /// The VM.
        vm: VmOnDatastore,
        /// The epoch that the source held.
        epoch: u64,
    },
    /// Source, before the hand-over: that this host holds `epoch` still. Leaves the next epoch to who prepared it.
    Confirm {
        /// The VM.
        vm: VmOnDatastore,
        /// The epoch.
        epoch: u64,
    },
    /// From now on events are sent on this connection.
    Watch,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseAnswer {
    /// Done.
    Done,
    /// This host holds the VM.
    Held {
        /// In this epoch.
        epoch: u64,
        /// From whom it was taken, if from a host that had not given it up.
        taken_from: Option<TakenFrom>,
    },
    /// Another host holds the VM, or won the epoch.
    HeldBy(Holder),
    /// To `Prepare`.
    Prepared {
        /// The epoch that `Commit` will try to win.
        epoch: u64,
    },
    /// To `Query`: `None` if nobody holds it.
    Holder(Option<Holder>),
    /// To `List`.
    Holders(Vec<(VmName, Listed)>),
    /// To `Hosts`.
    Hosts(Vec<HostLease>),
    /// To `DeadBoots`.
    DeadBoots(Vec<DeadBoot>),
    /// To `Status`.
    Status(Vec<DatastoreLease>),
    /// Not done, nothing is known to have changed, and why.
    Failed(String),
    /// Not done: nobody holds the VM, by a lease that does not know this host. Asked again about the same epoch, it never will.
    NoLease,
    /// Not done: what hosts wrote about the VM into the lease area is damaged, and how. Nothing can be decided about it.
    Damaged {
        /// The VM.
        vm: VmName,
        /// For a person: `the lease of VM web is damaged: ...`.
        why: String,
        /// Tells this lease of the VM from one that it had before, or has instead.
        mark: u64,
    },
    /// To `Mend`: not done, because it may run on these hosts. Names, or what stands for one that cannot be read.
    MayRunOn {
        /// Those that live.
        live: Vec<String>,
        /// Those that have expired, and could not be told that their lives are over.
        untold: Vec<String>,
    },
    /// Not done: what hosts wrote about all VMs into the lease area is damaged, and how. Nothing can be decided there.
    AreaDamaged(String),
    /// The datastore did not answer in time: what was asked may or may not have happened.
    Unknown(String),
    /// On a connection that watches.
    Event(LeaseEvent),
    /// To `Commit`: not done, and nothing was begun, for no phase 1 is known.
    NotPrepared,
}

impl LeaseAnswer {
    /// This host holds the VM, which it took from nobody.
    pub fn held(epoch: u64) -> Self {
        Self::Held { epoch, taken_from: None }
    }
}

/// A host from which a VM was taken because that life of it is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenFrom {
    /// Its identity.
    pub host: [u8; 16],
    /// Its name, or [`GONE`].
    pub name: HostName,
    /// How its life ended, for a person: `its host lease had expired`.
    pub why: String,
}

impl TakenFrom {
    /// The same in words, on the host called `own`: `taken from host-b: its host lease had expired`.
    pub fn text(&self, own: &HostName) -> String {
        let Self { name, why, .. } = self;
        match name.as_str() {
            GONE => format!("taken from a host whose name is not known any more: {why}"),
            _ if name == own => format!("taken from an earlier life of this host: {why}"),
            _ => format!("taken from {name}: {why}"),
        }
    }
}

/// What a person can do about a lease role that does not answer.
pub const AWAY_HINT: &str = "log show lease; init restarts a role that died within seconds, but not one that is stopped or hangs: \
                             host reboot ends that";

/// The name of a holder of whom nothing but its identity is left in the lease area, because another host has its slot by
/// now: it reads well where names of hosts stand.
pub const GONE: &str = "a-host-that-is-gone";

/// What the lease of a VM tells in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Listed {
    /// Who holds it.
    Held(Holder),
    /// It is damaged in the records of the hosts in these slots, of which an area has [`limits::LEASE_HOSTS_MAX`]: an answer tells of
    /// many VMs, so that there is no room for prose.
    Damaged(Vec<Slot>),
}

/// Who holds a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The host's identity.
    pub host: [u8; 16],
    /// Its name, or [`GONE`].
    pub name: HostName,
    /// Boot of that host under which it was taken.
    pub generation: u64,
    /// The epoch.
    pub epoch: u64,
    /// Whether that host, in that generation, renews its lease.
    pub alive: bool,
    /// It is this host, in this generation.
    pub own: bool,
    /// Since when it holds the VM without a break, seconds since 1970 on its own wall clock, if it said so.
    pub since_unix_s: Option<u64>,
}

/// A host's lease as this host sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostLease {
    /// Its slot in the lease area.
    pub slot: Slot,
    /// Its identity.
    pub host: [u8; 16],
    /// Its name.
    pub name: HostName,
    /// Its life: each boot, and each loss of its host lease, begins a new one.
    pub generation: u64,
    /// Its boot (random(4), boot_id).
    pub boot: u128,
    /// How that life ended, if it is over for good.
    pub over: Option<Death>,
    /// Milliseconds since its lease was last seen to change, on this host's clock, up to now: a datastore that does not answer
    /// this host shows it no sign of life of anybody.
    pub silent_ms: u64,
    /// It was seen to change since this host first looked. Until then `silent_ms` counts from that look, and the host may be silent
    /// for longer.
    pub changed: bool,
}

/// A boot of a host that is over without its having left in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadBoot {
    /// The host's identity.
    pub host: [u8; 16],
    /// The host's name.
    pub name: HostName,
    /// The boot (random(4), boot_id).
    pub boot: u128,
    /// Its slot shows a later boot of the same host.
    pub rebooted: bool,
    /// Its host, or one of its name, has a life of another boot that is not over.
    pub is_back: bool,
}

impl DeadBoot {
    /// What is over, for a person: a boot that another followed, or all that is known of the host, which may live on and only have lost its
    /// lease.
    pub fn text(&self) -> String {
        let Self { name, rebooted, is_back, .. } = self;
        if *rebooted || *is_back {
            format!("an earlier boot of {name}")
        } else {
            format!("{name}, whose host lease expired")
        }
    }
}

/// This host's own lease on a datastore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreLease {
    /// The datastore.
    pub datastore: DatastoreName,
    /// Whether it is held.
    pub held: bool,
    /// Milliseconds since the start of its last renewal.
    pub renewed_ms: u64,
    /// What hinders it, empty where nothing does.
    pub trouble: String,
    /// What a person can do about that, where more is known than where to look.
    pub mend: Option<String>,
    /// The error number with which the storage refused the lease area when it was opened or written last: it may only be read, it is full.
    /// Absent where it was taken, and where the storage did not answer, as it has not while `area` is absent.
    pub refusal: Option<i32>,
    /// How the lease area is damaged ([`area_damage_text`]), if it is: a lease that is held is renewed on for as long as every I/O succeeds.
    pub damage: Option<String>,
    /// What resets this host if its lease role hangs.
    pub watchdog: Watchdog,
    /// The identity of the lease area, and so of the datastore, 32 hex digits; absent until it was opened.
    pub area: Option<String>,
}

/// What happened to leases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LeaseEvent {
    /// The host lease on a datastore was lost; the monitors of these VMs are being killed, and may hang in their last I/O.
    Fencing {
        /// The datastore.
        datastore: DatastoreName,
        /// The VMs.
        vms: Vec<VmName>,
    },
    /// The host lease on a datastore was lost; the monitors of these VMs were killed.
    Fenced {
        /// The datastore.
        datastore: DatastoreName,
        /// The VMs.
        vms: Vec<VmName>,
    },
    /// The host lease on a datastore is held (again).
    Held(DatastoreName),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_answer_about_as_many_vms_as_are_asked_of_fits_a_message() {
        let slots = (0..limits::LEASE_HOSTS_MAX as u16).map(Slot).collect::<Vec<_>>();
        let name = "x".repeat(48);
        let holder = Holder {
            host: [0xff; 16],
            name: name.parse().expect("valid"),
            generation: u64::MAX,
            epoch: u64::MAX,
            alive: true,
            own: true,
            since_unix_s: Some(u64::MAX),
        };
        for listed in [Listed::Damaged(slots), Listed::Held(holder)] {
            let all = vec![(name.parse().expect("valid"), listed); LISTED_MAX];
            let bytes = postcard::to_stdvec(&LeaseAnswer::Holders(all)).expect("written").len() as u64;
            assert!(bytes < limits::API_MESSAGE_BYTES_MAX, "{bytes} bytes");
        }
    }
}
