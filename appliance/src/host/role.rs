//! Starts the control plane: what is configured, what was running before, and the threads that keep it true.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use model::diagnosis::Diagnosis;
use model::limits;
use model::vm_config::VmConfig;

use crate::api::channel::Listener;
use crate::api::host::VmState;
use crate::api::lease::{LeaseEvent, LeaseRequest};
use crate::api::migrate::FromMigrate;
use crate::api::paths::RunDir;
use crate::configuration;
use crate::datastore::Datastores;
use crate::host::control_plane::ControlPlane;
use crate::host::discovery::{self, Hosts, bytes_of_hex};
use crate::host::engine::Engine;
use crate::host::leases::Leases;
use crate::host::monitor::{self, Monitor};
use crate::host::moves::{self, Moves};
use crate::host::record::{self, VmRecord};
use crate::host::vms::{Running, Vms};
use crate::host::{arrivals, cpu, lifecycle, serve};
use crate::network::fabric::Fabric;
use crate::sigterm;

/// Pause between two looks at what has to be kept true.
const KEEP: Duration = Duration::from_secs(1);
/// Name of the lease area of a datastore, from its root.
const LEASE_AREA: &str = "godwit/lease";

/// Runs the control plane until the process is ended.
///
/// # Errors
/// It cannot listen, or has no identity.
pub fn run(run_dir: &RunDir) -> io::Result<()> {
    sigterm::begin();
    let plane = Arc::new(plane(run_dir)?);
    let listener = Listener::bind(&run_dir.socket("host"))?;
    adopt(&plane);
    spawn("network", &plane, keep_network)?;
    spawn("leases", &plane, keep_leases)?;
    spawn("fences", &plane, hear_fences)?;
    spawn("discovery", &plane, discovery::keep)?;
    spawn("engine", &plane, |plane| {
        let greet = || plane.own().into_iter().chain([discovery::peers(plane)]).collect();
        plane.engine.keep(greet, |message| match message {
            FromMigrate::Incoming(incoming) => arrivals::incoming(plane, *incoming),
            other => log::warn!("the migration engine said what concerns nobody: {other:?}"),
        });
    })?;
    spawn("shutdown", &plane, end_vms_on_sigterm)?;
    serve::serve(&plane, &listener);
    Ok(())
}

fn spawn(name: &str, plane: &Arc<ControlPlane>, work: fn(&Arc<ControlPlane>)) -> io::Result<()> {
    let plane = Arc::clone(plane);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&plane)).map(|_| ())
}

fn plane(run_dir: &RunDir) -> io::Result<ControlPlane> {
    let identity = std::fs::read_to_string(run_dir.path().join("identity"))?;
    let identity = bytes_of_hex(identity.trim()).and_then(|bytes| bytes.try_into().ok());
    let configuration = configuration::of_this_host(run_dir, None);
    let datastores = configuration.config.as_ref().map(|config| config.datastores.clone()).unwrap_or_default();
    let cpu = cpu::report();
    Ok(ControlPlane {
        identity: identity.ok_or_else(|| io::Error::other("the identity of this host is not 32 hex digits"))?,
        cpu: cpu.map_err(|error| log::error!("no CPU report: {error}")).ok(),
        fabric: Mutex::new(configuration.config.clone().map(Fabric::new)),
        datastores: Datastores::start(&datastores, &run_dir.path().join("datastore")),
        leases: Leases::new(run_dir),
        engine: Engine::new(run_dir),
        hosts: Hosts::default(),
        vms: Vms::default(),
        moves: Moves::default(),
        run_dir: run_dir.clone(),
        configuration,
    })
}

/// Finds the VMs that went on running while this control plane did not.
fn adopt(plane: &Arc<ControlPlane>) {
    for record in record::all(&plane.run_dir) {
        let (vm, pid) = (record.vm.clone(), record.pid);
        let name = &vm.vm;
        let Err(why) = adopt_one(plane, record) else {
            log::info!("VM {name} is adopted");
            continue;
        };
        log::error!("VM {name} cannot be adopted: {why}");
        match monitor::end_unadopted(name, pid, lifecycle::GONE_BOUND) {
            Ok(()) => {
                record::remove(&plane.run_dir, name);
                if let Err(failure) = plane.leases.give_up(&vm) {
                    log::warn!("lease of VM {name}: {failure}");
                }
            }
            // Its record stays, and so does the lease: nobody may start the VM beside it.
            Err(error) => log::error!("monitor of VM {name}: {error}"),
        }
    }
}

fn adopt_one(plane: &Arc<ControlPlane>, record: VmRecord) -> Result<(), String> {
    let VmRecord { vm, epoch, config_text, pid, paused, moving_in } = record;
    let config = VmConfig::parse("vm.toml", &config_text).map_err(|_| "its record is broken".to_owned())?;
    let (monitor, spec) = Monitor::adopt(&plane.run_dir, &vm.vm, pid).map_err(|error| error.to_string())?;
    let running = Running::new(vm.clone(), epoch, (config, config_text), spec, monitor, Vec::new());
    if let Some(moving_in) = moving_in {
        arrivals::adopt(plane, running, moving_in);
        return Ok(());
    }
    let running = Arc::new(running);
    let state = if paused { VmState::Paused } else { VmState::Running };
    plane.vms.put(&vm.vm, Arc::clone(&running), state);
    moves::watch_lease(plane, &running);
    lifecycle::watch_adopted(plane, running);
    Ok(())
}

/// Applies the configured networks again and again: a NIC may appear late.
fn keep_network(plane: &Arc<ControlPlane>) {
    let mut told = Vec::new();
    loop {
        let problems = plane.with_fabric("", |fabric| fabric.apply().to_vec());
        if let Ok(problems) = problems
            && problems != told
        {
            problems.iter().for_each(|problem| log::error!("network: {}", problem.cause));
            told = problems;
        }
        std::thread::sleep(KEEP * 5);
    }
}

/// Lets the lease role hold a host lease on every datastore that is there, and guard every VM that runs.
fn keep_leases(plane: &Arc<ControlPlane>) {
    let mut told = String::new();
    loop {
        for datastore in plane.datastores.all().iter().filter(|datastore| datastore.available()) {
            let made = datastore.make_folder("godwit");
            let request = LeaseRequest::Open {
                datastore: datastore.name().clone(),
                area: datastore.root().join(LEASE_AREA).to_string_lossy().into_owned(),
                host: plane.identity,
                name: plane.name().clone(),
                watchdog: plane.configuration.config.as_ref().and_then(|config| config.watchdog.clone()),
            };
            let opened = made.map_err(|error| error.to_string());
            let opened = opened.and_then(|()| plane.leases.ask(&request, &[]).map_err(|failure| failure.to_string()));
            let trouble =
                opened.err().map(|why| format!("lease on datastore {}: {why}", datastore.name())).unwrap_or_default();
            if trouble != told {
                if !trouble.is_empty() {
                    log::error!("{trouble}");
                }
                told = trouble;
            }
        }
        for (running, _) in plane.vms.all_running() {
            if let Err(failure) = plane.leases.guard(&running.vm, running.monitor.pidfd()) {
                log::error!("VM {} is not guarded: {failure}", running.vm.vm);
            }
        }
        std::thread::sleep(KEEP);
    }
}

/// Hears of VMs that the lease role killed, so that people are told why they ended.
fn hear_fences(plane: &Arc<ControlPlane>) {
    loop {
        if let Err(error) = plane.leases.watch(|event| match event {
            LeaseEvent::Fenced { datastore, vms } => {
                for vm in vms {
                    let why = format!(
                        "it was killed here because this host could not renew its lease on datastore {datastore}; \
                         another host may run it now"
                    );
                    log::error!("VM {vm}: {why}");
                    plane.vms.note_fence(&vm, why);
                }
            }
            LeaseEvent::Held(datastore) => log::info!("the host lease on datastore {datastore} is held"),
        }) {
            log::debug!("the lease role is not heard: {error}");
        }
        std::thread::sleep(KEEP);
    }
}

/// On SIGTERM, which init sends when the host is to end: every guest gets its power button and its time, then the
/// process ends.
fn end_vms_on_sigterm(plane: &Arc<ControlPlane>) {
    while !sigterm::arrived() {
        std::thread::sleep(Duration::from_millis(200));
    }
    log::info!("the host ends: VMs are shut down");
    let names = || plane.vms.all_running().into_iter().map(|(running, _)| running.vm.vm.clone()).collect::<Vec<_>>();
    for name in names() {
        let stopped: Result<String, Diagnosis> =
            lifecycle::resume_if_paused(plane, &name).and_then(|()| lifecycle::stop(plane, &name));
        if let Err(refusal) = stopped {
            log::warn!("{refusal}");
        }
    }
    let deadline = Instant::now() + Duration::from_millis(limits::VM_POWER_BUTTON_MS);
    while !names().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
    }
    for name in names() {
        match lifecycle::kill(plane, &name) {
            Ok(_) => log::warn!("VM {name} did not shut down in time and was killed"),
            Err(refusal) => log::error!("{refusal}"),
        }
    }
    for datastore in plane.datastores.all() {
        let closed = plane.leases.ask(&LeaseRequest::Close(datastore.name().clone()), &[]);
        if let Err(failure) = closed {
            log::warn!("lease on datastore {}: {failure}", datastore.name());
        }
    }
    std::process::exit(0);
}
