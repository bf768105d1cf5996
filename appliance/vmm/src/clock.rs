//! kvmclock: the paravirtual clock that the machine's vCPUs share.
//!
//! It stands still while the machine is saved and goes on from the same value, so a guest's monotonic time never jumps;
//! how much real time the guest missed is known to whoever moved it (`Machine::clock_ns` on both sides). The hosts' own
//! wall clocks are not compared: a host without NTP is not to be trusted with a guest's time.

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;
use serde::{Deserialize, Serialize};

use crate::state::StateError;

/// The saved clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// Nanoseconds of kvmclock.
    pub ns: u64,
}

fn kernel(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> StateError {
    move |error| StateError::Kernel { subject: "the clock".into(), what, errno: error.to_string() }
}

/// Reads kvmclock. No vCPU runs.
///
/// # Errors
/// [`StateError::Kernel`].
pub fn export_state(vm: &VmFd) -> Result<ClockState, StateError> {
    let data = vm.get_clock().map_err(kernel("the reading of the clock"))?;
    Ok(ClockState { ns: data.clock })
}

/// Sets kvmclock, so that it goes on from the saved value. Comes after the vCPUs' TSCs and before any vCPU runs.
///
/// # Errors
/// [`StateError::Kernel`].
pub fn import_state(vm: &VmFd, state: ClockState) -> Result<(), StateError> {
    let data = kvm_clock_data { clock: state.ns, ..Default::default() };
    vm.set_clock(&data).map_err(kernel("the clock"))
}
