//! The hosts that share a datastore, in a table, and one of them whole.

use super::answers::{or_dash, span, unknown_notes};
use super::record::Record;
use super::table::Table;
use crate::api::host::{HostRow, HostSeen, HostState};

pub(super) fn list(hosts: &[HostRow]) -> String {
    const NOBODY: &str = "no hosts";
    let mut table = Table::new(["NAME", "STATE", "VMS", "CPU", "MEMORY", "FREE", "MIGRATION", "VERSION"], NOBODY);
    for host in hosts {
        table.row([
            host.name.to_string(),
            state(host),
            host.vms.to_string(),
            or_dash(busy(host)),
            host.memory.to_string(),
            host.memory_free.to_string(),
            or_dash(host.migration_address),
            host.version.clone(),
        ]);
    }
    format!("{table}{}", unknown_notes(hosts.iter().filter_map(|host| host.unseen.as_ref())))
}

/// How busy its processors are; how busy they were last tells nothing of a host that does not run.
fn busy(host: &HostRow) -> Option<String> {
    host.busy_permille.filter(|_| host.state.runs()).map(|busy| format!("{} %", busy / 10))
}

fn state(host: &HostRow) -> String {
    match (host.named_twice, host.state) {
        (true, _) => "named twice".to_owned(),
        (false, state) if host.maintenance && state.runs() => "maintenance".to_owned(),
        (false, HostState::ThisHost) => "this host".to_owned(),
        (false, HostState::Alive) => "alive".to_owned(),
        (false, HostState::Silent) => format!("silent {}", span(host.seen_s)),
        (false, HostState::Dead) => format!("dead {}", span(host.seen_s)),
        (false, HostState::Off) => format!("off {}", span(host.seen_s)),
        (false, HostState::Unseen) => format!("unseen {}", span(host.seen_s)),
    }
}

/// The same where there is room for what it means.
fn state_told(host: &HostRow) -> String {
    let means = match (host.named_twice, host.state) {
        (false, HostState::Silent) => {
            "it may come back; until its lease expires, no other host may run what it holds: lease list"
        }
        (false, HostState::Dead) => "its lease has expired: any host may run what it held",
        (false, HostState::Unseen) => {
            "it is this host that sees nothing: what that one does, and whether it lives, is not known here"
        }
        _ => return state(host),
    };
    format!("{}: {means}", state(host))
}

/// All that another host tells of itself.
pub(super) fn seen(host: &HostSeen) -> String {
    let row = &host.row;
    let migration = row.migration_address.map(|address| format!("{address} port {}", or_dash(host.migration_port)));
    let processor =
        host.cpu.as_ref().map(|cpu| format!("{} x {cpu}; host cpu --compare {}", or_dash(row.cpus), row.name));
    let datastores = host.datastores.iter();
    let datastores =
        datastores.map(|(name, answers)| format!("{name}{}", if *answers { "" } else { ", which does not answer it" }));
    let kernel = host.kernel.as_ref().map(|kernel| format!(", Linux {kernel}")).unwrap_or_default();
    let vlan = |vlan: u16| if vlan == 0 { "untagged".to_owned() } else { format!("VLAN {vlan}") };
    let record = Record::default()
        .line("name", &row.name)
        .line("state", state_told(row))
        .line("identity", &host.identity)
        .some("boot", host.boot.as_ref())
        .line("version", format!("Godwit {}{kernel}", row.version))
        .some("processor", processor)
        .some("busy", busy(row))
        .line("memory", format!("{} of {} free for VMs", row.memory_free, row.memory))
        .line("VMs", row.vms)
        .each(if row.state.runs() { "running" } else { "ran last" }, &host.running)
        .each("address", &host.addresses)
        .some("migration", migration)
        .some("public key", host.public_key.as_ref())
        .each("datastore", datastores)
        .each("port group", host.port_groups.iter().map(|(label, tag)| format!("{label}, {}", vlan(*tag))));
    format!("{record}{}", unknown_notes(row.unseen.iter()))
}

#[cfg(test)]
mod tests {
    use model::units::Bytes;

    use super::*;

    #[test]
    fn another_host_is_shown_with_all_that_it_tells_of_itself() {
        let row = HostRow {
            name: "host-b".parse().expect("valid"),
            state: HostState::Alive,
            named_twice: false,
            maintenance: false,
            seen_s: 1,
            vms: 1,
            cpus: Some(64),
            busy_permille: Some(125),
            memory: Bytes(8 << 30),
            memory_free: Bytes(4 << 30),
            migration_address: Some("10.0.0.2".parse().expect("valid")),
            version: "0.1.0".to_owned(),
            unseen: None,
        };
        let told = seen(&HostSeen {
            row,
            identity: "1f".repeat(16),
            boot: None,
            kernel: Some("6.12.9".to_owned()),
            addresses: vec!["192.168.0.2/24".to_owned()],
            cpu: Some("AMD EPYC".to_owned()),
            migration_port: Some(7780),
            public_key: Some("0aff".to_owned()),
            datastores: vec![("lab".parse().expect("valid"), true), ("old".parse().expect("valid"), false)],
            port_groups: vec![("dmz".to_owned(), 10), ("lab net".to_owned(), 0)],
            running: vec!["web".parse().expect("valid")],
        });
        let lines: Vec<String> =
            told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        for line in [
            "state alive",
            "version Godwit 0.1.0, Linux 6.12.9",
            "busy 12 %",
            "address 192.168.0.2/24",
            "processor 64 x AMD EPYC; host cpu --compare host-b",
            "running web",
            "migration 10.0.0.2 port 7780",
            "public key 0aff",
            "datastore lab",
            "old, which does not answer it",
            "port group dmz, VLAN 10",
            "lab net, untagged",
        ] {
            assert!(lines.iter().any(|told| told == line), "{line}: {told}");
        }
    }

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
            unseen: None,
        };
        let closed = HostRow { maintenance: true, ..row("host-e", HostState::Alive, false) };
        let off = HostRow { maintenance: true, ..row("host-f", HostState::Off, false) };
        let older = HostRow { busy_permille: None, cpus: None, ..row("host-d", HostState::Alive, false) };
        let rows = [
            row("host-a", HostState::ThisHost, false),
            row("host-b", HostState::Silent, false),
            row("host-g", HostState::Dead, false),
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
             host-g  dead 2 h     12   -     251.5 GiB  120.5 GiB  192.168.100.111  0.1.0\n\
             host-c  named twice  12   99 %  251.5 GiB  120.5 GiB  192.168.100.111  0.1.0\n\
             host-d  alive        12   -     251.5 GiB  120.5 GiB  192.168.100.111  0.1.0\n\
             host-e  maintenance  12   99 %  251.5 GiB  120.5 GiB  192.168.100.111  0.1.0\n\
             host-f  off 2 h      12   -     251.5 GiB  120.5 GiB  192.168.100.111  0.1.0"
        );
    }
}
