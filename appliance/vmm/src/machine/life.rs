//! The life of a machine.

use std::fmt;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kvm_bindings::kvm_cpuid_entry2;
use kvm_ioctls::VmFd;
use rustix::fs::{FallocateFlags, fallocate};
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::build::{MachineError, descriptor};
use super::events::{Event, Events};
use super::spec::MachineSpec;
use super::state::BirthState;
use crate::acpi;
use crate::acpi::pm::PowerManagement;
use crate::boot::{self, BootImage, registers};
use crate::bus::{Shared, enter};
use crate::clock;
use crate::device::Device;
use crate::irqchip::Irqchip;
use crate::legacy::output_ring::OutputRing;
use crate::legacy::serial::SerialPort;
use crate::memory::{DirtyLog, GuestMemory, Layout};
use crate::vcpu::Vcpu;
use crate::vcpu::state::StateContext;
use crate::vcpu::throttle::Throttle;
use crate::virtio::installed::Installed;

/// How long a vCPU may take to park or to run. It is never that long: the bound is there so that nobody waits for ever.
const VCPU_WAIT_S: u64 = 10;
/// After how long a vCPU that has not parked is signalled again.
const VCPU_KICK_AGAIN: Duration = Duration::from_millis(100);

/// What a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Built, with nothing to run.
    Empty,
    /// Ready to run: booted from an image, taken over from elsewhere, or paused.
    Ready,
    /// The guest runs, or has ended and its event says how.
    Running,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "empty",
            Self::Ready => "paused",
            Self::Running => "running",
        })
    }
}

/// How long the last pause, save, restore and resume took, for the receipt of a move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Pause: until every vCPU had parked.
    pub park_vcpus: Duration,
    /// Pause: until every device was at rest.
    pub quiesce_devices: Duration,
    /// Save: devices.
    pub save_devices: Duration,
    /// Save: vCPUs, interrupt controllers, clock.
    pub save_processors: Duration,
    /// Restore: everything.
    pub restore: Duration,
    /// Resume: devices.
    pub resume_devices: Duration,
    /// Resume: until every vCPU ran.
    pub run_vcpus: Duration,
}

/// A virtual machine. Dropping it ends its vCPUs.
pub struct Machine {
    // In the order in which they go: what commands threads, the threads, what the threads call.
    pub(super) throttle: Throttle,
    pub(super) vcpus: Vec<Vcpu>,
    pub(super) devices: Vec<Arc<Mutex<dyn Device>>>,
    pub(super) installed: Installed,
    pub(super) serial: Shared<SerialPort>,
    pub(super) power: Shared<PowerManagement>,
    pub(super) spec: MachineSpec,
    pub(super) layout: Layout,
    pub(super) memory: GuestMemory,
    pub(super) memfd: OwnedFd,
    pub(super) vm: Arc<VmFd>,
    pub(super) irqchip: Arc<Irqchip>,
    pub(super) events: Events,
    pub(super) dirty_log: Arc<DirtyLog>,
    pub(super) cpuids: Vec<Vec<kvm_cpuid_entry2>>,
    pub(super) context: StateContext,
    pub(super) faithful: bool,
    pub(super) birth: BirthState,
    pub(super) image: Option<BootImage>,
    pub(super) phase: Phase,
    pub(super) timings: Timings,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("spec", &self.spec).field("phase", &self.phase).finish_non_exhaustive()
    }
}

impl Machine {
    /// What it is made of.
    pub fn spec(&self) -> &MachineSpec {
        &self.spec
    }

    /// What it is doing.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Where its events come.
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Its RAM.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Where its RAM lies.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Its dirty log, for any thread.
    pub fn dirty_log(&self) -> &Arc<DirtyLog> {
        &self.dirty_log
    }

    /// How long its last pause, save, restore and resume took.
    pub fn timings(&self) -> Timings {
        self.timings
    }

    /// Whether its guest sees the CPUID it was given. Where not (a KVM without hardware virtualisation), a CPU baseline
    /// means nothing and TSC offsets do nothing.
    pub fn is_faithful(&self) -> bool {
        self.faithful
    }

    /// Nanoseconds of the guest's kvmclock.
    ///
    /// # Errors
    /// [`MachineError::State`].
    pub fn clock_ns(&self) -> Result<u64, MachineError> {
        Ok(clock::export_state(&self.vm)?.ns)
    }

    /// Loads a kernel into the empty machine.
    ///
    /// # Errors
    /// [`MachineError::Phase`], [`MachineError::Boot`].
    pub fn load(&mut self, kernel: File, initrd: Option<File>, command_line: &str) -> Result<(), MachineError> {
        if self.phase != Phase::Empty {
            return Err(MachineError::Phase { what: "load a kernel", phase: self.phase });
        }
        self.image = Some(BootImage { kernel, initrd, command_line: command_line.into() });
        self.boot()
    }

    /// Gives a machine that was taken over from elsewhere what it boots from when it is reset.
    pub fn set_image(&mut self, kernel: File, initrd: Option<File>, command_line: &str) {
        self.image = Some(BootImage { kernel, initrd, command_line: command_line.into() });
    }

    fn boot(&mut self) -> Result<(), MachineError> {
        let image = self.image.as_mut().ok_or_else(|| MachineError::Spec("it has no kernel to boot".into()))?;
        let rsdp = acpi::write(&self.memory, &self.layout, self.spec.cpus).map_err(boot::BootError::Memory)?;
        let entry = boot::load(&self.memory, &self.layout, image, rsdp)?;
        registers::enter(&descriptor(&self.vcpus[0]), &self.memory, entry).map_err(boot::BootError::from)?;
        self.phase = Phase::Ready;
        Ok(())
    }

    /// Takes back the locks of the disks that it let go of when it saved its state, as [`Self::resume`] does first: so that
    /// whoever lets it run can ask in between whether it still may. A lock that was lost otherwise stays lost.
    ///
    /// # Errors
    /// Another has a disk locked.
    pub fn take_disks(&mut self) -> Result<(), MachineError> {
        Ok(self.installed.lock_disks()?)
    }

    /// Runs the guest, for the first time or again. One that runs already goes on.
    ///
    /// # Errors
    /// [`MachineError::Phase`] if there is nothing to run; [`MachineError::Ended`]; [`MachineError::Device`] (the machine
    /// stays paused); [`MachineError::Stuck`].
    pub fn resume(&mut self) -> Result<(), MachineError> {
        if self.events.ended() {
            return Err(MachineError::Ended);
        }
        match self.phase {
            Phase::Empty => return Err(MachineError::Phase { what: "run", phase: self.phase }),
            Phase::Running => return Ok(()),
            Phase::Ready => {}
        }
        self.take_disks()?;
        let started = Instant::now();
        for (index, device) in self.devices.iter().enumerate() {
            if let Err(error) = enter(device).resume() {
                self.rest_again(index);
                return Err(error.into());
            }
        }
        self.timings.resume_devices = started.elapsed();
        let started = Instant::now();
        for vcpu in &self.vcpus {
            // Tells a guest with kvmclock that it was stopped, so that its watchdogs do not bark; one without refuses.
            let _ = descriptor(vcpu).kvmclock_ctrl();
        }
        self.phase = Phase::Running;
        self.vcpus.iter().for_each(|vcpu| vcpu.control.request_run());
        let deadline = Instant::now() + Duration::from_secs(VCPU_WAIT_S);
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            if !vcpu.control.wait_running(deadline) {
                return Err(MachineError::Stuck { vcpu: index, what: "run", seconds: VCPU_WAIT_S });
            }
        }
        self.timings.run_vcpus = started.elapsed();
        Ok(())
    }

    /// The first [`Self::resume`], by its usual name.
    ///
    /// # Errors
    /// As [`Self::resume`].
    pub fn start(&mut self) -> Result<(), MachineError> {
        self.resume()
    }

    fn rest_again(&self, resumed: usize) {
        for device in &self.devices[..resumed] {
            if let Err(error) = enter(device).quiesce() {
                log::error!("{error}");
            }
        }
    }

    /// Stops the guest: all vCPUs are signalled, then all waited for; then devices take no new work, finish what is under
    /// way and deliver its interrupts. A machine that is paused already stays so.
    ///
    /// # Errors
    /// [`MachineError::Phase`] for an empty machine; [`MachineError::Device`] if a device cannot come to rest,
    /// [`MachineError::Stuck`] if a vCPU cannot (the guest then runs on).
    pub fn pause(&mut self) -> Result<(), MachineError> {
        match self.phase {
            Phase::Empty => return Err(MachineError::Phase { what: "pause", phase: self.phase }),
            Phase::Ready => return Ok(()),
            Phase::Running => {}
        }
        let started = Instant::now();
        if let Err(error) = self.park() {
            self.run_on(0);
            return Err(error);
        }
        self.timings.park_vcpus = started.elapsed();
        let started = Instant::now();
        self.installed.begin_quiesce();
        for (index, device) in self.devices.iter().enumerate() {
            if let Err(error) = enter(device).quiesce() {
                self.installed.cancel_quiesce();
                self.run_on(index);
                return Err(error.into());
            }
        }
        self.timings.quiesce_devices = started.elapsed();
        self.phase = Phase::Ready;
        Ok(())
    }

    fn park(&self) -> Result<(), MachineError> {
        self.vcpus.iter().for_each(|vcpu| vcpu.control.request_park());
        let deadline = Instant::now() + Duration::from_secs(VCPU_WAIT_S);
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            while !vcpu.control.wait_parked(deadline.min(Instant::now() + VCPU_KICK_AGAIN)) {
                if Instant::now() >= deadline {
                    return Err(MachineError::Stuck { vcpu: index, what: "park", seconds: VCPU_WAIT_S });
                }
                vcpu.control.request_park();
            }
        }
        Ok(())
    }

    /// A vCPU did not park, or a device did not come to rest: the devices that did go on, and so does the guest. Its vCPUs
    /// would else stand still in a machine that is called running, and no resume would ask them again.
    fn run_on(&self, rested: usize) {
        for device in &self.devices[..rested] {
            if let Err(error) = enter(device).resume() {
                log::error!("{error}");
            }
        }
        if !self.events.ended() {
            self.vcpus.iter().for_each(|vcpu| vcpu.control.request_run());
        }
    }

    /// Presses the power button: a guest that listens shuts itself down, and [`Event::Shutdown`] says when it has.
    pub fn power_button(&self) {
        enter(&self.power).press_power_button();
    }

    /// Back to power-on, and boots its image again: memory is cleared, devices, vCPUs and interrupt controllers are as they
    /// were when it was built. It is then ready, whether it ran or had ended.
    ///
    /// # Errors
    /// [`MachineError`]; the machine is then not to be run.
    pub fn reset(&mut self) -> Result<(), MachineError> {
        if self.phase == Phase::Running {
            self.pause()?;
        }
        self.phase = Phase::Empty;
        self.devices.iter().for_each(|device| enter(device).reset());
        self.clear_memory()?;
        self.birth.restore(&self.irqchip, &self.vcpus, &self.context)?;
        self.boot()?;
        // Not before: of a machine that could not be reset it is still known what it asked for.
        self.events.reset();
        Ok(())
    }

    fn clear_memory(&self) -> Result<(), MachineError> {
        let whole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.memfd, whole, 0, self.layout.memory_bytes())
            .map_err(|error| MachineError::Host { what: "memory cleared", source: error.into() })?;
        for region in self.memory.iter() {
            // A hole in the memfd is no write that KVM sees. Marked after it: nobody harvests or hashes meanwhile, because the machine is held.
            region.bitmap().mark_dirty(0, region.len() as usize);
        }
        Ok(())
    }

    /// What the guest wrote to its serial port. Clones share it, so another thread may read.
    pub fn serial_output(&self) -> OutputRing {
        enter(&self.serial).output().clone()
    }

    /// Types bytes into the guest's serial port; gives how many were taken.
    pub fn serial_input(&self, bytes: &[u8]) -> usize {
        enter(&self.serial).input(bytes)
    }

    /// The serial port, for another thread.
    pub fn serial(&self) -> Shared<SerialPort> {
        self.serial.clone()
    }

    /// Slows the vCPUs that dirty by a percentage of their time, 0 to 99; all of them where it is not known which do. The harvests
    /// of the dirty log tell which; who is slowed changes with them.
    ///
    /// # Errors
    /// [`MachineError::Host`].
    pub fn throttle(&mut self, percent: u8) -> Result<(), MachineError> {
        self.throttle.set(percent).map_err(|source| MachineError::Host { what: "thread", source })
    }

    /// How far each vCPU is slowed now, percent.
    pub fn slowed(&self) -> Vec<u8> {
        self.throttle.slowed()
    }

    /// How long the throttle has held a vCPU since the machine was built; `None` if there is no such vCPU.
    pub fn throttled(&self, vcpu: u8) -> Option<Duration> {
        self.throttle.held(vcpu)
    }

    /// The oldest event that was not taken.
    pub fn take_event(&self) -> Option<Event> {
        self.events.take()
    }
}
