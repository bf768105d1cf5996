//! A device and its queues, as a driver here uses them: requests go in, and come back by their token in any order.

use core::sync::atomic::{Ordering::SeqCst, fence};

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::{DeviceStatus, Transport};
use virtio_drivers::{Error, Result};

use crate::virtio::memory::Identity;

/// Entries of a queue.
pub const QUEUE_SIZE: usize = 64;
/// VIRTIO_F_VERSION_1 (virtio 1.2, section 6).
const VERSION_1: u64 = 1 << 32;

/// A queue.
pub type Queue = VirtQueue<Identity, QUEUE_SIZE>;

/// Resets a device and takes of its features those in `wanted`; the queues come next, then [`Transport::finish_init`].
/// Gives the features that it has of these (virtio 1.2, section 3.1.1).
///
/// # Errors
/// [`Error::Unsupported`]: it knows only the time before virtio 1.0, or does not take what it offered.
pub fn introduce(transport: &mut PciTransport, wanted: u64) -> Result<u64> {
    transport.set_status(DeviceStatus::empty());
    // A device may need a while to come to rest, and shows its old status until then.
    while !transport.get_status().is_empty() {
        core::hint::spin_loop();
    }
    transport.set_status(DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER);
    let features = transport.read_device_features() & (wanted | VERSION_1);
    transport.write_driver_features(features);
    let agreed = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER | DeviceStatus::FEATURES_OK;
    transport.set_status(agreed);
    if features & VERSION_1 == 0 || !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
        return Err(Error::Unsupported);
    }
    Ok(features)
}

/// A queue of a device that was introduced, without interrupts: it is polled.
///
/// # Errors
/// Those of virtio-drivers: the device has no such queue, or a shorter one.
pub fn queue(transport: &mut PciTransport, number: u16) -> Result<Queue> {
    let mut queue = Queue::new(transport, number, false, false)?;
    queue.set_dev_notify(false);
    Ok(queue)
}

/// Tells the device of what was added to a queue, if it wants to be told: one exit of the hypervisor for each word that is
/// written, and one for each that is read.
pub fn tell(transport: &mut PciTransport, queue: &Queue, number: u16) {
    // The request has to be seen by the device before its wish is read, or both sides could wait for each other.
    fence(SeqCst);
    if queue.should_notify() {
        transport.notify(number);
    }
}
