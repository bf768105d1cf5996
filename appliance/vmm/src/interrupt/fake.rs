//! Interrupts and doorbells in memory, for tests of devices without KVM.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::{DoorbellAddress, Doorbells, Gsi, InterruptError, MsiMessage, MsiSink, MsiVector};
use crate::bus::enter;

/// First number that [`FakeMsi`] gives out.
const FIRST_GSI: Gsi = 24;

/// An [`MsiSink`] that remembers routes; the test reads the events itself.
#[derive(Debug, Default)]
pub struct FakeMsi {
    vectors: Mutex<BTreeMap<Gsi, (MsiVector, Option<MsiMessage>)>>,
    route_calls: Mutex<usize>,
}

impl FakeMsi {
    /// How often [`MsiSink::route`] was called: a restore has to do with one.
    pub fn route_calls(&self) -> usize {
        *enter(&self.route_calls)
    }

    /// The message that is routed to `gsi`.
    pub fn message(&self, gsi: Gsi) -> Option<MsiMessage> {
        enter(&self.vectors).get(&gsi).and_then(|(_, message)| *message)
    }

    /// Takes the interrupts that arrived since the last call, with the message each was routed to. Events of
    /// sources without a message are dropped, as the kernel drops them.
    pub fn take_delivered(&self) -> Vec<MsiMessage> {
        let vectors = enter(&self.vectors);
        vectors.values().filter(|(vector, _)| vector.event.read().is_ok()).filter_map(|(_, message)| *message).collect()
    }

    /// How many sources are allocated.
    pub fn allocated(&self) -> usize {
        enter(&self.vectors).len()
    }
}

impl MsiSink for FakeMsi {
    fn allocate(&self) -> Result<MsiVector, InterruptError> {
        let mut vectors = enter(&self.vectors);
        let gsi = vectors.last_key_value().map_or(FIRST_GSI, |(last, _)| last + 1);
        let event = EventFd::new(EFD_NONBLOCK)
            .map_err(|source| InterruptError::Kernel { what: "an event descriptor", source })?;
        let vector = MsiVector { gsi, event: Arc::new(event) };
        vectors.insert(gsi, (vector.clone(), None));
        Ok(vector)
    }

    fn route(&self, changes: &[(Gsi, Option<MsiMessage>)]) -> Result<(), InterruptError> {
        let mut vectors = enter(&self.vectors);
        if let Some((gsi, _)) = changes.iter().find(|(gsi, _)| !vectors.contains_key(gsi)) {
            return Err(InterruptError::Unknown { gsi: *gsi });
        }
        for (gsi, message) in changes {
            if let Some(entry) = vectors.get_mut(gsi) {
                entry.1 = *message;
            }
        }
        *enter(&self.route_calls) += 1;
        Ok(())
    }

    fn release(&self, gsi: Gsi) -> Result<(), InterruptError> {
        enter(&self.vectors).remove(&gsi).map(|_| ()).ok_or(InterruptError::Unknown { gsi })
    }
}

/// [`Doorbells`] that a test rings by hand.
#[derive(Debug, Default)]
pub struct FakeDoorbells {
    bells: Mutex<BTreeMap<(DoorbellAddress, Option<u16>), EventFd>>,
}

impl FakeDoorbells {
    /// Does what the kernel does with a guest's two-byte write. False if nothing is registered for it.
    pub fn ring(&self, address: DoorbellAddress, value: u16) -> bool {
        let bells = enter(&self.bells);
        let bell = bells.get(&(address, Some(value))).or_else(|| bells.get(&(address, None)));
        bell.is_some_and(|event| event.write(1).is_ok())
    }

    /// How many doorbells are registered.
    pub fn registered(&self) -> usize {
        enter(&self.bells).len()
    }
}

impl Doorbells for FakeDoorbells {
    fn register(
        &self,
        address: DoorbellAddress,
        datamatch: Option<u16>,
        event: &EventFd,
    ) -> Result<(), InterruptError> {
        let mut bells = enter(&self.bells);
        if bells.contains_key(&(address, datamatch)) {
            return Err(refused("a doorbell", libc::EEXIST));
        }
        let event =
            event.try_clone().map_err(|source| InterruptError::Kernel { what: "a copy of a doorbell", source })?;
        bells.insert((address, datamatch), event);
        Ok(())
    }

    fn unregister(&self, address: DoorbellAddress, datamatch: Option<u16>, _: &EventFd) -> Result<(), InterruptError> {
        let removed = enter(&self.bells).remove(&(address, datamatch));
        removed.map(|_| ()).ok_or_else(|| refused("the removal of a doorbell", libc::ENOENT))
    }
}

fn refused(what: &'static str, errno: i32) -> InterruptError {
    InterruptError::Kernel { what, source: io::Error::from_raw_os_error(errno) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupt_without_a_message_is_lost_and_with_one_arrives_once() {
        let msi = FakeMsi::default();
        let vector = msi.allocate().unwrap();
        vector.trigger();
        assert_eq!(msi.take_delivered(), []);
        let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
        msi.route(&[(vector.gsi, Some(message))]).unwrap();
        vector.trigger();
        vector.trigger();
        assert_eq!(msi.take_delivered(), [message]);
        assert_eq!(msi.take_delivered(), []);
        assert!(matches!(msi.route(&[(999, None)]), Err(InterruptError::Unknown { gsi: 999 })));
    }

    #[test]
    fn a_doorbell_rings_for_its_own_value_only() {
        let bells = FakeDoorbells::default();
        let address = DoorbellAddress::Mmio(0x1000);
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        bells.register(address, Some(1), &event).unwrap();
        assert!(bells.register(address, Some(1), &event).is_err());
        assert!(!bells.ring(address, 0));
        assert!(bells.ring(address, 1));
        assert_eq!(event.read().unwrap(), 1);
        bells.unregister(address, Some(1), &event).unwrap();
        assert!(!bells.ring(address, 1));
    }
}
