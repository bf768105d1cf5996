//! The control plane's side of the lease role.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::diagnosis::Reason;
use model::limits;
use model::names::{DatastoreName, HostName, VmName};

use crate::api::channel::{Channel, ChannelError};
use crate::api::lease::{
    DatastoreLease, DeadBoot, GONE, Holder, HostLease, LeaseAnswer, LeaseEvent, LeaseRequest, TakenFrom, VmOnDatastore,
};
use crate::api::paths::RunDir;
use crate::host::discovery::Hosts;

/// How long a question that only looks is waited for.
const LOOK_BOUND: Duration = Duration::from_secs(3);

/// How long a question is waited for that looks at the datastore anew.
const FRESH_LOOK_BOUND: Duration = Duration::from_secs(6);

/// Asks the lease role, a connection for each request: they are rare, and none waits for another.
#[derive(Clone, Debug)]
pub struct Leases {
    socket: PathBuf,
    hosts: Arc<Hosts>,
}

/// Why a lease was not got.
#[derive(Debug, thiserror::Error)]
pub enum LeaseFailure {
    /// Another host holds it.
    #[error("host {} holds its lease (epoch {})", .0.name, .0.epoch)]
    HeldBy(Holder),
    /// The lease role could not.
    #[error("{0}")]
    Failed(String),
    /// The lease area is damaged, and how.
    #[error("{0}")]
    Damaged(String),
    /// What was asked may or may not have happened.
    #[error("{0}")]
    Unknown(String),
    /// The lease role does not answer.
    #[error("the lease role does not answer: {0}")]
    Away(#[from] ChannelError),
}

impl LeaseFailure {
    /// The failure with what can be done about it.
    pub fn reason(&self) -> Reason {
        let hint = match self {
            Self::HeldBy(holder) if holder.alive => format!(
                "use it there, or on {}: vm migrate, vm stop; if that host is dead, try again: its lease expires {} s after its \
                 last sign of life",
                holder.name,
                model::limits::LEASE_EXPIRY_MS / 1000
            ),
            Self::HeldBy(holder) => format!("wait until the lease of {} has expired, then try again", holder.name),
            Self::Damaged(_) => "no host runs what it cannot decide about; if the storage is sound again: shut down every host that uses \
                                 this datastore, move its file godwit/lease away, and start them: they make a new one"
                .to_owned(),
            Self::Failed(_) | Self::Unknown(_) => "datastore list, then: log show lease".to_owned(),
            Self::Away(_) => "init restarts it within seconds; then: log show lease".to_owned(),
        };
        Reason::new(self.to_string(), hint)
    }

    /// Whether what was asked may have happened all the same.
    pub fn leaves_doubt(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::Away(_))
    }
}

impl Leases {
    /// Asks the lease role of this host. What the lease area does not tell of a holder, `hosts` may.
    pub fn new(run_dir: &RunDir, hosts: Arc<Hosts>) -> Self {
        Self { socket: run_dir.socket("lease"), hosts }
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// The role is away or does not answer within the bound of a take-over.
    pub fn ask(&self, request: &LeaseRequest, descriptors: &[BorrowedFd<'_>]) -> Result<LeaseAnswer, LeaseFailure> {
        let bound = Duration::from_millis(limits::API_REQUEST_MS_MAX + limits::LEASE_EXPIRY_MS);
        self.ask_within(bound, request, descriptors)
    }

    fn ask_within(
        &self,
        bound: Duration,
        request: &LeaseRequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<LeaseAnswer, LeaseFailure> {
        let channel = Channel::<LeaseRequest, LeaseAnswer>::connect(&self.socket).map_err(ChannelError::from)?;
        match channel.ask(request, descriptors, bound)?.0 {
            LeaseAnswer::HeldBy(holder) => Err(LeaseFailure::HeldBy(self.named(holder))),
            LeaseAnswer::Holder(holder) => Ok(LeaseAnswer::Holder(holder.map(|holder| self.named(holder)))),
            LeaseAnswer::Holders(holders) => {
                let named = holders.into_iter().map(|(vm, holder)| (vm, self.named(holder)));
                Ok(LeaseAnswer::Holders(named.collect()))
            }
            LeaseAnswer::Failed(why) => Err(LeaseFailure::Failed(why)),
            LeaseAnswer::Damaged(why) => Err(LeaseFailure::Damaged(why)),
            LeaseAnswer::Unknown(why) => Err(LeaseFailure::Unknown(why)),
            answer => Ok(answer),
        }
    }

    /// A holder whose slot another host has by now, often itself in a later boot, has its name from the hosts' records.
    fn named(&self, holder: Holder) -> Holder {
        Holder { name: self.name_of(holder.host, holder.name), ..holder }
    }

    fn name_of(&self, host: [u8; 16], name: HostName) -> HostName {
        let known = (name.as_str() == GONE).then(|| self.hosts.name_of(host)).flatten();
        known.unwrap_or(name)
    }

    /// How this host's own leases stand, as far as they were asked for.
    ///
    /// # Errors
    /// The role is away or does not answer at once.
    pub fn status(&self) -> Result<Vec<DatastoreLease>, LeaseFailure> {
        match self.ask_within(LOOK_BOUND, &LeaseRequest::Status, &[])? {
            LeaseAnswer::Status(leases) => Ok(leases),
            other => Err(unexpected(&other)),
        }
    }

    /// Calls `heard` for each event until the lease role goes away.
    ///
    /// # Errors
    /// Why it is not heard any more.
    pub fn watch(&self, mut heard: impl FnMut(LeaseEvent)) -> Result<(), ChannelError> {
        let channel = Channel::<LeaseRequest, LeaseAnswer>::connect(&self.socket)?;
        channel.send(&LeaseRequest::Watch, &[])?;
        loop {
            if let (LeaseAnswer::Event(event), _) = channel.receive()? {
                heard(event);
            }
        }
    }

    /// Takes a VM's lease; returns its epoch, and from whom it was taken who had not given it up.
    ///
    /// # Errors
    /// Another host holds it, or the datastore does not answer.
    pub fn acquire(&self, vm: &VmOnDatastore) -> Result<(u64, Option<TakenFrom>), LeaseFailure> {
        match self.ask(&LeaseRequest::Acquire(vm.clone()), &[])? {
            LeaseAnswer::Held { epoch, taken_from } => {
                Ok((epoch, taken_from.map(|taken| TakenFrom { name: self.name_of(taken.host, taken.name), ..taken })))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Takes a VM's lease from who holds it in `epoch`, a host that lives too; returns its new epoch.
    ///
    /// # Errors
    /// It is held in another epoch by now, or the datastore does not answer.
    pub fn seize(&self, vm: &VmOnDatastore, epoch: u64) -> Result<u64, LeaseFailure> {
        match self.ask(&LeaseRequest::Seize { vm: vm.clone(), epoch }, &[])? {
            LeaseAnswer::Held { epoch, .. } => Ok(epoch),
            other => Err(unexpected(&other)),
        }
    }

    /// Registers the monitor that is killed when the host lease is lost. Returns whether this host holds the VM now.
    ///
    /// # Errors
    /// The lease role is away.
    pub fn guard(&self, vm: &VmOnDatastore, pidfd: BorrowedFd<'_>) -> Result<bool, LeaseFailure> {
        match self.ask(&LeaseRequest::Guard(vm.clone()), &[pidfd])? {
            LeaseAnswer::Held { .. } => Ok(true),
            LeaseAnswer::Done => Ok(false),
            other => Err(unexpected(&other)),
        }
    }

    /// Gives the lease of a VM that does not run any more up.
    ///
    /// # Errors
    /// The datastore does not answer: the lease then ends with this host's.
    pub fn give_up(&self, vm: &VmOnDatastore) -> Result<(), LeaseFailure> {
        self.ask(&LeaseRequest::GiveUp(vm.clone()), &[]).map(|_| ())
    }

    /// After a commit whose outcome is unknown: learns who won the epoch after `epoch`, or wins it for this host.
    /// Returns the epoch in which this host holds the VM.
    ///
    /// # Errors
    /// Another host won it, or the datastore does not answer.
    pub fn resolve(&self, vm: &VmOnDatastore, epoch: u64) -> Result<u64, LeaseFailure> {
        match self.ask(&LeaseRequest::Resolve { vm: vm.clone(), epoch }, &[])? {
            LeaseAnswer::Held { epoch, .. } => Ok(epoch),
            other => Err(unexpected(&other)),
        }
    }

    /// That this host still holds a VM which it came to hold in `epoch`; the epoch in which it does. To be asked when the
    /// locks of its disks are taken: a host may have stood still with its clock since the lease said so last, and others
    /// have run the VM meanwhile. If it stands still from now on, it loses the locks (`docs/decisions/the-disk-locks.md`).
    ///
    /// More than a look: a decision that its winner could not make known yet is made known first, and where the next epoch
    /// is at stake, only winning that one is proof.
    ///
    /// # Errors
    /// Another came to hold it since, or the lease does not tell.
    pub fn assure(&self, vm: &VmOnDatastore, epoch: u64) -> Result<u64, LeaseFailure> {
        self.resolve(vm, epoch.saturating_sub(1))
    }

    /// Who holds which of these VMs of a datastore; those that nobody holds are left out.
    ///
    /// # Errors
    /// The datastore does not answer.
    pub fn list(&self, datastore: &DatastoreName, vms: &[VmName]) -> Result<Vec<(VmName, Holder)>, LeaseFailure> {
        match self.ask(&LeaseRequest::List { datastore: datastore.clone(), vms: vms.to_vec() }, &[])? {
            LeaseAnswer::Holders(holders) => Ok(holders),
            other => Err(unexpected(&other)),
        }
    }

    /// The leases of all hosts on a datastore, as this host sees them.
    ///
    /// # Errors
    /// The lease role is away or does not answer at once, or this host has no lease area there yet.
    pub fn hosts(&self, datastore: &DatastoreName) -> Result<Vec<HostLease>, LeaseFailure> {
        match self.ask_within(LOOK_BOUND, &LeaseRequest::Hosts(datastore.clone()), &[])? {
            LeaseAnswer::Hosts(hosts) => Ok(hosts),
            other => Err(unexpected(&other)),
        }
    }

    /// The boots of hosts that died lately, by a look at the datastore that began after this was asked.
    ///
    /// # Errors
    /// The lease role is away, or the datastore does not answer.
    pub fn dead_boots(&self, datastore: &DatastoreName) -> Result<Vec<DeadBoot>, LeaseFailure> {
        match self.ask_within(FRESH_LOOK_BOUND, &LeaseRequest::DeadBoots(datastore.clone()), &[])? {
            LeaseAnswer::DeadBoots(dead) => Ok(dead),
            other => Err(unexpected(&other)),
        }
    }

    /// Who holds a VM.
    ///
    /// # Errors
    /// The datastore does not answer.
    pub fn holder(&self, vm: &VmOnDatastore) -> Result<Option<Holder>, LeaseFailure> {
        match self.ask(&LeaseRequest::Query(vm.clone()), &[])? {
            LeaseAnswer::Holder(holder) => Ok(holder),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(answer: &LeaseAnswer) -> LeaseFailure {
    LeaseFailure::Failed(format!("the lease role answered something that was not asked: {answer:?}"))
}
