//! What KVM on this host can show a guest.

use kvm_ioctls::Kvm;
use model::cpu_report::{CpuReport, CpuidLeaf};

/// Asks KVM.
///
/// # Errors
/// KVM cannot be used.
pub fn report() -> Result<CpuReport, kvm_ioctls::Error> {
    let kvm = Kvm::new()?;
    let supported = kvm.get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)?;
    let leaf = |entry: &kvm_bindings::kvm_cpuid_entry2| CpuidLeaf {
        function: entry.function,
        index: entry.index,
        eax: entry.eax,
        ebx: entry.ebx,
        ecx: entry.ecx,
        edx: entry.edx,
    };
    let mut leaves: Vec<CpuidLeaf> = supported.as_slice().iter().map(leaf).collect();
    leaves.sort_unstable();
    // The rate belongs to a vCPU in this interface; one is made and dropped.
    let tsc_khz = kvm.create_vm()?.create_vcpu(0)?.get_tsc_khz()?;
    Ok(described(leaves, tsc_khz))
}

fn described(leaves: Vec<CpuidLeaf>, tsc_khz: u32) -> CpuReport {
    let leaf = |function| leaves.iter().find(|leaf| leaf.function == function).copied().unwrap_or_default();
    let text = |registers: &[u32]| {
        let bytes: Vec<u8> = registers.iter().flat_map(|register| register.to_le_bytes()).collect();
        String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ']).to_owned()
    };
    let vendor = leaf(0);
    let brand: Vec<u32> = (0x8000_0002..=0x8000_0004)
        .flat_map(|function| {
            let leaf = leaf(function);
            [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx]
        })
        .collect();
    let brand = text(&brand);
    CpuReport {
        // KVM shows guests no brand on some kernels; the host has one all the same.
        brand: if brand.is_empty() { own_brand() } else { brand },
        vendor: text(&[vendor.ebx, vendor.edx, vendor.ecx]),
        signature: signature(leaf(1).eax),
        tsc_khz,
        leaves,
    }
}

/// The processor's name as the kernel tells it (proc_cpuinfo(5)).
fn own_brand() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map(|(_, name)| name.trim().to_owned()).unwrap_or_default()
}

/// Displayed family, model and stepping (Intel SDM volume 2, CPUID, leaf 1; AMD APM volume 3, section E.3.2).
fn signature(eax: u32) -> [u32; 3] {
    let (family, model, stepping) = (eax >> 8 & 0xf, eax >> 4 & 0xf, eax & 0xf);
    let extended_model = eax >> 16 & 0xf;
    let shown_family = if family == 0xf { family + (eax >> 20 & 0xff) } else { family };
    let shown_model = if matches!(family, 0x6 | 0xf) { extended_model << 4 | model } else { model };
    [shown_family, shown_model, stepping]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_described_by_its_leaves() {
        let leaf = |function, eax, ebx, ecx, edx| CpuidLeaf { function, index: 0, eax, ebx, ecx, edx };
        // An AMD EPYC 7763: family 25, model 1, stepping 1.
        let leaves = vec![leaf(0, 16, 0x6874_7541, 0x444d_4163, 0x6974_6e65), leaf(1, 0x00a0_0f11, 0, 0, 0)];
        let report = described(leaves, 2_450_000);
        assert_eq!((report.vendor.as_str(), report.signature), ("AuthenticAMD", [25, 1, 1]));
    }
}
