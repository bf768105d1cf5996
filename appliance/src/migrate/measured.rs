//! What a probe of the path found, as the checks want it.

use netstack::probe::PathReport;
use protocol::checks::facts::LinkFacts;

/// The facts of a report.
pub fn measured(report: &PathReport) -> LinkFacts {
    LinkFacts {
        rtt_us: u64::try_from(report.rtt_min.as_micros()).unwrap_or(u64::MAX),
        bandwidth_bytes_per_s: Some(report.bandwidth_bytes),
        mtu: report.path_mtu,
    }
}
