//! The hosts that share a datastore, in a table.

use super::answers::{or_dash, span};
use super::table::Table;
use crate::api::host::{HostRow, HostState};

pub(super) fn list(hosts: &[HostRow]) -> String {
    let mut table = Table::new(["NAME", "STATE", "VMS", "CPU", "MEMORY", "FREE", "MIGRATION", "VERSION"], "no hosts");
    for host in hosts {
        let state = match (host.named_twice, host.state) {
            (true, _) => "named twice".to_owned(),
            (false, state) if host.maintenance && state.runs() => "maintenance".to_owned(),
            (false, HostState::ThisHost) => "this host".to_owned(),
            (false, HostState::Alive) => "alive".to_owned(),
            (false, HostState::Silent) => format!("silent {}", span(host.seen_s)),
            (false, HostState::Off) => format!("off {}", span(host.seen_s)),
        };
        // How busy it was last tells nothing.
        let busy = host.busy_permille.filter(|_| host.state.runs());
        table.row([
            host.name.to_string(),
            state,
            host.vms.to_string(),
            or_dash(busy.map(|busy| format!("{} %", busy / 10))),
            host.memory.to_string(),
            host.memory_free.to_string(),
            or_dash(host.migration_address),
            host.version.clone(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use model::units::Bytes;

    use super::*;

    #[test]
    fn each_host_is_shown_whole_with_its_state_and_load_on_a_line_of_the_terminal() {
        let row = |name: &str, state, named_twice| HostRow {
            name: name.parse().expect("valid"),
            state,
            named_twice,
            maintenance: false,
            seen_s: 10_000,
            vms: 12,
            cpus: Some(64),
            busy_permille: Some(999),
            memory: Bytes((251 << 30) + (1 << 29)),
            memory_free: Bytes((120 << 30) + (1 << 29)),
            migration_address: Some("192.168.100.111".parse().expect("valid")),
            version: "0.1.0".to_owned(),
        };
        let closed = HostRow { maintenance: true, ..row("host-e", HostState::Alive, false) };
        let off = HostRow { maintenance: true, ..row("host-f", HostState::Off, false) };
        let older = HostRow { busy_permille: None, cpus: None, ..row("host-d", HostState::Alive, false) };
        let rows = [
            row("host-a", HostState::ThisHost, false),
            row("host-b", HostState::Silent, false),
            row("host-c", HostState::Alive, true),
            older,
            closed,
            off,
        ];
        assert_eq!(
            list(&rows),
            "NAME    STATE        VMS  CPU   MEMORY     FREE       MIGRATION        VERSION\n\
             host-a  this host    12   99 %  251.5 GiB  120.5 GiB  192.168.100.111  0.1.0\n\
             host-b  silent 2 h   12   -     251.5 GiB  120.5 GiB  192.168.100.111  0.1.0\n\
             host-c  named twice  12   99 %  251.5 GiB  120.5 GiB  192.168.100.111  0.1.0\n\
             host-d  alive        12   -     251.5 GiB  120.5 GiB  192.168.100.111  0.1.0\n\
             host-e  maintenance  12   99 %  251.5 GiB  120.5 GiB  192.168.100.111  0.1.0\n\
             host-f  off 2 h      12   -     251.5 GiB  120.5 GiB  192.168.100.111  0.1.0"
        );
    }
}
