//! MSI-X: the vector table, the pending bits, and the way to the interrupt controller.
//!
//! PCI Local Bus Specification 3.0, section 6.8.2. A vector has an interrupt source from the beginning; its message is
//! routed when the guest first unmasks it and stays routed while it is masked: masking is done here, by the pending bit.
//! So masking and unmasking, which guests do often, costs no change of the kernel's routing table.

use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::bus::enter;
use crate::interrupt::{Gsi, InterruptError, MsiMessage, MsiSink, MsiVector};
use crate::state::StateError;

/// Bytes of a table entry: message address, message data, vector control.
pub const ENTRY_BYTES: u64 = 16;
/// Vectors of one function at most: one 64-bit word of pending bits.
pub const VECTORS_MAX: usize = 64;

/// Bit of the capability's message control: MSI-X is on.
pub const CONTROL_ENABLE: u16 = 1 << 15;
/// Bit of the capability's message control: all vectors are masked.
pub const CONTROL_MASK: u16 = 1 << 14;

const ENTRY_WORDS: usize = 4;
const VECTOR_CONTROL: usize = 3;
const VECTOR_MASKED: u32 = 1;

/// The MSI-X part of a function; shared with whoever interrupts.
pub struct Msix {
    sink: Arc<dyn MsiSink>,
    inner: Mutex<Inner>,
}

struct Inner {
    vectors: Vec<Vector>,
    enabled: bool,
    masked: bool,
}

struct Vector {
    source: MsiVector,
    entry: [u32; ENTRY_WORDS],
    pending: bool,
    routed: Option<MsiMessage>,
}

/// What of it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    pub(crate) enabled: bool,
    pub(crate) masked: bool,
    pub(crate) entries: Vec<[u32; ENTRY_WORDS]>,
    pub(crate) pending: u64,
}

impl Vector {
    fn masked(&self) -> bool {
        self.entry[VECTOR_CONTROL] & VECTOR_MASKED != 0
    }

    fn message(&self) -> MsiMessage {
        MsiMessage { address: u64::from(self.entry[0]) | u64::from(self.entry[1]) << 32, data: self.entry[2] }
    }
}

impl std::fmt::Debug for Msix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Msix").field("state", &self.state()).finish_non_exhaustive()
    }
}

impl Msix {
    /// A table of `vectors` vectors, all masked, with an interrupt source each.
    ///
    /// # Errors
    /// Those of [`MsiSink::allocate`].
    ///
    /// # Panics
    /// With no or more than [`VECTORS_MAX`] vectors: a mistake in the VMM.
    pub fn new(sink: Arc<dyn MsiSink>, vectors: usize) -> Result<Self, InterruptError> {
        assert!((1..=VECTORS_MAX).contains(&vectors));
        let mut made = Vec::with_capacity(vectors);
        for _ in 0..vectors {
            let source = sink.allocate()?;
            made.push(Vector { source, entry: [0, 0, 0, VECTOR_MASKED], pending: false, routed: None });
        }
        Ok(Self { sink, inner: Mutex::new(Inner { vectors: made, enabled: false, masked: false }) })
    }

    /// How many vectors there are.
    pub fn vectors(&self) -> usize {
        enter(&self.inner).vectors.len()
    }

    /// Interrupts by `vector`, or marks it pending while it is masked. While MSI-X is off, or if there is no such
    /// vector (virtio's NO_VECTOR), nothing happens.
    pub fn trigger(&self, vector: u16) {
        let mut inner = enter(&self.inner);
        let (enabled, masked) = (inner.enabled, inner.masked);
        if !enabled {
            return;
        }
        if let Some(vector) = inner.vectors.get_mut(usize::from(vector)) {
            if masked || vector.masked() {
                vector.pending = true;
            } else {
                vector.source.trigger();
            }
        }
    }

    /// The guest reads the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        let inner = enter(&self.inner);
        for (at, byte) in (offset..).zip(data.iter_mut()) {
            let entry = inner.vectors.get((at / ENTRY_BYTES) as usize);
            let word = entry.map_or(0, |vector| vector.entry[(at % ENTRY_BYTES / 4) as usize]);
            *byte = word.to_le_bytes()[(at % 4) as usize];
        }
    }

    /// The guest writes the table: aligned words of 4 or 8 bytes; others are dropped, as the specification lets us.
    pub fn write_table(&self, offset: u64, data: &[u8]) {
        if !offset.is_multiple_of(data.len() as u64) || !matches!(data.len(), 4 | 8) {
            return;
        }
        let mut inner = enter(&self.inner);
        let Some(vector) = inner.vectors.get_mut((offset / ENTRY_BYTES) as usize) else { return };
        let first = (offset % ENTRY_BYTES / 4) as usize;
        for (word, bytes) in vector.entry[first..].iter_mut().zip(data.chunks_exact(4)) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        vector.entry[VECTOR_CONTROL] &= VECTOR_MASKED;
        self.settle(&mut inner);
    }

    /// The guest reads the pending bits.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let bits = enter(&self.inner).pending().to_le_bytes();
        for (at, byte) in (offset as usize..).zip(data.iter_mut()) {
            *byte = bits.get(at).copied().unwrap_or(0);
        }
    }

    /// The guest wrote the capability's message control.
    pub fn set_control(&self, control: u16) {
        let mut inner = enter(&self.inner);
        inner.enabled = control & CONTROL_ENABLE != 0;
        inner.masked = control & CONTROL_MASK != 0;
        self.settle(&mut inner);
    }

    /// As it was built.
    pub fn reset(&self) {
        let mut inner = enter(&self.inner);
        (inner.enabled, inner.masked) = (false, false);
        let mut gone = Vec::new();
        for vector in &mut inner.vectors {
            vector.entry = [0, 0, 0, VECTOR_MASKED];
            vector.pending = false;
            if vector.routed.take().is_some() {
                gone.push((vector.source.gsi, None));
            }
        }
        if !gone.is_empty()
            && let Err(error) = self.sink.route(&gone)
        {
            log::warn!("MSI-X: messages of a reset function stay routed: {error}");
        }
    }

    /// What travels.
    pub fn state(&self) -> MsixState {
        let inner = enter(&self.inner);
        MsixState {
            enabled: inner.enabled,
            masked: inner.masked,
            entries: inner.vectors.iter().map(|vector| vector.entry).collect(),
            pending: inner.pending(),
        }
    }

    /// Takes over a state; all messages are routed by one call.
    ///
    /// # Errors
    /// [`StateError`] if it has another number of vectors or the kernel refuses the routes.
    pub fn restore(&self, state: &MsixState) -> Result<(), StateError> {
        let mut inner = enter(&self.inner);
        if state.entries.len() != inner.vectors.len() {
            let what = format!("{} vectors, but the function has {}", state.entries.len(), inner.vectors.len());
            return Err(StateError::invalid("MSI-X", what));
        }
        (inner.enabled, inner.masked) = (state.enabled, state.masked);
        for (index, (vector, entry)) in inner.vectors.iter_mut().zip(&state.entries).enumerate() {
            vector.entry = *entry;
            vector.entry[VECTOR_CONTROL] &= VECTOR_MASKED;
            vector.pending = state.pending & (1 << index) != 0;
        }
        let changes = inner.changes();
        if !changes.is_empty() {
            self.sink.route(&changes).map_err(|error| StateError::invalid("MSI-X", error.to_string()))?;
            inner.take(&changes);
        }
        Ok(())
    }

    /// Injects what is pending and no longer masked; a restored function calls this when it goes on.
    pub fn deliver_pending(&self) {
        self.settle(&mut enter(&self.inner));
    }

    /// Routes what became visible to the guest, then delivers what waited for it.
    fn settle(&self, inner: &mut Inner) {
        if !inner.enabled || inner.masked {
            return;
        }
        let changes = inner.changes();
        if !changes.is_empty() {
            match self.sink.route(&changes) {
                Ok(()) => inner.take(&changes),
                Err(error) => log::error!("MSI-X: the guest's interrupt message cannot be routed: {error}"),
            }
        }
        for vector in &mut inner.vectors {
            if vector.pending && !vector.masked() {
                vector.pending = false;
                vector.source.trigger();
            }
        }
    }
}

impl Inner {
    fn pending(&self) -> u64 {
        self.vectors.iter().enumerate().fold(0, |bits, (index, vector)| bits | u64::from(vector.pending) << index)
    }

    /// Messages of unmasked vectors that are not yet routed as they stand in the table.
    fn changes(&self) -> Vec<(Gsi, Option<MsiMessage>)> {
        let visible = self.vectors.iter().filter(|vector| self.enabled && !vector.masked());
        let changed = visible.filter(|vector| vector.routed != Some(vector.message()));
        changed.map(|vector| (vector.source.gsi, Some(vector.message()))).collect()
    }

    fn take(&mut self, routed: &[(Gsi, Option<MsiMessage>)]) {
        for (gsi, message) in routed {
            if let Some(vector) = self.vectors.iter_mut().find(|vector| vector.source.gsi == *gsi) {
                vector.routed = *message;
            }
        }
    }
}

impl Drop for Msix {
    fn drop(&mut self) {
        for vector in &enter(&self.inner).vectors {
            if let Err(error) = self.sink.release(vector.source.gsi) {
                log::warn!("MSI-X: an interrupt source stays allocated: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::interrupt::fake::FakeMsi;

    fn msix() -> (Arc<FakeMsi>, Msix) {
        let sink = Arc::new(FakeMsi::default());
        let msix = Msix::new(sink.clone(), 3).unwrap();
        (sink, msix)
    }

    fn message(vector: u64) -> MsiMessage {
        MsiMessage { address: 0xfee0_1000, data: 0x40 + vector as u32 }
    }

    fn program(msix: &Msix, vector: u64, control: u32) {
        let message = message(vector);
        msix.write_table(vector * ENTRY_BYTES, &message.address.to_le_bytes());
        msix.write_table(vector * ENTRY_BYTES + 8, &message.data.to_le_bytes());
        msix.write_table(vector * ENTRY_BYTES + 12, &control.to_le_bytes());
    }

    #[test]
    fn a_masked_interrupt_arrives_once_when_it_is_unmasked() {
        let (sink, msix) = msix();
        program(&msix, 1, 0);
        msix.set_control(CONTROL_ENABLE);
        msix.trigger(1);
        assert_eq!(sink.take_delivered(), [message(1)]);
        msix.write_table(ENTRY_BYTES + 12, &1u32.to_le_bytes());
        msix.trigger(1);
        msix.trigger(1);
        assert_eq!(sink.take_delivered(), []);
        let mut pending = [0; 8];
        msix.read_pending(0, &mut pending);
        assert_eq!(u64::from_le_bytes(pending), 2);
        msix.write_table(ENTRY_BYTES + 12, &0u32.to_le_bytes());
        assert_eq!(sink.take_delivered(), [message(1)]);
        msix.read_pending(0, &mut pending);
        assert_eq!(u64::from_le_bytes(pending), 0);
    }

    #[test]
    fn the_function_mask_holds_all_vectors_back() {
        let (sink, msix) = msix();
        (0..3).for_each(|vector| program(&msix, vector, 0));
        msix.set_control(CONTROL_ENABLE | CONTROL_MASK);
        (0..3).for_each(|vector| msix.trigger(vector));
        assert_eq!(sink.take_delivered(), []);
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(sink.take_delivered(), [message(0), message(1), message(2)]);
    }

    #[test]
    fn masking_costs_no_routing_and_a_restore_one_call() {
        let (sink, msix) = msix();
        (0..3).for_each(|vector| program(&msix, vector, 0));
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(sink.route_calls(), 1);
        for _ in 0..10 {
            msix.write_table(12, &1u32.to_le_bytes());
            msix.write_table(12, &0u32.to_le_bytes());
        }
        assert_eq!(sink.route_calls(), 1);
        let (target_sink, target) = self::msix();
        target.restore(&msix.state()).unwrap();
        assert_eq!(target_sink.route_calls(), 1);
        assert_eq!(target.state(), msix.state());
    }

    #[test]
    fn a_pending_bit_survives_a_move() {
        let (_, source) = msix();
        program(&source, 2, 1);
        source.set_control(CONTROL_ENABLE);
        source.trigger(2);
        let (sink, target) = msix();
        target.restore(&source.state()).unwrap();
        target.deliver_pending();
        assert_eq!(sink.take_delivered(), []);
        target.write_table(2 * ENTRY_BYTES + 12, &0u32.to_le_bytes());
        assert_eq!(sink.take_delivered(), [message(2)]);
    }

    #[test]
    fn nonsense_from_the_guest_changes_nothing() {
        let (sink, msix) = msix();
        msix.set_control(CONTROL_ENABLE);
        for offset in [1, 2, 47, 48, 4096, u64::MAX - 7] {
            msix.write_table(offset, &[0xff]);
            msix.write_table(offset, &[0xff; 2]);
            msix.write_table(offset, &[]);
            msix.read_table(offset & 0xffff, &mut [0; 8]);
            msix.read_pending(offset & 0xffff, &mut [0; 8]);
        }
        msix.trigger(3);
        msix.trigger(u16::MAX);
        assert_eq!(sink.take_delivered(), []);
        drop(msix);
        assert_eq!(sink.allocated(), 0, "sources are given back");
    }

    proptest! {
        #[test]
        fn a_hostile_state_of_another_size_is_refused_and_any_other_interrupts_as_its_table_says(
            mut entries in proptest::collection::vec(any::<[u32; ENTRY_WORDS]>(), 3), count in prop_oneof![4 => Just(3), 1 => 0usize..70],
            pending in any::<u64>(), enabled in any::<bool>(), masked in any::<bool>(),
        ) {
            entries.resize(count, [u32::MAX; ENTRY_WORDS]);
            let (sink, msix) = msix();
            let taken = msix.restore(&MsixState { enabled, masked, entries: entries.clone(), pending });
            prop_assert_eq!(taken.is_ok(), entries.len() == 3);
            (0..5).for_each(|vector| msix.trigger(vector));
            msix.deliver_pending();
            if taken.is_ok() {
                let free = entries.iter().filter(|entry| entry[VECTOR_CONTROL] & VECTOR_MASKED == 0 && enabled && !masked);
                prop_assert_eq!(sink.take_delivered().len(), free.count());
                prop_assert_eq!(msix.state().pending >> 3, 0, "no vector that there is not");
            }
            msix.read_table(0, &mut [0; 256]);
            msix.set_control(CONTROL_ENABLE);
            (0..3).for_each(|vector| program(&msix, vector, 0));
            sink.take_delivered();
            msix.trigger(1);
            prop_assert_eq!(sink.take_delivered(), [message(1)], "the guest sets it up anew");
            drop(msix);
            prop_assert_eq!(sink.allocated(), 0);
        }
    }
}
