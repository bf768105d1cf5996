//! The host's networks, as effects on the kernel through netlink.
//!
//! In reading order: [`netlink`] (the conversation), [`link`], [`address`], [`nic`] (which NIC is meant), [`bridge`] and
//! [`tap`] (VM networks), [`connections`] (their end), [`dhcp`] with [`packet`] (the management address), and
//! [`fabric`], which makes of all this what the configuration says.

pub mod address;
pub mod bridge;
pub mod connections;
pub mod dhcp;
pub mod fabric;
pub mod link;
pub mod netlink;
pub mod nic;
pub mod packet;
pub mod tap;

pub use link::loopback_up;
