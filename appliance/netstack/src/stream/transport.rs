//! QUIC's parameters for a migration link.

use std::sync::Arc;
use std::time::Duration;

use quinn_proto::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::congestion::{Factory, PathMeter};
use super::record::RECORD_MAX;
use crate::stack::TransportLimits;

/// QUIC's least datagram (RFC 9000 section 14): what every path must carry, and what is sent until more is proven.
pub(crate) const DATAGRAM_LEAST: u16 = 1200;
/// Datagrams of one batch, and bytes: kernel and NIC take one super-frame of 64 KiB.
pub(crate) const BATCH_DATAGRAMS: usize = 44;
pub(crate) const BATCH_BYTES: usize = 65_000;
/// Records under way to us at a time, and the control stream. Their memory is bounded by the receive window.
const STREAMS: u32 = 512;

/// Bytes of datagrams that wait to be sent: only a probe of the path sends any.
pub(crate) const FILLER_BYTES: usize = 4 << 20;

/// Bytes of UDP payload that an IP packet of `mtu` bytes carries.
pub(crate) fn datagram_of(mtu: u16, ipv6: bool) -> u16 {
    mtu.saturating_sub(if ipv6 { 48 } else { 28 }).max(DATAGRAM_LEAST)
}

/// The parameters of one connection; `meter` is filled by its congestion controller.
pub(crate) fn config(limits: &TransportLimits, mtu: u16, ipv6: bool, meter: Arc<PathMeter>) -> TransportConfig {
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(10)).max_ack_delay(Some(Duration::from_millis(1)));
    // The NIC's own MTU is tried as soon as both sides know each other. A path that carries less shows within a few
    // round trips, before the first page.
    let mut mtu_search = MtuDiscoveryConfig::default();
    mtu_search
        .upper_bound(datagram_of(mtu, ipv6))
        .minimum_change(4)
        .interval(Duration::from_secs(60))
        .black_hole_cooldown(Duration::from_secs(5));
    let idle = u32::try_from(limits.idle_timeout.as_millis()).unwrap_or(u32::MAX);
    let mut config = TransportConfig::default();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(STREAMS))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle))))
        .keep_alive_interval(Some(limits.keepalive_interval))
        .stream_receive_window(VarInt::from_u32(RECORD_MAX as u32 * 2))
        .receive_window(VarInt::from_u32(limits.receive_window_bytes))
        .send_window(u64::from(limits.send_window_bytes))
        // Records leave one after the other, so that the first are whole early.
        .send_fairness(false)
        .initial_rtt(Duration::from_millis(20))
        .initial_mtu(DATAGRAM_LEAST)
        .min_mtu(DATAGRAM_LEAST)
        .mtu_discovery_config(Some(mtu_search))
        .ack_frequency_config(Some(acks))
        .allow_spin(false)
        .datagram_receive_buffer_size(Some(1 << 20))
        .datagram_send_buffer_size(FILLER_BYTES)
        .congestion_controller_factory(Arc::new(Factory { meter }))
        .enable_segmentation_offload(true);
    config
}
