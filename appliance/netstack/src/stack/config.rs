//! What a stack is made of, checked when it is made.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use model::limits;

/// Address and bounds of a stack.
#[derive(Debug, Clone)]
pub struct StackConfig {
    /// Our address on the migration network.
    pub address: IpAddr,
    /// Bits of its network, 1 to 31 (IPv4) or 1 to 127 (IPv6).
    pub prefix: u8,
    /// The way to peers in other networks.
    pub gateway: Option<IpAddr>,
    /// UDP port to listen on, and the source of everything sent.
    pub port: u16,
    /// Bounds of connections.
    pub limits: TransportLimits,
}

impl StackConfig {
    /// A stack with default limits.
    pub fn new(address: IpAddr, prefix: u8, port: u16) -> Self {
        Self { address, prefix, gateway: None, port, limits: TransportLimits::default() }
    }
}

/// Bounds of connections; the defaults fit 10 Gbit/s on a local network.
#[derive(Debug, Clone)]
pub struct TransportLimits {
    /// Connections at a time, handshakes included.
    pub connections_max: usize,
    /// Of these, incoming handshakes that are not authenticated yet.
    pub handshakes_max: usize,
    /// From the first packet to both sides being authenticated.
    pub handshake_timeout: Duration,
    /// Silence after which a connection is lost.
    pub idle_timeout: Duration,
    /// Each side sends something at least this often.
    pub keepalive_interval: Duration,
    /// Bytes that the peer may have under way to us.
    pub receive_window_bytes: u32,
    /// Bytes sent and not acknowledged, for send memory.
    pub send_window_bytes: u32,
    /// Whole records that wait for the caller before the peer is held back.
    pub records_waiting_max: usize,
    /// Bytes of control messages that wait to be sent.
    pub control_queued_max_bytes: usize,
}

impl Default for TransportLimits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            handshakes_max: 32,
            handshake_timeout: Duration::from_millis(limits::MIGRATION_HANDSHAKE_MS),
            idle_timeout: Duration::from_millis(limits::MIGRATION_IDLE_MS),
            keepalive_interval: Duration::from_millis(limits::MIGRATION_KEEPALIVE_MS),
            receive_window_bytes: 32 << 20,
            send_window_bytes: 32 << 20,
            records_waiting_max: 32,
            control_queued_max_bytes: 4 << 20,
        }
    }
}

/// Why a stack, or a connection of it, cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// The address cannot be used on an interface.
    #[error("{address}/{prefix} is no address for an interface")]
    BadAddress {
        /// The address.
        address: IpAddr,
        /// Its prefix.
        prefix: u8,
    },
    /// The gateway is of the other IP version or out of reach.
    #[error("gateway {0} is not in the network of the interface")]
    BadGateway(IpAddr),
    /// Port 0.
    #[error("the migration port must be from 1 to 65535")]
    BadPort,
    /// No route leads there.
    #[error("no route to {peer}: it is outside {address}/{prefix} and there is no gateway")]
    NoRoute {
        /// Where to.
        peer: SocketAddr,
        /// Our address.
        address: IpAddr,
        /// Our network.
        prefix: u8,
    },
    /// A connection to ourselves makes no sense.
    #[error("{0} is this host's own migration address")]
    OurselvesAsPeer(SocketAddr),
    /// Too many connections.
    #[error("there are {0} migration connections already, the most that a host has at once")]
    TooManyConnections(usize),
    /// The NIC does not do what IPv6 needs.
    #[error("cannot receive neighbour discovery on {nic}")]
    Multicast {
        /// The NIC.
        nic: String,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The key or the cipher suites do not work.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// Waiting failed.
    #[error("cannot wait for the migration NIC")]
    Wait(#[source] std::io::Error),
}
