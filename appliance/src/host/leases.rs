//! The control plane's side of the lease role.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::diagnosis::Reason;
use model::limits;
use model::names::{DatastoreName, HostName, VmName};

use crate::api::channel::{Channel, ChannelError};
use crate::api::lease::{
    AWAY_HINT, DatastoreLease, DeadBoot, GONE, Holder, HostLease, LeaseAnswer, LeaseEvent, LeaseRequest, Listed,
    TakenFrom, VmOnDatastore,
};
use crate::api::paths::RunDir;
use crate::host::discovery::Hosts;

/// Longest wait for an answer of the lease role: what is asked may wait for an expiry.
const ASK_BOUND: Duration = Duration::from_millis(limits::API_REQUEST_MS_MAX + limits::LEASE_EXPIRY_MS);

/// How long a question that only looks is waited for before the lease role is asked whether it is there at all: the answer
/// may have to wait for a slow datastore.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// How long the lease role may take to say that it is there.
const PING_BOUND: Duration = Duration::from_secs(1);

/// How long nothing more is looked for after the lease role was found standing still: a command has several questions, and
/// is to wait for one of them.
const STANDS_STILL: Duration = Duration::from_secs(2);

/// How long a question is waited for that looks at the datastore anew.
const FRESH_LOOK_BOUND: Duration = Duration::from_secs(6);

/// Asks the lease role, a connection for each request: they are rare, and none waits for another.
///
/// What decides who runs a VM is waited for as long as the role may take. What only looks is not waited for while the role
/// stands still: what is known without it is told then.
#[derive(Debug)]
pub struct Leases {
    socket: PathBuf,
    hosts: Arc<Hosts>,
    /// When the role was last found standing still.
    stood_still: Mutex<Option<Instant>>,
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
    /// Nobody holds the VM, by a lease that knows nothing of what this host held.
    #[error("the VM has no lease on this datastore")]
    NoLease,
    /// The VM's lease is damaged.
    #[error("{why}")]
    Damaged {
        /// The VM.
        vm: VmName,
        /// How, for a person.
        why: String,
        /// Which lease of the VM that is ([`LeaseAnswer::Damaged`]).
        mark: u64,
    },
    /// The VM's lease is damaged, and it may run on these hosts.
    #[error("its lease is damaged, so that nobody can tell which host holds it{}", hosts_left_text(live, untold))]
    MayRunOn {
        /// Those that live.
        live: Vec<String>,
        /// Those that have expired, and could not be told that their lives are over.
        untold: Vec<String>,
    },
    /// The lease area is damaged, and how.
    #[error("{0}")]
    AreaDamaged(String),
    /// What was asked may or may not have happened.
    #[error("{0}")]
    Unknown(String),
    /// The lease role does not answer.
    #[error("the lease role does not answer: {0}")]
    Away(#[from] ChannelError),
    /// The lease role is there and does not answer that it is.
    #[error("the lease role does not answer: it is stopped, or hangs")]
    StandsStill,
}

/// On which hosts a VM may run, for a person: those that live, and those that are dead for all that is known but would not hear of it.
fn hosts_left_text(live: &[String], untold: &[String]) -> String {
    let mut text = String::new();
    if !live.is_empty() {
        text += &format!(", and these live: {}", live.join(", "));
    }
    if !untold.is_empty() {
        let hosts = untold.join(", ");
        text += &format!("; these have expired, and there is no room to tell them so if they come back: {hosts}");
    }
    text
}

/// What came of a damaged lease that was to be mended.
#[derive(Debug)]
pub enum Mended {
    /// The VM has a new one, which nobody holds.
    New,
    /// It can be read, because the damage passed, or another mended it first; who holds it, if anybody does.
    Readable(Option<Holder>),
}

/// What a person can do about a VM whose lease is damaged.
pub fn mend_hint(vm: &VmName) -> String {
    format!(
        "no host starts what it cannot decide about; if the storage is sound again, lease break {vm} gives it a new lease, where it \
         runs on no host"
    )
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
            Self::Damaged { vm, .. } => mend_hint(vm),
            Self::MayRunOn { .. } => "vm list, on each of them".to_owned(),
            Self::AreaDamaged(_) => "no host runs what it cannot decide about; if the storage is sound again: shut down every host that uses \
                                 this datastore, move its file godwit/lease away, and start them: they make a new one"
                .to_owned(),
            Self::NoLease => "nobody holds it: vm start, on any host, gives it one".to_owned(),
            Self::Failed(_) | Self::Unknown(_) => "datastore list, then: log show lease".to_owned(),
            Self::Away(_) | Self::StandsStill => AWAY_HINT.to_owned(),
        };
        Reason::new(self.to_string(), hint)
    }

    /// Whether what was asked may have happened all the same.
    pub fn leaves_doubt(&self) -> bool {
        matches!(self, Self::Unknown(_)) || self.is_silence()
    }

    /// Whether the lease role said nothing.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Away(_) | Self::StandsStill)
    }
}

impl Leases {
    /// Asks the lease role of this host. What the lease area does not tell of a holder, `hosts` may.
    pub fn new(run_dir: &RunDir, hosts: Arc<Hosts>) -> Self {
        Self { socket: run_dir.socket("lease"), hosts, stood_still: Mutex::default() }
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// The role is away or does not answer within the bound of a take-over.
    pub fn ask(&self, request: &LeaseRequest, descriptors: &[BorrowedFd<'_>]) -> Result<LeaseAnswer, LeaseFailure> {
        self.ask_within(ASK_BOUND, request, descriptors)
    }

    /// A request that only looks, and its answer: waited for as [`Leases::ask`] does, unless the role stands still.
    fn look(&self, request: &LeaseRequest) -> Result<LeaseAnswer, LeaseFailure> {
        let stood_still = *self.stood_still.lock().unwrap_or_else(PoisonError::into_inner);
        if stood_still.is_some_and(|at| at.elapsed() < STANDS_STILL) {
            return Err(LeaseFailure::StandsStill);
        }
        let looked = self.look_while_it_is_there(request);
        if matches!(looked, Err(LeaseFailure::StandsStill)) {
            *self.stood_still.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        self.understood(looked?)
    }

    fn look_while_it_is_there(&self, request: &LeaseRequest) -> Result<LeaseAnswer, LeaseFailure> {
        let deadline = Instant::now() + ASK_BOUND;
        let channel = self.connect_to_look(LOOK_PATIENCE)?;
        channel.send(request, &[])?;
        let mut is_there = false;
        loop {
            match channel.receive_within(LOOK_PATIENCE) {
                Err(ChannelError::Timeout(_)) if Instant::now() < deadline => {}
                // It is not silent: whoever asks it something else is answered.
                Err(error @ (ChannelError::Timeout(_) | ChannelError::Closed)) if is_there => {
                    return Err(LeaseFailure::Failed(format!(
                        "the lease role is there and does not answer this: {error}"
                    )));
                }
                other => return Ok(other?.0),
            }
            match self.connect_to_look(PING_BOUND)?.ask(&LeaseRequest::Ping, &[], PING_BOUND) {
                Err(ChannelError::Timeout(_)) => return Err(LeaseFailure::StandsStill),
                there => there?,
            };
            is_there = true;
        }
    }

    fn connect_to_look(&self, bound: Duration) -> Result<Channel<LeaseRequest, LeaseAnswer>, LeaseFailure> {
        Channel::connect_within(&self.socket, bound).map_err(|error| match error.kind() {
            // Those that it did not take before fill its queue.
            io::ErrorKind::TimedOut => LeaseFailure::StandsStill,
            _ => ChannelError::from(error).into(),
        })
    }

    fn ask_within(
        &self,
        bound: Duration,
        request: &LeaseRequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<LeaseAnswer, LeaseFailure> {
        let channel = Channel::<LeaseRequest, LeaseAnswer>::connect(&self.socket).map_err(ChannelError::from)?;
        self.understood(channel.ask(request, descriptors, bound)?.0)
    }

    /// An answer, with the names of the holders; a refusal as a failure.
    fn understood(&self, answer: LeaseAnswer) -> Result<LeaseAnswer, LeaseFailure> {
        match answer {
            LeaseAnswer::HeldBy(holder) => Err(LeaseFailure::HeldBy(self.named(holder))),
            LeaseAnswer::Holder(holder) => Ok(LeaseAnswer::Holder(holder.map(|holder| self.named(holder)))),
            LeaseAnswer::Holders(holders) => {
                let named = holders.into_iter().map(|(vm, listed)| match listed {
                    Listed::Held(holder) => (vm, Listed::Held(self.named(holder))),
                    damaged @ Listed::Damaged(_) => (vm, damaged),
                });
                Ok(LeaseAnswer::Holders(named.collect()))
            }
            LeaseAnswer::Failed(why) => Err(LeaseFailure::Failed(why)),
            LeaseAnswer::NoLease => Err(LeaseFailure::NoLease),
            LeaseAnswer::Damaged { vm, why, mark } => Err(LeaseFailure::Damaged { vm, why, mark }),
            LeaseAnswer::MayRunOn { live, untold } => Err(LeaseFailure::MayRunOn { live, untold }),
            LeaseAnswer::AreaDamaged(why) => Err(LeaseFailure::AreaDamaged(why)),
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
    /// The role is away or stands still.
    pub fn status(&self) -> Result<Vec<DatastoreLease>, LeaseFailure> {
        match self.look(&LeaseRequest::Status)? {
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

    /// Gives a VM whose lease is damaged a new one, which nobody holds. `vouched`: the mark of
    /// that damaged lease, if a person says that the VM runs on no host. It must not run on this one.
    ///
    /// # Errors
    /// Nobody vouches, and it may run on another host, which lives; or the datastore does not answer.
    pub fn mend(&self, vm: &VmOnDatastore, vouched: Option<u64>) -> Result<Mended, LeaseFailure> {
        match self.ask(&LeaseRequest::Mend { vm: vm.clone(), vouched }, &[])? {
            LeaseAnswer::Done => Ok(Mended::New),
            LeaseAnswer::Holder(holder) => Ok(Mended::Readable(holder)),
            other => Err(unexpected(&other)),
        }
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

    /// Who holds which of these VMs of a datastore, for who only looks; those that nobody holds are left out.
    ///
    /// # Errors
    /// The datastore does not answer, or the lease role is away or stands still.
    pub fn list(&self, datastore: &DatastoreName, vms: &[VmName]) -> Result<Vec<(VmName, Listed)>, LeaseFailure> {
        match self.look(&LeaseRequest::List { datastore: datastore.clone(), vms: vms.to_vec() })? {
            LeaseAnswer::Holders(holders) => Ok(holders),
            other => Err(unexpected(&other)),
        }
    }

    /// The leases of all hosts on a datastore, as this host sees them, for who only looks.
    ///
    /// # Errors
    /// The datastore does not answer, this host has no lease area there yet, or the lease role is away or stands still.
    pub fn hosts(&self, datastore: &DatastoreName) -> Result<Vec<HostLease>, LeaseFailure> {
        match self.look(&LeaseRequest::Hosts(datastore.clone()))? {
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

    /// Who holds a VM, for who decides something by it.
    ///
    /// # Errors
    /// The datastore does not answer, or the lease role is away.
    pub fn holder(&self, vm: &VmOnDatastore) -> Result<Option<Holder>, LeaseFailure> {
        holder_in(self.ask(&LeaseRequest::Query(vm.clone()), &[])?)
    }

    /// The same, for who shows it or asks the lease once more before anything is done: a role that stands still is not waited for.
    ///
    /// # Errors
    /// As [`Leases::holder`], or the lease role stands still.
    pub fn holder_if_it_answers(&self, vm: &VmOnDatastore) -> Result<Option<Holder>, LeaseFailure> {
        holder_in(self.look(&LeaseRequest::Query(vm.clone()))?)
    }
}

fn holder_in(answer: LeaseAnswer) -> Result<Option<Holder>, LeaseFailure> {
    match answer {
        LeaseAnswer::Holder(holder) => Ok(holder),
        other => Err(unexpected(&other)),
    }
}

fn unexpected(answer: &LeaseAnswer) -> LeaseFailure {
    LeaseFailure::Failed(format!("the lease role answered something that was not asked: {answer:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::channel::Listener;

    #[test]
    fn a_lease_role_that_is_there_and_does_not_answer_one_question_is_not_silent() {
        let folder = std::env::temp_dir().join(format!("godwit-leases-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("made");
        let run_dir = RunDir::at(&folder);
        let listener = Listener::bind(&run_dir.socket("lease")).expect("bound");
        let role = std::thread::spawn(move || {
            let next = || listener.accept::<LeaseAnswer, LeaseRequest>().expect("accepted");
            let listing = next();
            listing.receive().expect("asked");
            let pinging = next();
            assert_eq!(pinging.receive().expect("asked").0, LeaseRequest::Ping);
            pinging.send(&LeaseAnswer::Done, &[]).expect("answered");
            // An answer that is too long for a message ends the connection.
            drop(listing);
        });
        let leases = Leases::new(&run_dir, Arc::default());
        let failure = leases.list(&"lab".parse().expect("valid"), &[]).expect_err("it was not answered");
        assert!(!failure.is_silence() && failure.to_string().contains("is there"), "{failure}");
        role.join().expect("it ends");
        let failure = leases.list(&"lab".parse().expect("valid"), &[]).expect_err("nobody listens");
        assert!(failure.is_silence(), "{failure}");
        let _ = std::fs::remove_dir_all(&folder);
    }
}
