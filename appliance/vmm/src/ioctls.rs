//! Every ioctl that a machine makes, by name and number: what a filter round its process has to let through.
//!
//! Numbers and structures: Linux `include/uapi/linux/kvm.h` and `include/uapi/linux/if_tun.h`. A new call to KVM in this
//! crate is a line here, or the first machine that makes it under the filter is stopped.

use kvm_bindings::{
    KVMIO, kvm_clear_dirty_log, kvm_clock_data, kvm_cpuid2, kvm_debugregs, kvm_device_attr, kvm_dirty_log,
    kvm_enable_cap, kvm_ioeventfd, kvm_irq_level, kvm_irq_routing, kvm_irqchip, kvm_irqfd, kvm_lapic_state,
    kvm_mp_state, kvm_msr_list, kvm_msrs, kvm_pit_config, kvm_pit_state2, kvm_regs, kvm_sregs, kvm_sregs2,
    kvm_userspace_memory_region, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use vmm_sys_util::ioctl::{_IOC_NONE, _IOC_READ, _IOC_WRITE, ioctl_expr};

const fn bare(number: u32) -> u32 {
    ioctl_expr(_IOC_NONE, KVMIO, number, 0) as u32
}

const fn gives<T>(number: u32) -> u32 {
    ioctl_expr(_IOC_READ, KVMIO, number, size_of::<T>() as u32) as u32
}

const fn takes<T>(number: u32) -> u32 {
    ioctl_expr(_IOC_WRITE, KVMIO, number, size_of::<T>() as u32) as u32
}

const fn both<T>(number: u32) -> u32 {
    ioctl_expr(_IOC_READ | _IOC_WRITE, KVMIO, number, size_of::<T>() as u32) as u32
}

/// Name and number, the most frequent one first: a filter looks from the top.
pub const REQUESTS: [(&str, u32); 56] = [
    ("KVM_RUN", bare(0x80)),
    // Interrupts and doorbells, while the guest runs.
    ("KVM_IRQ_LINE", takes::<kvm_irq_level>(0x61)),
    ("KVM_SET_GSI_ROUTING", takes::<kvm_irq_routing>(0x6a)),
    ("KVM_IRQFD", takes::<kvm_irqfd>(0x76)),
    ("KVM_IOEVENTFD", takes::<kvm_ioeventfd>(0x79)),
    // Moves.
    ("KVM_GET_DIRTY_LOG", takes::<kvm_dirty_log>(0x42)),
    ("KVM_CLEAR_DIRTY_LOG", both::<kvm_clear_dirty_log>(0xc0)),
    ("KVM_SET_USER_MEMORY_REGION", takes::<kvm_userspace_memory_region>(0x46)),
    // What this host's KVM can do.
    ("KVM_GET_API_VERSION", bare(0x00)),
    ("KVM_CHECK_EXTENSION", bare(0x03)),
    ("KVM_GET_VCPU_MMAP_SIZE", bare(0x04)),
    ("KVM_GET_MSR_INDEX_LIST", both::<kvm_msr_list>(0x02)),
    ("KVM_GET_SUPPORTED_CPUID", both::<kvm_cpuid2>(0x05)),
    // A machine is built.
    ("KVM_CREATE_VM", bare(0x01)),
    ("KVM_ENABLE_CAP", takes::<kvm_enable_cap>(0xa3)),
    ("KVM_SET_TSS_ADDR", bare(0x47)),
    ("KVM_SET_IDENTITY_MAP_ADDR", takes::<u64>(0x48)),
    ("KVM_CREATE_IRQCHIP", bare(0x60)),
    ("KVM_CREATE_PIT2", takes::<kvm_pit_config>(0x77)),
    ("KVM_CREATE_VCPU", bare(0x41)),
    ("KVM_GET_STATS_FD", bare(0xce)),
    // The machine's state.
    ("KVM_GET_IRQCHIP", both::<kvm_irqchip>(0x62)),
    ("KVM_SET_IRQCHIP", gives::<kvm_irqchip>(0x63)),
    ("KVM_GET_PIT2", gives::<kvm_pit_state2>(0x9f)),
    ("KVM_SET_PIT2", takes::<kvm_pit_state2>(0xa0)),
    ("KVM_GET_CLOCK", gives::<kvm_clock_data>(0x7c)),
    ("KVM_SET_CLOCK", takes::<kvm_clock_data>(0x7b)),
    // A vCPU's state.
    ("KVM_GET_REGS", gives::<kvm_regs>(0x81)),
    ("KVM_SET_REGS", takes::<kvm_regs>(0x82)),
    ("KVM_GET_SREGS", gives::<kvm_sregs>(0x83)),
    ("KVM_SET_SREGS", takes::<kvm_sregs>(0x84)),
    ("KVM_GET_SREGS2", gives::<kvm_sregs2>(0xcc)),
    ("KVM_SET_SREGS2", takes::<kvm_sregs2>(0xcd)),
    ("KVM_GET_MSRS", both::<kvm_msrs>(0x88)),
    ("KVM_SET_MSRS", takes::<kvm_msrs>(0x89)),
    ("KVM_GET_LAPIC", gives::<kvm_lapic_state>(0x8e)),
    ("KVM_SET_LAPIC", takes::<kvm_lapic_state>(0x8f)),
    ("KVM_GET_CPUID2", both::<kvm_cpuid2>(0x91)),
    ("KVM_SET_CPUID2", takes::<kvm_cpuid2>(0x90)),
    ("KVM_GET_MP_STATE", gives::<kvm_mp_state>(0x98)),
    ("KVM_SET_MP_STATE", takes::<kvm_mp_state>(0x99)),
    ("KVM_GET_VCPU_EVENTS", gives::<kvm_vcpu_events>(0x9f)),
    ("KVM_SET_VCPU_EVENTS", takes::<kvm_vcpu_events>(0xa0)),
    ("KVM_GET_DEBUGREGS", gives::<kvm_debugregs>(0xa1)),
    ("KVM_SET_DEBUGREGS", takes::<kvm_debugregs>(0xa2)),
    ("KVM_GET_XSAVE", gives::<kvm_xsave>(0xa4)),
    ("KVM_GET_XSAVE2", gives::<kvm_xsave>(0xcf)),
    ("KVM_SET_XSAVE", takes::<kvm_xsave>(0xa5)),
    ("KVM_GET_XCRS", gives::<kvm_xcrs>(0xa6)),
    ("KVM_SET_XCRS", takes::<kvm_xcrs>(0xa7)),
    ("KVM_GET_TSC_KHZ", bare(0xa3)),
    ("KVM_SET_TSC_KHZ", bare(0xa2)),
    ("KVM_HAS_DEVICE_ATTR", takes::<kvm_device_attr>(0xe3)),
    ("KVM_GET_DEVICE_ATTR", takes::<kvm_device_attr>(0xe2)),
    ("KVM_SET_DEVICE_ATTR", takes::<kvm_device_attr>(0xe1)),
    ("KVM_KVMCLOCK_CTRL", bare(0xad)),
];

/// Name and number of what is asked of a tap.
pub const TAP_REQUESTS: [(&str, u32); 3] = [
    ("TUNGETIFF", libc::TUNGETIFF as u32),
    ("TUNSETVNETHDRSZ", libc::TUNSETVNETHDRSZ as u32),
    ("TUNSETOFFLOAD", libc::TUNSETOFFLOAD as u32),
];
