//! How many page faults KVM has served for a vCPU.
//!
//! While the dirty log is on, the first write of a page after a harvest is such a fault of the vCPU that writes, because the
//! log protects pages against writes (Linux `Documentation/virt/kvm/locking.rst`, "Exception"). The kernel counts them a vCPU, as
//! `pf_fixed` of its binary statistics (`Documentation/virt/kvm/api.rst`, 4.134 KVM_GET_STATS_FD; Linux 5.14). What the log
//! itself tells is of the whole machine. Where the processor logs writes without a fault (Intel's page-modification logging),
//! the faults do not add up to the pages that the log finds, and who looks at them sees that ([`super::dirtying`]).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use kvm_ioctls::VcpuFd;

use crate::kvm_raw;

/// `struct kvm_stats_header`, and `struct kvm_stats_desc` without its name.
const HEADER_BYTES: usize = 24;
const DESCRIPTOR_BYTES: usize = 16;
/// Bounds of what is read of the kernel's list: it has some fifty entries with names of 48 bytes.
const NAME_BYTES_MAX: usize = 256;
const DESCRIPTORS_MAX: usize = 1024;

const NAME: &[u8] = b"pf_fixed";

/// The count of one vCPU.
#[derive(Debug)]
pub(crate) struct FaultCount {
    statistics: File,
    /// Where it stands.
    offset: u64,
}

impl FaultCount {
    /// The count of this vCPU; `None` where the kernel has none.
    pub(crate) fn of(vcpu: &VcpuFd) -> Option<Self> {
        let statistics = kvm_raw::statistics(vcpu).ok()?;
        let offset = offset(&statistics).ok()??;
        Some(Self { statistics, offset })
    }

    /// Faults since the vCPU was made; `None` if the kernel does not say.
    pub(crate) fn read(&self) -> Option<u64> {
        let mut value = [0; 8];
        self.statistics.read_exact_at(&mut value, self.offset).ok()?;
        Some(u64::from_ne_bytes(value))
    }
}

/// Where the count stands among the statistics, if it does.
fn offset(statistics: &impl FileExt) -> io::Result<Option<u64>> {
    let mut header = [0; HEADER_BYTES];
    statistics.read_exact_at(&mut header, 0)?;
    let field = |index: usize| u32_at(&header, index * 4);
    let (name_bytes, count) = (field(1) as usize, field(2) as usize);
    let (descriptors_at, data_at) = (u64::from(field(4)), u64::from(field(5)));
    let mut descriptor = vec![0; DESCRIPTOR_BYTES + name_bytes.min(NAME_BYTES_MAX)];
    let step = (DESCRIPTOR_BYTES + name_bytes) as u64;
    for index in 0..count.min(DESCRIPTORS_MAX) as u64 {
        statistics.read_exact_at(&mut descriptor, descriptors_at + index * step)?;
        let name = descriptor[DESCRIPTOR_BYTES..].split(|byte| *byte == 0).next();
        if name == Some(NAME) {
            return Ok(Some(data_at + u64::from(u32_at(&descriptor, 8))));
        }
    }
    Ok(None)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a kernel would show, with these statistics one after another, each a number.
    fn file(names: &[&str]) -> File {
        let descriptors_at = 72u32;
        let data_at = descriptors_at + names.len() as u32 * 64;
        let mut bytes = Vec::new();
        for word in [0, 48, names.len() as u32, 24, descriptors_at, data_at] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.resize(descriptors_at as usize, 0);
        for (index, name) in (0u32..).zip(names) {
            let words = [0, 1 << 16, index * 8, 0];
            words.iter().for_each(|word| bytes.extend_from_slice(&u32::to_ne_bytes(*word)));
            let at = bytes.len();
            bytes.extend_from_slice(name.as_bytes());
            bytes.resize(at + 48, 0);
        }
        (0..names.len() as u64).for_each(|value| bytes.extend_from_slice(&(value + 100).to_ne_bytes()));
        let file = File::from(rustix::fs::memfd_create("statistics", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        file.write_all_at(&bytes, 0).unwrap();
        file
    }

    #[test]
    fn the_count_is_found_by_its_name_and_a_kernel_without_it_has_none() {
        let statistics = file(&["pf_taken", "pf_fixed_not", "pf_fixed", "exits"]);
        let offset = offset(&statistics).unwrap().unwrap();
        assert_eq!(FaultCount { statistics, offset }.read(), Some(102));
        assert_eq!(super::offset(&file(&["pf_taken"])).unwrap(), None);
        assert!(super::offset(&file(&[]).try_clone().unwrap()).unwrap().is_none());
    }
}
