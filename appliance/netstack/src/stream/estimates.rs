//! What is known of a connection's path.

use std::time::Duration;

/// Estimates of a connection; bytes are UDP payload unless told otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Estimates {
    /// Smoothed round-trip time.
    pub rtt: Duration,
    /// Least round-trip time seen.
    pub rtt_min: Duration,
    /// Packets sent and lost since the start.
    pub packets_sent: u64,
    /// Of these, lost (MTU probes are not counted).
    pub packets_lost: u64,
    /// Bytes a second that arrived at the peer: the best of the last ten round trips that had something to send.
    pub delivery_rate_bytes: u64,
    /// Bytes acknowledged since the start.
    pub delivered_bytes: u64,
    /// Bytes sent that were neither acknowledged nor given up.
    pub in_flight_bytes: u64,
    /// Bytes that may be in flight.
    pub window_bytes: u64,
    /// Bytes of records that the peer's transport has not acknowledged as a whole: queued here or under way.
    pub queued_bytes: u64,
    /// UDP payload that a packet may have, as far as the path has shown.
    pub datagram_bytes: u16,
    /// MTU probes sent and lost.
    pub mtu_probes: (u64, u64),
}

impl Estimates {
    /// Part of the packets that were lost, 0.0 to 1.0.
    pub fn loss(&self) -> f64 {
        if self.packets_sent == 0 { 0.0 } else { self.packets_lost as f64 / self.packets_sent as f64 }
    }
}
