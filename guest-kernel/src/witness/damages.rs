//! The damages that are described.

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicU64};

use heapless::Deque;

use crate::witness::memory::Damage;

/// Damages that are described; more are only counted.
pub const DAMAGES_DESCRIBED: usize = 16;

/// The first damages, in the order in which they were found.
#[derive(Debug)]
pub struct Damages {
    busy: AtomicBool,
    found: UnsafeCell<Deque<Damage, DAMAGES_DESCRIBED>>,
    noted: AtomicU64,
}

// SAFETY: `busy` lets one CPU at a time at the queue.
unsafe impl Sync for Damages {}

impl Damages {
    /// None.
    pub const fn new() -> Self {
        Self { busy: AtomicBool::new(false), found: UnsafeCell::new(Deque::new()), noted: AtomicU64::new(0) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Deque<Damage, DAMAGES_DESCRIBED>) -> T) -> T {
        while self.busy.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {
            core::hint::spin_loop();
        }
        // SAFETY: `busy` is ours.
        let result = work(unsafe { &mut *self.found.get() });
        self.busy.store(false, Release);
        result
    }

    pub(super) fn note(&self, damage: Damage) {
        if self.noted.fetch_add(1, Relaxed) < DAMAGES_DESCRIBED as u64 {
            // Full only if nobody takes them; they are counted all the same.
            let _ = self.with(|found| found.push_back(damage));
        }
    }

    /// The next that was not described yet.
    pub fn take(&self) -> Option<Damage> {
        if self.noted.load(Relaxed) == 0 { None } else { self.with(|found| found.pop_front()) }
    }
}

impl Default for Damages {
    fn default() -> Self {
        Self::new()
    }
}
