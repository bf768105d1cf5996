//! What the control plane knows, as answers to the console. Nothing here changes anything.

use std::os::fd::OwnedFd;

use model::diagnosis::{Diagnosis, Reason};
use model::limits;
use model::names::{DatastoreName, VmName};
use model::units::Bytes;

use crate::api::host::{
    Check, ConfigDetail, DatastoreDetail, HostAnswer, HostDetail, HostRequest, Names, PortGroupRow, VmDetail, VmRow,
    VmState,
};
use crate::api::lease::{Holder, LeaseAnswer, LeaseRequest};
use crate::datastore::Datastore;
use crate::host::control_plane::ControlPlane;
use crate::host::located::{Located, locate};
use crate::host::receipts::{self, listed_vms, vm_names};
use crate::host::{checks, health, logs};

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
        HostRequest::HostCheck => HostAnswer::Checks(health::checks(plane)),
        HostRequest::HostCpu => match &plane.cpu {
            Some(report) => HostAnswer::Cpu(Box::new(report.clone())),
            None => return Err(Diagnosis::of("there is no CPU report", checks::kvm_problem().into_iter().collect())),
        },
        HostRequest::VmList => HostAnswer::Vms(vms(plane)),
        HostRequest::VmShow(name) => HostAnswer::Vm(Box::new(vm(plane, name)?)),
        HostRequest::VmCheck(name) => HostAnswer::Checks(vm_checks(plane, name)?),
        HostRequest::MigrationList => HostAnswer::Migrations(plane.moves.rows(plane)),
        HostRequest::MigrationShow(id) => HostAnswer::Migration(Box::new(receipts::find(plane, id)?)),
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
        HostRequest::MigrationNic => HostAnswer::MigrationNic(Box::new(health::migration_nic(plane))),
        HostRequest::LogShow { role, lines } => {
            HostAnswer::Log(logs::last_lines(&plane.run_dir, role.as_deref(), *lines)?)
        }
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

/// The VMs of all datastores that answer, and those that run here from one that does not.
fn vms(plane: &ControlPlane) -> Vec<VmRow> {
    let mut rows = Vec::new();
    for datastore in plane.datastores.all() {
        // One that is known to be lost is not asked: the list would come only after the bound of a request, or several.
        let names = datastore.available().then(|| listed_vms(&datastore)).flatten();
        let Some(names) = names else {
            rows.extend(plane.listed(&datastore).into_iter().map(|row| unheard(plane, row)));
            continue;
        };
        let from = rows.len();
        let holders = holders(plane, &datastore, &names);
        for name in names {
            let holder =
                holders.as_ref().map(|holders| holders.iter().find(|(vm, _)| *vm == name).map(|(_, holder)| holder));
            rows.push(vm_row(plane, &datastore, &name, holder));
        }
        plane.note_listed(&datastore, &rows[from..]);
    }
    for (running, state) in plane.vms.all_running() {
        if !rows.iter().any(|row| row.name == running.vm.vm) {
            rows.push(VmRow {
                name: running.vm.vm.clone(),
                datastore: running.vm.datastore.clone(),
                state,
                cpus: Some(running.spec.cpus),
                memory: Some(Bytes(running.spec.memory_bytes)),
            });
        }
    }
    rows
}

/// A VM of a datastore that does not answer, as it was when that last did: what it is now, only this host's part of it is
/// known.
fn unheard(plane: &ControlPlane, row: VmRow) -> VmRow {
    VmRow { state: plane.vms.state(&row.name).unwrap_or(VmState::Unknown), ..row }
}

/// Where a VM is, for a person, as far as that is known at once.
pub fn where_is(plane: &ControlPlane, name: &VmName) -> Option<String> {
    let here = plane.name();
    match plane.vms.state(name) {
        Some(VmState::Running) => return Some(format!("it is running on {here}")),
        Some(VmState::Paused) => return Some(format!("it is paused on {here}")),
        Some(VmState::MovingIn) | None => {}
        Some(_) => return Some(format!("it is on {here}")),
    }
    // A datastore that is away would be waited for.
    if !plane.datastores.all().iter().all(|datastore| datastore.available()) {
        return None;
    }
    let located = locate(plane, name, "").ok()?;
    match plane.leases.holder(&located.vm()).ok()? {
        None => Some("it is stopped".to_owned()),
        Some(holder) if holder.own => None,
        Some(holder) if holder.alive => Some(format!("it is on {}", holder.name)),
        Some(holder) => Some(format!("it was on {}, which is dead or cut off", holder.name)),
    }
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
        cpus: config.as_ref().map(|config| config.cpus),
        memory: config.as_ref().map(|config| config.memory),
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
    let cpu_us = running.as_ref().and_then(|running| Some(running.monitor.status().ok()?.cpu_us));
    Ok(VmDetail {
        row: vm_row(plane, &located.datastore, name, holder.as_ref().map(Option::as_ref)),
        config,
        config_errors,
        holder: holder.as_ref().and_then(|holder| holder.as_ref().map(|holder| holder.name.clone())),
        epoch: holder.flatten().map_or(0, |holder| holder.epoch),
        cpu_us: cpu_us.unwrap_or(0),
        waits_for: plane.vms.waiting_for(name),
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
            return Ok(vec![Check::new("vm.toml", "has errors", problems)]);
        }
    };
    let mut checks = vec![Check::new("vm.toml", "valid", Vec::new())];
    checks.extend(checks::start_checks(plane, &located, &config));
    Ok(checks)
}

fn datastore(plane: &ControlPlane, name: &DatastoreName) -> Result<DatastoreDetail, Diagnosis> {
    let Some(datastore) = plane.datastores.get(name) else {
        let what = format!("datastore {name} is not shown");
        return Err(Diagnosis::new(what, format!("this host has no datastore {name}"), "datastore list"));
    };
    let leases = plane.leases.status().unwrap_or_default();
    let lease = leases.into_iter().find(|lease| lease.datastore == *name);
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
