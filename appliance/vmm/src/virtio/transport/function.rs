//! A virtio device as a PCI function: carries out what its registers ask for.
//!
//! Reset does not wait: a driver that writes 0 to the status reads it until it is 0 (virtio 1.2, 4.1.4.3.2), and until the
//! engine has drained it reads the old one. So a disk whose server is away holds up no vCPU.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::interrupts::VirtioInterrupts;
use super::layout::{self, Capabilities, window};
use super::registers::{Registers, Wish};
use crate::bus::{Bus, BusDevice, Shared, enter};
use crate::interrupt::{DoorbellAddress, Doorbells, InterruptError, MsiSink};
use crate::memory::GuestMemory;
use crate::pci::msix::{CONTROL_ENABLE, CONTROL_MASK};
use crate::pci::slots::{BAR_BYTES, bar_start};
use crate::pci::{BarWindows, ConfigSpace, Msix, PciFunction};
use crate::state::StateError;
use crate::virtio::device::{Engine, Queues, VirtioDevice};
use crate::virtio::queue::VirtQueue;
use crate::virtio::worker::Worker;
#[cfg(test)]
use {crate::virtio::worker::interest, std::os::fd::AsRawFd};

/// Features of the rings, offered for every device.
pub const RING_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// What a function is connected to.
#[derive(Clone)]
pub struct Wiring {
    /// Where BARs answer.
    pub mmio: Bus,
    /// Where BARs may lie.
    pub windows: BarWindows,
    /// Guest RAM.
    pub memory: GuestMemory,
    /// Where interrupts go.
    pub msi: Arc<dyn MsiSink>,
    /// Where notifications come from.
    pub doorbells: Arc<dyn Doorbells>,
}

/// Why a function could not be built.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// No interrupt source, or none that the kernel takes.
    #[error("the interrupts of {name} cannot be set up")]
    Interrupts {
        /// Name of the device.
        name: String,
        /// Why.
        #[source]
        source: InterruptError,
    },
    /// No descriptor for a doorbell.
    #[error("the doorbells of {name} cannot be set up")]
    Doorbells {
        /// Name of the device.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Where engine and queues are.
pub(super) enum Life<E: Engine> {
    /// Here. No queues: the driver has not set the device up, or broke it while it did.
    Rest { engine: E, queues: Option<Queues> },
    /// With the worker thread. `resetting`: the driver waits for the status to become 0.
    Running { worker: Worker<E>, resetting: bool },
    /// Nowhere: the thread panicked. Stays so until the machine is gone.
    Lost,
}

/// A virtio device on the PCI bus.
pub struct VirtioPci<D: VirtioDevice> {
    me: Weak<Mutex<Self>>,
    pub(super) instance: u16,
    pub(super) front: D,
    pub(super) life: Life<D::Engine>,
    pub(super) machine_runs: bool,
    pub(super) patience: Duration,
    pub(super) registers: Registers,
    pub(super) config: ConfigSpace,
    capabilities: Capabilities,
    pub(super) msix: Arc<Msix>,
    pub(crate) interrupts: Arc<VirtioInterrupts>,
    kicks: Vec<Arc<EventFd>>,
    wiring: Wiring,
    bar_at: Option<u64>,
}

impl<D: VirtioDevice> std::fmt::Debug for VirtioPci<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtioPci").field("name", &self.label()).field("bar", &self.bar_at).finish_non_exhaustive()
    }
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// Builds the function for `slot`; `instance` tells devices of one kind apart. Its BAR answers at once; the engine
    /// starts when the driver is ready and the machine runs.
    ///
    /// # Errors
    /// [`FunctionError`].
    pub fn new(
        front: D,
        engine: D::Engine,
        instance: u16,
        slot: u8,
        wiring: Wiring,
    ) -> Result<Shared<Self>, FunctionError> {
        let kind = D::KIND;
        let name = || format!("{} {instance}", kind.noun);
        let vectors = kind.queue_sizes.len() + 1;
        let msix = Msix::new(Arc::clone(&wiring.msi), vectors)
            .map_err(|source| FunctionError::Interrupts { name: name(), source })?;
        let msix = Arc::new(msix);
        let kicks: Result<Vec<_>, _> =
            kind.queue_sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map(Arc::new)).collect();
        let kicks = kicks.map_err(|source| FunctionError::Doorbells { name: name(), source })?;
        let (config, capabilities) = layout::config_space(&kind, bar_start(slot), vectors);
        let function = Arc::new_cyclic(|me| {
            Mutex::new(Self {
                me: me.clone(),
                instance,
                registers: Registers::new(front.features() | RING_FEATURES, kind.queue_sizes),
                front,
                life: Life::Rest { engine, queues: None },
                machine_runs: false,
                patience: super::state::QUIESCE_MAX,
                config,
                capabilities,
                interrupts: Arc::new(VirtioInterrupts::new(Arc::clone(&msix), kicks.len())),
                msix,
                kicks,
                wiring,
                bar_at: None,
            })
        });
        enter(&function).place_bar();
        Ok(function)
    }

    /// What the operator calls it.
    pub(crate) fn label(&self) -> String {
        format!("{} {}", D::KIND.noun, self.instance)
    }

    /// The front, for what the host changes about the device.
    pub fn front(&mut self) -> &mut D {
        &mut self.front
    }

    /// Calls `change` with front and engine, if the engine is not at work; then starts it, should it be due. None if it is
    /// at work or lost.
    pub fn with_engine<R>(&mut self, change: impl FnOnce(&mut D, &mut D::Engine) -> R) -> Option<R> {
        let Life::Rest { engine, .. } = &mut self.life else { return None };
        let result = change(&mut self.front, engine);
        self.start_if_due();
        Some(result)
    }

    /// Whether a thread works on the queues.
    pub fn is_running(&self) -> bool {
        matches!(self.life, Life::Running { .. })
    }

    /// Starts the engine if the machine runs, the driver is ready, and the engine has what it needs.
    pub(super) fn start_if_due(&mut self) {
        if !self.machine_runs {
            return;
        }
        self.life = match std::mem::replace(&mut self.life, Life::Lost) {
            Life::Rest { engine, queues: Some(queues) } if engine.ready() => {
                match Worker::start(&self.label(), engine, queues) {
                    Ok(worker) => Life::Running { worker, resetting: false },
                    Err((engine, queues, error)) => {
                        log::error!("{}: no thread for it: {error}", self.label());
                        self.interrupts.needs_reset();
                        Life::Rest { engine, queues: Some(queues) }
                    }
                }
            }
            life => life,
        };
    }

    /// Takes engine and queues back from a thread that has ended or is about to.
    pub(super) fn join(&mut self) {
        self.life = match std::mem::replace(&mut self.life, Life::Lost) {
            Life::Running { worker, resetting } => match worker.join() {
                Ok((engine, queues)) => {
                    self.life = Life::Rest { engine, queues: Some(queues) };
                    if resetting {
                        self.finish_reset();
                    }
                    return;
                }
                Err(error) => {
                    log::error!("{}: {error}", self.label());
                    self.interrupts.needs_reset();
                    Life::Lost
                }
            },
            life => life,
        };
    }

    /// The driver wrote 0 to the status. What it writes until it reads 0 is swept away with the rest.
    fn begin_reset(&mut self) {
        match &mut self.life {
            Life::Rest { .. } => self.finish_reset(),
            Life::Running { worker, resetting } => {
                worker.ask_to_stop();
                *resetting = true;
            }
            Life::Lost => {}
        }
    }

    /// Engine and queues are at rest: be as new. PCI registers and the MSI-X table stay, they are not virtio's.
    pub(super) fn finish_reset(&mut self) {
        if let Life::Rest { engine, queues } = &mut self.life {
            *queues = None;
            self.front.reset(engine);
            self.registers.reset();
            self.interrupts.reset();
        }
    }

    /// A reset that waited for the engine may be over.
    fn poll_reset(&mut self) {
        if let Life::Running { worker, resetting: true } = &self.life
            && worker.has_ended()
        {
            self.join();
        }
    }

    /// The driver is ready.
    fn activate(&mut self) {
        match self.build_queues() {
            Ok(built) => {
                if let Life::Rest { engine, queues } = &mut self.life {
                    *queues = Some(built);
                    self.front.activate(engine, self.registers.features());
                }
                self.start_if_due();
            }
            Err(error) => {
                log::warn!("{}: the driver set it up wrongly: {error}", self.label());
                self.interrupts.needs_reset();
            }
        }
    }

    /// Queues of what the driver set up.
    pub(super) fn build_queues(&self) -> Result<Queues, StateError> {
        let event_index = self.registers.features() & 1 << VIRTIO_RING_F_EVENT_IDX != 0;
        let memory = &self.wiring.memory;
        let build = |(index, registers): (usize, &crate::virtio::queue::QueueRegisters)| {
            if !registers.ready {
                return Ok(None);
            }
            let queue = registers.queue(self.registers.size_max(index), event_index, memory)?;
            let (kick, interrupts) = (Arc::clone(&self.kicks[index]), Arc::clone(&self.interrupts));
            Ok(Some(VirtQueue::new(index as u16, queue, memory.clone(), kick, interrupts)))
        };
        self.registers.queues().iter().enumerate().map(build).collect()
    }

    /// A doorbell that came over the bus: where the kernel does not take it.
    fn kick(&self, offset: u64) {
        if let Some(kick) = self.kicks.get((offset / layout::NOTIFY_STEP) as usize) {
            let _ = kick.write(1);
        }
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        match region(offset, data.len()) {
            Region::Common(at) => {
                self.poll_reset();
                self.registers.read(&self.interrupts, at, data);
            }
            Region::Isr => {
                data.fill(0);
                data[0] = self.interrupts.take_isr();
            }
            Region::Device(at) => {
                data.fill(0);
                self.front.read_config(at as usize, data);
            }
            Region::Table(at) => self.msix.read_table(at, data),
            Region::Pending(at) => self.msix.read_pending(at, data),
            Region::Notify(_) | Region::Nothing => data.fill(0),
        }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        match region(offset, data.len()) {
            Region::Common(at) => {
                self.poll_reset();
                match self.registers.write(&self.interrupts, at, data) {
                    Wish::None => {}
                    Wish::Activate => self.activate(),
                    Wish::Reset => self.begin_reset(),
                }
            }
            Region::Device(at) => self.front.write_config(at as usize, data),
            Region::Notify(at) => self.kick(at),
            Region::Table(at) => self.msix.write_table(at, data),
            Region::Isr | Region::Pending(_) | Region::Nothing => {}
        }
    }

    /// Where the window of configuration space (4.1.4.9) looks: offset in the BAR and length.
    fn window_target(&self) -> Option<(u64, usize)> {
        let at = self.capabilities.window;
        let (bar, offset) = (self.config.u16_at(at + window::BAR) as u8, self.config.u32_at(at + window::OFFSET));
        let length = self.config.u32_at(at + window::LENGTH);
        let fits = u64::from(offset) + u64::from(length) <= BAR_BYTES && offset.is_multiple_of(length.max(1));
        (bar == 0 && matches!(length, 1 | 2 | 4) && fits).then_some((u64::from(offset), length as usize))
    }

    fn touches_window(&self, offset: usize, length: usize) -> bool {
        let data = self.capabilities.window + window::DATA;
        offset < data + 4 && offset + length > data
    }

    fn unplace_bar(&mut self) {
        let Some(start) = self.bar_at.take() else { return };
        for (index, kick) in self.kicks.iter().enumerate() {
            if let Err(error) = self.wiring.doorbells.unregister(doorbell(start, index), None, kick) {
                log::debug!("{}: doorbell {index}: {error}", self.label());
            }
        }
        if let Err(error) = self.wiring.mmio.remove(start) {
            log::warn!("{}: its BAR was not on the bus: {error}", self.label());
        }
    }
}

#[cfg(test)]
impl<D: VirtioDevice> VirtioPci<D> {
    /// Rings every queue, wherever its doorbell is.
    pub(super) fn ring_all(&self) {
        (0..self.kicks.len()).for_each(|queue| self.kick(queue as u64 * layout::NOTIFY_STEP));
    }

    /// Whether the engine has heard every ring of the queues that it works on.
    pub(super) fn all_heard(&self) -> bool {
        let used = self.registers.queues().iter().zip(&self.kicks).filter(|(queue, _)| queue.ready);
        !self.is_running()
            || used.into_iter().all(|(_, kick)| {
                let mut waiting = [interest(kick.as_raw_fd(), libc::POLLIN)];
                // SAFETY: a valid slice for the length of the call, which does not wait.
                unsafe { libc::poll(waiting.as_mut_ptr(), 1, 0) == 0 }
            })
    }

    /// Reads everything in the BAR, and writes it back but for the status.
    pub(super) fn touch_bar(&mut self) {
        for offset in (0..BAR_BYTES).step_by(4) {
            let mut word = [0; 4];
            self.read_bar(offset, &mut word);
            if offset != 0x14 {
                self.write_bar(offset, &word);
            }
        }
    }
}

fn doorbell(bar: u64, index: usize) -> DoorbellAddress {
    DoorbellAddress::Mmio(bar + layout::NOTIFY + index as u64 * layout::NOTIFY_STEP)
}

enum Region {
    Common(u64),
    Isr,
    Device(u64),
    Notify(u64),
    Table(u64),
    Pending(u64),
    Nothing,
}

/// Which part of the BAR an access is wholly in.
fn region(offset: u64, length: usize) -> Region {
    let within = |start: u64, bytes: u64| {
        offset.checked_sub(start).filter(|at| at.checked_add(length as u64).is_some_and(|end| end <= bytes))
    };
    if length == 0 {
        return Region::Nothing;
    }
    if let Some(at) = within(layout::COMMON, layout::COMMON_BYTES) {
        Region::Common(at)
    } else if offset == layout::ISR {
        Region::Isr
    } else if let Some(at) = within(layout::DEVICE, layout::DEVICE_BYTES) {
        Region::Device(at)
    } else if let Some(at) = within(layout::NOTIFY, layout::NOTIFY_BYTES) {
        Region::Notify(at)
    } else if let Some(at) = within(layout::MSIX_TABLE, layout::MSIX_TABLE_BYTES) {
        Region::Table(at)
    } else if let Some(at) = within(layout::MSIX_PENDING, layout::MSIX_PENDING_BYTES) {
        Region::Pending(at)
    } else {
        Region::Nothing
    }
}

impl<D: VirtioDevice> PciFunction for VirtioPci<D> {
    fn read_config(&mut self, offset: usize, data: &mut [u8]) {
        if self.touches_window(offset, data.len())
            && let Some((at, length)) = self.window_target()
        {
            let mut seen = [0; 4];
            self.read_bar(at, &mut seen[..length]);
            self.config.write(self.capabilities.window + window::DATA, &seen);
        }
        self.config.read(offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.config.write(offset, data);
        if self.touches_window(offset, data.len())
            && let Some((at, length)) = self.window_target()
        {
            let mut bytes = [0; 4];
            self.config.read(self.capabilities.window + window::DATA, &mut bytes);
            self.write_bar(at, &bytes[..length]);
        }
        let control = self.capabilities.msix + 2;
        if offset < control + 2 && offset + data.len() > control {
            self.msix.set_control(self.config.u16_at(control) & (CONTROL_ENABLE | CONTROL_MASK));
        }
        self.place_bar();
    }

    fn place_bar(&mut self) {
        let wanted = self.config.bar_start(&self.wiring.windows);
        if wanted == self.bar_at {
            return;
        }
        self.unplace_bar();
        let Some(start) = wanted else { return };
        let window = Arc::new(Mutex::new(BarWindow(self.me.clone())));
        if let Err(error) = self.wiring.mmio.insert(start, BAR_BYTES, window) {
            log::debug!("{}: its BAR answers nobody: {error}", self.label());
            return;
        }
        self.bar_at = Some(start);
        for (index, kick) in self.kicks.iter().enumerate() {
            if let Err(error) = self.wiring.doorbells.register(doorbell(start, index), None, kick) {
                log::warn!("{}: doorbell {index} rings by exits: {error}", self.label());
            }
        }
    }
}

/// What is on the bus: it knows the function but does not keep it alive.
struct BarWindow<D: VirtioDevice>(Weak<Mutex<VirtioPci<D>>>);

impl<D: VirtioDevice> BusDevice for BarWindow<D> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(function) = self.0.upgrade() {
            enter(&function).read_bar(offset, data);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        if let Some(function) = self.0.upgrade() {
            enter(&function).write_bar(offset, data);
        }
    }
}

impl<D: VirtioDevice> Drop for VirtioPci<D> {
    fn drop(&mut self) {
        self.unplace_bar();
        if let Life::Running { worker, .. } = &self.life {
            worker.ask_to_stop();
            if worker.wait_end(self.patience) {
                self.join();
            } else {
                log::error!("{}: its thread does not end; it is left behind", self.label());
            }
        }
    }
}
