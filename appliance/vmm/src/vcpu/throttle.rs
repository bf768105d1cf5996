//! Slowing vCPUs, so that a guest that dirties memory faster than a link carries it can still be moved.
//!
//! A vCPU that is to be slowed by n percent runs for 100 - n hundredths of 10 ms, and is then held for n hundredths for each
//! 100 - n hundredths that it did run: if this thread comes late, the hold is the longer.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::control::Control;
use crate::bus::enter;

const PERIOD: Duration = Duration::from_millis(10);
/// Longest hold at a time.
const HOLD_MAX: Duration = Duration::from_millis(200);

/// Most that a vCPU can be slowed, in percent.
pub const PERCENT_MAX: u8 = 99;

struct Shared {
    slowed: Vec<(Arc<Control>, AtomicU8)>,
    ends: Mutex<bool>,
    changed: Condvar,
}

/// The throttle of a machine.
pub(crate) struct Throttle {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Throttle {
    pub(crate) fn new(controls: impl IntoIterator<Item = Arc<Control>>) -> Self {
        let slowed = controls.into_iter().map(|control| (control, AtomicU8::new(0))).collect();
        let shared = Shared { slowed, ends: Mutex::new(false), changed: Condvar::new() };
        Self { shared: Arc::new(shared), thread: None }
    }

    /// How long a vCPU has been held altogether.
    pub(crate) fn held(&self, vcpu: u8) -> Option<Duration> {
        self.shared.slowed.get(usize::from(vcpu)).map(|(control, _)| control.held())
    }

    /// Slows a vCPU by `percent` of its time, [`PERCENT_MAX`] at most; 0 lets it run free. False if there is no such vCPU.
    pub(crate) fn set(&mut self, vcpu: u8, percent: u8) -> std::io::Result<bool> {
        let Some((_, slowed)) = self.shared.slowed.get(usize::from(vcpu)) else { return Ok(false) };
        slowed.store(percent.min(PERCENT_MAX), Ordering::Relaxed);
        if percent > 0 && self.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("throttle".into()).spawn(move || tick(&shared))?;
            self.thread = Some(thread);
        } else if self.shared.slowed.iter().all(|(_, slowed)| slowed.load(Ordering::Relaxed) == 0) {
            self.stop();
        }
        Ok(true)
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
        let mut next = PERIOD;
        for (control, slowed) in &shared.slowed {
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
