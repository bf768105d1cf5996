//! A VM with a monitor on this host.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use model::vm_config::VmConfig;
use vmm::machine::spec::MachineSpec;

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
