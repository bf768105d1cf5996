//! kvmclock: the paravirtual clock that the machine's vCPUs share, and how far a guest's clocks go forward when it arrives.
//!
//! It runs on while a machine is paused, as the TSC does, and stands still only between the reading of the one and the setting of
//! the other machine's. Whoever moves a guest knows by its own monotonic clock what kvmclock would show by now
//! ([`ClockReading`]): kvmclock, the TSC and the power management timer are then set forward by the same time, each for the
//! moment in which it is set. They never go back, and never further forward than a bound. The hosts' own wall clocks are not
//! compared: a host without NTP is not to be trusted with a guest's time.

use std::time::{Duration, Instant};

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;
use model::limits;
use serde::{Deserialize, Serialize};

use crate::state::StateError;

/// The saved clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// Nanoseconds of kvmclock.
    pub ns: u64,
}

/// What a guest's kvmclock shows at a moment of this host, or would show if the guest had not stood still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// Nanoseconds of kvmclock.
    pub ns: u64,
    /// The moment.
    pub at: Instant,
}

/// How far the clocks of a guest that arrives are behind.
#[derive(Debug, Clone, Copy)]
pub struct Behind {
    saved: ClockState,
    real: Option<ClockReading>,
}

impl Behind {
    /// Clocks that were saved as `saved`, where `real` is what kvmclock should show; not known, they go on from where they were.
    pub fn new(saved: ClockState, real: Option<ClockReading>) -> Self {
        Self { saved, real }
    }

    /// By how much a clock that goes on at `now` is to be set forward: 0 to `limits::MIGRATION_CLOCK_MS_MAX`.
    pub fn at(&self, now: Instant) -> Duration {
        let Some(real) = self.real else { return Duration::ZERO };
        let gone_by = u64::try_from(now.saturating_duration_since(real.at).as_nanos()).unwrap_or(u64::MAX);
        let behind = real.ns.saturating_add(gone_by).saturating_sub(self.saved.ns);
        Duration::from_nanos(behind).min(Duration::from_millis(limits::MIGRATION_CLOCK_MS_MAX))
    }
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

/// Sets kvmclock, so that it goes on from the saved value and what it is behind by. Comes after the vCPUs' TSCs and before any
/// vCPU runs.
///
/// # Errors
/// [`StateError::Kernel`].
pub fn import_state(vm: &VmFd, state: ClockState, behind: &Behind) -> Result<(), StateError> {
    let forward = behind.at(Instant::now());
    if forward >= Duration::from_millis(limits::MIGRATION_CLOCK_MS_MAX) {
        log::warn!(
            "the guest's clocks are set forward by {} s, the most that they may be, and are behind",
            forward.as_secs()
        );
    }
    let clock = state.ns.saturating_add(u64::try_from(forward.as_nanos()).unwrap_or(u64::MAX));
    let data = kvm_clock_data { clock, ..Default::default() };
    vm.set_clock(&data).map_err(kernel("the clock"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: ClockState = ClockState { ns: 7_000_000_000 };
    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_clock_goes_forward_by_what_it_missed_until_the_moment_in_which_it_is_set() {
        let at = Instant::now();
        // It had missed 30 ms when that was known.
        let behind = Behind::new(SAVED, Some(ClockReading { ns: SAVED.ns + 30_000_000, at }));
        assert_eq!(behind.at(at), 30 * MS);
        assert_eq!(behind.at(at + 12 * MS), 42 * MS);
    }

    #[test]
    fn a_clock_never_goes_back_nor_further_forward_than_the_bound() {
        let at = Instant::now();
        let most = Duration::from_millis(limits::MIGRATION_CLOCK_MS_MAX);
        let behind = |ns| Behind::new(SAVED, Some(ClockReading { ns, at }));
        assert_eq!(behind(0).at(at + MS), Duration::ZERO);
        assert_eq!(behind(u64::MAX).at(at + MS), most);
        assert_eq!(behind(SAVED.ns).at(at + 2 * most), most);
        assert_eq!(Behind::new(SAVED, None).at(at), Duration::ZERO, "nobody knows what it should show");
    }
}
