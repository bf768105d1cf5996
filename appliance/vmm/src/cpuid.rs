//! What CPUID tells a guest: what KVM supports here, cut down to the machine's baseline, with the machine's own topology.

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::{Cap, Kvm, VcpuFd};
use model::cpu_report::{Baseline, CpuidLeaf};

use crate::state::StateError;

const LEAF_1_ECX_MONITOR: u32 = 1 << 3;
const LEAF_1_ECX_VMX: u32 = 1 << 5;
const LEAF_1_ECX_X2APIC: u32 = 1 << 21;
const LEAF_1_ECX_TSC_DEADLINE: u32 = 1 << 24;
const LEAF_1_ECX_OSXSAVE: u32 = 1 << 27;
const LEAF_1_ECX_HYPERVISOR: u32 = 1 << 31;
const LEAF_1_EDX_HTT: u32 = 1 << 28;
/// Shadow stacks and indirect branch tracking: the shadow stack pointer of a vCPU is no model-specific register and would
/// have to be saved by itself, so guests are not shown them.
const LEAF_7_ECX_SHADOW_STACK: u32 = 1 << 7;
const LEAF_7_EDX_BRANCH_TRACKING: u32 = 1 << 20;
/// Their state components, 11 and 12.
const XSS_CET: u32 = 3 << 11;
const EXTENDED_1_ECX_CMP_LEGACY: u32 = 1 << 1;
const EXTENDED_1_ECX_SVM: u32 = 1 << 2;

/// Registers of leaves that hold features a guest may be using: function, index, which of eax, ebx, ecx, edx.
const FEATURE_REGISTERS: [(u32, u32, [bool; 4]); 6] = [
    (0x1, 0, [false, false, true, true]),
    (0x7, 0, [false, true, true, true]),
    (0x7, 1, [true, false, false, false]),
    (0xd, 1, [true, false, false, false]),
    (0x8000_0001, 0, [false, false, true, true]),
    (0x8000_0008, 0, [false, true, false, false]),
];

/// CPUID of the vCPU with APIC id `apic_id` of a machine of `cpus`, on this host.
///
/// # Errors
/// What the kernel says.
pub fn build(kvm: &Kvm, baseline: Baseline, cpus: u8, apic_id: u8) -> Result<Vec<kvm_cpuid_entry2>, kvm_ioctls::Error> {
    let supported = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
    let mut entries = filtered(supported.as_slice(), baseline);
    let deadline = kvm.check_extension(Cap::TscDeadlineTimer);
    for entry in &mut entries {
        identify(entry, cpus, apic_id, deadline);
    }
    entries.retain(|entry| !is_topology(entry.function) && !is_frequency(entry.function) && !is_cet_component(entry));
    entries.extend(topology(cpus, apic_id));
    entries.sort_by_key(|entry| (entry.function, entry.index));
    Ok(entries)
}

/// Leaves that a baseline hides are taken out, and bits that it hides are cleared.
fn filtered(supported: &[kvm_cpuid_entry2], baseline: Baseline) -> Vec<kvm_cpuid_entry2> {
    let mut leaves: Vec<CpuidLeaf> = supported.iter().map(leaf_of).collect();
    baseline.filter(&mut leaves);
    let kept = leaves.into_iter().filter_map(|leaf| {
        let original = supported.iter().find(|e| (e.function, e.index) == (leaf.function, leaf.index))?;
        Some(kvm_cpuid_entry2 { eax: leaf.eax, ebx: leaf.ebx, ecx: leaf.ecx, edx: leaf.edx, ..*original })
    });
    kept.collect()
}

/// A leaf as the model has it.
pub fn leaf_of(entry: &kvm_cpuid_entry2) -> CpuidLeaf {
    CpuidLeaf {
        function: entry.function,
        index: entry.index,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    }
}

/// Bits of an APIC id that `cpus` take.
fn id_bits(cpus: u8) -> u32 {
    u32::from(cpus).next_power_of_two().trailing_zeros()
}

fn is_topology(function: u32) -> bool {
    matches!(function, 0xb | 0x1f)
}

/// Leaves that tell the rate of a clock: the guest learns it from KVM, and it is another on the next host.
fn is_frequency(function: u32) -> bool {
    matches!(function, 0x15 | 0x16)
}

fn is_cet_component(entry: &kvm_cpuid_entry2) -> bool {
    entry.function == 0xd && matches!(entry.index, 11 | 12)
}

/// Puts the vCPU's own identity into a leaf: each vCPU is a core with one thread, and all share one socket.
fn identify(entry: &mut kvm_cpuid_entry2, cpus: u8, apic_id: u8, deadline: bool) {
    let (cpus, apic_id) = (u32::from(cpus), u32::from(apic_id));
    let ids = cpus.next_power_of_two();
    match (entry.function, entry.index) {
        (0x1, _) => {
            entry.ebx = entry.ebx & 0x0000_ffff | ids.min(255) << 16 | apic_id << 24;
            entry.ecx &= !(LEAF_1_ECX_MONITOR | LEAF_1_ECX_VMX | LEAF_1_ECX_OSXSAVE);
            entry.ecx |= LEAF_1_ECX_HYPERVISOR | LEAF_1_ECX_X2APIC;
            if deadline {
                entry.ecx |= LEAF_1_ECX_TSC_DEADLINE;
            }
            entry.edx &= !LEAF_1_EDX_HTT;
            if cpus > 1 {
                entry.edx |= LEAF_1_EDX_HTT;
            }
        }
        (0x7, 0) => {
            entry.ecx &= !LEAF_7_ECX_SHADOW_STACK;
            entry.edx &= !LEAF_7_EDX_BRANCH_TRACKING;
        }
        (0xd, 1) => entry.ecx &= !XSS_CET,
        // Caches of level 1 and 2 belong to a core, the third level to the socket.
        (0x4, _) if entry.eax & 0x1f != 0 => {
            let sharing = if entry.eax >> 5 & 7 >= 3 { ids - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14 | (ids - 1).min(63) << 26;
        }
        (0x8000_001d, _) if entry.eax & 0x1f != 0 => {
            let sharing = if entry.eax >> 5 & 7 >= 3 { cpus - 1 } else { 0 };
            entry.eax = entry.eax & 0x3fff | sharing << 14;
        }
        (0x8000_0001, _) => {
            entry.ecx &= !(EXTENDED_1_ECX_SVM | EXTENDED_1_ECX_CMP_LEGACY);
            if cpus > 1 {
                entry.ecx |= EXTENDED_1_ECX_CMP_LEGACY;
            }
        }
        (0x8000_0008, _) => entry.ecx = (cpus - 1) | ids.trailing_zeros() << 12,
        (0x8000_000a, _) => (entry.eax, entry.ebx, entry.ecx, entry.edx) = (0, 0, 0, 0),
        (0x8000_001e, _) => (entry.eax, entry.ebx, entry.ecx) = (apic_id, apic_id, 0),
        _ => {}
    }
}

/// Extended topology enumeration (Intel SDM volume 2, CPUID leaf 0bh): one thread a core, all cores in one package.
fn topology(cpus: u8, apic_id: u8) -> [kvm_cpuid_entry2; 2] {
    let level = |index: u32, kind: u32, shift: u32, count: u32| kvm_cpuid_entry2 {
        function: 0xb,
        index,
        flags: kvm_bindings::KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: u32::from(apic_id),
        ..Default::default()
    };
    [level(0, 1, 0, 1), level(1, 2, id_bits(cpus), u32::from(cpus))]
}

/// Gives a vCPU its CPUID. Only before it runs for the first time.
///
/// # Errors
/// What the kernel says.
pub fn set(vcpu: &VcpuFd, entries: &[kvm_cpuid_entry2]) -> Result<(), kvm_ioctls::Error> {
    let cpuid = CpuId::from_entries(entries).map_err(|_| kvm_ioctls::Error::new(libc::E2BIG))?;
    vcpu.set_cpuid2(&cpuid)
}

/// Whether a vCPU has the CPUID that was set, bits apart that the processor keeps up itself: true on every host that runs
/// guests on the processor's own virtualisation. Where it is false the guest sees something else, and a baseline means
/// nothing.
///
/// # Errors
/// What the kernel says.
pub fn reads_back(vcpu: &VcpuFd, entries: &[kvm_cpuid_entry2]) -> Result<bool, kvm_ioctls::Error> {
    let read = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES)?;
    let find = |function, index| read.as_slice().iter().find(|e| (e.function, e.index) == (function, index));
    Ok(entries
        .iter()
        .filter(|e| is_feature_leaf(e))
        .all(|e| find(e.function, e.index).is_some_and(|r| feature_words(r) == feature_words(e))))
}

fn is_feature_leaf(entry: &kvm_cpuid_entry2) -> bool {
    FEATURE_REGISTERS.iter().any(|(function, index, _)| (*function, *index) == (entry.function, entry.index))
}

/// The feature registers of a leaf, the others as 0.
fn feature_words(entry: &kvm_cpuid_entry2) -> [u32; 4] {
    let mut words = [entry.eax, entry.ebx, entry.ecx, entry.edx];
    let place =
        FEATURE_REGISTERS.iter().find(|(function, index, _)| (*function, *index) == (entry.function, entry.index));
    for (word, counts) in words.iter_mut().zip(place.map_or([false; 4], |(_, _, counts)| *counts)) {
        if !counts {
            *word = 0;
        }
    }
    if entry.function == 1 {
        // Follows CR4.OSXSAVE.
        words[2] &= !LEAF_1_ECX_OSXSAVE;
    }
    words
}

/// Refuses a guest that was shown a feature which this host would not show to a guest of the same specification.
///
/// # Errors
/// [`StateError::Invalid`] with the leaf, register and bits.
pub fn check_subset(saved: &[kvm_cpuid_entry2], here: &[kvm_cpuid_entry2]) -> Result<(), StateError> {
    if saved.len() > KVM_MAX_CPUID_ENTRIES {
        return Err(StateError::invalid("a vCPU", format!("{} CPUID leaves are too many", saved.len())));
    }
    for entry in saved.iter().filter(|entry| is_feature_leaf(entry)) {
        let there = here.iter().find(|e| (e.function, e.index) == (entry.function, entry.index));
        let there = there.map_or([0; 4], feature_words);
        for (register, (wanted, offered)) in
            ["eax", "ebx", "ecx", "edx"].into_iter().zip(feature_words(entry).into_iter().zip(there))
        {
            let missing = wanted & !offered;
            if missing != 0 {
                let what = format!(
                    "this host lacks CPU features that the guest was shown (CPUID leaf {:#x} sub-leaf {}, {register} bits {missing:#x})",
                    entry.function, entry.index
                );
                return Err(StateError::invalid("a vCPU", what));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(function: u32, index: u32, words: [u32; 4]) -> kvm_cpuid_entry2 {
        let [eax, ebx, ecx, edx] = words;
        kvm_cpuid_entry2 { function, index, eax, ebx, ecx, edx, ..Default::default() }
    }

    #[test]
    fn each_vcpu_is_a_core_of_its_own_in_one_socket() {
        let mut one = entry(1, 0, [0, 0x1234_0800, LEAF_1_ECX_VMX, 0]);
        identify(&mut one, 3, 2, true);
        assert_eq!(one.ebx, 2 << 24 | 4 << 16 | 0x0800);
        assert_eq!(one.ecx, LEAF_1_ECX_HYPERVISOR | LEAF_1_ECX_X2APIC | LEAF_1_ECX_TSC_DEADLINE);
        assert_eq!(one.edx, LEAF_1_EDX_HTT);
        let [thread, core] = topology(3, 2);
        assert_eq!((thread.eax, thread.ebx, thread.ecx, thread.edx), (0, 1, 0x100, 2));
        assert_eq!((core.eax, core.ebx, core.ecx, core.edx), (2, 3, 0x201, 2));
        assert_eq!(id_bits(1), 0);
        assert_eq!(id_bits(255), 8);
    }

    #[test]
    fn nested_virtualisation_is_never_shown() {
        let mut extended = entry(0x8000_0001, 0, [0, 0, EXTENDED_1_ECX_SVM, 0]);
        identify(&mut extended, 1, 0, false);
        assert_eq!(extended.ecx, 0);
    }

    #[test]
    fn shadow_stacks_are_never_shown() {
        let mut seven = entry(7, 0, [0, 0, LEAF_7_ECX_SHADOW_STACK | 1, LEAF_7_EDX_BRANCH_TRACKING | 1]);
        identify(&mut seven, 1, 0, false);
        assert_eq!((seven.ecx, seven.edx), (1, 1));
        assert!(is_cet_component(&entry(0xd, 11, [0; 4])) && !is_cet_component(&entry(0xd, 9, [0; 4])));
    }

    #[test]
    fn a_feature_that_this_host_lacks_is_named_and_the_processors_own_bit_is_not_one() {
        let saved = [entry(1, 0, [5, 6, LEAF_1_ECX_OSXSAVE | 1 << 20, 7]), entry(7, 0, [0, 1 << 5, 0, 0])];
        let here = [entry(1, 0, [0, 0, 1 << 20, 7]), entry(7, 0, [0, 1 << 5 | 1 << 8, 0, 0])];
        assert_eq!(check_subset(&saved, &here), Ok(()));
        let error = check_subset(&here, &saved[..1]).unwrap_err().to_string();
        assert!(error.contains("leaf 0x7 sub-leaf 0, ebx bits 0x120"), "{error}");
    }
}
