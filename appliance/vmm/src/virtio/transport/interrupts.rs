//! How an engine reaches the driver: interrupts for queues and configuration, and the wish to be reset. Shared by the
//! function and the engine's thread, so all of it is atomic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, Ordering};

use crate::pci::Msix;

/// "No vector" (virtio 1.2, 4.1.5.1.2.1).
pub const NO_VECTOR: u16 = 0xffff;

const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// The shared part of a function.
#[derive(Debug)]
pub struct VirtioInterrupts {
    msix: Arc<Msix>,
    isr: AtomicU8,
    config_vector: AtomicU16,
    queue_vectors: Vec<AtomicU16>,
    generation: AtomicU8,
    needs_reset: AtomicBool,
}

impl VirtioInterrupts {
    /// For a function with this many queues.
    pub fn new(msix: Arc<Msix>, queues: usize) -> Self {
        Self {
            msix,
            isr: AtomicU8::new(0),
            config_vector: AtomicU16::new(NO_VECTOR),
            queue_vectors: (0..queues).map(|_| AtomicU16::new(NO_VECTOR)).collect(),
            generation: AtomicU8::new(0),
            needs_reset: AtomicBool::new(false),
        }
    }

    /// Interrupts for a queue.
    pub fn queue(&self, index: u16) {
        if let Some(vector) = self.queue_vectors.get(usize::from(index)) {
            self.isr.fetch_or(ISR_QUEUE, Ordering::AcqRel);
            self.msix.trigger(vector.load(Ordering::Acquire));
        }
    }

    /// Device configuration changed: counts the generation and interrupts.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.isr.fetch_or(ISR_CONFIG, Ordering::AcqRel);
        self.msix.trigger(self.config_vector.load(Ordering::Acquire));
    }

    /// The device cannot go on until it is reset (virtio 1.2, 2.1.2).
    pub fn needs_reset(&self) {
        self.needs_reset.store(true, Ordering::Release);
        self.config_changed();
    }

    /// Whether it cannot go on.
    pub fn is_reset_needed(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// Configuration generation (4.1.4.3).
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    /// ISR status, cleared by reading.
    pub fn take_isr(&self) -> u8 {
        self.isr.swap(0, Ordering::AcqRel)
    }

    /// The configuration interrupt again, if one was sent that nobody is known to have seen.
    pub fn repeat_config(&self) {
        if self.isr.load(Ordering::Acquire) & ISR_CONFIG != 0 {
            self.msix.trigger(self.config_vector.load(Ordering::Acquire));
        }
    }

    /// Vector for configuration changes.
    pub fn config_vector(&self) -> u16 {
        self.config_vector.load(Ordering::Acquire)
    }

    /// Sets it; one that does not exist becomes [`NO_VECTOR`], which the driver reads back.
    pub fn set_config_vector(&self, vector: u16) {
        self.config_vector.store(self.checked(vector), Ordering::Release);
    }

    /// Vector of a queue.
    pub fn queue_vector(&self, index: u16) -> u16 {
        self.queue_vectors.get(usize::from(index)).map_or(NO_VECTOR, |vector| vector.load(Ordering::Acquire))
    }

    /// Sets it, as [`Self::set_config_vector`] does.
    pub fn set_queue_vector(&self, index: u16, vector: u16) {
        if let Some(slot) = self.queue_vectors.get(usize::from(index)) {
            slot.store(self.checked(vector), Ordering::Release);
        }
    }

    fn checked(&self, vector: u16) -> u16 {
        if usize::from(vector) < self.msix.vectors() { vector } else { NO_VECTOR }
    }

    /// As built.
    pub fn reset(&self) {
        self.isr.store(0, Ordering::Release);
        self.config_vector.store(NO_VECTOR, Ordering::Release);
        for vector in &self.queue_vectors {
            vector.store(NO_VECTOR, Ordering::Release);
        }
        self.generation.store(0, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
    }

    /// (ISR, generation, needs reset), for the state.
    pub fn flags(&self) -> (u8, u8, bool) {
        (self.isr.load(Ordering::Acquire), self.generation(), self.is_reset_needed())
    }

    /// Takes them over.
    pub fn set_flags(&self, (isr, generation, needs_reset): (u8, u8, bool)) {
        self.isr.store(isr & (ISR_QUEUE | ISR_CONFIG), Ordering::Release);
        self.generation.store(generation, Ordering::Release);
        self.needs_reset.store(needs_reset, Ordering::Release);
    }
}
