//! The VMs that this host runs, starts, or takes part in moving: one entry each, and who may work on it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::diagnosis::Diagnosis;
use model::names::VmName;
use model::vm_config::VmConfig;
use vmm::machine::spec::MachineSpec;

use crate::api::host::VmState;
use crate::api::lease::VmOnDatastore;
use crate::host::monitor::Monitor;
use crate::network::tap::Tap;

/// A VM with a monitor on this host.
#[derive(Debug)]
pub struct Running {
    /// Its place.
    pub vm: VmOnDatastore,
    /// The epoch in which this host holds it; 0 on a destination before the commit.
    epoch: AtomicU64,
    /// Its configuration, as it was when it started.
    pub config: VmConfig,
    /// The text of it.
    pub config_text: String,
    /// The shape of its machine.
    pub spec: MachineSpec,
    /// Its monitor.
    pub monitor: Monitor,
    /// Its taps, in the order of its NICs; empty after this control plane was restarted, for the monitor holds them.
    taps: Mutex<Vec<Tap>>,
}

impl Running {
    /// A VM with a monitor, held in `epoch`.
    pub fn new(
        vm: VmOnDatastore,
        epoch: u64,
        (config, config_text): (VmConfig, String),
        spec: MachineSpec,
        monitor: Monitor,
        taps: Vec<Tap>,
    ) -> Self {
        let (epoch, taps) = (AtomicU64::new(epoch), Mutex::new(taps));
        Self { vm, epoch, config, config_text, spec, monitor, taps }
    }

    /// The epoch in which this host holds it; 0 on a destination before the commit.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Works with its taps.
    pub fn with_taps<T>(&self, work: impl FnOnce(&[Tap]) -> T) -> T {
        work(&self.taps.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its monitor ended: its taps go too, so that their names are free.
    pub fn drop_taps(&self) {
        self.taps.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// This host holds it in a later epoch now.
    pub fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }
}

/// What this host knows of one VM beside what the datastore tells.
#[derive(Debug, Default)]
struct Entry {
    state: Option<VmState>,
    running: Option<Arc<Running>>,
    last_end: Option<String>,
    /// Its last end was a fence: the reason that its watcher sees, a monitor that ended, is not the whole story.
    fenced: bool,
}

/// All VMs that this host has to do with.
#[derive(Debug, Default)]
pub struct Vms {
    entries: Mutex<BTreeMap<VmName, Entry>>,
}

impl Vms {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<VmName, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a VM that nothing is done with as being worked on, so that two commands never start it twice.
    ///
    /// # Errors
    /// It runs here, or another command is at work on it.
    pub fn claim(&self, vm: &VmName, state: VmState, what: &str) -> Result<(), Diagnosis> {
        let mut entries = self.lock();
        let entry = entries.entry(vm.clone()).or_default();
        if let Some(now) = &entry.state {
            return Err(busy(vm, now, what));
        }
        entry.state = Some(state);
        entry.fenced = false;
        Ok(())
    }

    /// Goes from one state to another, if it is in the first.
    ///
    /// # Errors
    /// It is in another state.
    pub fn transition(
        &self,
        vm: &VmName,
        from: &[VmState],
        to: VmState,
        what: &str,
    ) -> Result<Arc<Running>, Diagnosis> {
        let mut entries = self.lock();
        let not_here = || Diagnosis::new(what, format!("VM {vm} does not run on this host"), format!("vm show {vm}"));
        let entry = entries.get_mut(vm).ok_or_else(not_here)?;
        let now = entry.state.clone().ok_or_else(not_here)?;
        let running = entry.running.clone().filter(|_| from.contains(&now)).ok_or_else(|| busy(vm, &now, what))?;
        entry.state = Some(to);
        Ok(running)
    }

    /// Records the monitor of a VM and its state.
    pub fn put(&self, vm: &VmName, running: Arc<Running>, state: VmState) {
        let mut entries = self.lock();
        let entry = entries.entry(vm.clone()).or_default();
        entry.running = Some(running);
        entry.state = Some(state);
    }

    /// Sets the state of a VM that has one.
    pub fn set_state(&self, vm: &VmName, state: VmState) {
        if let Some(entry) = self.lock().get_mut(vm).filter(|entry| entry.state.is_some()) {
            entry.state = Some(state);
        }
    }

    /// Goes to another state, unless something else has been begun with the VM meanwhile.
    pub fn change_state(&self, vm: &VmName, from: &VmState, to: VmState) {
        if let Some(entry) = self.lock().get_mut(vm).filter(|entry| entry.state.as_ref() == Some(from)) {
            entry.state = Some(to);
        }
    }

    /// This host has nothing more to do with a VM; `end` is how it ended here. Returns what ran, if `monitor` is
    /// the one that ran: the watcher of an earlier monitor must not remove a later one.
    pub fn remove(&self, vm: &VmName, monitor: Option<u32>, end: Option<String>) -> Option<Arc<Running>> {
        let mut entries = self.lock();
        let entry = entries.get_mut(vm)?;
        let current = entry.running.as_ref().map(|running| running.monitor.pid());
        if monitor.is_some() && current != monitor {
            return None;
        }
        entry.state = None;
        if end.is_some() && !entry.fenced {
            entry.last_end = end;
        }
        entry.running.take()
    }

    /// The lease role killed a VM, and why.
    pub fn note_fence(&self, vm: &VmName, why: String) {
        let mut entries = self.lock();
        let entry = entries.entry(vm.clone()).or_default();
        entry.last_end = Some(why);
        entry.fenced = true;
    }

    /// The state of a VM here, if this host has to do with it.
    pub fn state(&self, vm: &VmName) -> Option<VmState> {
        self.lock().get(vm)?.state.clone()
    }

    /// What runs of a VM here.
    pub fn running(&self, vm: &VmName) -> Option<Arc<Running>> {
        self.lock().get(vm)?.running.clone()
    }

    /// How a VM ended here the last time.
    pub fn last_end(&self, vm: &VmName) -> Option<String> {
        self.lock().get(vm)?.last_end.clone()
    }

    /// All VMs with a monitor here.
    pub fn all_running(&self) -> Vec<(Arc<Running>, VmState)> {
        let entries = self.lock();
        let running = entries.values().filter_map(|entry| Some((entry.running.clone()?, entry.state.clone()?)));
        running.collect()
    }
}

fn busy(vm: &VmName, now: &VmState, what: &str) -> Diagnosis {
    let (cause, hint) = match now {
        VmState::Running => (format!("VM {vm} runs on this host"), format!("vm show {vm}")),
        VmState::Paused => (format!("VM {vm} is paused on this host"), format!("vm resume {vm}")),
        VmState::Starting => (format!("VM {vm} is being started on this host"), "wait for it".to_owned()),
        _ => (format!("VM {vm} is being moved"), "migration list; migration cancel ID".to_owned()),
    };
    Diagnosis::new(what, cause, hint)
}
