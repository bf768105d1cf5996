//! TSC and kvmclock, and what goes back or stands still.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed, fence};

/// A counter that never goes back on an honest machine.
pub trait Counter {
    /// Its value now.
    fn read(&self) -> u64;
}

/// The time stamp counter.
#[derive(Clone, Copy, Debug)]
pub struct Tsc;

impl Counter for Tsc {
    #[inline(always)]
    fn read(&self) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: reads a counter. LFENCE keeps it from being read early: without it TSCs of two CPUs cannot be compared.
        unsafe { core::arch::asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nostack, nomem)) };
        u64::from(high) << 32 | u64::from(low)
    }
}

/// Counts readings that are below an earlier one, on whatever CPU.
#[derive(Debug)]
pub struct Ratchet {
    latest: AtomicU64,
    backs: AtomicU64,
    /// Largest step back.
    furthest: AtomicU64,
}

impl Ratchet {
    /// Nothing read yet.
    pub const fn new() -> Self {
        Self { latest: AtomicU64::new(0), backs: AtomicU64::new(0), furthest: AtomicU64::new(0) }
    }

    /// Reads once and notes whether the reading is below one that was there before it was taken.
    #[inline]
    pub fn look(&self, read: impl FnOnce() -> u64) -> u64 {
        let before = self.latest.load(Relaxed);
        fence(core::sync::atomic::Ordering::SeqCst);
        let now = read();
        self.note(before, now);
        now
    }

    /// Notes the reading `now`, taken after `before` was the latest.
    #[inline]
    fn note(&self, before: u64, now: u64) {
        if now < before {
            self.backs.fetch_add(1, Relaxed);
            self.furthest.fetch_max(before - now, Relaxed);
            // From here on the new time counts, or each further reading would be one more step back.
            let _ = self.latest.compare_exchange(before, now, Relaxed, Relaxed);
        } else {
            self.latest.fetch_max(now, Relaxed);
        }
    }

    /// How often it went back.
    pub fn backs(&self) -> u64 {
        self.backs.load(Relaxed)
    }

    /// The largest step back.
    pub fn furthest(&self) -> u64 {
        self.furthest.load(Relaxed)
    }
}

impl Default for Ratchet {
    fn default() -> Self {
        Self::new()
    }
}

/// Kvmclock on several CPUs: each by itself must never go back, and all together where the hypervisor promises it.
#[derive(Debug)]
pub struct KvmClocks<const CPUS: usize> {
    own: [Ratchet; CPUS],
    common: Ratchet,
}

impl<const CPUS: usize> KvmClocks<CPUS> {
    /// Nothing read yet.
    pub const fn new() -> Self {
        Self { own: [const { Ratchet::new() }; CPUS], common: Ratchet::new() }
    }

    /// Reads once on `cpu` and notes whether it went back; `read` gives nanoseconds and whether CPUs may be compared.
    #[inline]
    pub fn look(&self, cpu: usize, read: impl FnOnce() -> (u64, bool)) -> u64 {
        let before = self.common.latest.load(Relaxed);
        fence(core::sync::atomic::Ordering::SeqCst);
        let (now, comparable) = read();
        if comparable {
            self.common.note(before, now);
        }
        self.own[cpu].look(|| now)
    }

    /// How often it went back.
    pub fn backs(&self) -> u64 {
        self.common.backs() + self.own.iter().map(Ratchet::backs).sum::<u64>()
    }
}

impl<const CPUS: usize> Default for KvmClocks<CPUS> {
    fn default() -> Self {
        Self::new()
    }
}

/// The longest time between two looks at the TSC by one CPU, in cycles: since the last report and ever.
#[derive(Debug)]
pub struct Gap {
    recent: AtomicU64,
    ever: AtomicU64,
}

impl Gap {
    /// No gap yet.
    pub const fn new() -> Self {
        Self { recent: AtomicU64::new(0), ever: AtomicU64::new(0) }
    }

    /// Notes a gap of `cycles`.
    #[inline]
    pub fn note(&self, cycles: u64) {
        if cycles > self.recent.load(Relaxed) {
            self.recent.fetch_max(cycles, Relaxed);
            self.ever.fetch_max(cycles, Relaxed);
        }
    }

    /// The longest since the last call, and ever.
    pub fn take(&self) -> (u64, u64) {
        (self.recent.swap(0, Relaxed), self.ever.load(Relaxed))
    }

    /// Forgets both.
    pub fn reset(&self) {
        self.recent.store(0, Relaxed);
        self.ever.store(0, Relaxed);
    }
}

impl Default for Gap {
    fn default() -> Self {
        Self::new()
    }
}

/// Flag in [`KvmClock`]: what one CPU reads is never below what another has read before.
const TSC_STABLE: u8 = 1;

/// The structure that KVM keeps for a CPU whose MSR 0x4b564d01 points to it.
/// Source: Linux, `Documentation/virt/kvm/x86/msr.rst`, `pvclock_vcpu_time_info`.
#[repr(C, align(32))]
#[derive(Debug, Default)]
pub struct KvmClock {
    version: u32,
    _pad: u32,
    tsc_timestamp: u64,
    system_time: u64,
    multiplier: u32,
    shift: i8,
    flags: u8,
    _pad_end: [u8; 2],
}

impl KvmClock {
    /// All zeros, before KVM has filled it.
    pub const fn new() -> Self {
        Self {
            version: 0,
            _pad: 0,
            tsc_timestamp: 0,
            system_time: 0,
            multiplier: 0,
            shift: 0,
            flags: 0,
            _pad_end: [0; 2],
        }
    }

    /// Nanoseconds now, and whether the clocks of all CPUs may be compared.
    ///
    /// # Safety
    /// `this` points to the structure of the CPU that runs this.
    #[inline]
    pub unsafe fn now(this: *const Self, tsc: &impl Counter) -> (u64, bool) {
        loop {
            // SAFETY: the caller's. KVM writes while this CPU is stopped; an odd or changed version tells that it did.
            let (version, copy) = unsafe { ((&raw const (*this).version).read_volatile(), this.read_volatile()) };
            let now = copy.at(tsc.read());
            fence(core::sync::atomic::Ordering::SeqCst);
            // SAFETY: as above.
            if version & 1 == 0 && version == unsafe { (&raw const (*this).version).read_volatile() } {
                return (now, copy.flags & TSC_STABLE != 0);
            }
        }
    }

    /// Nanoseconds when the TSC is `tsc`.
    #[inline]
    pub fn at(&self, tsc: u64) -> u64 {
        let cycles = tsc.wrapping_sub(self.tsc_timestamp);
        let cycles = if self.shift >= 0 { cycles << self.shift } else { cycles >> -self.shift };
        self.system_time.wrapping_add(((u128::from(cycles) * u128::from(self.multiplier)) >> 32) as u64)
    }

    /// Frequency of the TSC in Hz, `None` before KVM has filled the structure.
    pub fn tsc_hz(&self) -> Option<u64> {
        if self.multiplier == 0 {
            return None;
        }
        let hz = (1_000_000_000u128 << 32) / u128::from(self.multiplier);
        Some(if self.shift >= 0 { hz >> self.shift } else { hz << -self.shift } as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_back_is_counted_once() {
        let ratchet = Ratchet::new();
        for value in [5, 9, 9, 4, 6, 10] {
            ratchet.look(|| value);
        }
        assert_eq!((ratchet.backs(), ratchet.furthest()), (1, 5));
    }

    #[test]
    fn clocks_of_two_cpus_are_compared_only_where_the_hypervisor_promises_it() {
        let clocks = KvmClocks::<2>::new();
        clocks.look(0, || (100, false));
        clocks.look(1, || (90, false));
        assert_eq!(clocks.backs(), 0);
        clocks.look(0, || (110, true));
        clocks.look(1, || (105, true));
        assert_eq!(clocks.backs(), 1);
        clocks.look(1, || (104, false));
        assert_eq!(clocks.backs(), 2);
    }

    #[test]
    fn the_longest_gap_is_kept_for_ever_and_since_the_report() {
        let gap = Gap::new();
        gap.note(700);
        assert_eq!(gap.take(), (700, 700));
        gap.note(30);
        gap.note(20);
        assert_eq!(gap.take(), (30, 700));
        gap.reset();
        assert_eq!(gap.take(), (0, 0));
    }

    #[test]
    fn kvmclock_scales_as_the_hypervisor_says() {
        // 2.5 GHz: shift -1, so half cycles of 0.8 ns.
        let multiplier = (4u64 << 32) / 5;
        let clock = KvmClock {
            tsc_timestamp: 1000,
            system_time: 77,
            multiplier: multiplier as u32,
            shift: -1,
            ..KvmClock::new()
        };
        assert_eq!(clock.at(1000), 77);
        let second = clock.at(1000 + 2_500_000_000) - 77;
        assert!(second.abs_diff(1_000_000_000) <= 2, "{second}");
        assert!(clock.tsc_hz().unwrap().abs_diff(2_500_000_000) <= 2);
        assert_eq!(KvmClock::new().tsc_hz(), None);
    }
}
