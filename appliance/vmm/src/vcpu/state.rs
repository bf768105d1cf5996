//! A vCPU as data, in the orders in which KVM gives and takes it.
//!
//! Saving: the multiprocessor state first, because reading it makes KVM take up a pending INIT or start-up interrupt.
//! Restoring: CPUID before everything that depends on it, special registers (with the APIC base) before the local APIC,
//! that before the other model-specific registers, general registers before pending events (setting them clears those),
//! the timer's deadline after APIC and TSC. TSCs are set for all vCPUs together, by [`restore_tscs`].

use std::time::{Duration, Instant};

use kvm_bindings::{
    KVM_SREGS2_FLAGS_PDPTRS_VALID, Xsave, kvm_cpuid_entry2, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_regs,
    kvm_sregs, kvm_sregs2, kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use model::cpu_report::tsc_rates_differ;
use serde::{Deserialize, Serialize};

use super::msrs;
use crate::clock::Behind;
use crate::cpuid;
use crate::kvm_raw;
use crate::state::StateError;

/// Most bytes of extended state: AMX's tiles make it about 11 KiB.
const XSAVE_BYTES_MAX: usize = 64 << 10;
/// Bytes of extended state that every host has.
const XSAVE_BYTES_MIN: usize = size_of::<kvm_xsave>();

/// One vCPU.
#[derive(Serialize, Deserialize)]
pub struct VcpuState {
    cpuid: Vec<kvm_cpuid_entry2>,
    mp_state: kvm_mp_state,
    regs: kvm_regs,
    sregs: kvm_sregs,
    /// Page-directory pointers of PAE paging, where the kernel gives them and they count.
    pdptrs: Option<[u64; 4]>,
    xsave: Vec<u8>,
    xcrs: kvm_xcrs,
    debugregs: kvm_debugregs,
    lapic: kvm_lapic_state,
    msrs: Vec<(u32, u64)>,
    events: kvm_vcpu_events,
    /// Rate of the TSC in kHz; 0 where the host does not know.
    tsc_khz: u32,
    tsc: u64,
    /// Guest TSC minus host TSC on the host that saved, where the kernel tells.
    tsc_offset: Option<u64>,
    /// 0 if the timer is not armed by deadline.
    tsc_deadline: u64,
}

/// What of a machine and its host the saving and restoring of vCPUs needs.
#[derive(Debug, Clone)]
pub struct StateContext {
    /// Numbers of the model-specific registers that are saved.
    pub msr_list: Vec<u32>,
    /// Bytes of extended state on this host.
    pub xsave_bytes: usize,
    /// Whether the page-directory pointers can be read and set.
    pub has_sregs2: bool,
    /// CPUID as this host shows it to a guest of the machine's specification, for the first vCPU.
    pub cpuid: Vec<kvm_cpuid_entry2>,
}

fn kernel(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> StateError {
    move |error| StateError::Kernel { subject: "a vCPU".into(), what, errno: error.to_string() }
}

fn raw(what: &'static str) -> impl Fn(std::io::Error) -> StateError {
    move |error| StateError::Kernel { subject: "a vCPU".into(), what, errno: error.to_string() }
}

/// Bytes of extended state on this host.
pub fn xsave_bytes(vm: &VmFd) -> usize {
    usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0).clamp(XSAVE_BYTES_MIN, XSAVE_BYTES_MAX)
}

fn empty_xsave(bytes: usize) -> Result<Xsave, StateError> {
    Xsave::new((bytes - XSAVE_BYTES_MIN).div_ceil(4)).map_err(|_| StateError::invalid("a vCPU", "no room for XSAVE"))
}

fn read_xsave(vcpu: &VcpuFd, bytes: usize) -> Result<Vec<u8>, StateError> {
    if bytes == XSAVE_BYTES_MIN {
        let xsave = vcpu.get_xsave().map_err(kernel("the reading of extended state"))?;
        return Ok(xsave.region.iter().flat_map(|word| word.to_le_bytes()).collect());
    }
    let mut xsave = empty_xsave(bytes)?;
    // SAFETY: `xsave` has room for as many bytes as KVM_CAP_XSAVE2 gave for this machine, and nothing in this process
    // enables further features by arch_prctl after that.
    unsafe { vcpu.get_xsave2(&mut xsave) }.map_err(kernel("the reading of extended state"))?;
    let head = xsave.as_fam_struct_ref().xsave.region;
    Ok(head.iter().chain(xsave.as_slice()).flat_map(|word| word.to_le_bytes()).collect())
}

fn write_xsave(vcpu: &VcpuFd, bytes: usize, saved: &[u8]) -> Result<(), StateError> {
    let (fits, beyond) = saved.split_at(saved.len().min(bytes));
    if saved.len() < XSAVE_BYTES_MIN || saved.len() > XSAVE_BYTES_MAX || beyond.iter().any(|byte| *byte != 0) {
        return Err(StateError::invalid("a vCPU", "its extended state does not fit this host"));
    }
    let mut words: Vec<u32> =
        fits.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect();
    words.resize(bytes.div_ceil(4), 0);
    let (head, tail) = words.split_at(XSAVE_BYTES_MIN / 4);
    let mut xsave = empty_xsave(bytes)?;
    // SAFETY: only the contents of the fixed part are changed, not the length.
    unsafe { xsave.as_mut_fam_struct() }.xsave.region.copy_from_slice(head);
    xsave.as_mut_slice().copy_from_slice(tail);
    // SAFETY: `xsave` has as many bytes as KVM_CAP_XSAVE2 gave for this machine, so the kernel reads nothing beyond it.
    unsafe { vcpu.set_xsave2(&xsave) }.map_err(kernel("extended state"))
}

fn one_msr(vcpu: &VcpuFd, number: u32) -> Result<u64, StateError> {
    Ok(msrs::read(vcpu, &[number])?.first().map_or(0, |(_, value)| *value))
}

impl VcpuState {
    /// Reads a vCPU that is parked. `cpuid` is what it was given.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn save(vcpu: &VcpuFd, cpuid: &[kvm_cpuid_entry2], context: &StateContext) -> Result<Self, StateError> {
        let mp_state = vcpu.get_mp_state().map_err(kernel("the reading of the multiprocessor state"))?;
        let sregs = vcpu.get_sregs().map_err(kernel("the reading of special registers"))?;
        let pdptrs = if context.has_sregs2 {
            let sregs2 = kvm_raw::get_sregs2(vcpu).map_err(raw("the reading of special registers"))?;
            (sregs2.flags & u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID) != 0).then_some(sregs2.pdptrs)
        } else {
            None
        };
        Ok(Self {
            cpuid: cpuid.to_vec(),
            mp_state,
            regs: vcpu.get_regs().map_err(kernel("the reading of registers"))?,
            sregs,
            pdptrs,
            xsave: read_xsave(vcpu, context.xsave_bytes)?,
            xcrs: vcpu.get_xcrs().map_err(kernel("the reading of XCR0"))?,
            debugregs: vcpu.get_debug_regs().map_err(kernel("the reading of debug registers"))?,
            lapic: vcpu.get_lapic().map_err(kernel("the reading of the local APIC"))?,
            tsc_khz: vcpu.get_tsc_khz().unwrap_or(0),
            tsc: one_msr(vcpu, msrs::TSC)?,
            tsc_offset: kvm_raw::tsc_offset(vcpu),
            tsc_deadline: one_msr(vcpu, msrs::TSC_DEADLINE)?,
            msrs: msrs::read(vcpu, &context.msr_list)?,
            events: vcpu.get_vcpu_events().map_err(kernel("the reading of pending events"))?,
        })
    }

    /// Reads the TSC once more: right beside kvmclock, so that the two are of one moment.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn save_tsc(&mut self, vcpu: &VcpuFd) -> Result<(), StateError> {
        self.tsc = one_msr(vcpu, msrs::TSC)?;
        Ok(())
    }

    /// Gives a fresh vCPU what does not depend on the others; [`restore_tscs`] and [`Self::restore_late`] come after.
    /// `present` is the CPUID that the vCPU has. Another can only be given to one that has never run.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn restore(
        &self,
        vcpu: &VcpuFd,
        context: &StateContext,
        present: &[kvm_cpuid_entry2],
    ) -> Result<(), StateError> {
        if self.cpuid != present {
            cpuid::check_subset(&self.cpuid, &context.cpuid)?;
            cpuid::set(vcpu, &self.cpuid)
                .map_err(|error| StateError::invalid("a vCPU", format!("KVM refused its CPUID ({error})")))?;
        }
        self.restore_tsc_rate(vcpu);
        let (early, others): (Vec<_>, Vec<_>) =
            self.msrs.iter().copied().partition(|(number, _)| *number == msrs::FEATURE_CONTROL);
        msrs::write(vcpu, &early)?;
        self.restore_sregs(vcpu, context)?;
        vcpu.set_regs(&self.regs).map_err(kernel("registers"))?;
        write_xsave(vcpu, context.xsave_bytes, &self.xsave)?;
        vcpu.set_xcrs(&self.xcrs).map_err(kernel("XCR0"))?;
        vcpu.set_debug_regs(&self.debugregs).map_err(kernel("debug registers"))?;
        vcpu.set_lapic(&self.lapic).map_err(kernel("the local APIC"))?;
        msrs::write(vcpu, &others)
    }

    fn restore_sregs(&self, vcpu: &VcpuFd, context: &StateContext) -> Result<(), StateError> {
        let sregs = &self.sregs;
        vcpu.set_sregs(sregs).map_err(kernel("special registers"))?;
        let Some(pdptrs) = self.pdptrs.filter(|_| context.has_sregs2) else { return Ok(()) };
        let sregs2 = kvm_sregs2 {
            cs: sregs.cs,
            ds: sregs.ds,
            es: sregs.es,
            fs: sregs.fs,
            gs: sregs.gs,
            ss: sregs.ss,
            tr: sregs.tr,
            ldt: sregs.ldt,
            gdt: sregs.gdt,
            idt: sregs.idt,
            cr0: sregs.cr0,
            cr2: sregs.cr2,
            cr3: sregs.cr3,
            cr4: sregs.cr4,
            cr8: sregs.cr8,
            efer: sregs.efer,
            apic_base: sregs.apic_base,
            flags: u64::from(KVM_SREGS2_FLAGS_PDPTRS_VALID),
            pdptrs,
        };
        kvm_raw::set_sregs2(vcpu, &sregs2).map_err(raw("special registers"))
    }

    /// Asks for the TSC rate that the guest knows, where this host's is another. Without scaling the guest's clock runs
    /// at another rate, which the operator is told and NTP mends.
    fn restore_tsc_rate(&self, vcpu: &VcpuFd) {
        let here = vcpu.get_tsc_khz().unwrap_or(0);
        if tsc_rates_differ(self.tsc_khz, here)
            && let Err(error) = vcpu.set_tsc_khz(self.tsc_khz)
        {
            log::warn!("the guest's TSC ran at {} kHz and runs at {here} kHz here: {error}", self.tsc_khz);
        }
    }

    /// What comes after the TSC: pending events, the multiprocessor state, the timer's deadline.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn restore_late(&self, vcpu: &VcpuFd) -> Result<(), StateError> {
        vcpu.set_vcpu_events(&self.events).map_err(kernel("pending events"))?;
        vcpu.set_mp_state(self.mp_state).map_err(kernel("the multiprocessor state"))?;
        msrs::write(vcpu, &[(msrs::TSC_DEADLINE, self.tsc_deadline)])
    }

    /// Its TSC as it was saved, and the rate of that in kHz.
    pub fn tsc(&self) -> (u64, u32) {
        (self.tsc, self.tsc_khz)
    }

    /// The CPUID that the vCPU was given.
    pub fn cpuid(&self) -> &[kvm_cpuid_entry2] {
        &self.cpuid
    }
}

/// A TSC that is set forward by `time`, in its rate in kHz; where that is not known it stays.
fn forward(tsc: u64, khz: u32, time: Duration) -> u64 {
    let ticks = time.as_nanos() * u128::from(khz) / 1_000_000;
    tsc.wrapping_add(u64::try_from(ticks).unwrap_or(u64::MAX))
}

/// Sets the TSCs of all vCPUs together: the first by value, the others by offset, with the differences that they had. Only
/// with equal offsets does KVM keep its master clock, without which a guest's time calls become slow. They go forward by what
/// the guest's clocks are `behind`, in the rate that the guest knows. The first is written once only: KVM takes a second value that
/// is within a second of the first for an attempt to set the same, and keeps the first.
///
/// # Errors
/// [`StateError`].
pub fn restore_tscs<'a>(
    vcpus: impl IntoIterator<Item = (&'a VcpuFd, &'a VcpuState)>,
    behind: &Behind,
) -> Result<(), StateError> {
    // What the first vCPU has here, and what it had where it was saved.
    let mut first: Option<(Option<u64>, Option<u64>)> = None;
    for (vcpu, state) in vcpus {
        let by_offset = match (first, state.tsc_offset) {
            (Some((Some(here), Some(there))), Some(own)) => Some(here.wrapping_add(own.wrapping_sub(there))),
            _ => None,
        };
        match by_offset {
            Some(offset) => kvm_raw::set_tsc_offset(vcpu, offset).map_err(raw("the TSC offset"))?,
            None => {
                let tsc = forward(state.tsc, state.tsc_khz, behind.at(Instant::now()));
                msrs::write(vcpu, &[(msrs::TSC, tsc)])?;
            }
        }
        if first.is_none() {
            first = Some((kvm_raw::tsc_offset(vcpu), state.tsc_offset));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tsc_goes_forward_in_the_rate_that_its_guest_knows() {
        let stun = Duration::from_micros(70_500);
        assert_eq!(forward(7, 2_000_000, stun), 141_000_007);
        assert_eq!(forward(7, 2_596_120, stun), 183_026_467);
        assert_eq!(forward(7, 2_000_000, Duration::ZERO), 7);
        assert_eq!(forward(7, 0, stun), 7, "nobody knows the rate");
        assert_eq!(forward(u64::MAX, 1_000, Duration::from_micros(2)), 1, "a counter wraps");
    }
}
