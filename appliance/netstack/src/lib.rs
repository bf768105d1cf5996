//! The migration stack: one NIC that the kernel has no address on, our own IP on it, and QUIC between hosts.
//!
//! ```text
//!   caller (one thread)      records, control messages        events
//!        |                            |                          ^
//!   stack::Stack   wait, poll         v                          |
//!        |          stream   QUIC connections: raw public keys, one control stream, one stream a record
//!        |                            |  batches of up to 44 datagrams
//!        |          stack::ip   smoltcp: ARP, ND, ICMP, routes, UDP
//!        |                            |  8-byte stand-ins for batches
//!        |          device   puts the batch in the stand-in's place: one super-frame
//!        |                            |
//!        +--------  nic      AF_PACKET with PACKET_VNET_HDR: UDP segmentation both ways
//! ```
//!
//! Nothing here has a clock or a thread: the caller says what time it is. The crate knows nothing of VMs.
//!
//! In reading order: [`nic`], [`device`], [`stack`], [`stream`], [`probe`].

#![deny(unsafe_code)]

pub mod device;
pub mod nic;
pub mod probe;
pub mod stack;
pub mod stream;

pub use nic::{Nic, NicConfig, NicError, NicSelector};
pub use stack::{Conflict, ConnectionId, Event, Neighbour, Stack, StackConfig, StackError};
pub use stream::{Allowed, CloseReason, Estimates, KeyPair, PublicKey, SendError};
