//! Slowing the vCPUs that dirty, so that a guest that dirties memory faster than a link carries it can still be moved.
//!
//! A vCPU that is to be slowed by n percent runs for 100 - n hundredths of 10 ms, and is then held for n hundredths for each
//! 100 - n hundredths that it did run: if this thread comes late, the hold is the longer.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::Control;
use super::dirtying::Dirtying;
use crate::bus::enter;

const PERIOD: Duration = Duration::from_millis(10);
/// Longest hold at a time.
const HOLD_MAX: Duration = Duration::from_millis(200);

/// Most that a vCPU can be slowed, in percent.
pub const PERCENT_MAX: u8 = 99;

struct Shared {
    vcpus: Vec<Arc<Control>>,
    dirtying: Arc<Dirtying>,
    /// How far those that dirty are slowed, percent.
    wanted: AtomicU8,
    /// How far each is slowed now, percent.
    slowed: Vec<AtomicU8>,
    ends: Mutex<bool>,
    changed: Condvar,
}

impl Shared {
    /// Finds out who is to be slowed now.
    fn judge(&self) {
        let wanted = self.wanted.load(Ordering::Relaxed);
        let dirties = self.dirtying.slowed(wanted).into_iter();
        for (dirties, (control, slowed)) in dirties.zip(self.vcpus.iter().zip(&self.slowed)) {
            let percent = if dirties { wanted } else { 0 };
            if slowed.swap(percent, Ordering::Relaxed) == 0 && percent > 0 {
                control.begin_holding();
            }
        }
    }
}

/// The throttle of a machine.
pub(crate) struct Throttle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    pub(crate) fn new(vcpus: Vec<Arc<Control>>, dirtying: Arc<Dirtying>) -> Self {
        let slowed = vcpus.iter().map(|_| AtomicU8::new(0)).collect();
        let (ends, changed) = (Mutex::new(false), Condvar::new());
        let shared = Shared { vcpus, dirtying, wanted: AtomicU8::new(0), slowed, ends, changed };
        Self { shared: Arc::new(shared), thread: None }
    }

    /// How long a vCPU has been held altogether.
    pub(crate) fn held(&self, vcpu: u8) -> Option<Duration> {
        self.shared.vcpus.get(usize::from(vcpu)).map(|control| control.held())
    }

    /// How far each vCPU is slowed now, percent.
    pub(crate) fn slowed(&self) -> Vec<u8> {
        self.shared.slowed.iter().map(|slowed| slowed.load(Ordering::Relaxed)).collect()
    }

    /// Slows the vCPUs that dirty by `percent` of their time, [`PERCENT_MAX`] at most; 0 lets all run free. Which these are is
    /// asked again as it goes on.
    pub(crate) fn set(&mut self, percent: u8) -> std::io::Result<()> {
        self.shared.wanted.store(percent.min(PERCENT_MAX), Ordering::Relaxed);
        if percent > 0 && self.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("throttle".into()).spawn(move || tick(&shared))?;
            self.thread = Some(thread);
        } else if percent == 0 {
            self.stop();
        }
        self.shared.judge();
        Ok(())
    }

    fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            *enter(&self.shared.ends) = true;
            self.shared.changed.notify_all();
            let _ = thread.join();
            *enter(&self.shared.ends) = false;
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.stop();
    }
}

fn tick(shared: &Shared) {
    let mut ends = enter(&shared.ends);
    while !*ends {
        shared.judge();
        let mut next = PERIOD;
        for (control, slowed) in shared.vcpus.iter().zip(&shared.slowed) {
            let percent = u32::from(slowed.load(Ordering::Relaxed));
            if percent > 0 {
                let slice = PERIOD * (100 - percent) / 100;
                control.hold_after(slice, |ran| hold(ran, percent));
                next = next.min(slice);
            }
        }
        ends = shared.changed.wait_timeout(ends, next).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// How long a guest that has run for `ran` is held, so that it has run for 100 - `percent` hundredths of the whole.
fn hold(ran: Duration, percent: u32) -> Duration {
    (ran * percent / (100 - percent)).min(HOLD_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hold_is_in_proportion_and_bounded() {
        let ms = Duration::from_millis;
        assert_eq!(hold(ms(5), 50), ms(5));
        assert_eq!(hold(ms(1), 90), ms(9));
        assert_eq!(hold(Duration::from_micros(100), 99), Duration::from_micros(9900));
        assert_eq!(hold(ms(1000), 99), HOLD_MAX);
    }
}
