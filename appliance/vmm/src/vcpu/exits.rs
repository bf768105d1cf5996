//! What a vCPU does when KVM hands the guest back.

use kvm_bindings::{
    KVM_EXIT_IO_OUT, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES, kvm_run,
};
use kvm_ioctls::{VcpuExit, VcpuFd};

use crate::bus::Bus;
use crate::machine::events::Event;

/// What came of one entry into the guest.
#[derive(Debug)]
pub(crate) enum Exit {
    /// The guest can be entered again.
    Handled,
    /// A signal came, or `immediate_exit` was set. Nothing is under way.
    Interrupted,
    /// The guest cannot be entered again.
    Ended(Event),
}

/// Where a vCPU's accesses go.
#[derive(Debug, Clone)]
pub(crate) struct Exits {
    /// Which vCPU it is.
    pub(crate) index: u8,
    /// Ports.
    pub(crate) pio: Bus,
    /// Guest-physical memory that is not RAM.
    pub(crate) mmio: Bus,
}

/// What of an exit matters, without the borrow of the vCPU that kvm-ioctls' own type holds.
enum Reason {
    Pio,
    Mmio,
    Again,
    Interrupted,
    Ended(Event),
    InternalError,
    Unknown(String),
}

impl Exits {
    /// Enters the guest once and handles what comes back.
    pub(crate) fn step(&self, vcpu: &mut VcpuFd) -> Exit {
        match reason(vcpu) {
            Reason::Pio => self.pio(vcpu.get_kvm_run()),
            Reason::Mmio => self.mmio(vcpu.get_kvm_run()),
            Reason::Again => {}
            Reason::Interrupted => return Exit::Interrupted,
            Reason::Ended(event) => return Exit::Ended(event),
            Reason::InternalError => {
                let what = internal_error(vcpu.get_kvm_run());
                return Exit::Ended(Event::Failed(self.failure(vcpu, &what)));
            }
            Reason::Unknown(what) => return Exit::Ended(Event::Failed(self.failure(vcpu, &what))),
        }
        Exit::Handled
    }

    fn pio(&self, run: &mut kvm_run) {
        // SAFETY: the exit reason is KVM_EXIT_IO, so `io` is the member that the kernel filled.
        let io = unsafe { run.__bindgen_anon_1.io };
        let (port, size) = (u64::from(io.port), usize::from(io.size));
        let length = size * io.count as usize;
        let start = std::ptr::from_mut(run).cast::<u8>();
        // SAFETY: the kernel put `count` items of `size` bytes at `data_offset` of the area that it shares with us, which
        // is mapped in full (KVM_GET_VCPU_MMAP_SIZE); it does not touch them before the next KVM_RUN of this thread.
        let data = unsafe { std::slice::from_raw_parts_mut(start.add(io.data_offset as usize), length) };
        if size == 0 {
            return;
        }
        for item in data.chunks_mut(size) {
            if u32::from(io.direction) == KVM_EXIT_IO_OUT {
                self.pio.write(port, item);
            } else {
                self.pio.read(port, item);
            }
        }
    }

    fn mmio(&self, run: &mut kvm_run) {
        // SAFETY: the exit reason is KVM_EXIT_MMIO, so `mmio` is the member that the kernel filled.
        let mmio = unsafe { &mut run.__bindgen_anon_1.mmio };
        let length = (mmio.len as usize).min(mmio.data.len());
        let data = &mut mmio.data[..length];
        if mmio.is_write != 0 {
            self.mmio.write(mmio.phys_addr, data);
        } else {
            self.mmio.read(mmio.phys_addr, data);
        }
    }

    fn failure(&self, vcpu: &VcpuFd, what: &str) -> String {
        let place = match vcpu.get_regs() {
            Ok(regs) => format!("rip {:#x}, rsp {:#x}, rflags {:#x}", regs.rip, regs.rsp, regs.rflags),
            Err(error) => format!("its registers cannot be read: {error}"),
        };
        format!("vCPU {} cannot go on: {what}; {place}", self.index)
    }
}

fn reason(vcpu: &mut VcpuFd) -> Reason {
    match vcpu.run() {
        Ok(VcpuExit::IoIn(..) | VcpuExit::IoOut(..)) => Reason::Pio,
        Ok(VcpuExit::MmioRead(..) | VcpuExit::MmioWrite(..)) => Reason::Mmio,
        Ok(VcpuExit::Intr) => Reason::Interrupted,
        Ok(VcpuExit::Shutdown) => Reason::Ended(Event::TripleFault),
        // KVM's own answer to a guest that resets its last vCPU or asks for it by a hypercall.
        Ok(VcpuExit::SystemEvent(kind, _)) => Reason::Ended(system_event(kind)),
        Ok(VcpuExit::InternalError) => Reason::InternalError,
        Ok(VcpuExit::FailEntry(reason, cpu)) => {
            Reason::Unknown(format!("the processor refused to enter the guest (reason {reason:#x}, CPU {cpu})"))
        }
        Ok(VcpuExit::MemoryFault { gpa, size, .. }) => {
            Reason::Unknown(format!("guest memory at {gpa:#x}+{size:#x} cannot be had"))
        }
        Ok(other) => Reason::Unknown(format!("an exit that does not occur here: {other:?}")),
        Err(error) => match error.errno() {
            libc::EINTR => Reason::Interrupted,
            // A vCPU that waits for its start-up interrupt was woken.
            libc::EAGAIN => Reason::Again,
            _ => Reason::Unknown(format!("KVM_RUN failed: {error}")),
        },
    }
}

fn system_event(kind: u32) -> Event {
    match kind {
        kvm_bindings::KVM_SYSTEM_EVENT_SHUTDOWN => Event::Shutdown,
        kvm_bindings::KVM_SYSTEM_EVENT_RESET => Event::Reset,
        kind => Event::Failed(format!("the guest ended with system event {kind}")),
    }
}

fn internal_error(run: &kvm_run) -> String {
    // SAFETY: the exit reason is KVM_EXIT_INTERNAL_ERROR, so `internal` is the member that the kernel filled;
    // `emulation_failure` is the same bytes under other names, and all are plain integers.
    let (internal, emulation) = unsafe { (run.__bindgen_anon_1.internal, run.__bindgen_anon_1.emulation_failure) };
    if internal.suberror != KVM_INTERNAL_ERROR_EMULATION {
        let count = (internal.ndata as usize).min(internal.data.len());
        return format!("KVM internal error {} with {:x?}", internal.suberror, &internal.data[..count]);
    }
    let with_bytes = u64::from(KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES);
    if emulation.ndata < 3 || emulation.flags & with_bytes == 0 {
        return "KVM cannot emulate an instruction".into();
    }
    // SAFETY: the flag says that the kernel filled this member.
    let instruction = unsafe { emulation.__bindgen_anon_1.__bindgen_anon_1 };
    let count = usize::from(instruction.insn_size).min(instruction.insn_bytes.len());
    let bytes: Vec<String> = instruction.insn_bytes[..count].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("KVM cannot emulate the instruction with the bytes {}", bytes.join(" "))
}
