//! Measures the path of a new connection before the first page: round-trip time, MTU, bandwidth.
//!
//! MTU first: the hello tells the peer's, and QUIC's own search (RFC 8899) proves what the path carries. A host that is
//! slow to answer is no narrow path: only packets that were lost are. Then, for a tenth of a second, datagrams that the
//! peer throws away; what is acknowledged a second in the later half is the bandwidth (the first half is the ramp, and what
//! a shaped link lets through at once), and the congestion window is warm for the pages that follow.

use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::nic::Port;
use crate::stack::{ConnectionId, Stack};

static FILLER: [u8; 9216] = [0; 9216];
const LOAD: Duration = Duration::from_millis(100);
const LOAD_MAX_BYTES: u64 = 256 << 20;
const SEARCH_MAX: Duration = Duration::from_secs(4);
/// A search that sends no probe for this long, and several round trips, has ended.
const SEARCH_QUIET: Duration = Duration::from_millis(400);
/// QUIC gives a size up after so many lost packets of it.
const LOST_OF_A_SIZE: u64 = 3;
/// The search ends within so many bytes of the truth.
const SEARCH_PRECISION: u16 = 8;
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct PathReport {
    /// Least round-trip time.
    pub rtt_min: Duration,
    /// Smoothed round-trip time before the path was loaded.
    pub rtt: Duration,
    /// IP packet that the path carries, in bytes; none where the search did not end in time.
    pub path_mtu: Option<u16>,
    /// Bytes a second that arrived, as UDP payload.
    pub bandwidth_bytes: u64,
    /// Part of the load's bytes that was lost, 0.0 to 1.0.
    pub loss: f64,
}

#[derive(Debug)]
enum Phase {
    Search { until: Instant, probes: u64, quiet_since: Instant },
    Load { began: Instant, delivered: u64, lost: u64, half: Option<(Instant, u64)>, report: PathReport },
    Done,
}

/// One measurement; `advance` it whenever the stack was polled.
#[derive(Debug)]
pub struct Probe {
    connection: ConnectionId,
    peer_mtu: u16,
    phase: Phase,
}

impl Probe {
    /// A measurement of an established connection whose peer told `peer_mtu`.
    pub fn new(connection: ConnectionId, peer_mtu: u16, now: Instant) -> Self {
        Self { connection, peer_mtu, phase: Phase::Search { until: now + SEARCH_MAX, probes: 0, quiet_since: now } }
    }

    /// When to poll the stack and advance again at the latest.
    pub fn deadline(&self, now: Instant) -> Instant {
        now + POLL_INTERVAL
    }

    /// Goes on measuring. Gives the report once, at the end; nothing if the connection ended first.
    pub fn advance<P: Port>(&mut self, stack: &mut Stack<P>, now: Instant) -> Option<PathReport> {
        let estimates = stack.estimates(self.connection)?;
        match &mut self.phase {
            Phase::Search { until, probes, quiet_since } => {
                let overhead = stack.datagram_overhead();
                let configured = stack.mtu().min(self.peer_mtu);
                if estimates.mtu_probes.0 != *probes {
                    (*probes, *quiet_since) = (estimates.mtu_probes.0, now);
                }
                let quiet = now.saturating_duration_since(*quiet_since) > SEARCH_QUIET.max(estimates.rtt * 8);
                let reached = estimates.datagram_bytes + overhead + SEARCH_PRECISION > configured;
                let narrow = !reached && quiet && estimates.mtu_probes.1 >= LOST_OF_A_SIZE;
                if !reached && !narrow && now < *until {
                    return None;
                }
                let proven = narrow.then_some(estimates.datagram_bytes + overhead);
                let path_mtu = if reached { Some(configured) } else { proven };
                let report = PathReport {
                    rtt_min: estimates.rtt_min,
                    rtt: estimates.rtt,
                    path_mtu,
                    bandwidth_bytes: 0,
                    loss: 0.0,
                };
                let (delivered, lost) = (estimates.delivered_bytes, stack.lost_bytes(self.connection));
                self.phase = Phase::Load { began: now, delivered, lost, half: None, report };
                self.load(stack);
                None
            }
            Phase::Load { began, delivered, lost, half, report } => {
                let elapsed = now.saturating_duration_since(*began);
                let arrived = estimates.delivered_bytes - *delivered;
                // At least a few round trips, or the ramp at the start is all that was seen. They are counted as they were
                // before: where the load fills a queue, it would otherwise prolong itself.
                let whole = LOAD.max(report.rtt * 10);
                if elapsed >= whole / 2 || arrived >= LOAD_MAX_BYTES / 2 {
                    half.get_or_insert((now, arrived));
                }
                if elapsed < whole && arrived < LOAD_MAX_BYTES {
                    self.load(stack);
                    return None;
                }
                let gone = stack.lost_bytes(self.connection) - *lost;
                let mut report = report.clone();
                report.bandwidth_bytes = match *half {
                    Some((since, before)) if since < now => rate(arrived - before, now - since),
                    // Not one look fell between the half and the end.
                    _ => rate(arrived, elapsed),
                };
                report.loss = gone as f64 / (arrived + gone).max(1) as f64;
                report.rtt_min = estimates.rtt_min;
                self.phase = Phase::Done;
                Some(report)
            }
            Phase::Done => None,
        }
    }

    fn load<P: Port>(&self, stack: &mut Stack<P>) {
        let filler = Bytes::from_static(&FILLER);
        while stack.send_filler(self.connection, &filler) {}
    }
}

/// Bytes a second.
fn rate(bytes: u64, time: Duration) -> u64 {
    (bytes as f64 / time.as_secs_f64().max(1e-6)) as u64
}
