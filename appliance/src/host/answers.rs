//! What the control plane knows, as answers to the console. Nothing here changes anything.

use std::os::fd::OwnedFd;

use model::diagnosis::{Diagnosis, Reason};
use model::limits;
use model::names::{DatastoreName, VmName};
use model::receipt::Receipt;
use model::units::Bytes;

use crate::api::host::{
    Check, ConfigDetail, DatastoreDetail, HostAnswer, HostDetail, HostRequest, MigrationNicDetail, Names, PortGroupRow,
    VmDetail, VmRow, VmState,
};
use crate::api::lease::{Holder, LeaseAnswer, LeaseRequest};
use crate::api::vmm::{VmmAnswer, VmmRequest};
use crate::datastore::Datastore;
use crate::host::checks;
use crate::host::control_plane::ControlPlane;
use crate::host::located::{Located, locate};

/// VMs whose holders are asked for in one message: the answer has to fit into one, too.
const LISTED_AT_ONCE: usize = 200;

/// Answers a request that only asks.
///
/// # Errors
/// What is asked for is not there.
pub fn answer(plane: &ControlPlane, request: &HostRequest) -> Result<HostAnswer, Diagnosis> {
    Ok(match request {
        HostRequest::HostShow => HostAnswer::Host(Box::new(host(plane))),
        HostRequest::HostList => HostAnswer::Hosts(plane.hosts.rows(plane.name())),
        HostRequest::HostCheck => HostAnswer::Checks(host_checks(plane)),
        HostRequest::HostCpu => match &plane.cpu {
            Some(report) => HostAnswer::Cpu(Box::new(report.clone())),
            None => return Err(Diagnosis::of("there is no CPU report", checks::kvm_problem().into_iter().collect())),
        },
        HostRequest::VmList => HostAnswer::Vms(vms(plane)),
        HostRequest::VmShow(name) => HostAnswer::Vm(Box::new(vm(plane, name)?)),
        HostRequest::VmCheck(name) => HostAnswer::Checks(vm_checks(plane, name)?),
        HostRequest::MigrationList => HostAnswer::Migrations(plane.moves.rows(plane)),
        HostRequest::MigrationShow(id) => HostAnswer::Migration(Box::new(receipt(plane, id)?)),
        HostRequest::DatastoreList => {
            HostAnswer::Datastores(plane.datastores.all().iter().map(|datastore| datastore.row()).collect())
        }
        HostRequest::DatastoreShow(name) => HostAnswer::Datastore(Box::new(datastore(plane, name)?)),
        HostRequest::NetworkNics => {
            let nics = plane.with_fabric("the NICs are not shown", |fabric| fabric.nics())?;
            HostAnswer::Nics(
                nics.map_err(|error| Diagnosis::new("the NICs are not shown", error.to_string(), "host check"))?,
            )
        }
        HostRequest::PortGroupList => HostAnswer::PortGroups(port_groups(plane)?),
        HostRequest::MigrationNic => HostAnswer::MigrationNic(Box::new(migration_nic(plane))),
        HostRequest::LogShow { role, lines } => HostAnswer::Log(log_lines(plane, role.as_deref(), *lines)?),
        HostRequest::ConfigShow => HostAnswer::Config(Box::new(ConfigDetail {
            layers: plane.configuration.layers.clone(),
            errors: plane.configuration.errors.clone(),
            config: plane.configuration.config.clone(),
        })),
        HostRequest::Names => HostAnswer::Names(names(plane)),
        other => {
            let cause = format!("{other:?} is not a question");
            return Err(Diagnosis::new("the request was not understood", cause, "help"));
        }
    })
}

fn host(plane: &ControlPlane) -> HostDetail {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let addresses = plane.with_fabric("", |fabric| fabric.addresses()).ok().and_then(Result::ok);
    HostDetail {
        name: plane.name().clone(),
        identity: plane.identity.iter().map(|byte| format!("{byte:02x}")).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        uptime_s: uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0),
        cpu: plane.cpu.as_ref().map_or_else(|| "unknown".to_owned(), |report| report.brand.clone()),
        cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
        memory: plane.memory(),
        memory_free: plane.memory_free(),
        vms: u32::try_from(plane.vms.all_running().len()).unwrap_or(u32::MAX),
        addresses: addresses.unwrap_or_default(),
        kvm: checks::kvm_problem().is_none(),
        config_errors: plane.configuration.errors.clone(),
    }
}

fn host_checks(plane: &ControlPlane) -> Vec<Check> {
    let check = |subject: &str, found: &str, problems: Vec<Reason>| {
        let found = if problems.is_empty() { found } else { "not well" };
        Check { subject: subject.to_owned(), found: found.to_owned(), problems }
    };
    let config = plane
        .configuration
        .errors
        .iter()
        .map(|error| Reason::new(error.to_string(), "mend it where it stands, then: host reboot"));
    let network = plane.with_fabric("", |fabric| fabric.problems()).unwrap_or_default();
    let migration =
        plane.engine.trouble().map(|trouble| Reason::new(trouble, "network migration-nic; log show migrate"));
    let mut checks = vec![
        check("configuration", "read without errors", config.collect()),
        check("KVM", "usable", checks::kvm_problem().into_iter().collect()),
        check("network", "as configured", network),
        check("migration stack", "up", migration.into_iter().collect()),
    ];
    for datastore in plane.datastores.all() {
        checks.push(check(&format!("datastore {}", datastore.name()), &datastore.row().state, datastore.problems()));
    }
    checks.push(check("leases", "renewed", lease_problems(plane)));
    checks
}

fn lease_problems(plane: &ControlPlane) -> Vec<Reason> {
    match plane.leases.ask(&LeaseRequest::Status, &[]) {
        Ok(LeaseAnswer::Status(leases)) => {
            let datastores = plane.datastores.all();
            let without =
                datastores.iter().filter(|datastore| leases.iter().all(|lease| lease.datastore != *datastore.name()));
            let without = without.map(|datastore| {
                let name = datastore.name();
                let cause = format!("the host lease on datastore {name} is not taken yet: it takes seconds");
                Reason::new(cause, format!("datastore show {name}; log show lease"))
            });
            let without: Vec<Reason> = without.collect();
            let troubled = leases.into_iter().filter(|lease| !lease.held || !lease.trouble.is_empty());
            let reason = |lease: crate::api::lease::DatastoreLease| {
                let cause =
                    format!("the host lease on datastore {} is not renewed: {}", lease.datastore, lease.trouble);
                Reason::new(cause, format!("datastore show {}; log show lease", lease.datastore))
            };
            troubled.map(reason).chain(without).collect()
        }
        Ok(_) => Vec::new(),
        Err(failure) => vec![failure.reason()],
    }
}

/// The VMs of all datastores that answer, and those that run here from one that does not.
fn vms(plane: &ControlPlane) -> Vec<VmRow> {
    let mut rows = Vec::new();
    // One that is known to be lost is not asked: the list would come only after the bound of a request, or several.
    for datastore in plane.datastores.all().into_iter().filter(|datastore| datastore.available()) {
        let names = vm_names(&datastore);
        let holders = holders(plane, &datastore, &names);
        for name in names {
            let holder =
                holders.as_ref().map(|holders| holders.iter().find(|(vm, _)| *vm == name).map(|(_, holder)| holder));
            rows.push(vm_row(plane, &datastore, &name, holder));
        }
    }
    for (running, state) in plane.vms.all_running() {
        if !rows.iter().any(|row| row.name == running.vm.vm) {
            rows.push(VmRow {
                name: running.vm.vm.clone(),
                datastore: running.vm.datastore.clone(),
                state,
                cpus: running.spec.cpus,
                memory: Bytes(running.spec.memory_bytes),
            });
        }
    }
    rows
}

/// Who holds which of these VMs; `None` where the leases do not tell.
fn holders(plane: &ControlPlane, datastore: &Datastore, names: &[VmName]) -> Option<Vec<(VmName, Holder)>> {
    let mut all = Vec::new();
    for vms in names.chunks(LISTED_AT_ONCE) {
        let request = LeaseRequest::List { datastore: datastore.name().clone(), vms: vms.to_vec() };
        match plane.leases.ask(&request, &[]) {
            Ok(LeaseAnswer::Holders(holders)) => all.extend(holders),
            _ => return None,
        }
    }
    Some(all)
}

fn vm_names(datastore: &Datastore) -> Vec<VmName> {
    let folders = datastore.list("vms").unwrap_or_else(|error| {
        log::warn!("the VMs of datastore {} are not listed: {error}", datastore.name());
        Vec::new()
    });
    folders.iter().filter_map(|folder| folder.parse().ok()).collect()
}

/// One VM in a list; `holder` is `None` where the leases do not tell.
fn vm_row(
    plane: &ControlPlane,
    datastore: &std::sync::Arc<Datastore>,
    name: &VmName,
    holder: Option<Option<&Holder>>,
) -> VmRow {
    let text = datastore.read_text(&format!("vms/{name}/vm.toml"), limits::VM_CONFIG_BYTES_MAX);
    let located = text.map(|config_text| Located { name: name.clone(), datastore: datastore.clone(), config_text });
    let config = located.as_ref().ok().and_then(|located| located.read_config().ok());
    let elsewhere = match holder {
        None => VmState::Unknown,
        Some(None) if config.is_none() => VmState::Broken,
        Some(None) => VmState::Stopped,
        // Held by this host and not running: it is being started or ended.
        Some(Some(holder)) if holder.own => VmState::Stopped,
        Some(Some(holder)) if holder.alive => VmState::Elsewhere(holder.name.clone()),
        Some(Some(holder)) => VmState::Orphaned(holder.name.clone()),
    };
    VmRow {
        name: name.clone(),
        datastore: datastore.name().clone(),
        state: plane.vms.state(name).unwrap_or(elsewhere),
        cpus: config.as_ref().map_or(0, |config| config.cpus),
        memory: config.as_ref().map_or(Bytes(0), |config| config.memory),
    }
}

fn vm(plane: &ControlPlane, name: &VmName) -> Result<VmDetail, Diagnosis> {
    let located = locate(plane, name, &format!("VM {name} is not shown"))?;
    let holder = plane.leases.holder(&located.vm()).ok();
    let (config, config_errors) = match located.read_config() {
        Ok(config) => (Some(config), Vec::new()),
        Err(errors) => (None, errors),
    };
    let running = plane.vms.running(name);
    let cpu_us = running.as_ref().and_then(|running| match running.monitor.ask(&VmmRequest::Status, &[]) {
        Ok(VmmAnswer::Status(status)) => Some(status.cpu_us),
        _ => None,
    });
    Ok(VmDetail {
        row: vm_row(plane, &located.datastore, name, holder.as_ref().map(Option::as_ref)),
        config,
        config_errors,
        holder: holder.as_ref().and_then(|holder| holder.as_ref().map(|holder| holder.name.clone())),
        epoch: holder.flatten().map_or(0, |holder| holder.epoch),
        cpu_us: cpu_us.unwrap_or(0),
        last_end: plane.vms.last_end(name),
        pid: running.map(|running| running.monitor.pid()),
    })
}

fn vm_checks(plane: &ControlPlane, name: &VmName) -> Result<Vec<Check>, Diagnosis> {
    let located = locate(plane, name, &format!("VM {name} is not checked"))?;
    let config = match located.read_config() {
        Ok(config) => config,
        Err(errors) => {
            let problems = errors.iter().map(|error| Reason::new(error.to_string(), "mend vm.toml")).collect();
            return Ok(vec![Check { subject: "vm.toml".to_owned(), found: "has errors".to_owned(), problems }]);
        }
    };
    let mut checks = vec![Check { subject: "vm.toml".to_owned(), found: "valid".to_owned(), problems: Vec::new() }];
    checks.extend(checks::start_checks(plane, &located, &config));
    Ok(checks)
}

fn receipt(plane: &ControlPlane, id: &str) -> Result<Receipt, Diagnosis> {
    if let Some(receipt) = plane.moves.receipt(id) {
        return Ok(receipt);
    }
    let what = format!("migration {id} is not shown");
    if id.len() != 16 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Diagnosis::new(what, "a migration's identity has 16 hex digits", "migration list"));
    }
    for datastore in plane.datastores.all() {
        for vm in vm_names(&datastore) {
            let Ok(text) = datastore.read_text(&format!("vms/{vm}/receipts/{id}.toml"), limits::VM_CONFIG_BYTES_MAX)
            else {
                continue;
            };
            return toml::from_str(&text).map_err(|error| Diagnosis::new(what, error.to_string(), ""));
        }
    }
    Err(Diagnosis::new(what, "no datastore of this host has its receipt", "migration list"))
}

fn datastore(plane: &ControlPlane, name: &DatastoreName) -> Result<DatastoreDetail, Diagnosis> {
    let Some(datastore) = plane.datastores.get(name) else {
        let what = format!("datastore {name} is not shown");
        return Err(Diagnosis::new(what, format!("this host has no datastore {name}"), "datastore list"));
    };
    let lease = match plane.leases.ask(&LeaseRequest::Status, &[]) {
        Ok(LeaseAnswer::Status(leases)) => leases.into_iter().find(|lease| lease.datastore == *name),
        _ => None,
    };
    let lease = match lease {
        Some(lease) if lease.held => format!("held, renewed {} ms ago", lease.renewed_ms),
        Some(lease) => format!("not held: {}", lease.trouble),
        None => "not held".to_owned(),
    };
    Ok(DatastoreDetail { row: datastore.row(), problems: datastore.problems(), vms: vm_names(&datastore), lease })
}

fn port_groups(plane: &ControlPlane) -> Result<Vec<PortGroupRow>, Diagnosis> {
    let mut rows = plane.with_fabric("the port groups are not shown", |fabric| fabric.port_groups())?;
    for (running, _) in plane.vms.all_running() {
        for row in &mut rows {
            if running.config.nics.iter().any(|nic| nic.port_group == row.name) {
                row.vms.push(running.vm.vm.clone());
            }
        }
    }
    Ok(rows)
}

fn migration_nic(plane: &ControlPlane) -> MigrationNicDetail {
    let mut nic = plane.engine.nic().map(|nic| *nic).unwrap_or_default();
    let configured = plane.configuration.config.as_ref().is_some_and(|config| config.migration_nic.is_some());
    if !configured {
        nic.problems
            .push(Reason::new("no [migration_nic] is configured", "add it to the host's configuration: config show"));
    } else if let Some(trouble) = plane.engine.trouble() {
        nic.problems.push(Reason::new(trouble, "log show migrate"));
    }
    nic
}

fn names(plane: &ControlPlane) -> Names {
    let mut vms: Vec<VmName> = plane.datastores.all().iter().flat_map(|datastore| vm_names(datastore)).collect();
    vms.extend(plane.vms.all_running().into_iter().map(|(running, _)| running.vm.vm.clone()));
    vms.sort();
    vms.dedup();
    Names {
        vms,
        hosts: plane.hosts.names(),
        datastores: plane.datastores.all().iter().map(|datastore| datastore.name().clone()).collect(),
        migrations: plane.moves.rows(plane).into_iter().map(|row| row.id).collect(),
    }
}

/// Roles that a log can be asked of, and the file that holds each one's lines: monitors are this role's children, and
/// write where it writes.
const LOGS: [(&str, &str); 5] =
    [("init", "init"), ("host", "host"), ("lease", "lease"), ("migrate", "migrate"), ("vmm", "host")];

/// The last lines of one role's log, or of all, as many as one message may carry.
fn log_lines(plane: &ControlPlane, role: Option<&str>, lines: u32) -> Result<Vec<String>, Diagnosis> {
    let what = "the log is not shown";
    let wanted: Vec<_> = LOGS.iter().filter(|(name, _)| role.is_none_or(|role| role == *name)).collect();
    if wanted.is_empty() {
        let known = LOGS.map(|(name, _)| name).join(", ");
        return Err(Diagnosis::new(what, format!("there is no role {}", role.unwrap_or_default()), known));
    }
    let mut shown = Vec::new();
    for (name, file) in wanted {
        let path = plane.run_dir.log(file);
        let text = match std::fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            // A role that has said nothing yet has no log.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Diagnosis::new(what, format!("{}: {error}", path.display()), "host check")),
        };
        // "<seconds> <role> <level>: <words>"; a panic's lines have another form and belong to the file's own role.
        let speaker = |line: &str| {
            line.split(' ').nth(1).filter(|word| LOGS.iter().any(|(name, _)| name == word)).map(str::to_owned)
        };
        let own: Vec<&str> = text.lines().filter(|line| speaker(line).as_deref().unwrap_or(file) == *name).collect();
        let first = own.len().saturating_sub(usize::try_from(lines).unwrap_or(usize::MAX));
        shown.extend(own[first..].iter().map(|line| (*line).to_owned()));
    }
    // Newest lines win where not all fit into one message.
    let mut room = usize::try_from(limits::API_MESSAGE_BYTES_MAX).unwrap_or(usize::MAX) / 2;
    let fitting = shown.iter().rev().take_while(|line| {
        room = room.saturating_sub(line.len() + 8);
        room > 0
    });
    let fitting = fitting.count();
    Ok(shown.split_off(shown.len() - fitting))
}

/// A connection to the monitor of a VM that runs here, for the console.
///
/// # Errors
/// It does not run here.
pub fn vm_console(plane: &ControlPlane, name: &VmName) -> Result<OwnedFd, Diagnosis> {
    let what = format!("the console of VM {name} is not shown");
    let Some(running) = plane.vms.running(name) else {
        let cause = format!("VM {name} does not run on this host");
        return Err(Diagnosis::new(
            what,
            cause,
            format!("vm show {name} tells where it is; vm start {name} starts it here"),
        ));
    };
    let channel = running.monitor.connect();
    let channel = channel.map_err(|error| Diagnosis::new(what, error.to_string(), "log show vmm"))?;
    Ok(channel.into_socket())
}
