//! How fast the TSC counts.

use crate::ring0::gate::{cpuid, write_msr};
use crate::ring0::port;
use crate::witness::clock::{Counter, KvmClock, Tsc};

/// Where the frequency comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The scale in kvmclock's page.
    KvmClock,
    /// CPUID leaf 0x40000010, in kHz.
    Hypervisor,
    /// CPUID leaf 0x15: ratio to a crystal.
    Crystal,
    /// Measured against the 8254.
    Pit,
}

const KVM_SIGNATURE: [u32; 3] = [0x4b4d_564b, 0x564b_4d56, 0x4d];
/// CPUID 0x40000001 EAX: MSR 0x4b564d01 is there.
const KVM_FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
const MSR_KVM_SYSTEM_TIME: u32 = 0x4b56_4d01;

/// Has KVM keep `page` as this CPU's clock; false if there is no KVM or it has no clock.
pub fn start_kvmclock(page: *const KvmClock) -> bool {
    let hypervisor = cpuid(1, 0).ecx & 1 << 31 != 0;
    let base = if hypervisor { cpuid(0x4000_0000, 0) } else { return false };
    if [base.ebx, base.ecx, base.edx] != KVM_SIGNATURE || cpuid(0x4000_0001, 0).eax & KVM_FEATURE_CLOCKSOURCE2 == 0 {
        return false;
    }
    // SAFETY: KVM writes only into the page, which is read as memory that changes.
    unsafe { write_msr(MSR_KVM_SYSTEM_TIME, page as u64 | 1) }
}

/// The frequency in Hz, from the best source that this machine has.
pub fn tsc_hz(kvmclock: Option<u64>) -> (u64, Source) {
    if let Some(hz) = kvmclock {
        return (hz, Source::KvmClock);
    }
    if cpuid(1, 0).ecx & 1 << 31 != 0 && cpuid(0x4000_0000, 0).eax >= 0x4000_0010 {
        let khz = cpuid(0x4000_0010, 0).eax;
        if khz > 0 {
            return (u64::from(khz) * 1000, Source::Hypervisor);
        }
    }
    if cpuid(0, 0).eax >= 0x15 {
        let leaf = cpuid(0x15, 0);
        if leaf.eax > 0 && leaf.ebx > 0 && leaf.ecx > 0 {
            return (u64::from(leaf.ecx) * u64::from(leaf.ebx) / u64::from(leaf.eax), Source::Crystal);
        }
    }
    (by_pit(), Source::Pit)
}

/// Counts TSC cycles while channel 2 of the 8254 counts down. Source: Intel 8254, mode 0.
fn by_pit() -> u64 {
    const PIT_HZ: u64 = 1_193_182;
    const COUNT: u16 = 59_659;
    // SAFETY: the timer's channel 2 and its gate; it interrupts nobody.
    unsafe {
        let gate = port::read_byte(0x61) & !3;
        port::write_byte(0x61, gate | 1);
        port::write_byte(0x43, 0xb0);
        port::write_byte(0x42, COUNT as u8);
        port::write_byte(0x42, (COUNT >> 8) as u8);
        let begin = Tsc.read();
        // A machine without the timer reads as ones at once, which gives a frequency that is plainly wrong, not a hang.
        while port::read_byte(0x61) & 0x20 == 0 {}
        let cycles = Tsc.read() - begin;
        port::write_byte(0x61, gate);
        (cycles * PIT_HZ / u64::from(COUNT)).max(1_000_000)
    }
}
