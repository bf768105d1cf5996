//! Starts the control plane: what is configured, what was running before, and the threads that keep it true.

use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use crate::api::channel::Listener;
use crate::api::migrate::FromMigrate;
use crate::api::paths::RunDir;
use crate::configuration;
use crate::datastore::Datastores;
use crate::host::control_plane::ControlPlane;
use crate::host::discovery::{self, Hosts, Rounds, bytes_of_hex};
use crate::host::disk_locks::Servers;
use crate::host::ends::Unwatched;
use crate::host::engine::Engine;
use crate::host::host_lease::Unheld;
use crate::host::leases::Leases;
use crate::host::maintenance::Maintenance;
use crate::host::moves::Moves;
use crate::host::owed::{self, Owed};
use crate::host::taken_away::Astray;
use crate::host::vms::Vms;
use crate::host::{
    adoption, arrivals, autostart, cpu, dead_hosts, ending, fallen_roles, host_lease, news, receipts, serve,
    taken_away, unfollowed,
};
use crate::journal;
use crate::network::fabric::Fabric;
use crate::sigterm;

/// Pause between two looks at the networks.
const KEEP_NETWORK: Duration = Duration::from_secs(5);

/// Runs the control plane until the process is ended.
///
/// # Errors
/// It cannot listen, or has no identity.
pub fn run(run_dir: &RunDir) -> io::Result<()> {
    sigterm::begin();
    journal::tell_too(news::hear);
    let plane = Arc::new(plane(run_dir)?);
    let listener = Listener::bind(&run_dir.socket("host"))?;
    adoption::adopt(&plane);
    spawn("network", &plane, keep_network)?;
    for datastore in plane.datastores.all() {
        let name = format!("lease-{}", datastore.name());
        spawn(&name, &plane, move |plane| host_lease::keep(plane, &datastore))?;
    }
    for datastore in plane.datastores.all() {
        let name = format!("taken-{}", datastore.name());
        spawn(&name, &plane, move |plane| taken_away::keep(plane, &datastore))?;
    }
    for datastore in plane.datastores.all() {
        let name = format!("dead-{}", datastore.name());
        spawn(&name, &plane, move |plane| dead_hosts::keep(plane, &datastore))?;
    }
    for datastore in plane.datastores.all() {
        let name = format!("autostart-{}", datastore.name());
        spawn(&name, &plane, move |plane| autostart::once(plane, &datastore))?;
    }
    spawn("guards", &plane, host_lease::keep_guards)?;
    spawn("fences", &plane, host_lease::hear_fences)?;
    spawn("owed", &plane, |plane| owed::keep(plane))?;
    spawn("discovery", &plane, discovery::keep)?;
    spawn("engine", &plane, |plane| {
        let greet = || plane.own().into_iter().chain([discovery::peers(plane)]).collect();
        plane.engine.keep(greet, |message| match message {
            FromMigrate::Incoming(incoming) => arrivals::incoming(plane, *incoming),
            FromMigrate::News { warning: true, text } => log::warn!("{text}"),
            FromMigrate::News { warning: false, text } => log::info!(target: journal::NEWS, "{text}"),
            FromMigrate::OpenDisks(id, vm) => unfollowed::disks_wanted(plane, id, &vm),
            FromMigrate::Resumed { id, vm, .. } => unfollowed::resumed(plane, id, &vm),
            FromMigrate::Ended(ended) => receipts::take_over(plane, *ended),
            // Of a move that an earlier control plane began: the lease, which is watched, says what came of it.
            // Of a measurement whose console an earlier control plane had: nobody waits for it.
            FromMigrate::Progress(_) | FromMigrate::Release(_) | FromMigrate::Pinged(..) => {}
            other => log::warn!("the migration engine said what concerns nobody: {other:?}"),
        });
    })?;
    spawn("migration-nic", &plane, |plane| plane.engine.keep_stack_up(|| plane.own()))?;
    spawn("roles", &plane, |plane| fallen_roles::keep(plane))?;
    spawn("shutdown", &plane, ending::on_sigterm)?;
    serve::serve(&plane, &listener);
    Ok(())
}

fn spawn(
    name: &str,
    plane: &Arc<ControlPlane>,
    work: impl FnOnce(&Arc<ControlPlane>) + Send + 'static,
) -> io::Result<()> {
    let plane = Arc::clone(plane);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&plane)).map(|_| ())
}

pub(super) fn plane(run_dir: &RunDir) -> io::Result<ControlPlane> {
    let identity = std::fs::read_to_string(run_dir.path().join("identity"))?;
    let identity = bytes_of_hex(identity.trim()).and_then(|bytes| bytes.try_into().ok());
    let configuration = configuration::of_this_host(run_dir, None);
    let datastores = configuration.config.as_ref().map(|config| config.datastores.clone()).unwrap_or_default();
    let own = configuration.config.as_ref().map_or("", |config| config.hostname.as_str());
    let cpu = cpu::report();
    let hosts = Arc::new(Hosts::default());
    Ok(ControlPlane {
        identity: identity.ok_or_else(|| io::Error::other("the identity of this host is not 32 hex digits"))?,
        cpu: cpu.map_err(|error| log::error!("no CPU report: {error}")).ok(),
        fabric: Mutex::new(configuration.config.clone().map(Fabric::new)),
        datastores: Datastores::start(&datastores, &run_dir.path().join("datastore"), own),
        leases: Leases::new(run_dir, Arc::clone(&hosts)),
        unheld: Unheld::default(),
        engine: Engine::new(run_dir),
        hosts,
        rounds: Rounds::default(),
        servers: Servers::default(),
        astray: Astray::default(),
        vms: Vms::default(),
        moves: Moves::default(),
        owed: Owed::default(),
        listed: std::sync::Mutex::default(),
        unwatched: Unwatched::default(),
        maintenance: Maintenance::of_this_boot(run_dir),
        ending: AtomicBool::new(false),
        leaving: AtomicBool::new(false),
        asking: RwLock::new(()),
        run_dir: run_dir.clone(),
        configuration,
    })
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
        std::thread::sleep(KEEP_NETWORK);
    }
}
