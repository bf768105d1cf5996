//! What the hosts run on: KVM where nested virtualization really works, otherwise QEMU's own emulation of an AMD processor
//! with SVM.

use std::fmt;
use std::fs;

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};
use serde::{Deserialize, Serialize};

/// How QEMU runs a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accelerator {
    /// KVM on this machine, which gives VMX or SVM to its guests.
    Kvm,
    /// Emulation.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

impl Accelerator {
    /// Probes this machine; says the choice for hosts and the reason for it.
    pub fn choose() -> (Self, String) {
        match nested_kvm() {
            Ok(why) => (Self::Kvm, format!("hosts run on KVM: {why}")),
            Err(why) => (Self::Tcg, format!("hosts run on QEMU's TCG with emulated AMD SVM: {why}")),
        }
    }

    /// Probes this machine; says the choice for machines that run no VMs of their own, and the reason for it.
    pub fn choose_for_a_server() -> (Self, String) {
        match open_kvm().and_then(|kvm| needs_native_ring_0(&kvm)) {
            Ok(()) => (Self::Kvm, "it runs on KVM".into()),
            Err(why) => (Self::Tcg, format!("it runs on QEMU's TCG: {why}")),
        }
    }
}

fn open_kvm() -> Result<Kvm, String> {
    Kvm::new().map_err(|error| format!("/dev/kvm does not open ({error})"))
}

fn needs_native_ring_0(kvm: &Kvm) -> Result<(), String> {
    let native = runs_popcnt(kvm).unwrap_or(false);
    native.then_some(()).ok_or_else(|| "KVM here emulates ring 0 and lacks common instructions".into())
}

/// Whether a guest of this machine's KVM could itself be a faithful KVM host, and how that is known.
fn nested_kvm() -> Result<String, String> {
    let module = ["kvm_intel", "kvm_amd"].into_iter().find(|module| {
        let nested = fs::read_to_string(format!("/sys/module/{module}/parameters/nested")).unwrap_or_default();
        matches!(nested.trim(), "Y" | "1")
    });
    let kvm = open_kvm()?;
    let module = module.ok_or("neither kvm_intel nor kvm_amd is loaded with nested=1")?;
    let cpuid =
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).map_err(|error| format!("KVM tells no CPUID ({error})"))?;
    let has =
        |leaf: u32, bit: u32| cpuid.as_slice().iter().any(|entry| entry.function == leaf && entry.ecx >> bit & 1 == 1);
    // VMX: CPUID leaf 1, ECX bit 5 (Intel SDM volume 2, CPUID). SVM: leaf 8000_0001h, ECX bit 2 (AMD APM volume 3, E.4.2).
    if !has(1, 5) && !has(0x8000_0001, 2) {
        return Err("KVM offers guests neither VMX nor SVM".into());
    }
    needs_native_ring_0(&kvm)?;
    Ok(format!("{module} nests and runs ring 0 natively"))
}

/// Runs `popcnt ax, ax; hlt` in real mode: a KVM that interprets ring 0 stumbles over it.
fn runs_popcnt(kvm: &Kvm) -> Result<bool, kvm_ioctls::Error> {
    const CODE: [u8; 5] = [0xf3, 0x0f, 0xb8, 0xc0, 0xf4];
    const PAGE: usize = 4096;
    let vm = kvm.create_vm()?;
    let layout = std::alloc::Layout::from_size_align(PAGE, PAGE).map_err(|_| kvm_ioctls::Error::new(libc::EINVAL))?;
    // SAFETY: the layout has a size other than 0; the result is checked below, and freed after the VM is gone.
    let memory = unsafe { std::alloc::alloc_zeroed(layout) };
    if memory.is_null() {
        return Err(kvm_ioctls::Error::new(libc::ENOMEM));
    }
    // SAFETY: the code fits into the page that was just allocated and nobody else knows.
    unsafe { std::ptr::copy_nonoverlapping(CODE.as_ptr(), memory, CODE.len()) };
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0x1000,
        memory_size: PAGE as u64,
        userspace_addr: memory as u64,
    };
    let outcome = (|| {
        // SAFETY: the page outlives the VM, which is dropped before it is freed.
        unsafe { vm.set_user_memory_region(region)? };
        let mut vcpu = vm.create_vcpu(0)?;
        let mut special = vcpu.get_sregs()?;
        (special.cs.base, special.cs.selector) = (0, 0);
        vcpu.set_sregs(&special)?;
        let mut registers = vcpu.get_regs()?;
        (registers.rip, registers.rflags) = (0x1000, 2);
        vcpu.set_regs(&registers)?;
        Ok(matches!(vcpu.run()?, VcpuExit::Hlt))
    })();
    drop(vm);
    // SAFETY: allocated above with this layout; the VM and its vCPU, the only users, are gone.
    unsafe { std::alloc::dealloc(memory, layout) };
    outcome
}
