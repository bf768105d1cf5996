//! Model-specific registers: which are part of a vCPU's state, and reading and writing them.

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::{Kvm, VcpuFd};

use crate::state::StateError;

/// Time-stamp counter.
pub const TSC: u32 = 0x10;
/// Deadline of the local APIC's timer, in TSC ticks. Comes after the TSC and the local APIC.
pub const TSC_DEADLINE: u32 = 0x6e0;
/// Locks features on: comes before what depends on them.
pub const FEATURE_CONTROL: u32 = 0x3a;

/// Memory types by address and by page (Intel SDM volume 3, section 12.11): KVM keeps them but does not list them.
const MTRR_VARIABLE: std::ops::RangeInclusive<u32> = 0x200..=0x20f;
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];
const MTRR_DEFAULT: u32 = 0x2ff;
const PAT: u32 = 0x277;
/// KVM's own (Linux Documentation/virt/kvm/x86/msr.rst).
const KVM: std::ops::RangeInclusive<u32> = 0x4b56_4d00..=0x4b56_4d08;
/// Writing these makes KVM write the time into guest memory at once. Guests write them each time they want to read it, so
/// the value is worth nothing, and a move must not change memory.
const WALL_CLOCKS: [u32; 2] = [0x11, 0x4b56_4d00];
/// What nested virtualisation on Intel offers; guests are not shown it.
const VMX: std::ops::RangeInclusive<u32> = 0x480..=0x491;

/// Entries that one ioctl takes.
const BATCH: usize = 128;

/// Numbers of the registers that make up a vCPU's state on this host, those apart that have a place of their own in the
/// order of restoring (TSC and its deadline).
///
/// Registers that this vCPU cannot read are left out; CPUID must have been set.
///
/// # Errors
/// [`StateError::Kernel`].
pub fn state_list(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Vec<u32>, StateError> {
    let listed = kvm.get_msr_index_list().map_err(kernel("the list of model-specific registers"))?;
    let mut numbers: Vec<u32> = listed.as_slice().to_vec();
    numbers.extend(MTRR_VARIABLE.chain(MTRR_FIXED).chain([MTRR_DEFAULT, PAT]).chain(KVM));
    numbers.sort_unstable();
    numbers.dedup();
    numbers.retain(|number| {
        ![TSC, TSC_DEADLINE].contains(number) && !WALL_CLOCKS.contains(number) && !VMX.contains(number)
    });
    let read = read(vcpu, &numbers)?;
    Ok(read.into_iter().map(|(number, _)| number).collect())
}

fn kernel(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> StateError {
    move |error| StateError::Kernel { subject: "a vCPU".into(), what, errno: error.to_string() }
}

fn entries(values: impl IntoIterator<Item = (u32, u64)>) -> Result<Msrs, StateError> {
    let entries: Vec<_> =
        values.into_iter().map(|(index, data)| kvm_msr_entry { index, data, ..Default::default() }).collect();
    Msrs::from_entries(&entries).map_err(|_| StateError::invalid("a vCPU", "too many model-specific registers"))
}

/// Reads registers. The kernel stops at the first that does not exist; it is left out and reading goes on behind it.
///
/// # Errors
/// [`StateError::Kernel`].
pub fn read(vcpu: &VcpuFd, numbers: &[u32]) -> Result<Vec<(u32, u64)>, StateError> {
    let mut values = Vec::with_capacity(numbers.len());
    let mut rest = numbers;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(BATCH)];
        let mut msrs = entries(batch.iter().map(|number| (*number, 0)))?;
        let count = vcpu.get_msrs(&mut msrs).map_err(kernel("the reading of model-specific registers"))?;
        values.extend(msrs.as_slice()[..count].iter().map(|entry| (entry.index, entry.data)));
        let missing = usize::from(count < batch.len());
        rest = &rest[count + missing..];
    }
    Ok(values)
}

/// Writes registers. One that this host does not take is an error, unless it has that value already or the value is 0:
/// then the guest has not used what this host lacks.
///
/// # Errors
/// [`StateError::Invalid`] with the number and value of the first that was not taken.
pub fn write(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), StateError> {
    let mut rest = values;
    while !rest.is_empty() {
        let batch = &rest[..rest.len().min(BATCH)];
        let msrs = entries(batch.iter().copied())?;
        let count = vcpu.set_msrs(&msrs).map_err(kernel("the writing of model-specific registers"))?;
        if count == batch.len() {
            rest = &rest[count..];
            continue;
        }
        let (number, value) = batch[count];
        let present = read(vcpu, &[number])?.first().map(|(_, value)| *value);
        if value != 0 && present != Some(value) {
            let what = format!("this host does not take the value {value:#x} of register {number:#x}");
            return Err(StateError::invalid("a vCPU", what));
        }
        rest = &rest[count + 1..];
    }
    Ok(())
}
