//! Common configuration: what the driver negotiates and sets up (virtio 1.2, 2.1, 3.1 and 4.1.4.3).
//!
//! ```text
//!   0 --ACKNOWLEDGE, DRIVER--> features written --FEATURES_OK--> queues set up --DRIVER_OK--> active
//!   ^                              only here                        only here          |
//!   +------------------------------- 0 written: reset ---------------------------------+
//! ```
//!
//! What comes out of turn is dropped. Nothing here has effects: a write says what is to be done, the function does it.

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};

use super::interrupts::VirtioInterrupts;
use super::layout::COMMON_BYTES;
use crate::state::StateError;
use crate::virtio::queue::QueueRegisters;

const ACKNOWLEDGE: u8 = VIRTIO_CONFIG_S_ACKNOWLEDGE as u8;
const DRIVER: u8 = VIRTIO_CONFIG_S_DRIVER as u8;
const DRIVER_OK: u8 = VIRTIO_CONFIG_S_DRIVER_OK as u8;
const FEATURES_OK: u8 = VIRTIO_CONFIG_S_FEATURES_OK as u8;
const NEEDS_RESET: u8 = VIRTIO_CONFIG_S_NEEDS_RESET as u8;
const FAILED: u8 = VIRTIO_CONFIG_S_FAILED as u8;
const STATUS_BITS: u8 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;

const DEVICE_FEATURE_SELECT: u64 = 0x00;
const DEVICE_FEATURE: u64 = 0x04;
const DRIVER_FEATURE_SELECT: u64 = 0x08;
const DRIVER_FEATURE: u64 = 0x0c;
const CONFIG_VECTOR: u64 = 0x10;
const QUEUES: u64 = 0x12;
const STATUS: u64 = 0x14;
const GENERATION: u64 = 0x15;
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_SIZE: u64 = 0x18;
const QUEUE_VECTOR: u64 = 0x1a;
const QUEUE_ENABLE: u64 = 0x1c;
const QUEUE_NOTIFY_OFFSET: u64 = 0x1e;
const QUEUE_DESCRIPTORS: u64 = 0x20;
const QUEUE_AVAILABLE: u64 = 0x28;
const QUEUE_USED: u64 = 0x30;

/// What a write asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    None,
    /// The driver is ready: start.
    Activate,
    /// Stop, and be as new.
    Reset,
}

/// The registers, but for those that engines share ([`VirtioInterrupts`]).
#[derive(Debug, Clone)]
pub struct Registers {
    offered: u64,
    sizes: &'static [u16],
    values: RegisterValues,
}

/// What of them travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterValues {
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_features: u64,
    pub(super) status: u8,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<QueueRegisters>,
}

impl Registers {
    /// Of a device that offers these features and queues of these sizes.
    pub fn new(offered: u64, sizes: &'static [u16]) -> Self {
        let values = RegisterValues {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            status: 0,
            queue_select: 0,
            queues: sizes.iter().map(|size| QueueRegisters::new(*size)).collect(),
        };
        Self { offered, sizes, values }
    }

    /// As built.
    pub fn reset(&mut self) {
        *self = Self::new(self.offered, self.sizes);
    }

    /// The features that driver and device agreed on.
    pub fn features(&self) -> u64 {
        self.values.driver_features
    }

    /// Whether the driver said that it is ready.
    pub fn driver_ok(&self) -> bool {
        self.values.status & DRIVER_OK != 0
    }

    /// What the driver set up for each queue.
    pub fn queues(&self) -> &[QueueRegisters] {
        &self.values.queues
    }

    /// The same, to note how far the rings have come.
    pub fn queues_mut(&mut self) -> &mut [QueueRegisters] {
        &mut self.values.queues
    }

    /// Entries offered for a queue.
    pub fn size_max(&self, index: usize) -> u16 {
        self.sizes[index]
    }

    /// The guest reads any bytes of common configuration.
    pub fn read(&self, shared: &VirtioInterrupts, offset: u64, data: &mut [u8]) {
        let image = self.image(shared);
        for (at, byte) in (offset as usize..).zip(data.iter_mut()) {
            *byte = image.get(at).copied().unwrap_or(0);
        }
    }

    fn image(&self, shared: &VirtioInterrupts) -> [u8; COMMON_BYTES as usize] {
        let values = &self.values;
        let mut image = [0; COMMON_BYTES as usize];
        let mut put = |at: u64, bytes: &[u8]| image[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        put(DEVICE_FEATURE_SELECT, &values.device_feature_select.to_le_bytes());
        put(DEVICE_FEATURE, &half(self.offered, values.device_feature_select).to_le_bytes());
        put(DRIVER_FEATURE_SELECT, &values.driver_feature_select.to_le_bytes());
        put(DRIVER_FEATURE, &half(values.driver_features, values.driver_feature_select).to_le_bytes());
        put(CONFIG_VECTOR, &shared.config_vector().to_le_bytes());
        put(QUEUES, &(self.sizes.len() as u16).to_le_bytes());
        put(STATUS, &[values.status | if shared.is_reset_needed() { NEEDS_RESET } else { 0 }]);
        put(GENERATION, &[shared.generation()]);
        put(QUEUE_SELECT, &values.queue_select.to_le_bytes());
        // A queue that does not exist has size 0 (4.1.4.3), and everything else of it is 0 too.
        if let Some(queue) = values.queues.get(usize::from(values.queue_select)) {
            put(QUEUE_SIZE, &queue.size.to_le_bytes());
            put(QUEUE_VECTOR, &shared.queue_vector(values.queue_select).to_le_bytes());
            put(QUEUE_ENABLE, &u16::from(queue.ready).to_le_bytes());
            put(QUEUE_NOTIFY_OFFSET, &values.queue_select.to_le_bytes());
            put(QUEUE_DESCRIPTORS, &queue.descriptors.to_le_bytes());
            put(QUEUE_AVAILABLE, &queue.available.to_le_bytes());
            put(QUEUE_USED, &queue.used.to_le_bytes());
        }
        image
    }

    /// The guest writes a field, of the field's width (a 64-bit one also by halves); anything else is dropped.
    pub fn write(&mut self, shared: &VirtioInterrupts, offset: u64, data: &[u8]) -> Wish {
        match *data {
            [value] if offset == STATUS => return self.write_status(value),
            [a, b] => self.write_16(shared, offset, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.write_32(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] if offset >= QUEUE_DESCRIPTORS && offset.is_multiple_of(8) => {
                self.write_32(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_32(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
        Wish::None
    }

    fn write_16(&mut self, shared: &VirtioInterrupts, offset: u64, value: u16) {
        match offset {
            CONFIG_VECTOR => shared.set_config_vector(value),
            QUEUE_SELECT => self.values.queue_select = value,
            QUEUE_VECTOR => shared.set_queue_vector(self.values.queue_select, value),
            QUEUE_SIZE => {
                let max = self.sizes.get(usize::from(self.values.queue_select)).copied().unwrap_or(0);
                if let Some(queue) = self.queue_being_set_up()
                    && value.is_power_of_two()
                    && value <= max
                {
                    queue.size = value;
                }
            }
            QUEUE_ENABLE if value == 1 => {
                if let Some(queue) = self.queue_being_set_up() {
                    queue.ready = true;
                }
            }
            _ => {}
        }
    }

    fn write_32(&mut self, offset: u64, value: u32) {
        match offset {
            DEVICE_FEATURE_SELECT => self.values.device_feature_select = value,
            DRIVER_FEATURE_SELECT => self.values.driver_feature_select = value,
            DRIVER_FEATURE if self.values.status & FEATURES_OK == 0 => {
                let select = self.values.driver_feature_select;
                set_half(&mut self.values.driver_features, select, value);
            }
            QUEUE_DESCRIPTORS.. => {
                let Some(queue) = self.queue_being_set_up() else { return };
                let field = match offset & !7 {
                    QUEUE_DESCRIPTORS => &mut queue.descriptors,
                    QUEUE_AVAILABLE => &mut queue.available,
                    QUEUE_USED => &mut queue.used,
                    _ => return,
                };
                if offset.is_multiple_of(4) {
                    set_half(field, (offset >> 2 & 1) as u32, value);
                }
            }
            _ => {}
        }
    }

    /// The selected queue, unless it or the device is already in use.
    fn queue_being_set_up(&mut self) -> Option<&mut QueueRegisters> {
        if self.driver_ok() {
            return None;
        }
        self.values.queues.get_mut(usize::from(self.values.queue_select)).filter(|queue| !queue.ready)
    }

    fn write_status(&mut self, value: u8) -> Wish {
        if value == 0 {
            return Wish::Reset;
        }
        // Bits are only ever added (2.1.1).
        let mut new = value & STATUS_BITS & !self.values.status;
        if new & FEATURES_OK != 0 && !self.features_acceptable() {
            new &= !FEATURES_OK;
        }
        if (self.values.status | new) & FEATURES_OK == 0 {
            new &= !DRIVER_OK;
        }
        self.values.status |= new;
        if new & DRIVER_OK != 0 { Wish::Activate } else { Wish::None }
    }

    fn features_acceptable(&self) -> bool {
        let features = self.values.driver_features;
        features & !self.offered == 0 && features & (1 << VIRTIO_F_VERSION_1) != 0
    }

    /// What travels.
    pub fn values(&self) -> &RegisterValues {
        &self.values
    }

    /// Takes over values from another machine.
    ///
    /// # Errors
    /// [`StateError::Invalid`] if no driver of this device could have brought them about.
    pub fn restore(&mut self, values: RegisterValues) -> Result<(), StateError> {
        let refuse = |what: String| Err(StateError::invalid("virtio registers", what));
        if values.queues.len() != self.sizes.len() {
            return refuse(format!("{} queues, but the device has {}", values.queues.len(), self.sizes.len()));
        }
        let size_fits = |(queue, max): (&QueueRegisters, &u16)| queue.size.is_power_of_two() && queue.size <= *max;
        if !values.queues.iter().zip(self.sizes).all(size_fits) {
            return refuse("a queue is larger than the device offers".into());
        }
        let missing = values.driver_features & !self.offered;
        if missing != 0 && values.status & FEATURES_OK != 0 {
            return refuse(format!("the driver uses features {missing:#x} that this device lacks"));
        }
        if values.status & !STATUS_BITS != 0 || values.status & (DRIVER_OK | FEATURES_OK) == DRIVER_OK {
            return refuse(format!("device status {:#x} cannot be", values.status));
        }
        self.values = values;
        Ok(())
    }
}

fn half(value: u64, select: u32) -> u32 {
    match select {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

fn set_half(value: &mut u64, select: u32, half: u32) {
    match select {
        0 => *value = *value & !0xffff_ffff | u64::from(half),
        1 => *value = *value & 0xffff_ffff | u64::from(half) << 32,
        _ => {}
    }
}
