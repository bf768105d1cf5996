//! The function as the machine sees it: it comes to rest, goes on, and turns into bytes and back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::function::{Life, VirtioPci};
use super::registers::RegisterValues;
use crate::device::{Device, DeviceError};
use crate::pci::PciFunction;
use crate::pci::config_space::ConfigSpaceState;
use crate::pci::msix::MsixState;
use crate::state::{ChunkKind, StateError, decode, encode};
use crate::virtio::device::VirtioDevice;

/// Longest wait for requests in flight, unless the machine's owner sets another. Storage that needs longer makes the machine stay as it was: running.
pub const QUIESCE_MAX: Duration = Duration::from_secs(10);

/// What of a function travels.
#[derive(Serialize, Deserialize)]
pub(super) struct FunctionState {
    pub(super) config: ConfigSpaceState,
    pub(super) msix: MsixState,
    pub(super) registers: RegisterValues,
    pub(super) vectors: Vec<u16>,
    pub(super) config_vector: u16,
    pub(super) flags: (u8, u8, bool),
    pub(super) active: bool,
    pub(super) front: Vec<u8>,
}

impl<D: VirtioDevice> VirtioPci<D> {
    fn error(&self, what: &str) -> DeviceError {
        DeviceError { device: self.label(), what: what.into(), source: None }
    }

    /// How long [`Device::quiesce`] waits for requests in flight before it gives up and the device goes on.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Asks the engine to come to rest, without waiting: [`Device::quiesce`] then finds it done, or nearly.
    pub fn begin_quiesce(&self) {
        if let Life::Running { worker, .. } = &self.life {
            worker.ask_to_stop();
        }
    }

    /// Takes back a [`Self::begin_quiesce`] that no quiesce followed.
    pub fn cancel_quiesce(&mut self) {
        if let Life::Running { worker, resetting: false } = &self.life
            && !worker.call_off()
        {
            // It had agreed already: take it back and start it anew.
            self.join();
            self.start_if_due();
        }
    }

    fn take_over(&mut self, state: FunctionState) -> Result<(), StateError> {
        let invalid = |what: &str| StateError::invalid(format!("{} {}", D::KIND.noun, self.instance), what);
        if state.vectors.len() != D::KIND.queue_sizes.len() {
            return Err(invalid("another number of queues"));
        }
        self.registers.restore(state.registers)?;
        if state.active && !self.registers.driver_ok() {
            return Err(invalid("active without a driver"));
        }
        self.config.restore(&state.config)?;
        self.msix.restore(&state.msix)?;
        self.interrupts.set_flags(state.flags);
        self.interrupts.set_config_vector(state.config_vector);
        for (index, vector) in state.vectors.iter().enumerate() {
            self.interrupts.set_queue_vector(index as u16, *vector);
        }
        let built = if state.active { Some(self.build_queues()?) } else { None };
        let features = self.registers.features();
        let Life::Rest { engine, queues } = &mut self.life else {
            return Err(StateError::invalid(D::KIND.noun, "the device is not at rest"));
        };
        *queues = built;
        if state.active {
            self.front.activate(engine, features);
        }
        self.front.import_state(engine, &state.front)?;
        self.place_bar();
        Ok(())
    }
}

impl<D: VirtioDevice> Device for VirtioPci<D> {
    fn name(&self) -> String {
        self.label()
    }

    fn chunk(&self) -> ChunkKind {
        ChunkKind::new(D::KIND.chunk, self.instance, D::KIND.version)
    }

    fn quiesce(&mut self) -> Result<(), DeviceError> {
        if let Life::Running { worker, resetting } = &self.life {
            worker.ask_to_stop();
            if !worker.wait_end(self.patience) && (*resetting || worker.call_off()) {
                return Err(self.error("requests in flight did not end: its storage or network does not answer"));
            }
            self.join();
        }
        if matches!(self.life, Life::Lost) {
            return Err(self.error("its thread has panicked"));
        }
        self.machine_runs = false;
        Ok(())
    }

    fn resume(&mut self) -> Result<(), DeviceError> {
        if matches!(self.life, Life::Lost) {
            return Err(self.error("its thread has panicked"));
        }
        self.machine_runs = true;
        // On import its place may have been that of a function whose own state came later.
        self.place_bar();
        self.msix.deliver_pending();
        self.interrupts.repeat_config();
        if let Life::Rest { queues: Some(queues), .. } = &self.life {
            queues.iter().flatten().for_each(|queue| queue.interrupt());
        }
        self.start_if_due();
        Ok(())
    }

    fn reset(&mut self) {
        self.finish_reset();
        self.config.reset();
        self.msix.reset();
        self.place_bar();
    }

    fn export_state(&self) -> Result<Vec<u8>, StateError> {
        let Life::Rest { engine, queues } = &self.life else {
            return Err(StateError::invalid(self.label(), "the device is not at rest"));
        };
        let mut registers = self.registers.clone();
        for (queue, registers) in queues.iter().flatten().zip(registers.queues_mut()) {
            if let Some(queue) = queue {
                queue.store(registers);
            }
        }
        let state = FunctionState {
            config: self.config.state(),
            msix: self.msix.state(),
            registers: registers.values().clone(),
            vectors: (0..D::KIND.queue_sizes.len()).map(|index| self.interrupts.queue_vector(index as u16)).collect(),
            config_vector: self.interrupts.config_vector(),
            flags: self.interrupts.flags(),
            active: queues.is_some(),
            front: self.front.export_state(engine)?,
        };
        encode(&self.label(), &state)
    }

    fn import_state(&mut self, version: u16, bytes: &[u8]) -> Result<(), StateError> {
        if version != D::KIND.version {
            return Err(StateError::Version { kind: D::KIND.chunk, instance: self.instance, version });
        }
        let state: FunctionState = decode(&self.label(), bytes)?;
        self.take_over(state)
    }
}
