//! The interrupt controllers in the kernel: two PICs, an I/O APIC of 24 pins, a PIT, a local APIC for each vCPU; the table
//! that routes interrupt sources to them; irqfd and ioeventfd.
//!
//! Sources 0 to 23 are the pins of PICs and I/O APIC, wired as on a PC: the PIT's source 0 reaches pin 0 of the PIC and
//! pin 2 of the I/O APIC. Sources from 24 on are message-signalled, one for each [`MsiVector`].

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting, kvm_irq_routing_entry, kvm_irqchip, kvm_pit_config, kvm_pit_state2,
};
use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::enter;
use crate::interrupt::{DoorbellAddress, Doorbells, Gsi, InterruptError, IrqLine, MsiMessage, MsiSink, MsiVector};
use crate::state::StateError;

/// Pins of the I/O APIC.
pub const IOAPIC_PINS: u32 = 24;
/// Most message-signalled sources of a machine. KVM's table holds 4096 entries, 39 of which are the pins'.
pub const MSI_VECTORS_MAX: u32 = 2048;

#[derive(Debug)]
struct Source {
    vector: MsiVector,
    message: Option<MsiMessage>,
}

#[derive(Debug, Default)]
struct Routes {
    sources: BTreeMap<Gsi, Source>,
    /// Changes are kept back until [`Irqchip::publish_all`].
    kept_back: bool,
}

/// The kernel's interrupt controllers of one machine.
#[derive(Debug)]
pub struct Irqchip {
    vm: Arc<VmFd>,
    routes: Mutex<Routes>,
}

/// What is saved of the controllers that the vCPUs share.
#[derive(Serialize, Deserialize)]
pub struct IrqchipState {
    pic_master: kvm_irqchip,
    pic_slave: kvm_irqchip,
    ioapic: kvm_irqchip,
    pit: kvm_pit_state2,
}

fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> InterruptError {
    move |error| InterruptError::Kernel { what, source: io::Error::from_raw_os_error(error.errno()) }
}

impl Irqchip {
    /// Creates the controllers. Comes before the first vCPU.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(vm: Arc<VmFd>) -> Result<Self, InterruptError> {
        vm.create_irq_chip().map_err(refused("the interrupt controllers"))?;
        // The speaker's port is handled with the PIT, as its gate bits are where guests calibrate their TSC.
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        vm.create_pit2(pit).map_err(refused("the timer"))?;
        let chip = Self { vm, routes: Mutex::default() };
        chip.publish(&enter(&chip.routes))?;
        Ok(chip)
    }

    /// An edge-triggered pin: each write to the event raises and lowers it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn edge(&self, gsi: Gsi) -> Result<EventFd, InterruptError> {
        let event = new_event()?;
        self.vm.register_irqfd(&event, gsi).map_err(refused("an interrupt event"))?;
        Ok(event)
    }

    /// A level-triggered pin.
    pub fn line(&self, gsi: Gsi) -> Arc<dyn IrqLine> {
        Arc::new(Line { vm: Arc::clone(&self.vm), gsi })
    }

    /// Keeps changes of routes back until [`Self::publish_all`]: each table that the kernel is given costs it a wait for all
    /// vCPUs to have let go of the one before, and on a restore every device has routes to set.
    pub fn keep_back(&self) {
        enter(&self.routes).kept_back = true;
    }

    /// Gives the kernel the table with all changes, and from now on each at once.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn publish_all(&self) -> Result<(), InterruptError> {
        let mut routes = enter(&self.routes);
        routes.kept_back = false;
        self.publish(&routes)
    }

    /// Writes the whole table to the kernel.
    fn publish(&self, routes: &Routes) -> Result<(), InterruptError> {
        if routes.kept_back {
            return Ok(());
        }
        let mut entries = pin_entries();
        entries.extend(routes.sources.iter().filter_map(|(gsi, source)| Some(msi_entry(*gsi, source.message?))));
        let table =
            KvmIrqRouting::from_entries(&entries).map_err(|_| InterruptError::Exhausted { limit: MSI_VECTORS_MAX })?;
        self.vm.set_gsi_routing(&table).map_err(refused("the interrupt routes"))
    }

    /// Reads the controllers that the vCPUs share. No vCPU runs.
    ///
    /// # Errors
    /// [`StateError::Kernel`].
    pub fn export_state(&self) -> Result<IrqchipState, StateError> {
        let chip = |id: u32| {
            let mut chip = kvm_irqchip { chip_id: id, ..Default::default() };
            self.vm.get_irqchip(&mut chip).map_err(kernel("the reading of an interrupt controller"))?;
            Ok::<_, StateError>(chip)
        };
        Ok(IrqchipState {
            pit: self.vm.get_pit2().map_err(kernel("the reading of the timer"))?,
            pic_master: chip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: chip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: chip(KVM_IRQCHIP_IOAPIC)?,
        })
    }

    /// Writes the controllers that the vCPUs share. No vCPU runs.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn import_state(&self, state: &IrqchipState) -> Result<(), StateError> {
        let chips = [
            (&state.pic_master, KVM_IRQCHIP_PIC_MASTER),
            (&state.pic_slave, KVM_IRQCHIP_PIC_SLAVE),
            (&state.ioapic, KVM_IRQCHIP_IOAPIC),
        ];
        for (chip, id) in chips {
            if chip.chip_id != id {
                return Err(StateError::invalid(SUBJECT, format!("controller {} where {id} belongs", chip.chip_id)));
            }
        }
        self.vm.set_pit2(&state.pit).map_err(kernel("the timer"))?;
        for (chip, _) in chips {
            self.vm.set_irqchip(chip).map_err(kernel("an interrupt controller"))?;
        }
        Ok(())
    }
}

const SUBJECT: &str = "the interrupt controllers";

fn kernel(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> StateError {
    move |error| StateError::Kernel { subject: SUBJECT.into(), what, errno: error.to_string() }
}

fn new_event() -> Result<EventFd, InterruptError> {
    EventFd::new(EFD_NONBLOCK).map_err(|source| InterruptError::Kernel { what: "an event descriptor", source })
}

fn pin_entries() -> Vec<kvm_irq_routing_entry> {
    let mut entries = Vec::new();
    for gsi in 0..16 {
        let (chip, pin) = if gsi < 8 { (KVM_IRQCHIP_PIC_MASTER, gsi) } else { (KVM_IRQCHIP_PIC_SLAVE, gsi - 8) };
        entries.push(pin_entry(gsi, chip, pin));
    }
    for gsi in 0..IOAPIC_PINS {
        match gsi {
            0 => entries.push(pin_entry(0, KVM_IRQCHIP_IOAPIC, 2)),
            // The PICs' cascade: nothing reaches the I/O APIC by it.
            2 => {}
            _ => entries.push(pin_entry(gsi, KVM_IRQCHIP_IOAPIC, gsi)),
        }
    }
    entries
}

fn pin_entry(gsi: Gsi, irqchip: u32, pin: u32) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
    entry.u.irqchip.irqchip = irqchip;
    entry.u.irqchip.pin = pin;
    entry
}

fn msi_entry(gsi: Gsi, message: MsiMessage) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    entry.u.msi.address_lo = message.address as u32;
    entry.u.msi.address_hi = (message.address >> 32) as u32;
    entry.u.msi.data = message.data;
    entry
}

impl MsiSink for Irqchip {
    fn allocate(&self) -> Result<MsiVector, InterruptError> {
        let sources = &mut enter(&self.routes).sources;
        let free = (IOAPIC_PINS..IOAPIC_PINS + MSI_VECTORS_MAX).find(|gsi| !sources.contains_key(gsi));
        let gsi = free.ok_or(InterruptError::Exhausted { limit: MSI_VECTORS_MAX })?;
        let event = new_event()?;
        self.vm.register_irqfd(&event, gsi).map_err(refused("an interrupt event"))?;
        let vector = MsiVector { gsi, event: Arc::new(event) };
        sources.insert(gsi, Source { vector: vector.clone(), message: None });
        Ok(vector)
    }

    fn route(&self, changes: &[(Gsi, Option<MsiMessage>)]) -> Result<(), InterruptError> {
        let mut routes = enter(&self.routes);
        if let Some((gsi, _)) = changes.iter().find(|(gsi, _)| !routes.sources.contains_key(gsi)) {
            return Err(InterruptError::Unknown { gsi: *gsi });
        }
        let mut changed = false;
        for (gsi, message) in changes {
            if let Some(source) = routes.sources.get_mut(gsi)
                && source.message != *message
            {
                source.message = *message;
                changed = true;
            }
        }
        if changed { self.publish(&routes) } else { Ok(()) }
    }

    fn release(&self, gsi: Gsi) -> Result<(), InterruptError> {
        let mut routes = enter(&self.routes);
        let source = routes.sources.remove(&gsi).ok_or(InterruptError::Unknown { gsi })?;
        self.vm.unregister_irqfd(&source.vector.event, gsi).map_err(refused("the removal of an interrupt event"))?;
        if source.message.is_some() { self.publish(&routes) } else { Ok(()) }
    }
}

impl Doorbells for Irqchip {
    fn register(
        &self,
        address: DoorbellAddress,
        datamatch: Option<u16>,
        event: &EventFd,
    ) -> Result<(), InterruptError> {
        let address = kvm_address(address);
        match datamatch {
            Some(value) => self.vm.register_ioevent(event, &address, Datamatch16(value)),
            None => self.vm.register_ioevent(event, &address, NoDatamatch),
        }
        .map_err(refused("a doorbell"))
    }

    fn unregister(
        &self,
        address: DoorbellAddress,
        datamatch: Option<u16>,
        event: &EventFd,
    ) -> Result<(), InterruptError> {
        let address = kvm_address(address);
        match datamatch {
            Some(value) => self.vm.unregister_ioevent(event, &address, Datamatch16(value)),
            None => self.vm.unregister_ioevent(event, &address, NoDatamatch),
        }
        .map_err(refused("the removal of a doorbell"))
    }
}

/// kvm-ioctls takes the length of the match from the size of the type.
struct Datamatch16(u16);

impl From<Datamatch16> for u64 {
    fn from(value: Datamatch16) -> Self {
        Self::from(value.0)
    }
}

fn kvm_address(address: DoorbellAddress) -> IoEventAddress {
    match address {
        DoorbellAddress::Mmio(address) => IoEventAddress::Mmio(address),
        DoorbellAddress::Pio(port) => IoEventAddress::Pio(port),
    }
}

#[derive(Debug)]
struct Line {
    vm: Arc<VmFd>,
    gsi: Gsi,
}

impl IrqLine for Line {
    fn set(&self, asserted: bool) {
        if let Err(error) = self.vm.set_irq_line(self.gsi, asserted) {
            log::error!("interrupt line {} cannot be set: {error}", self.gsi);
        }
    }
}
