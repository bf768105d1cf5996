//! virtio 1.x devices over PCI, modern only.
//!
//! ```text
//!                      guest's driver
//!        registers |                    | rings in guest memory
//!            transport (function) --activate--> queues + engine, on a worker thread
//!              |        ^                             |          |
//!        MSI-X, doorbells, reset, state        interrupts    disk, tap, entropy
//! ```
//!
//! A device is two halves. The front ([`device::VirtioDevice`]) is what its registers show and negotiate; it lives with the
//! transport, behind its mutex. The [`device::Engine`] does the work. At rest the transport owns engine and queues; while
//! the device runs, its worker thread owns both, and nobody else can touch a ring:
//!
//! ```text
//!   no driver --DRIVER_OK--> running --quiesce--> at rest --resume--> running
//!       ^                       |                    | export_state
//!       +------- reset ---------+                    v
//! ```
//!
//! In reading order: [`chain`] (one request's buffers, checked), [`queue`] (a ring), [`worker`] (the thread), [`device`] (the
//! two halves), [`transport`] (registers over PCI), then the devices [`blk`], [`net`], [`rng`],
//! and [`installed`] (those of one machine).

pub mod blk;
pub mod chain;
pub mod device;
pub mod installed;
pub mod net;
pub mod queue;
pub mod rng;
pub mod transport;
pub mod worker;
