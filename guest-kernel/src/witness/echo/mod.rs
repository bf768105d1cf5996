//! The echo: answers over UDP and TCP with a number and the guest's own clock, by which a client outside sees what a move did
//! to the guest's network: gaps, losses, duplicates, another order, connections that broke.
//!
//! - [`message`]: what is asked and answered.
//! - [`judge`]: what a client makes of the answers.
//! - [`nic`]: frames from and to a virtio network interface.
//! - [`server`]: answers over both protocols.

pub mod judge;
pub mod message;
#[cfg(target_os = "none")]
pub mod nic;
#[cfg(target_os = "none")]
pub mod server;

/// Where it listens, over UDP and TCP: the port of the echo protocol (RFC 862).
pub const PORT: u16 = 7;

/// An IPv4 address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub octets: [u8; 4],
    /// Bits of the network, 0 to 32.
    pub prefix: u8,
}

impl Address {
    /// Understands `10.0.0.2/24`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let octets = address.parse::<core::net::Ipv4Addr>().ok()?.octets();
        Some(Self { octets, prefix: prefix.parse().ok().filter(|bits| *bits <= 32)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_prefix() {
        assert_eq!(Address::parse("10.9.0.2/24"), Some(Address { octets: [10, 9, 0, 2], prefix: 24 }));
        for text in ["10.9.0.2", "10.9.0/24", "10.9.0.2/33", "a/24"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }
}
