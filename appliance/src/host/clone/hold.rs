//! What nobody else may have while a VM is cloned: the leases of its name and of the clone's, and the locks of its disks.

use std::time::{Duration, Instant};

use model::diagnosis::Reason;
use model::limits;

use crate::api::lease::{Holder, TakenFrom, VmOnDatastore};
use crate::host::caller::Caller;
use crate::host::clone::carry;
use crate::host::clone::plan::Plan;
use crate::host::control_plane::ControlPlane;
use crate::host::disk_locks::LeftLocks;
use crate::host::leases::LeaseFailure;
use crate::host::located::Located;
use crate::host::start::LOCK_AGAIN;
use crate::host::{owed, record};

/// Pause before a lease role is asked again that is away.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The lease of a VM, or of a name, that this host runs nothing of. It is given up at the end, also by a control plane after
/// this one.
pub struct HeldLease<'a> {
    plane: &'a ControlPlane,
    vm: VmOnDatastore,
    epoch: u64,
    /// From whom it was taken who had not given it up.
    pub taken_from: Option<TakenFrom>,
}

impl<'a> HeldLease<'a> {
    /// Takes it. To be called only by who has claimed the VM.
    ///
    /// # Errors
    /// Another host holds it (`held_by` says what that means here), or it is not known whether this host got it.
    pub fn take(
        plane: &'a ControlPlane,
        vm: VmOnDatastore,
        held_by: impl FnOnce(&Holder) -> Reason,
    ) -> Result<Self, Reason> {
        let noted = record::begin(&plane.run_dir, &vm);
        noted.map_err(|error| Reason::new(format!("its clone cannot be noted: {error}"), "host check"))?;
        match plane.leases.acquire(&vm) {
            Ok((epoch, taken_from)) => Ok(Self { plane, vm, epoch, taken_from }),
            Err(failure) => {
                owed::not_got(plane, &vm, &failure);
                Err(match failure {
                    LeaseFailure::HeldBy(holder) if holder.alive => held_by(&holder),
                    failure => failure.reason(),
                })
            }
        }
    }

    /// Whether it is lost, and another may do with the VM what it likes; no, where that cannot be told now.
    pub fn is_lost(&self) -> Option<Reason> {
        match self.plane.leases.holder(&self.vm) {
            Ok(Some(holder)) if holder.own && holder.epoch == self.epoch => None,
            Ok(Some(holder)) | Err(LeaseFailure::HeldBy(holder)) => Some(self.lost(&LeaseFailure::HeldBy(holder))),
            Ok(None) => Some(self.lost(&LeaseFailure::Failed("nobody holds it".to_owned()))),
            Err(_) => None,
        }
    }

    /// That it was held from when it was taken until now. A lease role that is away is waited for: it comes back within seconds.
    ///
    /// # Errors
    /// It was not, or that cannot be told.
    pub fn assure(&self) -> Result<(), Reason> {
        let began = Instant::now();
        loop {
            match self.plane.leases.assure(&self.vm, self.epoch) {
                Ok(_) => return Ok(()),
                Err(failure)
                    if failure.leaves_doubt()
                        && began.elapsed().as_millis() < u128::from(limits::API_REQUEST_MS_MAX) =>
                {
                    std::thread::sleep(ASK_AGAIN);
                }
                Err(failure) => return Err(self.lost(&failure)),
            }
        }
    }

    fn lost(&self, failure: &LeaseFailure) -> Reason {
        let cause =
            format!("this host lost the lease of {}, so others may have changed it meanwhile: {failure}", self.vm.vm);
        Reason::new(cause, "vm list; then try again")
    }
}

impl Drop for HeldLease<'_> {
    fn drop(&mut self) {
        // Tried again if it cannot be done now.
        let _ = owed::give_up(self.plane, &self.vm);
    }
}

/// Shares the locks of a VM's disks, whose lease this is. Those that a host which died has left on the server are given up, or waited for:
/// what that one had sent may still arrive.
///
/// # Errors
/// One stays locked, the lease is lost, or the wait was cancelled.
pub fn lock_disks(
    plane: &ControlPlane,
    located: &Located,
    plan: &Plan,
    lease: &HeldLease<'_>,
    caller: &Caller<'_>,
) -> Result<(), Reason> {
    let began = Instant::now();
    let most = Duration::from_millis(limits::DATASTORE_LOCK_MS_MAX);
    let mut left = LeftLocks::default();
    let locked = loop {
        let is_locked = |locked: &Result<Option<_>, _>| matches!(locked, Ok(Some(_)));
        let locked = match left.take(plane, &located.datastore, || plan.lock(), is_locked) {
            Err(unanswered) => unanswered,
            Ok(Ok(None)) => break Ok(()),
            Ok(Ok(Some(path))) => {
                let hint = format!("type it again when that one is done: lease show {}", located.name);
                Reason { hint, ..located.locked_file(path) }
            }
            Ok(Err(error)) => break Err(carry::refused(&located.datastore, "a disk is not locked", &error)),
        };
        let passed = began.elapsed();
        if passed >= most {
            break Err(locked);
        }
        let what = format!("a disk, {} of at most {} s: {}", passed.as_secs(), most.as_secs(), locked.cause);
        caller.progress(&format!("waiting for {what}"), None);
        plane.vms.waits_for(&located.name, Some(what));
        if caller.cancelled_within(LOCK_AGAIN) {
            let cause = format!("it was cancelled while it waited for a disk: {}", locked.cause);
            break Err(Reason { cause, ..locked });
        }
        // Who has it locked may be who has the lease by now.
        if let Some(end) = carry::host_ends(plane).or_else(|| lease.is_lost()) {
            break Err(end);
        }
    };
    plane.vms.waits_for(&located.name, None);
    locked
}
