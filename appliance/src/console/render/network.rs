//! The migration NIC, and the path over it to another host.

use model::units::Bytes;

use super::answers::{problems, span};
use super::record::Record;
use crate::api::host::{MigrationNeighbour, MigrationNicDetail, MigrationPeer, PingDetail};

pub(super) fn migration_nic(nic: &MigrationNicDetail) -> String {
    if nic.nic.is_empty() {
        return format!("no migration NIC is in use{}", problems(&nic.problems));
    }
    let carried = |frames: u64, bytes: u64, drops: u64| format!("{frames} frames, {}, {drops} dropped", Bytes(bytes));
    let record = Record::default()
        .line("NIC", &nic.nic)
        .some("MAC", nic.mac)
        .line("link", if nic.link { "up" } else { "down" })
        .some("speed", nic.speed_mbits.map(|speed| format!("{speed} Mbit/s")))
        .line("MTU", nic.mtu)
        .line("VLAN", or(nic.vlan, "untagged"))
        .line("address", &nic.address)
        .line("gateway", or(nic.gateway, "none: hosts of other networks are not reached"))
        .line("UDP port", nic.port)
        .line("public key", &nic.public_key)
        .line("sent", carried(nic.frames_out, nic.bytes_out, nic.drops_out))
        .line("received", carried(nic.frames_in, nic.bytes_in, nic.drops))
        .line("connections", nic.connections)
        .each("peer", nic.peers.iter().map(peer))
        .each("neighbour", nic.neighbours.iter().map(neighbour));
    format!("{record}{}{}", problems(&nic.problems), problems(&nic.warnings))
}

fn or(value: Option<impl ToString>, none: &str) -> String {
    value.map_or_else(|| none.to_owned(), |value| value.to_string())
}

fn peer(peer: &MigrationPeer) -> String {
    let MigrationPeer { host, address, port, mac, routed } = peer;
    let by = match (mac, routed) {
        (Some(mac), false) => format!("at {mac}"),
        (Some(mac), true) => format!("by the gateway at {mac}"),
        (None, false) => "not asked for yet".to_owned(),
        (None, true) => "by the gateway, which was not asked for yet".to_owned(),
    };
    format!("{host}, {address} port {port}, {by}")
}

fn neighbour(neighbour: &MigrationNeighbour) -> String {
    let MigrationNeighbour { address, mac, age_s } = neighbour;
    format!("{address} at {mac}, {} ago", span(*age_s))
}

pub(super) fn ping(path: &PingDetail) -> String {
    let rtt = format!("{}.{:03} ms", path.rtt_us / 1_000, path.rtt_us % 1_000);
    let mbits = path.bandwidth_bytes_per_s / 125_000;
    let loss = match path.loss_permille {
        0 => String::new(),
        lost => format!(", {}.{} % of the packets lost", lost / 10, lost % 10),
    };
    let mtu = match path.path_mtu {
        Some(mtu) => format!("packets of {mtu} bytes arrive"),
        None => "not found in time".to_owned(),
    };
    let record = Record::default()
        .line("host", format!("{} at {}", path.host, path.address))
        .line("round trip", rtt)
        .line("bandwidth", format!("{mbits} Mbit/s{loss}"))
        .line("path MTU", mtu)
        .line("MTU of the NICs", format!("{} here, {} there", path.mtu_here, path.mtu_there));
    format!("{record}{}{}", problems(&path.problems), problems(&path.warnings))
}

#[cfg(test)]
mod tests {
    use model::diagnosis::Reason;

    use super::*;

    #[test]
    fn a_person_reads_of_a_path_what_was_measured_and_what_stands_in_the_way_of_a_move() {
        let path = PingDetail {
            host: "host-b".parse().expect("valid"),
            address: "10.99.0.2:7474".to_owned(),
            rtt_us: 1_205,
            bandwidth_bytes_per_s: 117_000_000,
            loss_permille: 12,
            path_mtu: Some(1400),
            mtu_here: 9000,
            mtu_there: 9000,
            problems: vec![Reason::new("it is narrow", "widen it")],
            warnings: Vec::new(),
        };
        assert_eq!(
            ping(&path),
            "host             host-b at 10.99.0.2:7474\n\
             round trip       1.205 ms\n\
             bandwidth        936 Mbit/s, 1.2 % of the packets lost\n\
             path MTU         packets of 1400 bytes arrive\n\
             MTU of the NICs  9000 here, 9000 there\n\
             cause: it is narrow\nhint:  widen it"
        );
        let unknown = PingDetail { path_mtu: None, loss_permille: 0, problems: Vec::new(), ..path };
        assert!(ping(&unknown).contains("936 Mbit/s\npath MTU         not found in time\n"), "{}", ping(&unknown));
    }
}
