//! A machine's state: out of one machine, into another of the same specification.

use std::time::Instant;

use kvm_bindings::kvm_cpuid_entry2;

use super::build::{MachineError, descriptor};
use super::life::{Machine, Phase};
use super::spec::MachineSpec;
use crate::bus::enter;
use crate::clock::{self, Behind, ClockReading, ClockState};
use crate::irqchip::{Irqchip, IrqchipState};
use crate::state::{ChunkKind, StateError, StateReader, StateWriter, encode};
use crate::vcpu::Vcpu;
use crate::vcpu::state::{StateContext, VcpuState, restore_tscs};

const MACHINE: ChunkKind = ChunkKind::new(ChunkKind::MACHINE, 0, 1);
const IRQCHIP: ChunkKind = ChunkKind::new(ChunkKind::IRQCHIP, 0, 1);
const CLOCK: ChunkKind = ChunkKind::new(ChunkKind::CLOCK, 0, 1);

fn vcpu_chunk(index: usize) -> ChunkKind {
    ChunkKind::new(ChunkKind::VCPU, index as u16, 1)
}

/// vCPUs and interrupt controllers as they were when the machine was built, for a reset.
pub struct BirthState {
    irqchip: IrqchipState,
    vcpus: Vec<VcpuState>,
}

impl BirthState {
    pub(super) fn take(
        irqchip: &Irqchip,
        vcpus: &[Vcpu],
        cpuids: &[Vec<kvm_cpuid_entry2>],
        context: &StateContext,
    ) -> Result<Self, StateError> {
        let states = vcpus.iter().zip(cpuids).map(|(vcpu, cpuid)| VcpuState::save(&descriptor(vcpu), cpuid, context));
        Ok(Self { irqchip: irqchip.export_state()?, vcpus: states.collect::<Result<_, _>>()? })
    }

    pub(super) fn restore(&self, irqchip: &Irqchip, vcpus: &[Vcpu], context: &StateContext) -> Result<(), StateError> {
        irqchip.import_state(&self.irqchip)?;
        for (vcpu, state) in vcpus.iter().zip(&self.vcpus) {
            let descriptor = descriptor(vcpu);
            // Whatever it has been given since, it keeps: its birth is not another processor.
            state.restore(&descriptor, context, state.cpuid())?;
            state.restore_late(&descriptor)?;
        }
        Ok(())
    }
}

impl Machine {
    /// The whole state of a paused machine but its memory. It can be taken any number of times, and the machine can go on.
    ///
    /// # Errors
    /// [`MachineError::Phase`] unless it is paused; [`MachineError::Ended`] if the guest has ended, which happens where it is
    /// and is not carried elsewhere; [`MachineError::State`].
    pub fn export_state(&mut self) -> Result<Vec<u8>, MachineError> {
        if self.events.ended() {
            return Err(MachineError::Ended);
        }
        if self.phase != Phase::Ready {
            return Err(MachineError::Phase { what: "be saved", phase: self.phase });
        }
        let mut writer = StateWriter::new();
        writer.add(MACHINE, &encode("the machine", &self.spec)?)?;
        let started = Instant::now();
        for device in &self.devices {
            let device = enter(device);
            writer.add(device.chunk(), &device.export_state()?)?;
        }
        self.timings.save_devices = started.elapsed();
        let started = Instant::now();
        writer.add(IRQCHIP, &encode("the interrupt controllers", &self.irqchip.export_state()?)?)?;
        let save = |(vcpu, cpuid): (&Vcpu, &Vec<_>)| VcpuState::save(&descriptor(vcpu), cpuid, &self.context);
        let mut states = self.vcpus.iter().zip(&self.cpuids).map(save).collect::<Result<Vec<_>, _>>()?;
        let clock = clock::export_state(&self.vm)?;
        for (vcpu, state) in self.vcpus.iter().zip(&mut states) {
            state.save_tsc(&descriptor(vcpu))?;
        }
        for (index, state) in states.iter().enumerate() {
            writer.add(vcpu_chunk(index), &encode("a vCPU", state)?)?;
        }
        writer.add(CLOCK, &encode("the clock", &clock)?)?;
        self.timings.save_processors = started.elapsed();
        Ok(writer.finish()?)
    }

    /// Saves and restores the processors of a machine that is still empty, which leaves it as it is: so it is known how long that will take when a
    /// guest stands still for it. The devices do not show beside them.
    ///
    /// # Errors
    /// [`MachineError::Phase`] unless it is empty; [`MachineError::State`], after which the machine is not to be run.
    pub fn rehearse(&mut self) -> Result<(), MachineError> {
        if self.phase != Phase::Empty {
            return Err(MachineError::Phase { what: "rehearse", phase: self.phase });
        }
        let state = BirthState::take(&self.irqchip, &self.vcpus, &self.cpuids, &self.context)?;
        Ok(state.restore(&self.irqchip, &self.vcpus, &self.context)?)
    }

    /// Takes over a state that [`Self::export_state`] gave on a machine of the same specification. The bytes come from
    /// another host: whatever they are, the answer is an error and not a panic. The machine is then paused, and its clocks run.
    ///
    /// `real` is what the guest's kvmclock should show: its clocks go forward to it. Without it they go on from where they were.
    ///
    /// # Errors
    /// [`MachineError::Phase`] unless it is empty; [`MachineError::State`], after which the machine is not to be run.
    pub fn import_state(&mut self, bytes: &[u8], real: Option<ClockReading>) -> Result<(), MachineError> {
        if self.phase != Phase::Empty {
            return Err(MachineError::Phase { what: "take over a state", phase: self.phase });
        }
        let started = Instant::now();
        let mut reader = StateReader::new(bytes)?;
        let spec: MachineSpec = reader.take_decoded(MACHINE, "the machine")?;
        if spec != self.spec {
            let what = format!("it is of a machine of another shape: {spec:?}; this one is {:?}", self.spec);
            return Err(StateError::invalid("the state", what).into());
        }
        let irqchip: IrqchipState = reader.take_decoded(IRQCHIP, "the interrupt controllers")?;
        let clock: ClockState = reader.take_decoded(CLOCK, "the clock")?;
        let mut vcpus = Vec::new();
        for index in 0..self.vcpus.len() {
            vcpus.push(reader.take_decoded::<VcpuState>(vcpu_chunk(index), "a vCPU")?);
        }
        let behind = Behind::new(clock, real);
        self.restore_processors(&irqchip, vcpus, clock, &behind)?;
        self.irqchip.keep_back();
        for device in &self.devices {
            let mut device = enter(device);
            let chunk = device.chunk();
            let (version, payload) = reader.take(chunk.kind, chunk.instance)?;
            device.import_state(version, payload)?;
        }
        enter(&self.power).forward(behind.at(Instant::now()));
        self.irqchip.publish_all()?;
        reader.finish()?;
        self.timings.restore = started.elapsed();
        self.phase = Phase::Ready;
        Ok(())
    }

    fn restore_processors(
        &mut self,
        irqchip: &IrqchipState,
        states: Vec<VcpuState>,
        clock: ClockState,
        behind: &Behind,
    ) -> Result<(), StateError> {
        self.irqchip.import_state(irqchip)?;
        let descriptors: Vec<_> = self.vcpus.iter().map(descriptor).collect();
        for ((vcpu, state), present) in descriptors.iter().zip(&states).zip(&self.cpuids) {
            state.restore(vcpu, &self.context, present)?;
        }
        restore_tscs(descriptors.iter().map(|vcpu| &**vcpu).zip(&states), behind)?;
        for (vcpu, state) in descriptors.iter().zip(&states) {
            state.restore_late(vcpu)?;
        }
        clock::import_state(&self.vm, clock, behind)?;
        // From now on it is saved with the CPUID that its guest knows.
        self.cpuids = states.iter().map(|state| state.cpuid().to_vec()).collect();
        Ok(())
    }
}
