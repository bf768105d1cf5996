//! Which virtio devices there are on PCI bus 0, by its configuration space in memory (ECAM).

use core::fmt;

use heapless::Vec;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{BarInfo, Cam, Command, DeviceFunction, MmioCam, PciError, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, VirtioPciError, virtio_device_type};

use crate::virtio::memory::Identity;

/// Most devices that are noted.
const DEVICES_MAX: usize = 32;
/// Where the map ends that is there from the start (`boot::paging`).
const MAPPED: u64 = 4 << 30;

/// Why a device cannot be used.
#[derive(Debug)]
pub enum BusError {
    /// Its registers lie where nothing is mapped.
    Beyond(u64),
    /// Its BARs make no sense.
    Bars(PciError),
    /// It is no modern virtio device.
    Transport(VirtioPciError),
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Beyond(at) => {
                write!(f, "its registers lie at {at:#x}, beyond 4 GiB: give the machine less memory or fewer devices")
            }
            Self::Bars(error) => write!(f, "its BARs: {error}"),
            Self::Transport(error) => write!(f, "its registers: {error}"),
        }
    }
}

/// The bus and the devices on it.
pub struct Bus {
    root: PciRoot<MmioCam<'static>>,
    devices: Vec<(DeviceFunction, DeviceType), DEVICES_MAX>,
}

impl Bus {
    /// Looks at all slots.
    ///
    /// # Safety
    /// `ecam` is where ACPI says that configuration space begins, below 4 GiB, and there is one bus at a time.
    pub unsafe fn look(ecam: u64) -> Self {
        // SAFETY: the caller's; only bus 0 is touched, whose 1 MiB every such machine has.
        let root = PciRoot::new(unsafe { MmioCam::new(ecam as *mut u8, Cam::Ecam) });
        let found = root.enumerate_bus(0);
        let devices = found.filter_map(|(function, info)| Some((function, virtio_device_type(&info)?)));
        let devices = devices.take(DEVICES_MAX).collect();
        Self { root, devices }
    }

    /// The registers of the first device of a kind; none if there is no such device.
    ///
    /// # Errors
    /// [`BusError`]: there is one, and it cannot be used.
    pub fn first(&mut self, kind: DeviceType) -> Option<Result<PciTransport, BusError>> {
        let (function, _) = *self.devices.iter().find(|(_, found)| *found == kind)?;
        Some(self.transport(function))
    }

    fn transport(&mut self, function: DeviceFunction) -> Result<PciTransport, BusError> {
        for bar in self.root.bars(function).map_err(BusError::Bars)?.into_iter().flatten() {
            if let BarInfo::Memory { address, size, .. } = bar
                && address.saturating_add(size) > MAPPED
            {
                return Err(BusError::Beyond(address));
            }
        }
        self.root.set_command(function, Command::MEMORY_SPACE | Command::BUS_MASTER);
        PciTransport::new::<Identity, _>(&mut self.root, function).map_err(BusError::Transport)
    }
}
