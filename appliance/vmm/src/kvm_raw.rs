//! The ioctls that kvm-ioctls does not have, as safe functions. Numbers and structures: Linux `include/uapi/linux/kvm.h`
//! and `Documentation/virt/kvm/api.rst`.

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

use kvm_bindings::{
    KVM_CAP_SREGS2, KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_clear_dirty_log,
    kvm_clear_dirty_log__bindgen_ty_1, kvm_device_attr, kvm_dirty_log, kvm_dirty_log__bindgen_ty_1, kvm_sregs2,
};
use kvm_ioctls::{VcpuFd, VmFd};
use vmm_sys_util::ioctl::{ioctl, ioctl_with_mut_ref, ioctl_with_ref};
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iow_nr, ioctl_iowr_nr};

ioctl_iow_nr!(KVM_GET_DIRTY_LOG, KVMIO, 0x42, kvm_dirty_log);
ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
ioctl_io_nr!(KVM_GET_STATS_FD, KVMIO, 0xce);
ioctl_ior_nr!(KVM_GET_SREGS2, KVMIO, 0xcc, kvm_sregs2);
ioctl_iow_nr!(KVM_SET_SREGS2, KVMIO, 0xcd, kvm_sregs2);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);
ioctl_iow_nr!(KVM_HAS_DEVICE_ATTR, KVMIO, 0xe3, kvm_device_attr);

fn checked(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads the dirty log of a memory slot of `pages` pages into `words`, page 0 in bit 0 of word 0.
///
/// # Errors
/// What the kernel says; EINVAL if `words` does not hold `pages` bits.
pub(crate) fn get_dirty_log(vm: &VmFd, slot: u32, pages: u64, words: &mut [u64]) -> io::Result<()> {
    if (words.len() as u64) < pages.div_ceil(64) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let bitmap = kvm_dirty_log__bindgen_ty_1 { dirty_bitmap: words.as_mut_ptr().cast() };
    let request = kvm_dirty_log { slot, padding1: 0, __bindgen_anon_1: bitmap };
    // SAFETY: the kernel writes one bit a page of the slot, rounded up to 64, into `words`; the caller's `pages` is the
    // slot's size (the slots are made in `memory::dirty_log` alone) and `words` was checked to hold as many.
    checked(unsafe { ioctl_with_ref(vm, KVM_GET_DIRTY_LOG(), &request) })
}

/// Clears and protects again the pages whose bits are set in `words`, which start at page `first_page` of the slot.
/// `first_page` must be a multiple of 64, `pages` too unless it reaches the end of the slot.
///
/// # Errors
/// What the kernel says; EINVAL if `words` does not hold `pages` bits.
pub(crate) fn clear_dirty_log(vm: &VmFd, slot: u32, first_page: u64, pages: u32, words: &[u64]) -> io::Result<()> {
    if (words.len() as u64) < u64::from(pages).div_ceil(64) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let bitmap = kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap: words.as_ptr().cast_mut().cast() };
    let mut request = kvm_clear_dirty_log { slot, num_pages: pages, first_page, __bindgen_anon_1: bitmap };
    // SAFETY: the kernel only reads the bitmap here, `pages` bits of it, and `words` was checked to hold as many.
    checked(unsafe { ioctl_with_mut_ref(vm, KVM_CLEAR_DIRTY_LOG(), &mut request) })
}

/// The statistics of a vCPU, to be read at offsets (`Documentation/virt/kvm/api.rst`, 4.134).
///
/// # Errors
/// What the kernel says; ENOTTY before Linux 5.14.
pub(crate) fn statistics(vcpu: &VcpuFd) -> io::Result<File> {
    // SAFETY: the request takes no argument and touches no memory of ours.
    let descriptor = unsafe { ioctl(vcpu, KVM_GET_STATS_FD()) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// Whether the vCPU's special registers can be read with their PDPTRs.
pub(crate) fn has_sregs2(vm: &VmFd) -> bool {
    vm.check_extension_raw(u64::from(KVM_CAP_SREGS2)) > 0
}

/// Special registers with the page-directory pointers of PAE paging.
///
/// # Errors
/// What the kernel says.
pub(crate) fn get_sregs2(vcpu: &VcpuFd) -> io::Result<kvm_sregs2> {
    let mut sregs = kvm_sregs2::default();
    // SAFETY: the kernel writes exactly one kvm_sregs2, which is plain data.
    checked(unsafe { ioctl_with_mut_ref(vcpu, KVM_GET_SREGS2(), &mut sregs) })?;
    Ok(sregs)
}

/// Sets the special registers with the page-directory pointers of PAE paging.
///
/// # Errors
/// What the kernel says.
pub(crate) fn set_sregs2(vcpu: &VcpuFd, sregs: &kvm_sregs2) -> io::Result<()> {
    // SAFETY: the kernel reads exactly one kvm_sregs2.
    checked(unsafe { ioctl_with_ref(vcpu, KVM_SET_SREGS2(), sregs) })
}

fn tsc_offset_attribute(value: *mut u64) -> kvm_device_attr {
    kvm_device_attr { flags: 0, group: KVM_VCPU_TSC_CTRL, attr: u64::from(KVM_VCPU_TSC_OFFSET), addr: value as u64 }
}

/// The vCPU's TSC offset: guest TSC = host TSC (scaled) + offset. `None` where the kernel has no such attribute.
pub(crate) fn tsc_offset(vcpu: &VcpuFd) -> Option<u64> {
    let mut value = 0u64;
    let attribute = tsc_offset_attribute(&raw mut value);
    // SAFETY: HAS_DEVICE_ATTR does not touch `addr`; GET_DEVICE_ATTR writes one u64 to it for this attribute, and
    // `value` lives until the call returns.
    let read = unsafe {
        ioctl_with_ref(vcpu, KVM_HAS_DEVICE_ATTR(), &attribute) == 0
            && ioctl_with_ref(vcpu, KVM_GET_DEVICE_ATTR(), &attribute) == 0
    };
    read.then_some(value)
}

/// Sets the vCPU's TSC offset.
///
/// # Errors
/// What the kernel says; ENXIO where it has no such attribute.
pub(crate) fn set_tsc_offset(vcpu: &VcpuFd, mut value: u64) -> io::Result<()> {
    let attribute = tsc_offset_attribute(&raw mut value);
    // SAFETY: the kernel reads one u64 from `addr`, and `value` lives until the call returns.
    checked(unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) })
}
