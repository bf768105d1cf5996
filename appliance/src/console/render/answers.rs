//! Which answer is shown in which shape.

use model::diagnosis::Reason;
use model::receipt::{Receipt, Verdict};
use model::units::Bytes;
use model::vm_config::{Disk, Medium};

use super::clone;
use super::record::Record;
use super::table::Table;
use super::{hosts, network, processors};
use crate::api::host::{
    Check, ConfigDetail, DatastoreDetail, DatastoreRow, Flaw, HolderLife, HostAnswer, HostDetail, LeaseDetail,
    LeaseHolder, LeaseRow, LeaseState, LogLine, MigrationRow, NicRow, PortGroupRow, VmDetail, VmHolder, VmRow, VmState,
};
use crate::api::lease::{AWAY_HINT, GONE};
use crate::wall_clock;

/// What is said of all that only the lease role could tell.
const LEASE_ROLE_AWAY: &str = "the lease role does not answer";

/// The answer as one JSON value.
pub fn json(answer: &HostAnswer) -> String {
    // Every answer is a variant with one field; a program wants the field.
    let value = serde_json::to_value(answer).unwrap_or_else(|error| serde_json::Value::String(error.to_string()));
    let inner = match value {
        serde_json::Value::Object(map) if map.len() == 1 => {
            let (variant, inner) = map.into_iter().next().unwrap_or_default();
            if matches!(variant.as_str(), "done" | "refused") { serde_json::json!({ variant: inner }) } else { inner }
        }
        other => other,
    };
    serde_json::to_string_pretty(&inner).unwrap_or_else(|error| error.to_string())
}

/// The answer for a person.
pub fn text(answer: &HostAnswer) -> String {
    match answer {
        HostAnswer::TakenUp => String::new(),
        HostAnswer::Progress { doing, .. } => doing.clone(),
        HostAnswer::Done(line) => line.clone(),
        HostAnswer::Refused(refusal) => refusal.to_string(),
        HostAnswer::Host(host) => host_text(host),
        HostAnswer::HostSeen(host) => hosts::seen(host),
        HostAnswer::Hosts(hosts) => hosts::list(hosts),
        HostAnswer::Checks(checks) => checks_text(checks),
        HostAnswer::Cpu(report) => processors::report(report),
        HostAnswer::CpuComparison(comparison) => processors::comparison(comparison),
        HostAnswer::CpuBaseline(shared) => processors::shared(shared),
        HostAnswer::Vms(vms) => vms_text(vms),
        HostAnswer::Vm(vm) => vm_text(vm),
        HostAnswer::Console => "attached".to_owned(),
        HostAnswer::Migrated(receipt) | HostAnswer::Migration(receipt) => receipt_text(receipt),
        HostAnswer::Cloned(clone) => clone::text(clone),
        HostAnswer::Migrations(migrations) => migrations_text(migrations),
        HostAnswer::Datastores(datastores) => datastores_text(datastores),
        HostAnswer::Datastore(datastore) => datastore_text(datastore),
        HostAnswer::Nics(nics) => nics_text(nics),
        HostAnswer::PortGroups(port_groups) => port_groups_text(port_groups),
        HostAnswer::Leases(leases) => leases_text(leases),
        HostAnswer::Lease(lease) => lease_detail_text(lease),
        HostAnswer::MigrationNic(nic) => network::migration_nic(nic),
        HostAnswer::Ping(path) => network::ping(path),
        HostAnswer::Log(lines) => log_text(lines),
        HostAnswer::Config(config) => config_text(config),
        // The console itself asks for these.
        HostAnswer::Names(_) | HostAnswer::News { .. } => String::new(),
    }
}

pub(super) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn disk(disk: &Disk) -> String {
    let kind = match disk.medium {
        Medium::File(_) => "",
        Medium::Iso(_) => ", an image on the datastore",
        Medium::Device(_) => ", a drive of its host",
    };
    format!("{}{kind}{}", disk.medium, if disk.read_only { ", read-only" } else { "" })
}

pub(super) fn problems(reasons: &[Reason]) -> String {
    with_hints("cause: ", reasons)
}

fn with_hints(label: &str, reasons: &[Reason]) -> String {
    let lines = reasons.iter().map(|Reason { cause, hint }| {
        if hint.is_empty() { format!("\n{label}{cause}") } else { format!("\n{label}{cause}\nhint:  {hint}") }
    });
    lines.collect()
}

fn host_text(host: &HostDetail) -> String {
    let memory = format!("{} of {} free for VMs", host.memory_free, host.memory);
    Record::default()
        .line("name", &host.name)
        .line("identity", &host.identity)
        .line("version", format!("Godwit {}, Linux {}", host.version, host.kernel))
        .line("up for", format!("{} s", host.uptime_s))
        .line("processor", format!("{} x {}", host.cpus, host.cpu))
        .line("KVM", if host.kvm { "usable" } else { "not usable: host check tells why" })
        .line("memory", memory)
        .line("VMs", host.vms)
        .some("maintenance", host.maintenance.then_some("no VM starts here or moves to here"))
        .each("address", &host.addresses)
        .each("configuration error", &host.config_errors)
        .to_string()
}

fn checks_text(checks: &[Check]) -> String {
    let mut lines = Vec::new();
    for check in checks {
        let mark = match (check.problems.is_empty(), check.warnings.is_empty()) {
            (true, true) => "ok",
            (true, false) => "warn",
            (false, _) => "FAIL",
        };
        let reasons = problems(&check.problems) + &problems(&check.warnings);
        lines.push(format!("{mark:4}  {}: {}{reasons}", check.subject, check.found));
    }
    lines.join("\n")
}

fn state_text(state: &VmState) -> String {
    match state {
        VmState::Stopped => "stopped".to_owned(),
        VmState::Starting => "starting".to_owned(),
        VmState::Running => "running here".to_owned(),
        VmState::Paused => "paused here".to_owned(),
        VmState::MovingOut => "moving out".to_owned(),
        VmState::MovingIn => "moving in".to_owned(),
        VmState::Pausing => "pausing".to_owned(),
        VmState::Resuming => "resuming".to_owned(),
        VmState::Stopping => "stopping".to_owned(),
        VmState::Killing => "being killed".to_owned(),
        VmState::Ending => "ending".to_owned(),
        VmState::Releasing => "giving its lease up".to_owned(),
        VmState::Cloning => "being cloned".to_owned(),
        VmState::Making => "being made".to_owned(),
        VmState::Elsewhere(host) => format!("on {host}"),
        VmState::Orphaned(host) if host.as_str() == GONE => "lost with an unknown host".to_owned(),
        VmState::Orphaned(host) => format!("lost with {host}"),
        VmState::LostHere => "lost here".to_owned(),
        VmState::EndedHere => "ended here".to_owned(),
        VmState::Broken(Flaw::Name) => "broken: invalid name".to_owned(),
        VmState::Broken(Flaw::NoConfig) => "broken: no vm.toml".to_owned(),
        VmState::Broken(Flaw::Unreadable) => "broken: unreadable vm.toml".to_owned(),
        VmState::Broken(Flaw::Errors) => "broken: errors in vm.toml".to_owned(),
        VmState::Unknown => "unknown".to_owned(),
        VmState::LeaseDamaged => "unknown: its lease is damaged".to_owned(),
        VmState::Unheard => format!("unknown: {LEASE_ROLE_AWAY}"),
    }
}

fn vms_text(vms: &[VmRow]) -> String {
    let mut table =
        Table::new(["NAME", "STATE", "CPUS", "MEMORY", "DATASTORE"], "no VMs on the datastores of this host");
    for vm in vms {
        let VmRow { name, datastore, state, cpus, memory, unknown: _ } = vm;
        table.row([name.clone(), state_text(state), or_dash(*cpus), or_dash(*memory), datastore.to_string()]);
    }
    let notes = unheard_note(vms.iter().any(|vm| vm.state == VmState::Unheard))
        + &damaged_note(vms.iter().any(|vm| vm.state == VmState::LeaseDamaged))
        + &unknown_notes(vms.iter().filter_map(|vm| vm.unknown.as_ref()));
    format!("{table}{notes}")
}

/// What stands below what is not all that was asked, each reason once.
pub(super) fn unknown_notes<'a>(why: impl Iterator<Item = &'a Reason>) -> String {
    let mut told: Vec<Reason> = Vec::new();
    for reason in why {
        if !told.contains(reason) {
            told.push(reason.clone());
        }
    }
    with_hints("note:  ", &told)
}

/// What stands below what is told without the lease role, where anything is.
fn unheard_note(is_unheard: bool) -> String {
    let cause = format!("{LEASE_ROLE_AWAY}: which VMs run on this host is known without it, who holds others is not");
    if is_unheard { with_hints("note:  ", &[Reason::new(cause, AWAY_HINT)]) } else { String::new() }
}

/// What stands below what shows VMs with a damaged lease.
fn damaged_note(is_damaged: bool) -> String {
    let cause = "a lease is damaged: only the host that runs its VM can tell so, and no host starts or moves it";
    let hint = "host check tells how, and what mends it";
    if is_damaged { with_hints("note:  ", &[Reason::new(cause, hint)]) } else { String::new() }
}

fn vm_text(vm: &VmDetail) -> String {
    // How it ended before it came to run again says nothing of it now.
    let runs_here = matches!(vm.row.state, VmState::Running | VmState::Paused);
    let mut record = Record::default()
        .line("name", &vm.row.name)
        .line("state", state_text(&vm.row.state))
        .line("datastore", &vm.row.datastore)
        .line("lease", lease_text(vm))
        .some("monitor", vm.pid.map(|pid| format!("process {pid}, {} ms of vCPU time", vm.cpu_us / 1000)))
        .some("disk errors", (vm.failed_requests > 0).then(|| disk_errors(vm.failed_requests)))
        .some("waits for", vm.waits_for.as_ref())
        .some("last end here", vm.last_end.as_ref().filter(|_| !runs_here))
        .each("configuration error", &vm.config_errors);
    if let Some(config) = &vm.config {
        let nics = config.nics.iter().map(|nic| format!("{} on port group {}", or_dash(nic.mac), nic.port_group));
        record = record
            .line("vCPUs", format!("{}, {}", config.cpus, config.cpu_baseline))
            .line("memory", config.memory)
            .line("kernel", &config.boot.kernel)
            .some("initrd", config.boot.initrd.as_ref())
            .line("command line", &config.boot.cmdline)
            .each("disk", config.disks.iter().map(disk))
            .each("NIC", nics)
            .line(
                "migration",
                format!("stun at most {} ms, verify {}", config.migration.stun_ms_max, config.migration.verify),
            );
    }
    let notes = unheard_note(vm.holder == VmHolder::Unheard)
        + &damaged_note(matches!(vm.holder, VmHolder::Damaged(_)))
        + &unknown_notes(vm.row.unknown.iter());
    format!("{record}{notes}")
}

fn disk_errors(failed: u64) -> String {
    format!("{failed} requests of its guest failed since it runs here: datastore list; log show vmm")
}

fn lease_text(vm: &VmDetail) -> String {
    match &vm.holder {
        VmHolder::Unknown if vm.pid.is_some() => "does not tell who holds it now".to_owned(),
        VmHolder::Unknown => "does not tell who holds it: another host may run it".to_owned(),
        VmHolder::Damaged(why) => format!("unknown: {why}"),
        VmHolder::Unheard => format!("unknown: {LEASE_ROLE_AWAY}, and another host may run it"),
        VmHolder::Nobody => "held by nobody".to_owned(),
        VmHolder::Host { name, idle, since_unix_s } => {
            let since = since_unix_s.map(|at| format!(" since {}", wall_clock::text(at))).unwrap_or_default();
            let idle = if *idle { ", which runs nothing of it" } else { "" };
            format!("epoch {}, held by {name}{since}{idle}", vm.epoch)
        }
    }
}

/// A span of time as coarse as people say it.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn ms(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

/// How far the guest's clock is from real time after a move.
fn clock_step_text(us: i64) -> String {
    let side = if us < 0 { "behind" } else { "ahead of" };
    format!("{} {side} real time, as measured to within half a round trip", ms(us.unsigned_abs()))
}

fn receipt_text(receipt: &Receipt) -> String {
    let Receipt { vm, source, destination, .. } = receipt;
    let outcome = match receipt.verdict {
        Verdict::Moved => format!("{vm} moved from {source} to {destination}, where it is now"),
        Verdict::Failed => format!("{vm} was not moved: {}", receipt.reason),
        Verdict::Cancelled => format!("the move of {vm} was given up: {}", receipt.reason),
    };
    let stun = &receipt.stun;
    // Of a source that did not live to hear of the resume only the first pieces are known.
    let measured = stun.total_us > 0;
    let total = if measured { ms(stun.total_us) } else { "not measured to its end".to_owned() };
    let pieces = [
        ("stop", stun.stop_us),
        ("last pages", stun.last_pages_us),
        ("state", stun.state_us),
        ("verify", stun.verify_us),
        ("lease", stun.lease_us),
        ("resume", stun.resume_us),
        ("messages", stun.messages_us()),
    ];
    let pieces = pieces.into_iter().filter(|(_, us)| measured || *us > 0);
    let audit = &receipt.audit;
    let audit = if audit.done {
        let verdict = if audit.different_pages == 0 { "all alike" } else { "ALARM: the memory differs" };
        let (compared, different) = (audit.compared_pages, audit.different_pages);
        format!("{verdict}; {compared} pages compared, {different} differ, {} rewritten since", audit.rewritten_pages)
    } else {
        "not made".to_owned()
    };
    let rounds = receipt.rounds.iter().enumerate().map(|(n, round)| {
        let in_stun = n + 1 == receipt.rounds.len() && receipt.last_round_in_stun();
        format!(
            "{}: {} pages ({} zero), {} in {}{}",
            n + 1,
            round.pages,
            round.zero_pages,
            Bytes(round.bytes),
            ms(round.us),
            if in_stun { ", in the stun" } else { "" }
        )
    });
    Record::default()
        .line("migration", &receipt.id)
        .line("outcome", outcome)
        .line("epoch", receipt.epoch)
        .line("began", wall_clock::text(receipt.started_unix_s))
        .line("total", ms(receipt.total_us))
        .some("  until it ran", (receipt.verdict == Verdict::Moved).then(|| moved_text(receipt)))
        .line("memory", Bytes(receipt.memory_bytes))
        .line("sent", format!("{}, {} zero pages", Bytes(receipt.sent_bytes), receipt.zero_pages))
        .line("saved by compression", Bytes(receipt.compression_saved_bytes))
        .line("throughput", format!("{}/s", Bytes(receipt.throughput_bytes_per_s)))
        .line("dirty rate", format!("{} pages/s", receipt.dirty_pages_per_s))
        .line("stun", format!("{total} (predicted {})", ms(receipt.predicted_stun_us)))
        .some("stun limit", receipt.stun_is_over().then(|| format!("not kept: {} in vm.toml", ms(receipt.stun_max_us))))
        .each("  of it", pieces.map(|(name, us)| format!("{name:10}  {}", ms(us))))
        .some("announced", (stun.announce_us > 0).then(|| format!("{} after the stun", ms(stun.announce_us))))
        .some("clock step", receipt.clock_step_us.map(clock_step_text))
        .line("audit", audit)
        .each("round", rounds)
        .each("phase", receipt.phases.iter().map(|phase| format!("{:12}  {}", phase.name, ms(phase.us))))
        .to_string()
}

/// How long the VM was on its way, and how long it was to be.
fn moved_text(receipt: &Receipt) -> String {
    let predicted = receipt.predicted_moved_us.map(|us| format!(" (predicted {})", ms(us)));
    format!("{} on {}{}", ms(receipt.moved_us()), receipt.destination, predicted.unwrap_or_default())
}

fn migrations_text(migrations: &[MigrationRow]) -> String {
    let mut table = Table::new(["ID", "VM", "FROM", "TO", "STATE", "DONE", "BEGAN"], "no migrations");
    for row in migrations {
        table.row([
            row.id.clone(),
            row.vm.to_string(),
            row.source.to_string(),
            row.destination.to_string(),
            row.state.clone(),
            row.thousandths.map_or_else(|| "-".to_owned(), |done| format!("{} %", done / 10)),
            format!("{} ago", span(row.began_s)),
        ]);
    }
    table.to_string()
}

fn datastores_text(datastores: &[DatastoreRow]) -> String {
    let mut table = Table::new(["NAME", "KIND", "STATE", "SIZE", "FREE", "PLACE"], "no datastores are configured");
    for row in datastores {
        let [size, free] =
            [row.size, row.free].map(|bytes| if row.size.0 == 0 { "-".to_owned() } else { bytes.to_string() });
        table.row([row.name.to_string(), row.kind.clone(), row.state.clone(), size, free, row.place.clone()]);
    }
    table.to_string()
}

fn datastore_text(datastore: &DatastoreDetail) -> String {
    let row = &datastore.row;
    let record = Record::default()
        .line("name", &row.name)
        .line("kind", &row.kind)
        .line("place", &row.place)
        .line("state", &row.state)
        .some("room", (row.size.0 > 0).then(|| format!("{} of {} free", row.free, row.size)))
        .line("host lease", &datastore.lease)
        .some(
            "locks of a dead host",
            datastore.server_lease_s.map(|seconds| format!("kept by the server for {seconds} s")),
        )
        .each("VM", &datastore.vms);
    format!("{record}{}{}", problems(&datastore.problems), with_hints("note:  ", &datastore.warnings))
}

fn nics_text(nics: &[NicRow]) -> String {
    let mut table = Table::new(["NAME", "MAC", "PCI", "DRIVER", "LINK", "MBIT/S", "MTU", "USED BY"], "no NICs");
    for nic in nics {
        table.row([
            nic.name.clone(),
            or_dash(nic.mac),
            // Domain 0000 is every NIC's of a usual machine, and would cut the MAC address short.
            or_dash(nic.pci.as_ref().map(|pci| pci.strip_prefix("0000:").unwrap_or(pci))),
            or_dash(nic.driver.as_ref()),
            if nic.link { "up" } else { "down" }.to_owned(),
            or_dash(nic.speed_mbits),
            nic.mtu.to_string(),
            or_dash(nic.used_by.as_ref()),
        ]);
    }
    table.to_string()
}

fn port_groups_text(port_groups: &[PortGroupRow]) -> String {
    let mut table = Table::new(["LABEL", "VSWITCH", "VLAN", "UPLINK", "VMS"], "no port groups are configured");
    for row in port_groups {
        let vms: Vec<&str> = row.vms.iter().map(|vm| vm.as_str()).collect();
        let (vlan, uplink) = (or_dash(row.vlan), or_dash(row.uplink.as_ref()));
        table.row([row.name.to_string(), row.vswitch.to_string(), vlan, uplink, vms.join(" ")]);
    }
    table.to_string()
}

fn leases_text(leases: &[LeaseRow]) -> String {
    let mut table = Table::new(["VM", "DATASTORE", "HOLDER", "EPOCH", "HOST LEASE"], "no host holds a VM");
    for LeaseRow { vm, datastore, state } in leases {
        let unknown = || "unknown".to_owned();
        let (holder, epoch, life) = match state {
            LeaseState::Held(held) => (held.holder.to_string(), Some(held.epoch), life_text(held.life)),
            LeaseState::Damaged => (unknown(), None, "the lease is damaged".to_owned()),
            LeaseState::Unheard(Some(here)) | LeaseState::Unknown { runs: Some(here), .. } => {
                (here.holder.to_string(), Some(here.epoch), unknown())
            }
            LeaseState::Unheard(None) | LeaseState::Unknown { runs: None, .. } => (unknown(), None, unknown()),
        };
        let vm = vm.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string);
        table.row([vm, datastore.to_string(), holder, or_dash(epoch), life]);
    }
    let notes = unheard_note(leases.iter().any(|lease| matches!(lease.state, LeaseState::Unheard(_))))
        + &damaged_note(leases.iter().any(|lease| lease.state == LeaseState::Damaged))
        + &unknown_notes(leases.iter().filter_map(|lease| match &lease.state {
            LeaseState::Unknown { why, .. } => Some(why),
            _ => None,
        }));
    format!("{table}{notes}")
}

fn life_text(life: HolderLife) -> String {
    match life {
        HolderLife::Renews { silent_ms } => format!("renewed {}.{} s ago", silent_ms / 1000, silent_ms % 1000 / 100),
        HolderLife::Silent { silent_ms } => format!("silent {}", span(silent_ms / 1000)),
        HolderLife::Over => "over".to_owned(),
    }
}

fn lease_detail_text(lease: &LeaseDetail) -> String {
    let LeaseDetail { vm, datastore, holder, place, next } = lease;
    let record = Record::default().line("vm", vm).line("datastore", datastore);
    let record = match holder {
        None => record.line("holder", "nobody"),
        Some(LeaseHolder { held, identity, generation, own }) => record
            .line("holder", format!("{}{}", held.holder, if *own { ", this host" } else { "" }))
            .line("identity", format!("{identity}, life {generation}"))
            .line("epoch", held.epoch)
            .some("since", held.since_unix_s.map(|at| format!("{}, by its holder's clock", wall_clock::text(at))))
            .line("host lease", life_text(held.life)),
    };
    record.some("place", place.clone()).line("next", next).to_string()
}

fn log_text(lines: &[LogLine]) -> String {
    if lines.is_empty() {
        return "no lines".to_owned();
    }
    let line = |LogLine { at_ms, role, level, text }: &LogLine| match (at_ms, level) {
        (Some(at), Some(level)) => format!("{}.{:03} {role} {level}: {text}", at / 1000, at % 1000),
        _ => text.clone(),
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn config_text(config: &ConfigDetail) -> String {
    let mut text = Record::default().each("layer", &config.layers).each("error", &config.errors).to_string();
    if let Some(config) = &config.config {
        text.push_str(&format!("\n\n{}", config.to_string().trim_end()));
    }
    text
}

#[cfg(test)]
mod tests {
    use model::receipt::Phase;

    use super::*;
    use crate::api::example::receipt;

    #[test]
    fn the_lines_of_the_stun_add_up_to_it_and_the_round_in_it_is_marked() {
        let text = receipt_text(&receipt());
        assert!(text.contains("messages    1.500 ms"), "{text}");
        assert!(text.contains("announced             0.700 ms after the stun"), "{text}");
        assert!(text.contains("1: 256 pages (0 zero), 1 MiB in 900.000 ms\n"), "{text}");
        assert!(text.contains("2: 256 pages (0 zero), 1 MiB in 900.000 ms, in the stun"), "{text}");
    }

    #[test]
    fn a_receipt_tells_how_long_the_vm_was_on_its_way_and_was_to_be() {
        let phase = |name: &str, us| Phase { name: name.to_owned(), us };
        let phases = vec![phase("pre-copy", 1_200_000), phase("resume", 300_000), phase("audit", 500_000)];
        let receipt = Receipt { phases, ..receipt() };
        let text = receipt_text(&receipt);
        assert!(text.contains("1500.000 ms on host-b (predicted 1500.000 ms)"), "{text}");
        let unforeseen = receipt_text(&Receipt { predicted_moved_us: None, ..receipt.clone() });
        assert!(unforeseen.contains("1500.000 ms on host-b\n"), "{unforeseen}");
        let failed = receipt_text(&Receipt { verdict: Verdict::Failed, ..receipt });
        assert!(!failed.contains("until it ran"), "{failed}");
    }

    #[test]
    fn a_stun_that_was_longer_than_the_vm_allows_is_told_to_be() {
        assert!(!receipt_text(&receipt()).contains("stun limit"));
        let over = Receipt { stun_max_us: 10_000, ..receipt() };
        assert!(
            receipt_text(&over).contains("stun limit            not kept: 10.000 ms in vm.toml"),
            "{}",
            receipt_text(&over)
        );
    }

    #[test]
    fn a_person_reads_what_the_step_of_the_clock_is() {
        let step = |us| {
            let text = receipt_text(&Receipt { clock_step_us: Some(us), ..receipt() });
            text.lines().find(|line| line.starts_with("clock step")).expect("a line").to_owned()
        };
        assert!(step(-15_000).ends_with(" 15.000 ms behind real time, as measured to within half a round trip"));
        assert!(step(420).ends_with(" 0.420 ms ahead of real time, as measured to within half a round trip"));
    }

    #[test]
    fn a_check_has_a_line_for_what_is_well_and_one_that_warns_does_not_say_ok() {
        let slow = vec![Reason::new("the link is slow", "use a faster one")];
        let checks = [
            Check::well("memory", "there is room"),
            Check { warnings: slow.clone(), ..Check::well("migration link", "100 Mbit/s") },
            Check {
                warnings: slow,
                problems: vec![Reason::new("it is away", "")],
                ..Check::well("storage", "not as it should be")
            },
        ];
        assert_eq!(
            checks_text(&checks),
            "ok    memory: there is room\n\
             warn  migration link: 100 Mbit/s\ncause: the link is slow\nhint:  use a faster one\n\
             FAIL  storage: not as it should be\ncause: it is away\ncause: the link is slow\nhint:  use a faster one"
        );
    }

    #[test]
    fn a_vm_whose_configuration_cannot_be_read_has_no_size_rather_than_none_at_all() {
        let row = VmRow {
            name: "web".parse().expect("valid"),
            datastore: "lab".parse().expect("valid"),
            state: VmState::Broken(Flaw::Errors),
            cpus: None,
            memory: None,
            unknown: None,
        };
        let answer = HostAnswer::Vms(vec![row]);
        let value: serde_json::Value = serde_json::from_str(&json(&answer)).expect("JSON");
        assert!(value[0]["cpus"].is_null() && value[0]["memory"].is_null(), "{value}");
        assert!(text(&answer).ends_with("web   broken: errors in vm.toml  -     -       lab"), "{}", text(&answer));
    }

    #[test]
    fn a_person_reads_the_lines_of_a_log_as_they_were_written_and_a_program_their_parts() {
        let line = |at_ms, level: Option<&str>, text: &str| LogLine {
            at_ms,
            role: "lease".to_owned(),
            level: level.map(str::to_owned),
            text: text.to_owned(),
        };
        let lines = vec![line(Some(12_007), Some("warning"), "late: 3 ms"), line(None, None, "stack backtrace:")];
        assert_eq!(text(&HostAnswer::Log(lines.clone())), "12.007 lease warning: late: 3 ms\nstack backtrace:");
        assert_eq!(text(&HostAnswer::Log(Vec::new())), "no lines");
        assert_eq!(json(&HostAnswer::Log(Vec::new())), "[]");
        let value: serde_json::Value = serde_json::from_str(&json(&HostAnswer::Log(lines))).expect("JSON");
        assert_eq!(value[0]["at_ms"], 12_007);
        assert_eq!(value[0]["text"], "late: 3 ms");
        assert!(value[1]["level"].is_null() && value[1]["role"] == "lease", "{value}");
    }
}
