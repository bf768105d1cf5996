//! The LAPIC's timer. Source: Intel SDM, volume 3, sections 12.4 (local APIC) and 12.5.4 (timer).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::ring0::descriptors::{CPUS_MAX, SPURIOUS_VECTOR, TICK_VECTOR};
use crate::ring0::stubs::TICKS;
use crate::witness::clock::{Counter, Tsc};

const BASE: u64 = 0xfee0_0000;
const ID: u64 = 0x20;
const SPURIOUS: u64 = 0xf0;
const COMMAND_LOW: u64 = 0x300;
const COMMAND_HIGH: u64 = 0x310;
const TIMER: u64 = 0x320;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

const PERIODIC: u32 = 1 << 17;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_16: u32 = 3;

fn read(register: u64) -> u32 {
    // SAFETY: a register of this CPU's LAPIC, which lies in the identity map and in no memory of ours.
    unsafe { ((BASE + register) as *const u32).read_volatile() }
}

fn write(register: u64, value: u32) {
    // SAFETY: as above; the effects that the callers below ask for are interrupts.
    unsafe { ((BASE + register) as *mut u32).write_volatile(value) };
}

/// This CPU's APIC identifier.
pub fn id() -> u8 {
    (read(ID) >> 24) as u8
}

/// Turns the LAPIC on.
pub fn enable() {
    write(SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
}

/// Starts a tick of `hz` on this CPU, number `cpu`, its length measured by a TSC of `tsc_hz`.
pub fn start(cpu: u8, hz: u64, tsc_hz: u64) {
    let vector = u32::from(TICK_VECTOR + cpu);
    write(DIVIDE, DIVIDE_BY_16);
    write(TIMER, MASKED | vector);
    write(INITIAL_COUNT, u32::MAX);
    let begin = Tsc.read();
    let (passed, cycles) = loop {
        let cycles = Tsc.read() - begin;
        if cycles > tsc_hz / 200 {
            break (u32::MAX - read(CURRENT_COUNT), cycles);
        }
    };
    let count = u128::from(passed) * u128::from(tsc_hz) / u128::from(cycles.max(1)) / u128::from(hz.max(1));
    TICKS[usize::from(cpu)].tsc.store(Tsc.read(), Relaxed);
    write(TIMER, PERIODIC | vector);
    let period = (count as u32).max(1);
    PERIODS[usize::from(cpu)].store(period, Relaxed);
    write(INITIAL_COUNT, period);
}

/// Counts of a period, for each CPU; 0 where no timer runs.
static PERIODS: [AtomicU32; CPUS_MAX] = [const { AtomicU32::new(0) }; CPUS_MAX];
static BACKS: AtomicU64 = AtomicU64::new(0);

/// How often a timer went back.
pub fn backs() -> u64 {
    BACKS.load(Relaxed)
}

/// Counts since the timer of `cpu`, which runs this, was started: whole periods by interrupts taken, the rest from the
/// register. Interrupts that were merged into one make it slow, but never make it go back.
fn elapsed(cpu: usize, period: u32) -> u64 {
    loop {
        let before = TICKS[cpu].count.load(Relaxed);
        let left = read(CURRENT_COUNT);
        if TICKS[cpu].count.load(Relaxed) == before {
            return before * u64::from(period) + u64::from(period.saturating_sub(left));
        }
    }
}

/// Watches the timer of the CPU that has this value.
#[derive(Debug)]
pub struct Watch {
    cpu: usize,
    /// A tenth of a second, in TSC cycles.
    patience: u64,
    latest: u64,
    /// TSC when it was first seen to be behind.
    behind: Option<u64>,
}

impl Watch {
    /// Nothing seen yet.
    pub const fn new(cpu: u64, tsc_hz: u64) -> Self {
        Self { cpu: cpu as usize, patience: tsc_hz / 10, latest: 0, behind: None }
    }

    /// Looks once. The register starts anew before the interrupt that says so arrives, on a busy host long before: the
    /// timer counts as gone back when it has been behind for a tenth of a second.
    pub fn look(&mut self) {
        let period = PERIODS[self.cpu].load(Relaxed);
        if period == 0 {
            return;
        }
        let (elapsed, now) = (elapsed(self.cpu, period), Tsc.read());
        if elapsed >= self.latest {
            (self.latest, self.behind) = (elapsed, None);
        } else if now.wrapping_sub(*self.behind.get_or_insert(now)) > self.patience {
            BACKS.fetch_add(1, Relaxed);
            (self.latest, self.behind) = (elapsed, None);
        }
    }
}

/// Sends an interrupt command to the CPU with the identifier `target`.
pub fn send(target: u8, command: u32) {
    write(COMMAND_HIGH, u32::from(target) << 24);
    write(COMMAND_LOW, command);
}
