//! Putting a machine together from its specification and open descriptors.

use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::{Arc, Mutex};

use kvm_bindings::{KVM_CAP_EXIT_ON_EMULATION_FAILURE, kvm_cpuid_entry2, kvm_enable_cap};
use kvm_ioctls::{Kvm, VcpuFd, VmFd};

use super::events::Events;
use super::life::{Machine, Phase, Timings};
use super::spec::MachineSpec;
use super::state::BirthState;
use crate::acpi::pm::{self, PowerManagement};
use crate::boot::{BootError, registers};
use crate::bus::{Bus, BusDevice, BusError, Shared, enter};
use crate::cpuid;
use crate::device::{Device, DeviceError};
use crate::interrupt::InterruptError;
use crate::irqchip::Irqchip;
use crate::kvm_raw;
use crate::legacy::output_ring::OutputRing;
use crate::legacy::reset_control::{self, ChipsetPorts, KeyboardController, ResetControl};
use crate::legacy::rtc::{self, Rtc};
use crate::legacy::serial::{self, SerialPort};
use crate::memory::dirty_bitmap::BitmapError;
use crate::memory::layout::{ECAM_BYTES, ECAM_START, IDENTITY_MAP_START, TSS_START};
use crate::memory::{DirtyLog, DirtyLogError, GuestMemory, Layout, MemoryError, guest_memory};
use crate::pci::root::{CONFIG_PORTS_BYTES, CONFIG_PORTS_START};
use crate::pci::{BarWindows, ConfigPorts, Ecam, PciRoot};
use crate::state::StateError;
use crate::vcpu::Vcpu;
use crate::vcpu::dirtying::Dirtying;
use crate::vcpu::exits::Exits;
use crate::vcpu::faults::FaultCount;
use crate::vcpu::state::{StateContext, xsave_bytes};
use crate::vcpu::throttle::Throttle;
use crate::virtio::installed::{InstallError, Installed};
use crate::virtio::transport::Wiring;

/// The version of KVM's interface since Linux 2.6.22, and the only one.
const KVM_API_VERSION: i32 = 12;

/// Open descriptors that a machine is built from.
#[derive(Debug)]
pub struct Resources {
    /// `/dev/kvm`.
    pub kvm: OwnedFd,
    /// Guest RAM: a memfd of exactly the machine's memory.
    pub memory: OwnedFd,
    /// A tap for each NIC, in their order.
    pub taps: Vec<OwnedFd>,
}

/// What can go wrong with a machine.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// A specification that makes no machine.
    #[error("the machine cannot be: {0}")]
    Spec(String),
    /// The descriptor is not KVM, or of a version that is not known.
    #[error("this is not a KVM that is understood here (version {0})")]
    Version(i32),
    /// The kernel refused.
    #[error("KVM refused {what}")]
    Kernel {
        /// What was asked.
        what: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// Guest RAM cannot be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A device cannot be put where it belongs.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// An interrupt cannot be wired.
    #[error(transparent)]
    Interrupt(#[from] InterruptError),
    /// The dirty log.
    #[error(transparent)]
    DirtyLog(#[from] DirtyLogError),
    /// A dirty bitmap.
    #[error(transparent)]
    Bitmap(#[from] BitmapError),
    /// There is nothing to boot, or it cannot be.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The state.
    #[error(transparent)]
    State(#[from] StateError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A disk or a network interface cannot be built or attached.
    #[error(transparent)]
    Install(#[from] InstallError),
    /// A descriptor, a thread.
    #[error("the host gives no {what}")]
    Host {
        /// What was wanted.
        what: &'static str,
        /// Why there is none.
        #[source]
        source: io::Error,
    },
    /// A call that the machine's phase does not allow.
    #[error("the machine cannot {what} while it is {phase}")]
    Phase {
        /// What was wanted.
        what: &'static str,
        /// What it is.
        phase: Phase,
    },
    /// The guest has ended, as its event says, and must be reset before it can run.
    #[error("the guest has ended; it can run again after a reset")]
    Ended,
    /// A vCPU did not do as it was told in time.
    #[error("vCPU {vcpu} did not {what} within {seconds} s")]
    Stuck {
        /// Which vCPU.
        vcpu: usize,
        /// What it did not do.
        what: &'static str,
        /// How long it was waited for.
        seconds: u64,
    },
}

pub(super) fn kernel(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> MachineError {
    move |error| MachineError::Kernel { what, source: io::Error::from_raw_os_error(error.errno()) }
}

fn host(what: &'static str) -> impl Fn(io::Error) -> MachineError {
    move |source| MachineError::Host { what, source }
}

fn shared<T>(device: T) -> Shared<T> {
    Arc::new(Mutex::new(device))
}

/// What the parts of a machine are hung on while it is put together.
struct Frame {
    vm: Arc<VmFd>,
    irqchip: Arc<Irqchip>,
    pio: Bus,
    mmio: Bus,
    events: Events,
    devices: Vec<Arc<Mutex<dyn Device>>>,
}

impl Frame {
    fn port<T: BusDevice + 'static>(&self, start: u64, length: u64, device: &Shared<T>) -> Result<(), BusError> {
        self.pio.insert(start, length, device.clone())
    }

    fn serial(&mut self) -> Result<Shared<SerialPort>, MachineError> {
        let output = OutputRing::new().map_err(host("event descriptor"))?;
        let port = shared(SerialPort::new(self.irqchip.edge(serial::IRQ)?, output));
        self.port(serial::PORT, serial::PORTS, &port)?;
        self.devices.push(port.clone());
        Ok(port)
    }

    fn power_management(&mut self) -> Result<Shared<PowerManagement>, MachineError> {
        let registers = shared(PowerManagement::new(self.events.clone(), self.irqchip.line(pm::SCI)));
        self.port(pm::PORT, pm::PORTS, &registers)?;
        self.devices.push(registers.clone());
        Ok(registers)
    }

    fn clock_and_resets(&mut self, root: &Shared<PciRoot>) -> Result<(), MachineError> {
        let clock = shared(Rtc::default());
        self.port(rtc::PORT, rtc::PORTS, &clock)?;
        self.devices.push(clock);
        let keyboard = shared(KeyboardController::new(self.events.clone()));
        self.port(reset_control::KEYBOARD_PORT, 1, &keyboard)?;
        let reset = shared(ResetControl::new(self.events.clone()));
        let ports = ChipsetPorts { pci: shared(ConfigPorts(root.clone())), reset: reset.clone() };
        self.port(CONFIG_PORTS_START, CONFIG_PORTS_BYTES, &shared(ports))?;
        self.devices.push(reset);
        Ok(())
    }

    fn pci(&mut self) -> Result<Shared<PciRoot>, MachineError> {
        let root = shared(PciRoot::new());
        self.mmio.insert(ECAM_START, ECAM_BYTES, shared(Ecam(root.clone())))?;
        self.devices.push(root.clone());
        Ok(root)
    }

    /// Disks, network interfaces and the entropy device, in their slots. A new kind of device is one line there.
    fn virtio(
        &mut self,
        spec: &MachineSpec,
        taps: Vec<OwnedFd>,
        memory: &GuestMemory,
        layout: &Layout,
        root: &Shared<PciRoot>,
    ) -> Result<Installed, MachineError> {
        let wiring = Wiring {
            mmio: self.mmio.clone(),
            windows: BarWindows::of(layout),
            memory: memory.clone(),
            msi: self.irqchip.clone(),
            doorbells: self.irqchip.clone(),
        };
        let installed = Installed::build(spec, taps, &wiring, root)?;
        self.devices.extend(installed.devices());
        Ok(installed)
    }
}

fn open_kvm(descriptor: OwnedFd) -> Result<Kvm, MachineError> {
    // SAFETY: the descriptor is owned and open, and given up here; that it is KVM's is checked next.
    let kvm = unsafe { Kvm::from_raw_fd(descriptor.into_raw_fd()) };
    match kvm.get_api_version() {
        KVM_API_VERSION => Ok(kvm),
        other => Err(MachineError::Version(other)),
    }
}

fn create_vm(kvm: &Kvm) -> Result<Arc<VmFd>, MachineError> {
    let vm = kvm.create_vm().map_err(kernel("a virtual machine"))?;
    // Only Intel's processors without unrestricted guests need these two; others take them and do nothing.
    vm.set_identity_map_address(IDENTITY_MAP_START).map_err(kernel("the identity map"))?;
    vm.set_tss_address(TSS_START as usize).map_err(kernel("the task state segment"))?;
    if vm.check_extension_raw(u64::from(KVM_CAP_EXIT_ON_EMULATION_FAILURE)) > 0 {
        // So that a failure tells the instruction's bytes.
        let mut capability = kvm_enable_cap { cap: KVM_CAP_EXIT_ON_EMULATION_FAILURE, ..Default::default() };
        capability.args[0] = 1;
        vm.enable_cap(&capability).map_err(kernel("to report emulation failures"))?;
    }
    Ok(Arc::new(vm))
}

/// vCPUs as they are before they have threads.
struct Processors {
    descriptors: Vec<VcpuFd>,
    faults: Vec<Option<FaultCount>>,
    cpuids: Vec<Vec<kvm_cpuid_entry2>>,
    context: StateContext,
    faithful: bool,
}

fn create_vcpus(kvm: &Kvm, vm: &VmFd, spec: &MachineSpec) -> Result<Processors, MachineError> {
    let (mut descriptors, mut cpuids) = (Vec::new(), Vec::new());
    for index in 0..spec.cpus {
        let vcpu = vm.create_vcpu(u64::from(index)).map_err(kernel("a vCPU"))?;
        let entries = cpuid::build(kvm, spec.cpu_baseline, spec.cpus, index).map_err(kernel("its list of CPUID"))?;
        cpuid::set(&vcpu, &entries).map_err(kernel("the CPUID"))?;
        registers::prepare(&vcpu)?;
        descriptors.push(vcpu);
        cpuids.push(entries);
    }
    let faithful = cpuid::reads_back(&descriptors[0], &cpuids[0]).map_err(kernel("the reading of CPUID"))?;
    let context = StateContext {
        msr_list: crate::vcpu::msrs::state_list(kvm, &descriptors[0])?,
        xsave_bytes: xsave_bytes(vm),
        has_sregs2: kvm_raw::has_sregs2(vm),
        cpuid: cpuids[0].clone(),
    };
    let faults = descriptors.iter().map(FaultCount::of).collect();
    Ok(Processors { descriptors, faults, cpuids, context, faithful })
}

fn check(spec: &MachineSpec, kvm: &Kvm) -> Result<(), MachineError> {
    let most = kvm.get_max_vcpus().min(255);
    if spec.cpus == 0 || usize::from(spec.cpus) > most {
        return Err(MachineError::Spec(format!("{} vCPUs; 1 to {most} are possible on this host", spec.cpus)));
    }
    Ok(())
}

impl Machine {
    /// Builds a machine, with its vCPUs' threads and everything else that costs time: nothing is left to allocate when it
    /// is to run. It is [`Phase::Empty`].
    ///
    /// # Errors
    /// [`MachineError`]; nothing is left behind.
    pub fn build(spec: MachineSpec, resources: Resources) -> Result<Self, MachineError> {
        let Resources { kvm: ref descriptor, .. } = resources;
        let kvm = open_kvm(descriptor.try_clone().map_err(host("descriptor"))?)?;
        check(&spec, &kvm)?;
        let layout = Layout::new(spec.memory_bytes).map_err(MemoryError::from)?;
        let memory: GuestMemory = guest_memory::map(&layout, &resources.memory)?;
        let vm = create_vm(&kvm)?;
        let dirty_log = DirtyLog::new(Arc::clone(&vm), memory.clone(), &layout)?;
        let irqchip = Arc::new(Irqchip::new(Arc::clone(&vm))?);
        let processors = create_vcpus(&kvm, &vm, &spec)?;

        let events = Events::new().map_err(host("event descriptor"))?;
        let mut frame = Frame { vm, irqchip, pio: Bus::new(), mmio: Bus::new(), events, devices: Vec::new() };
        let serial = frame.serial()?;
        let power = frame.power_management()?;
        let root = frame.pci()?;
        frame.clock_and_resets(&root)?;
        let installed = frame.virtio(&spec, resources.taps, &memory, &layout, &root)?;
        let vcpus = spawn(&frame, processors.descriptors)?;
        let birth = BirthState::take(&frame.irqchip, &vcpus, &processors.cpuids, &processors.context)?;
        let controls: Vec<_> = vcpus.iter().map(|vcpu| Arc::clone(&vcpu.control)).collect();
        let dirtying = Arc::new(Dirtying::new(processors.faults.into_iter().zip(controls.iter().cloned())));
        let throttle = Throttle::new(controls, Arc::clone(&dirtying));
        Ok(Self {
            throttle,
            vcpus,
            devices: frame.devices,
            installed,
            serial,
            power,
            spec,
            layout,
            memory,
            memfd: resources.memory,
            vm: frame.vm,
            irqchip: frame.irqchip,
            events: frame.events,
            dirty_log: Arc::new(dirty_log.watched_by(dirtying)),
            cpuids: processors.cpuids,
            context: processors.context,
            faithful: processors.faithful,
            birth,
            image: None,
            phase: Phase::Empty,
            timings: Timings::default(),
        })
    }
}

fn spawn(frame: &Frame, descriptors: Vec<VcpuFd>) -> Result<Vec<Vcpu>, MachineError> {
    let mut vcpus = Vec::new();
    for (index, descriptor) in (0u8..).zip(descriptors) {
        let exits = Exits { index, pio: frame.pio.clone(), mmio: frame.mmio.clone() };
        let vcpu = Vcpu::spawn(index, descriptor, exits, frame.events.clone()).map_err(host("thread"))?;
        let listener: Arc<dyn super::events::StopOnEvent> = vcpu.control.clone();
        frame.events.listen(Arc::downgrade(&listener));
        vcpus.push(vcpu);
    }
    Ok(vcpus)
}

/// Takes a vCPU's descriptor; it is parked, so nobody else holds it for long.
pub(super) fn descriptor(vcpu: &Vcpu) -> std::sync::MutexGuard<'_, VcpuFd> {
    enter(&vcpu.fd)
}
