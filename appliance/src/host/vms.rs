//! The VMs that this host runs, starts, or takes part in moving: one entry each, and who may work on it.
//!
//! ```text
//!            claim                 put                                 ended
//!   (none) ────────> Starting, ────────> Running, Paused, Ending ────────────> Releasing ──> (none)
//!                    MovingIn,                │         ^
//!                    Cloning, Making          │         │
//!                                        hold │         │ let go of
//!                                             v         │
//!                             Pausing, Resuming, Stopping, MovingOut, Killing
//! ```
//! Who asks a monitor or the lease something about a VM holds the VM for as long as the question lasts ([`Held`]), so that
//! a command of another console never works on what the answer is about to change; it is told what is being done and that
//! it may try again. Only a kill takes a VM from another command's hands. A check of a move asks the VM nothing and changes
//! nothing of it: it only looks ([`Vms::look`]), and every command works on the VM meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::diagnosis::Diagnosis;
use model::names::{DatastoreName, VmName};
use model::units::Bytes;

use crate::api::host::VmState;
use crate::host::running::Running;
use crate::host::undecided::Undecided;

/// What this host knows of one VM beside what the datastore tells.
#[derive(Debug, Default)]
struct Entry {
    /// What it is while nobody works on it: none before it runs here.
    steady: Option<VmState>,
    /// What is being done with it, and by which work.
    work: Option<(u64, VmState)>,
    running: Option<Arc<Running>>,
    /// Memory that is kept for it until it runs here, bytes.
    booked: u64,
    waits_for: Option<String>,
    /// What runs stands still, because its lease does not tell whose it is.
    undecided: Option<Undecided>,
    last_end: Option<String>,
    /// The fence ended it here, and what its lease says since was not seen yet.
    fenced: Option<Fenced>,
    /// Why it ends here, or ended, is known: that its monitor is gone, which its watcher sees, is not the whole story.
    end_is_known: bool,
}

impl Entry {
    fn state(&self) -> Option<&VmState> {
        self.work.as_ref().map(|(_, doing)| doing).or(self.steady.as_ref())
    }

    /// Whether nothing of it is here, and nothing is done to bring it here.
    fn has_ended(&self) -> bool {
        self.running.is_none() && matches!(self.state(), None | Some(VmState::Releasing))
    }

    fn runs_in(&self, monitor: u32) -> bool {
        self.running.as_ref().is_some_and(|running| running.monitor.pid() == monitor)
    }

    /// Memory that it has here, or is to have, bytes.
    fn memory(&self) -> u64 {
        self.running.as_ref().map_or(self.booked, |running| running.spec.memory_bytes)
    }

    fn end_work(&mut self, ticket: u64) {
        if self.work.take_if(|(now, _)| *now == ticket).is_some() {
            self.waits_for = None;
        }
    }

    /// Nothing of it is here any more. Returns what ran.
    fn clear(&mut self, end: Option<String>) -> Option<Arc<Running>> {
        (self.steady, self.work, self.waits_for) = (None, None, None);
        (self.booked, self.undecided) = (0, None);
        if end.is_some() && !self.end_is_known {
            self.last_end = end;
        }
        self.running.take()
    }
}

/// A VM that ended here because this host could not renew its lease.
#[derive(Clone, Debug)]
pub struct Fenced {
    /// Its datastore.
    pub datastore: DatastoreName,
    /// Its vCPUs and its memory, where that was still known.
    pub size: Option<(u8, Bytes)>,
}

#[derive(Debug, Default)]
struct Entries {
    vms: BTreeMap<VmName, Entry>,
    tickets: u64,
}

impl Entries {
    /// Memory of all VMs but this one, bytes.
    fn memory_beside(&self, vm: Option<&VmName>) -> u64 {
        self.vms.iter().filter(|(name, _)| Some(*name) != vm).map(|(_, entry)| entry.memory()).sum()
    }

    /// What runs of a VM here, and its state while nobody works on it, if it is in one of these states.
    fn with_monitor(&self, vm: &VmName, from: &[VmState], what: &str) -> Result<(Arc<Running>, VmState), Diagnosis> {
        let not_here = || Diagnosis::new(what, format!("VM {vm} does not run on this host"), format!("vm show {vm}"));
        let entry = self.vms.get(vm).ok_or_else(not_here)?;
        let now = entry.state().ok_or_else(not_here)?;
        match (&entry.running, &entry.steady) {
            (Some(running), Some(before)) if from.contains(now) => Ok((Arc::clone(running), before.clone())),
            _ => Err(busy(vm, now, what)),
        }
    }

    fn begin_work(&mut self, vm: &VmName, doing: VmState) -> u64 {
        self.tickets += 1;
        self.vms.entry(vm.clone()).or_default().work = Some((self.tickets, doing));
        self.tickets
    }
}

/// Why a VM was not claimed.
#[derive(Debug)]
pub enum Unclaimed {
    /// It runs here, or another command is at work on it.
    Busy(Diagnosis),
    /// There is not enough memory.
    Short {
        /// What is free, bytes.
        free: u64,
    },
}

/// All VMs that this host has to do with.
#[derive(Debug, Default)]
pub struct Vms {
    entries: Mutex<Entries>,
}

impl Vms {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to work on a VM that nothing is done with here, so that two commands never start it twice.
    ///
    /// # Errors
    /// It runs here, or another command is at work on it.
    pub fn claim(&self, vm: &VmName, doing: VmState, what: &str) -> Result<Claim<'_>, Diagnosis> {
        self.claim_with(vm, doing, what, 0, u64::MAX).map_err(|unclaimed| match unclaimed {
            Unclaimed::Busy(busy) => busy,
            Unclaimed::Short { .. } => unreachable!("no memory is asked for"),
        })
    }

    /// As [`Vms::claim`], for a VM that is to run here: `memory` bytes are kept for it from now on, of the `most` bytes
    /// that all VMs together may have. Looked at and kept at once, so that two VMs never get the same memory.
    ///
    /// # Errors
    /// It runs here, another command is at work on it, or there is not enough memory beside the other VMs.
    pub fn claim_with(
        &self,
        vm: &VmName,
        doing: VmState,
        what: &str,
        memory: u64,
        most: u64,
    ) -> Result<Claim<'_>, Unclaimed> {
        let mut entries = self.lock();
        if let Some(now) = entries.vms.get(vm).and_then(Entry::state) {
            return Err(Unclaimed::Busy(busy(vm, now, what)));
        }
        self.begin(&mut entries, vm, doing, memory, most)
    }

    fn begin(
        &self,
        entries: &mut Entries,
        vm: &VmName,
        doing: VmState,
        memory: u64,
        most: u64,
    ) -> Result<Claim<'_>, Unclaimed> {
        let free = most.saturating_sub(entries.memory_beside(Some(vm)));
        if memory > free {
            return Err(Unclaimed::Short { free });
        }
        let entry = entries.vms.entry(vm.clone()).or_default();
        entry.end_is_known = false;
        entry.booked = memory;
        let ticket = entries.begin_work(vm, doing);
        Ok(Claim { vms: self, vm: vm.clone(), ticket })
    }

    /// Memory that VMs have here or are to have, but this one, bytes.
    pub fn memory_beside(&self, vm: Option<&VmName>) -> u64 {
        self.lock().memory_beside(vm)
    }

    /// Begins to work on a VM with a monitor here, if it is in one of these states.
    ///
    /// # Errors
    /// It is in another state; what that is, is said.
    pub fn hold(&self, vm: &VmName, from: &[VmState], doing: VmState, what: &str) -> Result<Held<'_>, Diagnosis> {
        let mut entries = self.lock();
        let (running, before) = entries.with_monitor(vm, from, what)?;
        let ticket = Some(entries.begin_work(vm, doing));
        Ok(Held { vms: self, ticket, running, before, after: None })
    }

    /// Looks at a VM with a monitor here, if it is in one of these states; others may work on it meanwhile.
    ///
    /// # Errors
    /// It is in another state; what that is, is said.
    pub fn look(&self, vm: &VmName, from: &[VmState], what: &str) -> Result<Held<'_>, Diagnosis> {
        let (running, before) = self.lock().with_monitor(vm, from, what)?;
        Ok(Held { vms: self, ticket: None, running, before, after: None })
    }

    /// A VM that is being started has a monitor now, which a kill can end.
    pub fn born(&self, vm: &VmName, running: Arc<Running>) {
        if let Some(entry) = self.lock().vms.get_mut(vm) {
            (entry.running, entry.fenced) = (Some(running), None);
        }
    }

    /// A VM runs here: its monitor, and its state. Whatever work brought it here is done.
    pub fn put(&self, vm: &VmName, running: Arc<Running>, state: VmState) {
        self.put_as(vm, running, state, None);
    }

    /// A VM stands still here, because its lease does not tell whose it is; otherwise as [`Vms::put`].
    pub fn put_undecided(&self, vm: &VmName, running: Arc<Running>, undecided: Undecided) {
        self.put_as(vm, running, VmState::Paused, Some(undecided));
    }

    fn put_as(&self, vm: &VmName, running: Arc<Running>, state: VmState, undecided: Option<Undecided>) {
        let mut entries = self.lock();
        let entry = entries.vms.entry(vm.clone()).or_default();
        (entry.running, entry.steady) = (Some(running), Some(state));
        (entry.work, entry.waits_for, entry.undecided) = (None, None, undecided);
        entry.fenced = None;
    }

    /// What runs of a VM in this monitor stands still, because its lease does not tell whose it is; none when that is settled.
    pub fn note_undecided(&self, vm: &VmName, monitor: u32, undecided: Option<Undecided>) {
        if let Some(entry) = self.lock().vms.get_mut(vm).filter(|entry| entry.runs_in(monitor)) {
            entry.undecided = undecided;
        }
    }

    /// What is known by now of a VM that stands still; nothing where that was settled meanwhile.
    pub fn renew_undecided(&self, vm: &VmName, monitor: u32, now: Undecided) {
        let mut inner = self.lock();
        let entry = inner.vms.get_mut(vm).filter(|entry| entry.runs_in(monitor));
        if let Some(undecided) = entry.and_then(|entry| entry.undecided.as_mut()) {
            *undecided = now;
        }
    }

    /// How a VM stands still here whose lease does not tell whose it is.
    pub fn undecided(&self, vm: &VmName) -> Option<Undecided> {
        self.lock().vms.get(vm)?.undecided.clone()
    }

    /// A guest ended, or its monitor did: nothing but its end can follow.
    pub fn ending(&self, vm: &VmName, monitor: u32) {
        if let Some(entry) = self.lock().vms.get_mut(vm).filter(|entry| entry.runs_in(monitor)) {
            entry.steady = Some(VmState::Ending);
        }
    }

    /// What the work on a VM waits for, for people; none when it goes on.
    pub fn waits_for(&self, vm: &VmName, what: Option<String>) {
        if let Some(entry) = self.lock().vms.get_mut(vm) {
            entry.waits_for = what;
        }
    }

    /// This host has nothing more to do with a VM whose monitor was this one; `end` is how it ended here. Returns what
    /// ran; none if that monitor is not the VM's, because somebody else took it away or it was started again.
    pub fn remove(&self, vm: &VmName, monitor: u32, end: Option<String>) -> Option<Arc<Running>> {
        let mut entries = self.lock();
        entries.vms.get_mut(vm).filter(|entry| entry.runs_in(monitor))?.clear(end)
    }

    /// As [`Vms::remove`], for who saw the monitor end and did not end it. The claim stands for the lease that is to be
    /// given up next. None also while a kill is under way, which does what follows.
    pub fn ended(&self, vm: &VmName, monitor: u32, end: String) -> Option<(Arc<Running>, Claim<'_>)> {
        let killing = |entry: &Entry| entry.state() == Some(&VmState::Killing);
        self.clear_to_release(vm, |entry| entry.runs_in(monitor) && !killing(entry), end)
    }

    /// As [`Vms::ended`], for who killed the monitor.
    pub fn killed(&self, vm: &VmName, monitor: u32, end: String) -> Option<(Arc<Running>, Claim<'_>)> {
        self.clear_to_release(vm, |entry| entry.runs_in(monitor), end)
    }

    fn clear_to_release(
        &self,
        vm: &VmName,
        may: impl FnOnce(&Entry) -> bool,
        end: String,
    ) -> Option<(Arc<Running>, Claim<'_>)> {
        let mut entries = self.lock();
        let running = entries.vms.get_mut(vm).filter(|entry| may(entry))?.clear(Some(end))?;
        let ticket = entries.begin_work(vm, VmState::Releasing);
        Some((running, Claim { vms: self, vm: vm.clone(), ticket }))
    }

    /// Why a VM is about to end here, or did: who ends it knows better than who only sees that its monitor is gone, and who
    /// ended it first than who kills what is ending.
    pub fn note_end(&self, vm: &VmName, why: String) {
        let mut entries = self.lock();
        let entry = entries.vms.entry(vm.clone()).or_default();
        if !entry.end_is_known {
            entry.last_end = Some(why);
            entry.end_is_known = true;
        }
    }

    /// The fence ends a VM of this datastore here, or did.
    pub fn note_fenced(&self, vm: &VmName, datastore: &DatastoreName, ran: Option<&Running>) {
        let mut entries = self.lock();
        let entry = entries.vms.entry(vm.clone()).or_default();
        let size = ran.map(|running| (running.spec.cpus, Bytes(running.spec.memory_bytes)));
        let size = size.or_else(|| entry.fenced.take()?.size);
        entry.fenced = Some(Fenced { datastore: datastore.clone(), size });
    }

    /// The lease of a VM was seen to be nobody's, or another host's: how it ended here is over.
    pub fn forget_fence(&self, vm: &VmName) {
        if let Some(entry) = self.lock().vms.get_mut(vm) {
            entry.fenced = None;
        }
    }

    /// What the fence ended here of a VM that has no monitor here any more; that its lease is being given up takes nothing from that.
    pub fn fenced(&self, vm: &VmName) -> Option<Fenced> {
        self.lock().vms.get(vm).filter(|entry| entry.has_ended())?.fenced.clone()
    }

    /// All VMs of which [`Vms::fenced`] tells.
    pub fn all_fenced(&self) -> Vec<VmName> {
        let entries = self.lock();
        let fenced = entries.vms.iter().filter(|(_, entry)| entry.has_ended() && entry.fenced.is_some());
        fenced.map(|(vm, _)| vm.clone()).collect()
    }

    /// The state of a VM here, if this host has to do with it.
    pub fn state(&self, vm: &VmName) -> Option<VmState> {
        self.lock().vms.get(vm)?.state().cloned()
    }

    /// What runs of a VM here.
    pub fn running(&self, vm: &VmName) -> Option<Arc<Running>> {
        self.lock().vms.get(vm)?.running.clone()
    }

    /// How a VM ended here the last time.
    pub fn last_end(&self, vm: &VmName) -> Option<String> {
        self.lock().vms.get(vm)?.last_end.clone()
    }

    /// What the work on a VM waits for.
    pub fn waiting_for(&self, vm: &VmName) -> Option<String> {
        let entries = self.lock();
        let entry = entries.vms.get(vm)?;
        entry.waits_for.clone().or_else(|| entry.undecided.as_ref().map(Undecided::waits_for))
    }

    /// All VMs with a monitor here.
    pub fn all_running(&self) -> Vec<(Arc<Running>, VmState)> {
        let entries = self.lock();
        let running = entries.vms.values().filter_map(|entry| Some((entry.running.clone()?, entry.state()?.clone())));
        running.collect()
    }

    /// The VMs in one of these states.
    pub fn all_in(&self, states: &[VmState]) -> Vec<VmName> {
        let entries = self.lock();
        let wanted = entries.vms.iter().filter(|(_, entry)| entry.state().is_some_and(|now| states.contains(now)));
        wanted.map(|(vm, _)| vm.clone()).collect()
    }
}

/// A VM that is being started, moved in, cloned or made, or whose lease is being given up. Dropped before [`Vms::put`], it is as if
/// nothing had been begun.
#[derive(Debug)]
pub struct Claim<'a> {
    vms: &'a Vms,
    vm: VmName,
    ticket: u64,
}

impl<'a> Claim<'a> {
    /// Another claim follows without a moment in which somebody else could have the VM; as [`Vms::claim_with`] otherwise.
    ///
    /// # Errors
    /// There is not enough memory beside the other VMs; nothing is claimed then.
    pub fn followed_by(self, doing: VmState, memory: u64, most: u64) -> Result<Claim<'a>, Unclaimed> {
        let vms = self.vms;
        let mut entries = vms.lock();
        // Dropped after it, this claim clears nothing that has the ticket of another.
        let next = vms.begin(&mut entries, &self.vm, doing, memory, most);
        drop(entries);
        next
    }

    /// Whether the VM did not come to run here yet.
    pub fn is_open(&self) -> bool {
        let entries = self.vms.lock();
        entries.vms.get(&self.vm).and_then(|entry| entry.work.as_ref()).is_some_and(|(now, _)| *now == self.ticket)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut entries = self.vms.lock();
        let entry = entries.vms.get_mut(&self.vm);
        if let Some(entry) = entry.filter(|entry| entry.work.as_ref().is_some_and(|(now, _)| *now == self.ticket)) {
            entry.clear(None);
        }
    }
}

/// A VM that a command works on. Dropped, it is again as it was before, unless the command said otherwise, or it ended
/// or was taken away meanwhile.
#[derive(Debug)]
pub struct Held<'a> {
    vms: &'a Vms,
    /// None of one that is only looked at.
    ticket: Option<u64>,
    running: Arc<Running>,
    before: VmState,
    after: Option<VmState>,
}

impl Held<'_> {
    /// What runs.
    pub fn running(&self) -> &Arc<Running> {
        &self.running
    }

    /// Whether the VM is only looked at, and others may work on it.
    pub fn only_looks(&self) -> bool {
        self.ticket.is_none()
    }

    /// What the VM was before: running, paused or ending.
    pub fn before(&self) -> &VmState {
        &self.before
    }

    /// What the VM is once it is let go of.
    pub fn leave_as(&mut self, state: VmState) {
        self.after = Some(state);
    }

    /// What the VM will be once it is let go of.
    pub fn after(&self) -> &VmState {
        self.after.as_ref().unwrap_or(&self.before)
    }

    /// Whether this host still has to do with the VM in this monitor.
    pub fn is_here(&self) -> bool {
        let vm = &self.running.vm.vm;
        self.vms.lock().vms.get(vm).is_some_and(|entry| entry.runs_in(self.running.monitor.pid()))
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut entries = self.vms.lock();
        let monitor = self.running.monitor.pid();
        let entry = entries.vms.get_mut(&self.running.vm.vm).filter(|entry| entry.runs_in(monitor));
        let Some(entry) = entry else { return };
        // Once its guest or its monitor ended nothing but its end can follow.
        if let Some(after) = self.after.take().filter(|_| entry.steady != Some(VmState::Ending)) {
            entry.steady = Some(after);
        }
        entry.end_work(ticket);
    }
}

/// Why a command may not work on a VM now.
fn busy(vm: &VmName, now: &VmState, what: &str) -> Diagnosis {
    let again = || "try again; vm list tells when that is over".to_owned();
    let clone_hint = || "wait for it; or Ctrl-C where the clone was typed, which gives it up".to_owned();
    let (cause, hint) = match now {
        VmState::Running => (format!("VM {vm} runs on this host"), format!("vm show {vm}")),
        VmState::Paused => (format!("VM {vm} is paused on this host"), format!("vm resume {vm}")),
        VmState::Starting => (format!("VM {vm} is being started on this host"), "wait for it".to_owned()),
        VmState::Pausing => (format!("VM {vm} is being paused by another command"), again()),
        VmState::Resuming => (format!("VM {vm} is being resumed by another command"), again()),
        VmState::Stopping => (format!("the power button of VM {vm} is being pressed by another command"), again()),
        VmState::Killing => (format!("VM {vm} is being killed by another command"), again()),
        VmState::Releasing => (format!("the lease of VM {vm} is being given up"), again()),
        VmState::Cloning => (format!("VM {vm} is being cloned on this host"), clone_hint()),
        VmState::Making => (format!("VM {vm} is being made on this host, as the clone of another VM"), clone_hint()),
        VmState::Ending => {
            (format!("VM {vm} ended here, and its monitor is not gone yet"), format!("vm show {vm}, then try again"))
        }
        VmState::MovingIn => {
            (format!("VM {vm} is being moved to this host"), "migration list; migration cancel ID".to_owned())
        }
        _ => (format!("VM {vm} is being moved away"), "migration list; migration cancel ID".to_owned()),
    };
    Diagnosis::new(what, cause, hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::monitor::stand_in::StandIn;

    fn name() -> VmName {
        "web".parse().expect("valid")
    }

    /// A running VM, and what stands for its monitor.
    fn running() -> (Vms, StandIn) {
        let stand_in = StandIn::start(&name());
        let vms = Vms::default();
        vms.put(&name(), stand_in.running(), VmState::Running);
        (vms, stand_in)
    }

    fn hold<'a>(vms: &'a Vms, from: &[VmState], doing: VmState) -> Result<Held<'a>, String> {
        vms.hold(&name(), from, doing, "VM web was not worked on").map_err(|refusal| refusal.reasons[0].cause.clone())
    }

    #[test]
    fn memory_that_is_kept_for_one_vm_is_not_given_to_another() {
        let (vms, db) = (Vms::default(), "db".parse().expect("valid"));
        let coming = vms.claim_with(&name(), VmState::MovingIn, "", 600, 1000).expect("there is enough");
        let refused = vms.claim_with(&db, VmState::Starting, "", 600, 1000);
        assert!(matches!(refused, Err(Unclaimed::Short { free: 400 })), "{refused:?}");
        assert!(vms.state(&db).is_none(), "it left nothing");
        drop(coming);
        assert_eq!(vms.memory_beside(None), 0);
        let _starting = vms.claim_with(&db, VmState::Starting, "", 600, 1000).expect("the other did not come");
        assert_eq!((vms.memory_beside(None), vms.memory_beside(Some(&db))), (600, 0));
    }

    #[test]
    fn of_two_commands_at_the_same_instant_the_second_is_told_what_the_first_does() {
        let (vms, _monitor) = running();
        let pausing = hold(&vms, &[VmState::Running], VmState::Pausing).expect("nobody works on it");
        assert_eq!(vms.state(&name()), Some(VmState::Pausing));
        let refused = hold(&vms, &[VmState::Running, VmState::Paused], VmState::MovingOut).expect_err("held");
        assert_eq!(refused, "VM web is being paused by another command");
        drop(pausing);
        assert_eq!(vms.state(&name()), Some(VmState::Running), "what failed leaves the VM as it was");
        let mut pausing = hold(&vms, &[VmState::Running], VmState::Pausing).expect("nobody works on it");
        pausing.leave_as(VmState::Paused);
        drop(pausing);
        let moving = hold(&vms, &[VmState::Running, VmState::Paused], VmState::MovingOut).expect("nobody works on it");
        assert_eq!(moving.before(), &VmState::Paused);
        drop(moving);
        assert_eq!(vms.state(&name()), Some(VmState::Paused));
    }

    #[test]
    fn a_vm_that_is_only_looked_at_is_what_it_was_and_every_command_works_on_it() {
        let (vms, _monitor) = running();
        let looking = vms.look(&name(), &[VmState::Running], "").expect("it runs");
        assert_eq!(vms.state(&name()), Some(VmState::Running));
        let stopping = hold(&vms, &[VmState::Running], VmState::Stopping).expect("nobody works on it");
        drop(looking);
        assert_eq!(vms.state(&name()), Some(VmState::Stopping), "the look is over, the other work is not");
        let refused = vms.look(&name(), &[VmState::Running], "").expect_err("it is worked on");
        assert!(refused.to_string().contains("the power button of VM web is being pressed"), "{refused}");
        drop(stopping);
        assert_eq!(vms.state(&name()), Some(VmState::Running));
    }

    #[test]
    fn who_kills_a_vm_that_is_being_fenced_does_not_hide_that_it_was() {
        let (vms, monitor) = running();
        vms.note_end(&name(), "it was fenced".to_owned());
        vms.note_end(&name(), "it was killed".to_owned());
        vms.ended(&name(), monitor.pid(), "its monitor ended".to_owned()).expect("it was there");
        assert_eq!(vms.last_end(&name()), Some("it was fenced".to_owned()));
    }

    #[test]
    fn a_kill_takes_the_vm_from_another_command_which_does_not_bring_it_back() {
        let (vms, monitor) = running();
        let mut pausing = hold(&vms, &[VmState::Running], VmState::Pausing).expect("nobody works on it");
        let killing = hold(&vms, &[VmState::Running, VmState::Pausing], VmState::Killing).expect("a kill may");
        pausing.leave_as(VmState::Paused);
        drop(pausing);
        assert_eq!(vms.state(&name()), Some(VmState::Killing));
        let watcher = vms.ended(&name(), monitor.pid(), "its monitor ended".to_owned());
        assert!(watcher.is_none(), "the kill does what follows");
        let (_, releasing) = vms.killed(&name(), monitor.pid(), "it was killed".to_owned()).expect("it was there");
        drop(killing);
        assert_eq!(vms.state(&name()), Some(VmState::Releasing));
        drop(releasing);
        assert_eq!((vms.state(&name()), vms.last_end(&name())), (None, Some("it was killed".to_owned())));
    }

    #[test]
    fn a_vm_that_ends_while_a_command_works_on_it_stays_ending() {
        let (vms, monitor) = running();
        let mut pausing = hold(&vms, &[VmState::Running], VmState::Pausing).expect("nobody works on it");
        vms.ending(&name(), monitor.pid());
        pausing.leave_as(VmState::Paused);
        drop(pausing);
        assert_eq!(vms.state(&name()), Some(VmState::Ending));
    }

    #[test]
    fn a_kill_that_failed_leaves_what_the_other_command_made_of_the_vm() {
        let (vms, _monitor) = running();
        let mut pausing = hold(&vms, &[VmState::Running], VmState::Pausing).expect("nobody works on it");
        let killing = hold(&vms, &[VmState::Pausing], VmState::Killing).expect("a kill may");
        pausing.leave_as(VmState::Paused);
        drop((pausing, killing));
        assert_eq!(vms.state(&name()), Some(VmState::Paused));
    }

    #[test]
    fn a_claim_that_came_to_nothing_leaves_no_trace_and_one_that_did_leaves_the_vm() {
        let (vms, monitor) = (Vms::default(), StandIn::start(&name()));
        let claim = vms.claim(&name(), VmState::Starting, "").expect("nobody works on it");
        vms.born(&name(), monitor.running());
        assert!(vms.claim(&name(), VmState::Starting, "").is_err());
        drop(claim);
        assert!(vms.state(&name()).is_none() && vms.running(&name()).is_none());
        let claim = vms.claim(&name(), VmState::MovingIn, "").expect("nobody works on it");
        vms.put(&name(), monitor.running(), VmState::Running);
        assert!(!claim.is_open());
        drop(claim);
        assert_eq!(vms.state(&name()), Some(VmState::Running));
    }
}
