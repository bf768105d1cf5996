//! What the control plane knows, as answers to the console. Nothing here changes anything.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use model::diagnosis::{Diagnosis, Reason};
use model::names::{DatastoreName, VmName};
use model::units::Bytes;

use crate::api::host::{
    Check, ConfigDetail, DatastoreDetail, Flaw, HostAnswer, HostDetail, HostRequest, Names, PortGroupRow, VmDetail,
    VmHolder, VmRow, VmState,
};
use crate::api::lease::{Holder, Listed};
use crate::datastore::Datastore;
use crate::host::control_plane::{ControlPlane, kernel, logical_processors};
use crate::host::discovery::{self, hex_of};
use crate::host::leases::LeaseFailure;
use crate::host::located::{LISTING, Located, away, locate, vm_folders_within};
use crate::host::vms::Fenced;
use crate::host::whereabouts::{is_idle, told_by_lease, told_here};
use crate::host::{checks, health, lease_view, logs, mac_addresses, maintenance, processors, receipts};

/// Answers a request that only asks.
///
/// # Errors
/// What is asked for is not there.
pub fn answer(plane: &ControlPlane, request: &HostRequest) -> Result<HostAnswer, Diagnosis> {
    Ok(match request {
        HostRequest::HostShow => HostAnswer::Host(Box::new(host(plane))),
        HostRequest::HostShowOther(name) if name == plane.name() => HostAnswer::Host(Box::new(host(plane))),
        HostRequest::HostShowOther(name) => {
            let unknown = || {
                let cause = match discovery::Blind::look(plane).reason() {
                    None => Reason::new("no host of this name shares a datastore with this one", "host list"),
                    Some(Reason { cause, hint }) => {
                        Reason::new(format!("no host of this name is known, and {cause}"), hint)
                    }
                };
                Diagnosis::of(format!("host {name} is not shown"), vec![cause])
            };
            HostAnswer::HostSeen(Box::new(discovery::seen_now(plane, name).ok_or_else(unknown)?))
        }
        HostRequest::HostList => HostAnswer::Hosts(discovery::all_now(plane)),
        HostRequest::HostCheck => HostAnswer::Checks(health::checks(plane)),
        HostRequest::HostCpu => HostAnswer::Cpu(Box::new(processors::own_report(plane)?.clone())),
        HostRequest::HostCpuCompare(host) => HostAnswer::CpuComparison(Box::new(processors::compare(plane, host)?)),
        HostRequest::HostCpuBaseline => HostAnswer::CpuBaseline(Box::new(processors::shared_baseline(plane)?)),
        HostRequest::VmList => {
            plane.known_datastores("the VMs are not listed")?;
            HostAnswer::Vms(vms(plane))
        }
        HostRequest::VmShow(name) => HostAnswer::Vm(Box::new(vm(plane, name)?)),
        HostRequest::VmCheck(name) => HostAnswer::Checks(vm_checks(plane, name)?),
        HostRequest::MigrationList => HostAnswer::Migrations(plane.moves.rows(plane)),
        HostRequest::MigrationShow(id) => HostAnswer::Migration(Box::new(receipts::find(plane, id)?)),
        HostRequest::DatastoreList => {
            let datastores = plane.known_datastores("the datastores are not listed")?;
            HostAnswer::Datastores(datastores.iter().map(|datastore| datastore.row()).collect())
        }
        HostRequest::DatastoreShow(name) => HostAnswer::Datastore(Box::new(datastore(plane, name)?)),
        HostRequest::NetworkNics => {
            let nics = plane.nics();
            HostAnswer::Nics(
                nics.map_err(|error| Diagnosis::new("the NICs are not shown", error.to_string(), "host check"))?,
            )
        }
        HostRequest::PortGroupList => HostAnswer::PortGroups(port_groups(plane)?),
        HostRequest::LeaseList => HostAnswer::Leases(lease_view::list(plane)?),
        HostRequest::LeaseShow(name) => HostAnswer::Lease(Box::new(lease_view::show(plane, name)?)),
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
    HostDetail {
        name: plane.name().clone(),
        identity: hex_of(&plane.identity),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: kernel(),
        uptime_s: uptime.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0),
        cpu: plane.cpu.as_ref().map_or_else(|| "unknown".to_owned(), |report| report.brand.clone()),
        cpus: logical_processors(),
        memory: plane.memory(),
        memory_free: plane.memory_free(),
        vms: u32::try_from(plane.vms.all_running().len()).unwrap_or(u32::MAX),
        addresses: plane.addresses(),
        kvm: checks::kvm_problem().is_none(),
        maintenance: plane.maintenance.is_on(),
        config_errors: plane.configuration.errors.clone(),
    }
}

/// The VMs of all datastores that answer, and of those that do not, what they had when they did, what runs here and what the fence
/// ended here.
fn vms(plane: &ControlPlane) -> Vec<VmRow> {
    let datastores = plane.datastores.all();
    // All are asked at once: several that do not answer are waited for together.
    let listings = std::thread::scope(|scope| {
        let asked: Vec<_> = datastores
            .iter()
            .map(|datastore| {
                let listing = std::thread::Builder::new().name("vm-list".to_owned());
                listing.spawn_scoped(scope, move || vms_of(plane, datastore))
            })
            .collect();
        let listed =
            asked.into_iter().zip(&datastores).map(|(asked, datastore)| match asked.map(ScopedJoinHandle::join) {
                Ok(Ok(listing)) => listing,
                Ok(Err(panicked)) => std::panic::resume_unwind(panicked),
                // No thread can be made.
                Err(_) => vms_of(plane, datastore),
            });
        listed.collect::<Vec<_>>()
    });
    let mut rows = Vec::new();
    let mut untold = BTreeMap::new();
    for (datastore, (listed, why)) in datastores.iter().zip(listings) {
        rows.extend(listed);
        untold.extend(why.map(|why| (datastore.name().clone(), why)));
    }
    let running = plane.vms.all_running().into_iter().map(|(running, _)| running.vm.vm.clone());
    for name in running.chain(plane.vms.all_fenced()) {
        let listed = rows.iter().any(|row| row.name == name.as_str());
        let Some(row) = own_row(plane, &name).filter(|_| !listed) else { continue };
        let unknown = untold.get(&row.datastore).cloned();
        // One that ended here, and that a datastore which answers does not have any more, is none.
        if row.state != VmState::EndedHere || unknown.is_some() {
            rows.push(VmRow { unknown, ..row });
        }
    }
    rows
}

/// The VMs of one datastore; and, where it does not tell which it has, why.
fn vms_of(plane: &ControlPlane, datastore: &Arc<Datastore>) -> (Vec<VmRow>, Option<Reason>) {
    let before = plane.listed(datastore);
    let folders = match vm_folders_within(LISTING, datastore) {
        Ok(folders) => folders,
        Err(reason) => {
            let why = lease_view::untold(datastore, reason);
            // That it had none says nothing of what came since.
            let known = before.filter(|rows| !rows.is_empty()).unwrap_or_else(|| vec![unlisted(datastore)]);
            return (known.into_iter().map(|row| unheard(plane, row, &why)).collect(), Some(why));
        }
    };
    let names: Vec<VmName> = folders.iter().filter_map(|folder| folder.parse().ok()).collect();
    let holders = lease_view::holders(plane, datastore, &names);
    let mut rows = Vec::new();
    // Why no further file is read: each would be waited for.
    let mut silent = None;
    for folder in folders {
        let Ok(name) = folder.parse::<VmName>() else {
            rows.push(misnamed(datastore, folder));
            continue;
        };
        let listed =
            holders.as_ref().map(|holders| holders.iter().find(|(vm, _)| *vm == name).map(|(_, listed)| listed));
        let read = silent.clone().map_or_else(|| read(datastore, &name), |why| Err(Unread::Unanswered(why)));
        if let Err(Unread::Unanswered(why)) = &read {
            silent.get_or_insert_with(|| why.clone());
        }
        let mut row = vm_row(plane, datastore, &name, listed, read);
        if silent.is_some()
            && let Some(known) = before.iter().flatten().find(|known| known.name == row.name)
        {
            (row.cpus, row.memory) = (row.cpus.or(known.cpus), row.memory.or(known.memory));
        }
        rows.push(row);
    }
    plane.note_listed(datastore, &rows);
    (rows, None)
}

/// Why a vm.toml was not read.
enum Unread {
    /// The datastore said nothing.
    Unanswered(Reason),
    /// There is none.
    Missing,
    /// It is there, and is no file that can be read.
    Unreadable,
}

/// The vm.toml of a VM in a list.
fn read(datastore: &Arc<Datastore>, name: &VmName) -> Result<Located, Unread> {
    if let Some(away) = away(datastore) {
        return Err(Unread::Unanswered(away));
    }
    Located::read_within(LISTING, datastore, name).map_err(|error| {
        let (place, hint) = (datastore.name(), format!("datastore show {}", datastore.name()));
        let reason = Reason::new(format!("datastore {place}: {error}"), hint);
        match error {
            error if error.is_away() => Unread::Unanswered(reason),
            error if error.is_missing() => Unread::Missing,
            _ => Unread::Unreadable,
        }
    })
}

/// The names of the VMs of a datastore, as far as it tells them at once.
fn listed_names(datastore: &Datastore) -> Vec<VmName> {
    let folders = vm_folders_within(LISTING, datastore).unwrap_or_default();
    folders.iter().filter_map(|folder| folder.parse().ok()).collect()
}

/// What this host itself knows of a VM that has a monitor here, or that the fence ended here.
fn own_row(plane: &ControlPlane, name: &VmName) -> Option<VmRow> {
    let (datastore, state, size) = if let Some(running) = plane.vms.running(name) {
        let size = (running.spec.cpus, Bytes(running.spec.memory_bytes));
        (running.vm.datastore.clone(), plane.vms.state(name)?, Some(size))
    } else {
        let Fenced { datastore, size } = plane.vms.fenced(name)?;
        (datastore, VmState::EndedHere, size)
    };
    let (cpus, memory) = size.unzip();
    Some(VmRow { name: name.to_string(), datastore, state, cpus, memory, unknown: None })
}

/// What a VM is whose datastore or lease does not tell.
fn state_by_itself(plane: &ControlPlane, name: &VmName) -> VmState {
    let ended = plane.vms.fenced(name).map(|_| VmState::EndedHere);
    ended.or_else(|| plane.vms.state(name)).unwrap_or(VmState::Unknown)
}

/// What stands for the VMs of a datastore that did not answer yet: a list without them would say that there are none.
fn unlisted(datastore: &Datastore) -> VmRow {
    let (state, datastore) = (VmState::Unknown, datastore.name().clone());
    VmRow { name: "?".to_owned(), datastore, state, cpus: None, memory: None, unknown: None }
}

/// A VM of a datastore that does not answer, as it was when that last did: what it is now, only this host's part of it is
/// known.
fn unheard(plane: &ControlPlane, row: VmRow, why: &Reason) -> VmRow {
    let state = row.name.parse().map_or(VmState::Unknown, |name| state_by_itself(plane, &name));
    VmRow { state, unknown: Some(why.clone()), ..row }
}

/// A folder that can be no VM, by its name.
fn misnamed(datastore: &Datastore, folder: String) -> VmRow {
    let (state, datastore) = (VmState::Broken(Flaw::Name), datastore.name().clone());
    VmRow { name: folder, datastore, state, cpus: None, memory: None, unknown: None }
}

/// One VM in a list.
fn vm_row(
    plane: &ControlPlane,
    datastore: &Datastore,
    name: &VmName,
    listed: Result<Option<&Listed>, &LeaseFailure>,
    read: Result<Located, Unread>,
) -> VmRow {
    // None where nobody said how it is.
    let (config, mut unread) = match read {
        Ok(located) => (located.draft().config.map_err(|_| Some(Flaw::Errors)), None),
        Err(Unread::Unanswered(reason)) => (Err(None), Some(reason)),
        Err(Unread::Missing) => (Err(Some(Flaw::NoConfig)), None),
        Err(Unread::Unreadable) => (Err(Some(Flaw::Unreadable)), None),
    };
    match listed {
        // Otherwise this is what it came to here.
        Ok(Some(Listed::Held(holder))) if holder.alive || holder.name != *plane.name() => plane.vms.forget_fence(name),
        Ok(None) => plane.vms.forget_fence(name),
        Ok(Some(_)) => {}
        Err(failure) if failure.is_silence() || matches!(failure, LeaseFailure::Damaged { .. }) => {}
        Err(failure) => unread = unread.or_else(|| Some(failure.reason())),
    }
    let elsewhere = match listed {
        Err(failure) if failure.is_silence() => VmState::Unheard,
        Err(LeaseFailure::Damaged { .. }) | Ok(Some(Listed::Damaged(_))) => VmState::LeaseDamaged,
        Err(_) => state_by_itself(plane, name),
        Ok(None) => match config {
            Ok(_) => VmState::Stopped,
            Err(Some(flaw)) => VmState::Broken(flaw),
            Err(None) => VmState::Unknown,
        },
        // Held by this host, which does nothing with it: it runs nowhere.
        Ok(Some(Listed::Held(holder))) if holder.own => VmState::Stopped,
        Ok(Some(Listed::Held(holder))) if holder.alive => VmState::Elsewhere(holder.name.clone()),
        Ok(Some(Listed::Held(holder))) if holder.name == *plane.name() => VmState::LostHere,
        Ok(Some(Listed::Held(holder))) => VmState::Orphaned(holder.name.clone()),
    };
    VmRow {
        name: name.to_string(),
        datastore: datastore.name().clone(),
        state: if elsewhere == VmState::EndedHere { elsewhere } else { plane.vms.state(name).unwrap_or(elsewhere) },
        cpus: config.as_ref().ok().map(|config| config.cpus),
        memory: config.as_ref().ok().map(|config| config.memory),
        unknown: unread.map(|reason| lease_view::untold(datastore, reason)),
    }
}

fn vm(plane: &ControlPlane, name: &VmName) -> Result<VmDetail, Diagnosis> {
    let located = match locate(plane, name, &format!("VM {name} is not shown")) {
        Ok(located) => located,
        Err(refusal) => return own_detail(plane, name, &refusal).ok_or(refusal),
    };
    let holder = plane.leases.holder_if_it_answers(&located.vm());
    let (config, config_errors) = match located.draft().config {
        Ok(config) => (Some(config), Vec::new()),
        Err(errors) => (None, errors),
    };
    let (epoch, held) = held_by(plane, name, &holder);
    let running = plane.vms.running(name);
    let listed = holder.map(|holder| holder.map(Listed::Held));
    let status = running.as_ref().and_then(|running| running.monitor.status().ok());
    Ok(VmDetail {
        row: vm_row(plane, &located.datastore, name, listed.as_ref().map(Option::as_ref), Ok(located.clone())),
        config,
        config_errors,
        holder: held,
        epoch,
        cpu_us: status.as_ref().map_or(0, |status| status.cpu_us),
        failed_requests: status.map_or(0, |status| status.failed_requests),
        waits_for: plane.vms.waiting_for(name),
        last_end: plane.vms.last_end(name),
        pid: running.map(|running| running.monitor.pid()),
    })
}

/// The epoch in which a VM is held, 0 where that is not known, and by whom.
fn held_by(plane: &ControlPlane, name: &VmName, holder: &Result<Option<Holder>, LeaseFailure>) -> (u64, VmHolder) {
    match holder {
        Err(failure) if failure.is_silence() => (0, VmHolder::Unheard),
        Err(LeaseFailure::Damaged { why, .. }) => (0, VmHolder::Damaged(why.clone())),
        Err(_) => (0, VmHolder::Unknown),
        Ok(None) => (0, VmHolder::Nobody),
        Ok(Some(holder)) => {
            let idle = is_idle(plane, name, holder);
            (holder.epoch, VmHolder::Host { name: holder.name.clone(), idle, since_unix_s: holder.since_unix_s })
        }
    }
}

/// What this host itself knows of a VM whose datastore does not answer, or whose vm.toml cannot be read by now (`refusal`), if it has anything to
/// do with it.
fn own_detail(plane: &ControlPlane, name: &VmName, refusal: &Diagnosis) -> Option<VmDetail> {
    let row = own_row(plane, name)?;
    let datastore = plane.datastores.get(&row.datastore)?;
    let running = plane.vms.running(name);
    let told = |epoch| (epoch, VmHolder::Unknown);
    let epoch = running.as_ref().map_or(0, |running| running.epoch());
    let (unknown, (epoch, holder)) = match (away(&datastore), &running) {
        (Some(away), _) => (lease_view::untold(&datastore, away), told(epoch)),
        (None, Some(running)) => {
            let holder = plane.leases.holder_if_it_answers(&running.vm);
            (refusal.reasons.first()?.clone(), held_by(plane, name, &holder))
        }
        (None, None) => return None,
    };
    let status = running.as_ref().and_then(|running| running.monitor.status().ok());
    Some(VmDetail {
        row: VmRow { unknown: Some(unknown), ..row },
        config: running.as_ref().map(|running| running.config.clone()),
        config_errors: Vec::new(),
        holder,
        epoch,
        cpu_us: status.as_ref().map_or(0, |status| status.cpu_us),
        failed_requests: status.map_or(0, |status| status.failed_requests),
        waits_for: plane.vms.waiting_for(name),
        last_end: plane.vms.last_end(name),
        pid: running.map(|running| running.monitor.pid()),
    })
}

fn vm_checks(plane: &ControlPlane, name: &VmName) -> Result<Vec<Check>, Diagnosis> {
    let located = locate(plane, name, &format!("VM {name} is not checked"))?;
    let draft = located.draft();
    let mut checks = checks::start_checks(plane, &located, &draft);
    checks.push(maintenance::condition(plane));
    if let Ok(config) = &draft.config {
        checks.extend(mac_addresses::check(plane, &located, config));
    }
    // Told and not judged: this host can be looked at for a VM that runs on another.
    let place = told_here(plane, name).or_else(|| told_by_lease(plane, &located));
    checks.push(Check::well("lease", place.unwrap_or_else(|| format!("does not tell where it is: vm show {name}"))));
    Ok(checks)
}

fn datastore(plane: &ControlPlane, name: &DatastoreName) -> Result<DatastoreDetail, Diagnosis> {
    let Some(datastore) = plane.datastores.get(name) else {
        let what = format!("datastore {name} is not shown");
        return Err(Diagnosis::new(what, format!("this host has no datastore {name}"), "datastore list"));
    };
    let lease = match plane.leases.status() {
        Ok(leases) => match leases.into_iter().find(|lease| lease.datastore == *name) {
            // What is open already may still be written where nothing more can be opened.
            Some(lease) if lease.held && !datastore.available() => {
                format!("held, renewed {} ms ago by what was opened before", lease.renewed_ms)
            }
            Some(lease) if lease.held => format!("held, renewed {} ms ago", lease.renewed_ms),
            Some(lease) => format!("not held: {}", lease.trouble),
            None => "not held".to_owned(),
        },
        Err(failure) => format!("unknown: {failure}"),
    };
    // Of one that is lost this is where its state is told, at once.
    let vms = listed_names(&datastore);
    let server_lease_s = datastore.server_lease_s();
    let (problems, warnings) = (datastore.problems(), datastore.warnings());
    Ok(DatastoreDetail { row: datastore.row(), problems, warnings, vms, lease, server_lease_s })
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
    let datastores = plane.datastores.all();
    let mut vms: Vec<VmName> = datastores.iter().flat_map(|datastore| listed_names(datastore)).collect();
    vms.extend(plane.vms.all_running().into_iter().map(|(running, _)| running.vm.vm.clone()));
    vms.sort();
    vms.dedup();
    Names {
        vms,
        // Each command that wants a host wants another one.
        hosts: plane.hosts.names().into_iter().filter(|host| host != plane.name()).collect(),
        datastores: datastores.iter().map(|datastore| datastore.name().clone()).collect(),
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::api::host::{HostState, LeaseRow, LeaseState};
    use crate::api::lease::{Holder, LeaseAnswer, LeaseRequest};
    use crate::console::render;
    use crate::host::control_plane::stand_in::Place;
    use crate::host::discovery::example;
    use crate::host::monitor::stand_in::StandIn;

    #[test]
    fn a_folder_that_is_no_vm_is_listed_with_what_is_wrong_with_it() {
        let place = Place::without_datastore("folders", |request| match request {
            LeaseRequest::List { .. } => LeaseAnswer::Holders(Vec::new()),
            _ => LeaseAnswer::Failed("it is not asked".to_owned()),
        });
        for (file, text) in [
            ("vms/empty/root.img", ""),
            ("vms/errors/vm.toml", "[vm]"),
            ("vms/my vm\n/vm.toml", ""),
            ("vms/strange/vm.toml/file", ""),
            ("vms/.trash/vm.toml", ""),
            ("vms/notes", "a file is no VM"),
        ] {
            place.write(file, text);
        }
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let list = answer(&place.plane, &HostRequest::VmList).expect("listed");
        let text = render::text(&list);
        assert!(text.contains("broken: no vm.toml") && text.contains("broken: invalid name"), "{text}");
        let HostAnswer::Vms(rows) = list else { panic!("{text}") };
        let told: Vec<(&str, &VmState)> = rows.iter().map(|row| (row.name.as_str(), &row.state)).collect();
        assert_eq!(
            told,
            [
                ("empty", &VmState::Broken(Flaw::NoConfig)),
                ("errors", &VmState::Broken(Flaw::Errors)),
                ("my vm?", &VmState::Broken(Flaw::Name)),
                ("strange", &VmState::Broken(Flaw::Unreadable)),
            ]
        );
    }

    #[test]
    fn a_host_with_a_bad_configuration_shows_all_by_which_it_is_mended() {
        let place =
            Place::configured("bad-host", "[management]\nnic = \"eth0\"\naddress = \"10.0.0.1/64\"\n", |request| {
                match request {
                    LeaseRequest::Status => LeaseAnswer::Status(Vec::new()),
                    _ => LeaseAnswer::Failed("there is no datastore".to_owned()),
                }
            });
        for request in [
            HostRequest::HostShow,
            HostRequest::HostList,
            HostRequest::HostCheck,
            HostRequest::MigrationList,
            HostRequest::NetworkNics,
            HostRequest::MigrationNic,
            HostRequest::LogShow { role: None, lines: 10 },
            HostRequest::ConfigShow,
            HostRequest::Names,
        ] {
            let answer = answer(&place.plane, &request).unwrap_or_else(|refusal| panic!("{request:?}: {refusal}"));
            let told = !matches!(request, HostRequest::HostShow | HostRequest::HostCheck | HostRequest::ConfigShow)
                || render::text(&answer).contains("management.address");
            assert!(told, "{}", render::text(&answer));
        }
        let Ok(HostAnswer::Checks(checks)) = answer(&place.plane, &HostRequest::HostCheck) else { panic!("no checks") };
        for subject in ["configuration", "network", "leases"] {
            let well = checks.iter().any(|check| check.subject == subject && check.problems.is_empty());
            assert!(!well, "{subject} is not there: {checks:?}");
        }
        // That there are none would not be true.
        for request in
            [HostRequest::VmList, HostRequest::DatastoreList, HostRequest::VmShow("web".parse().expect("valid"))]
        {
            let refusal = answer(&place.plane, &request).expect_err("nobody knows").to_string();
            assert!(refusal.contains("bad configuration") && refusal.contains("config show"), "{refusal}");
        }
    }

    #[test]
    fn a_vm_whose_lease_does_not_tell_is_not_shown_as_held_by_nobody() {
        let lease = Arc::new(Mutex::new(LeaseAnswer::Failed("fenced".to_owned())));
        let answered = Arc::clone(&lease);
        let place = Place::without_datastore("untold", move |_| answered.lock().expect("held").clone());
        place.write("vms/web/vm.toml", "[vm]\nname = \"web\"\ncpus = 1\nmemory = \"64 MiB\"\n[boot]\nkernel = \"x\"\n");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let shown = || {
            let web = "web".parse().expect("valid");
            let shown = answer(&place.plane, &HostRequest::VmShow(web)).expect("shown");
            let json: serde_json::Value = serde_json::from_str(&render::json(&shown)).expect("JSON");
            (render::text(&shown), json["holder"].clone())
        };
        let (text, json) = shown();
        assert!(text.contains("does not tell who holds it") && json == "unknown", "{text}{json}");
        let (name, host) = ("host-a".parse().expect("valid"), [1; 16]);
        let own = Holder { host, name, generation: 1, epoch: 3, alive: true, own: true, since_unix_s: None };
        *lease.lock().expect("held") = LeaseAnswer::Holder(Some(own));
        let (text, json) = shown();
        assert!(text.contains("epoch 3, held by host-a, which runs nothing of it"), "{text}");
        assert_eq!(json["host"]["name"], "host-a");
        *lease.lock().expect("held") = LeaseAnswer::Holder(None);
        let (text, json) = shown();
        assert!(text.contains("held by nobody") && json == "nobody", "{text}{json}");
    }

    #[test]
    fn a_vm_that_runs_is_shown_also_where_its_vm_toml_is_no_text_by_now() {
        let (name, host) = ("host-a".parse().expect("valid"), [1; 16]);
        let own = Holder { host, name, generation: 1, epoch: 3, alive: true, own: true, since_unix_s: None };
        let place = Place::without_datastore("no-text", move |_| LeaseAnswer::Holder(Some(own.clone())));
        place.write("vms/web/vm.toml", "");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let web: VmName = "web".parse().expect("valid");
        let monitor = StandIn::start(&web);
        place.plane.vms.put(&web, monitor.running(), VmState::Running);
        place.write("vms/web/vm.toml", &[0xff, 0xfe]);
        let shown = render::text(&answer(&place.plane, &HostRequest::VmShow(web)).expect("shown"));
        for told in ["running here", "epoch 3, held by host-a", "vm.toml on datastore lab"] {
            assert!(shown.contains(told), "{told}: {shown}");
        }
    }

    #[test]
    fn a_datastore_that_is_known_to_be_lost_is_not_asked_and_is_told() {
        let config = ["lab", "spare"]
            .map(|name| format!("[datastore.{name}]\nkind = \"directory\"\npath = \"{{data}}/{name}\"\n"));
        let place = Place::configured("lost", &config.concat(), |_| LeaseAnswer::Holder(None));
        let (web, db): (VmName, VmName) = ("web".parse().expect("valid"), "db".parse().expect("valid"));
        place.write("lab/vms/web/vm.toml", "");
        place.write("spare/vms/db/vm.toml", "");
        let plane = &place.plane;
        let spare = plane.datastores.get(&"spare".parse().expect("valid")).expect("configured");
        place.wait("both are there", || plane.datastores.all().iter().all(|datastore| datastore.available()));
        let aside = spare.root().with_extension("aside");
        std::fs::rename(spare.root(), &aside).expect("renamed");
        place.wait("it is lost", || !spare.available());
        // What it would say before it is looked at again would come from one that was asked.
        std::fs::rename(&aside, spare.root()).expect("renamed");
        assert!(locate(plane, &web, "").is_ok(), "another datastore is lost");
        let HostAnswer::Names(names) = answer(plane, &HostRequest::Names).expect("told") else { panic!("no names") };
        assert_eq!(names.vms, [web]);
        let receipt = HostRequest::MigrationShow("0".repeat(16));
        for refusal in
            [locate(plane, &db, "").map(drop).expect_err("nobody knows"), answer(plane, &receipt).expect_err("so here")]
        {
            let refusal = refusal.to_string();
            assert!(refusal.contains("datastore spare does not answer: lost for"), "{refusal}");
        }
        let lost = answer(plane, &HostRequest::DatastoreShow(spare.name().clone())).expect("shown");
        assert!(matches!(lost, HostAnswer::Datastore(spare) if spare.vms.is_empty()));
        assert!(!spare.available(), "it came back too soon for this to tell anything");
    }

    #[test]
    fn a_datastore_that_had_no_vm_when_it_was_listed_is_not_left_out_once_it_does_not_answer() {
        let place = Place::without_datastore("emptied", |_| LeaseAnswer::Holders(Vec::new()));
        place.write("vms/notes", "a file is no VM");
        let plane = &place.plane;
        let datastore = plane.datastores.all().remove(0);
        place.wait("the datastore is there", || datastore.available());
        let list = || {
            let told = answer(plane, &HostRequest::VmList).expect("listed");
            let text = render::text(&told);
            let HostAnswer::Vms(rows) = told else { panic!("{text}") };
            (rows, text)
        };
        assert!(list().0.is_empty());
        std::fs::rename(datastore.root(), datastore.root().with_extension("aside")).expect("renamed");
        place.wait("it is lost", || !datastore.available());
        let (rows, text) = list();
        assert!(rows.len() == 1 && rows[0].name == "?" && text.contains("lost for"), "{rows:?}{text}");
    }

    #[test]
    fn a_list_waits_for_one_answer_of_a_datastore_and_tells_what_was_known_before() {
        let place = Place::without_datastore("hangs", |request| match request {
            LeaseRequest::List { .. } => LeaseAnswer::Holders(Vec::new()),
            _ => LeaseAnswer::Holder(None),
        });
        let config =
            |vm: &str| format!("[vm]\nname = \"{vm}\"\ncpus = 1\nmemory = \"64 MiB\"\n[boot]\nkernel = \"x\"\n");
        for vm in ["db", "web"] {
            place.write(&format!("vms/{vm}/vm.toml"), &config(vm));
        }
        let plane = &place.plane;
        let datastore = plane.datastores.all().remove(0);
        place.wait("the datastore is there", || datastore.available());
        let list = || match answer(plane, &HostRequest::VmList).expect("listed") {
            HostAnswer::Vms(rows) => rows,
            other => panic!("{other:?}"),
        };
        assert!(list().iter().all(|row| row.state == VmState::Stopped && row.unknown.is_none()));
        // What is opened there waits until somebody writes.
        let hangs = datastore.root().join("vms/db/vm.toml");
        std::fs::remove_file(&hangs).expect("removed");
        rustix::fs::mknodat(rustix::fs::CWD, &hangs, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("made");
        let rows = list();
        // The second one's file can be read, and was not asked for.
        for row in &rows {
            let why = row.unknown.as_ref().map(|why| why.cause.as_str()).unwrap_or_default();
            assert!(why.contains("did not answer within 3000 ms"), "{rows:?}");
            assert!(row.cpus == Some(1) && row.memory == Some(Bytes::mib(64)), "{rows:?}");
        }
        assert!(rows.len() == 2 && datastore.available(), "who waits for less than a request says nothing of it");
        std::fs::write(&hangs, config("db")).expect("written");
        std::fs::remove_file(&hangs).expect("removed");
        place.write("vms/db/vm.toml", &config("db"));
        assert!(list().iter().all(|row| row.state == VmState::Stopped && row.unknown.is_none()));
    }

    #[test]
    fn while_a_datastore_is_lost_all_that_is_told_of_it_is_what_this_host_itself_knows() {
        let listed = Arc::new(AtomicU32::new(0));
        let asked = Arc::clone(&listed);
        let place = Place::without_datastore("outage", move |request| match request {
            LeaseRequest::List { .. } => {
                asked.fetch_add(1, Ordering::SeqCst);
                LeaseAnswer::Holders(Vec::new())
            }
            LeaseRequest::Hosts(_) => LeaseAnswer::Hosts(Vec::new()),
            LeaseRequest::Status => LeaseAnswer::Status(Vec::new()),
            _ => LeaseAnswer::Holder(None),
        });
        for vm in ["web", "db", "sum"] {
            let text = format!("[vm]\nname = \"{vm}\"\ncpus = 1\nmemory = \"64 MiB\"\n[boot]\nkernel = \"x\"\n");
            place.write(&format!("vms/{vm}/vm.toml"), &text);
        }
        let plane = &place.plane;
        let datastore = plane.datastores.all().remove(0);
        let aside = datastore.root().with_extension("aside");
        let lose = || {
            std::fs::rename(datastore.root(), &aside).expect("renamed");
            place.wait("it is lost", || !datastore.available());
        };
        place.wait("the datastore is there", || datastore.available());
        let ask = |request: HostRequest| answer(plane, &request);
        let leases = || match ask(HostRequest::LeaseList).expect("listed") {
            HostAnswer::Leases(rows) => rows,
            other => panic!("{other:?}"),
        };
        lose();
        assert_eq!(
            leases().iter().map(|row| row.vm.as_ref()).collect::<Vec<_>>(),
            [None],
            "which VMs it has is not known"
        );
        std::fs::rename(&aside, datastore.root()).expect("renamed");
        place.wait("it is back", || datastore.available());

        // What this host told of itself before: nothing ran yet.
        let long_ago = Instant::now().checked_sub(Duration::from_secs(60)).expect("the machine is up that long");
        for record in [plane.own_record(1), example("host-b", 1)] {
            plane.hosts.note(datastore.name(), record, long_ago);
        }
        let names = ["web", "sum"].map(|name| name.parse::<VmName>().expect("valid"));
        let monitors = names.clone().map(|name| StandIn::start(&name));
        for (name, monitor) in names.iter().zip(&monitors) {
            plane.vms.put(name, monitor.running(), VmState::Running);
        }
        assert!(
            leases().is_empty() && matches!(ask(HostRequest::VmList), Ok(HostAnswer::Vms(rows)) if rows.len() == 3)
        );
        lose();
        let sum = &names[1];
        plane.vms.note_fenced(sum, datastore.name(), plane.vms.running(sum).as_deref());
        let why = "it was killed here".to_owned();
        let _releasing = plane.vms.ended(sum, monitors[1].pid(), why).expect("it ran");
        let before = listed.load(Ordering::SeqCst);

        let vms = ask(HostRequest::VmList).expect("listed");
        let text = render::text(&vms);
        assert_eq!(
            text.matches("note:  of the VMs on datastore lab only what this host itself does").count(),
            1,
            "{text}"
        );
        assert!(text.contains("datastore lab does not answer: lost for"), "{text}");
        let HostAnswer::Vms(rows) = vms else { panic!("{text}") };
        let states: Vec<(&str, &VmState)> = rows.iter().map(|row| (row.name.as_str(), &row.state)).collect();
        assert_eq!(states, [("db", &VmState::Unknown), ("sum", &VmState::EndedHere), ("web", &VmState::Running)]);
        assert!(rows.iter().all(|row| row.unknown.is_some()), "{rows:?}");
        let show =
            |name: &str| ask(HostRequest::VmShow(name.parse().expect("valid"))).map(|shown| render::text(&shown));
        let web = show("web").expect("it runs here");
        assert!(web.contains("running here") && web.contains("64 MiB") && web.contains("note:  of the VMs"), "{web}");
        let ended = show("sum").expect("it ended here");
        assert!(ended.contains("ended here") && ended.contains("it was killed here"), "{ended}");
        assert!(show("db").expect_err("nobody knows").to_string().contains("lost for"));

        let told = ask(HostRequest::LeaseList).expect("listed");
        assert!(told.is_refusal() && !render::text(&told).contains("no host holds"), "{}", render::text(&told));
        assert!(render::text(&told).contains("datastore lab does not answer"), "{}", render::text(&told));
        let runs = leases().into_iter().map(|row| match row.state {
            LeaseState::Unknown { runs, .. } => (row.vm.expect("known").to_string(), runs.map(|here| here.epoch)),
            other => panic!("{other:?}"),
        });
        let expected = [("web", Some(1)), ("db", None), ("sum", None)].map(|(vm, epoch)| (vm.to_owned(), epoch));
        assert_eq!(runs.collect::<Vec<_>>(), expected);

        let Ok(HostAnswer::Checks(checks)) = ask(HostRequest::HostCheck) else { panic!("no checks") };
        for subject in ["VM leases", "hosts", "clones"] {
            let check = checks.iter().find(|check| check.subject == subject).expect("it is looked at");
            let told = check.problems.iter().chain(&check.warnings).any(|reason| reason.cause.contains("lost for"));
            assert!(check.found == "unknown" && told, "{check:?}");
        }
        let hosts = ask(HostRequest::HostList).expect("listed");
        let text = render::text(&hosts);
        assert!(
            text.contains("unseen") && text.contains("it is this host that sees no other on datastore lab"),
            "{text}"
        );
        let HostAnswer::Hosts(rows) = hosts else { panic!("{text}") };
        let told: Vec<_> = rows.iter().map(|row| (row.state, row.vms)).collect();
        assert_eq!(told, [(HostState::ThisHost, 1), (HostState::Unseen, 0)]);
        let shown = ask(HostRequest::HostShowOther("host-b".parse().expect("valid"))).expect("known");
        assert!(render::text(&shown).contains("it is this host that sees nothing"), "{}", render::text(&shown));
        let refusal = ask(HostRequest::HostShowOther("host-z".parse().expect("valid"))).expect_err("not known");
        assert!(refusal.to_string().contains("lost for"), "{refusal}");
        assert_eq!(listed.load(Ordering::SeqCst), before, "who cannot answer was asked");
    }

    #[test]
    fn while_the_host_lease_is_not_held_it_is_told_why_no_more_is_known_and_what_the_fence_ended_here() {
        let held = Arc::new(Mutex::new(LeaseAnswer::Failed("no host lease is held on datastore lab".to_owned())));
        let list = Arc::clone(&held);
        let place = Place::without_datastore("unheld", move |_| list.lock().expect("held").clone());
        for vm in ["db", "sum"] {
            place.write(&format!("vms/{vm}/vm.toml"), "");
        }
        let plane = &place.plane;
        place.wait("the datastore is there", || plane.datastores.all()[0].available());
        plane.vms.note_fenced(&"sum".parse().expect("valid"), &"lab".parse().expect("valid"), None);
        let states = || {
            let vms = answer(plane, &HostRequest::VmList).expect("listed");
            let text = render::text(&vms);
            let HostAnswer::Vms(rows) = vms else { panic!("{text}") };
            (rows.into_iter().map(|row| row.state).collect::<Vec<_>>(), text)
        };
        let (told, text) = states();
        assert_eq!(told, [VmState::Unknown, VmState::EndedHere]);
        assert!(text.contains("note:  ") && text.contains("no host lease is held on datastore lab"), "{text}");
        let leases = answer(plane, &HostRequest::LeaseList).expect("listed");
        let text = render::text(&leases);
        assert!(leases.is_refusal() && text.contains("no host lease is held on datastore lab"), "{text}");
        let HostAnswer::Leases(rows) = leases else { panic!("{text}") };
        assert!(rows.len() == 2 && rows.iter().all(LeaseRow::is_untold), "{rows:?}");
        // What the lease says since counts more.
        *held.lock().expect("held") = LeaseAnswer::Holders(Vec::new());
        assert_eq!(states().0, [VmState::Broken(Flaw::Errors), VmState::Broken(Flaw::Errors)]);
        *held.lock().expect("held") = LeaseAnswer::Failed("it was lost".to_owned());
        assert_eq!(states().0, [VmState::Unknown, VmState::Unknown]);
    }

    #[test]
    fn the_check_of_a_vm_tells_where_it_is_and_refuses_nothing_for_that() {
        let held = Arc::new(Mutex::new(None));
        let lease = Arc::clone(&held);
        let place =
            Place::without_datastore("where", move |_| LeaseAnswer::Holder(lease.lock().expect("held").clone()));
        place.write("vms/web/vm.toml", "[vm]\nname = \"web\"\ncpus = 1\nmemory = \"64 MiB\"\n[boot]\nkernel = \"x\"\n");
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let web: VmName = "web".parse().expect("valid");
        let told = || {
            let request = HostRequest::VmCheck(web.clone());
            let Ok(HostAnswer::Checks(checks)) = answer(&place.plane, &request) else { panic!("no checks") };
            let lease: Vec<Check> = checks.into_iter().filter(|check| check.subject == "lease").collect();
            assert!(lease.len() == 1 && lease[0].problems.is_empty(), "{lease:?}");
            lease[0].found.clone()
        };
        let holder = |alive: bool, own: bool| {
            let name = if own { "host-a" } else { "host-b" }.parse().expect("valid");
            *held.lock().expect("held") =
                Some(Holder { host: [2; 16], name, generation: 1, epoch: 3, alive, own, since_unix_s: None });
        };
        assert_eq!(told(), "it is stopped");
        holder(true, false);
        assert_eq!(told(), "it is on host-b");
        holder(false, false);
        assert_eq!(told(), "it was on host-b, which is dead or cut off");
        holder(true, true);
        assert_eq!(told(), "it is held by host-a, which runs nothing of it");
        let coming = place.plane.vms.claim(&web, VmState::MovingIn, "").expect("nobody works on it");
        assert_eq!(told(), "does not tell where it is: vm show web");
        drop(coming);
        let monitor = StandIn::start(&web);
        place.plane.vms.put(&web, monitor.running(), VmState::Running);
        assert_eq!(told(), "it is running on host-a");
    }
}
