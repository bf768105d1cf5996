//! A ring as an engine uses it: take requests, give them back, interrupt no more than the driver wants.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::chain::{Chain, ChainError};
use super::transport::interrupts::VirtioInterrupts;
use crate::memory::GuestMemory;
use crate::state::StateError;

const AVAILABLE_HEADER_BYTES: u64 = 4;
const AVAILABLE_ELEMENT_BYTES: u64 = 2;
const USED_HEADER_BYTES: u64 = 4;
const USED_ELEMENT_BYTES: u64 = 8;

/// What the driver set up for a queue, and how far both sides have come. The mirror of virtio-queue's state that travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRegisters {
    /// Entries, a power of two up to what the device offers.
    pub size: u16,
    /// Whether the driver enabled it.
    pub ready: bool,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Of the available ring.
    pub available: u64,
    /// Of the used ring.
    pub used: u64,
    /// Next entry of the available ring that the device takes. Never read back from the ring.
    pub next_available: u16,
    /// Next entry of the used ring that the device fills.
    pub next_used: u16,
}

impl QueueRegisters {
    /// Not set up, with `size` entries offered.
    pub fn new(size: u16) -> Self {
        Self { size, ready: false, descriptors: 0, available: 0, used: 0, next_available: 0, next_used: 0 }
    }

    /// The ring, if the driver's addresses and size can be one that lies in RAM.
    ///
    /// # Errors
    /// [`StateError::Invalid`] names what is wrong.
    pub fn queue(&self, size_max: u16, event_index: bool, memory: &GuestMemory) -> Result<Queue, StateError> {
        let state = QueueState {
            max_size: size_max,
            next_avail: self.next_available,
            next_used: self.next_used,
            event_idx_enabled: event_index,
            size: self.size,
            ready: self.ready,
            desc_table: self.descriptors,
            avail_ring: self.available,
            used_ring: self.used,
        };
        let queue = Queue::try_from(state).map_err(|error| StateError::invalid("virtio queue", error.to_string()))?;
        if !queue.is_valid(memory) {
            return Err(StateError::invalid("virtio queue", "its rings are not in the guest's memory"));
        }
        Ok(queue)
    }
}

/// A queue that the driver has set up. Owned by the engine's thread while the device runs.
pub struct VirtQueue {
    index: u16,
    queue: Queue,
    memory: GuestMemory,
    kick: Arc<EventFd>,
    interrupts: Arc<VirtioInterrupts>,
    broken: bool,
    /// The used index at the last look at whether to interrupt.
    notified: u16,
}

impl std::fmt::Debug for VirtQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtQueue").field("index", &self.index).field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl VirtQueue {
    /// Queue number `index` of a device.
    pub fn new(
        index: u16,
        queue: Queue,
        memory: GuestMemory,
        kick: Arc<EventFd>,
        interrupts: Arc<VirtioInterrupts>,
    ) -> Self {
        let notified = queue.next_used();
        Self { index, queue, memory, kick, interrupts, broken: false, notified }
    }

    /// Guest memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The eventfd that the driver's notifications write.
    pub fn kick(&self) -> RawFd {
        self.kick.as_raw_fd()
    }

    /// Resets the kick's counter, for who waits level-triggered.
    pub fn take_kick(&self) {
        let _ = self.kick.read();
    }

    /// Entries.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Takes the next request into `chain`. False if there is none, or the driver broke the queue: then the device asks to
    /// be reset and the queue stays silent.
    pub fn pop(&mut self, chain: &mut Chain) -> bool {
        if self.broken {
            return false;
        }
        let next = match self.queue.iter(&self.memory) {
            Ok(mut available) => available.next(),
            Err(error) => {
                self.break_down(&error);
                return false;
            }
        };
        let Some(next) = next else { return false };
        match chain.load(next, &self.memory) {
            Ok(()) => true,
            Err(error) => {
                self.break_down::<ChainError>(&error);
                false
            }
        }
    }

    /// Makes `count` requests that were taken last, and not given back, available again.
    pub fn unpop(&mut self, count: u16) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// Gives a request back, `written` bytes of its writable part having been written.
    pub fn push_used(&mut self, head: u16, written: u32) {
        if self.broken {
            return;
        }
        if let Err(error) = self.queue.add_used(&self.memory, head, written) {
            self.break_down(&error);
        }
    }

    /// Gives several requests back at once: the driver sees all of them or none (virtio 1.2, 5.1.6.4: the buffers that one
    /// packet spans).
    pub fn push_used_together(&mut self, used: &[(u16, u32)]) {
        let Some(((last_head, last_written), first)) = used.split_last() else { return };
        let (next, size) = (self.queue.next_used(), self.queue.size());
        for (at, (head, written)) in first.iter().enumerate() {
            // The ring was checked to be in RAM; the index is published by the last one below.
            let slot = next.wrapping_add(at as u16) % size;
            // struct virtq_used_elem: id, then length, both 32 bits little-endian.
            let element = (u64::from(*head) | u64::from(*written) << 32).to_le();
            let address =
                GuestAddress(self.queue.used_ring() + USED_HEADER_BYTES + USED_ELEMENT_BYTES * u64::from(slot));
            if let Err(error) = self.memory.write_obj(element, address) {
                return self.break_down(&error);
            }
        }
        self.queue.set_next_used(next.wrapping_add(first.len() as u16));
        self.push_used(*last_head, *last_written);
    }

    /// Interrupts for what was given back since the last call, unless the driver asked not to.
    pub fn notify(&mut self) {
        if self.queue.next_used() != self.notified && self.wants_interrupt() {
            self.interrupts.queue(self.index);
        }
    }

    /// Interrupts whatever the driver asked for.
    pub fn interrupt(&self) {
        self.interrupts.queue(self.index);
    }

    /// virtio 1.2, 2.7.7.2 and 2.7.10. virtio-queue knows neither the flag nor what was given back together.
    fn wants_interrupt(&mut self) -> bool {
        let (now, before) = (self.queue.next_used(), self.notified);
        self.notified = now;
        // The used index must be out before the driver's wish is read, or both sides could wait for each other.
        fence(Ordering::SeqCst);
        let available = self.queue.avail_ring();
        if self.queue.event_idx_enabled() {
            let event = available + AVAILABLE_HEADER_BYTES + AVAILABLE_ELEMENT_BYTES * u64::from(self.queue.size());
            let event: Result<u16, _> = self.memory.load(GuestAddress(event), Ordering::Relaxed);
            return event.map_or(true, |event| {
                now.wrapping_sub(u16::from_le(event)).wrapping_sub(1) < now.wrapping_sub(before)
            });
        }
        let flags: Result<u16, _> = self.memory.load(GuestAddress(available), Ordering::Relaxed);
        flags.map_or(true, |flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Asks the driver to notify again. True if requests came meanwhile: look once more.
    pub fn enable_kicks(&mut self) -> bool {
        if self.broken {
            return false;
        }
        match self.queue.enable_notification(&self.memory) {
            Ok(more) => more,
            Err(error) => {
                self.break_down(&error);
                false
            }
        }
    }

    /// Tells the driver not to notify: the queue is looked at anyway.
    pub fn disable_kicks(&mut self) {
        if !self.broken
            && let Err(error) = self.queue.disable_notification(&self.memory)
        {
            self.break_down(&error);
        }
    }

    /// Whether the driver broke the queue.
    pub fn broken(&self) -> bool {
        self.broken
    }

    /// How far both sides have come, into the registers that travel.
    pub fn store(&self, registers: &mut QueueRegisters) {
        registers.next_available = self.queue.next_avail();
        registers.next_used = self.queue.next_used();
    }

    /// The driver cannot be trusted with this queue any more: virtio 1.2, section 2.1.2.
    fn break_down<E: std::error::Error>(&mut self, error: &E) {
        self.broken = true;
        log::warn!("virtio queue {}: the driver broke it: {error}", self.index);
        self.interrupts.needs_reset();
    }

    /// As [`Self::break_down`], for requests that are well-formed chains but no requests of the device.
    pub fn refuse(&mut self, what: &'static str) {
        self.break_down(&Refused(what));
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(&'static str);
