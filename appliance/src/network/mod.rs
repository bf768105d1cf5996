//! The host's networks: NICs, bridges, taps, addresses, as effects on the kernel through netlink.

pub mod link;
pub mod netlink;

pub use link::loopback_up;
