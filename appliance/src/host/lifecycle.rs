//! A VM's life on this host: start, stop, kill, pause, resume, and what follows when its guest ends.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use model::diagnosis::{Diagnosis, Reason};
use model::names::VmName;
use model::vm_config::VmConfig;
use vmm::machine::spec::{DiskSpec, MachineSpec, NicSpec};

use crate::api::channel::ChannelError;
use crate::api::host::VmState;
use crate::api::lease::VmOnDatastore;
use crate::api::vmm::{VmmAnswer, VmmEvent, VmmRequest};
use crate::host::checks;
use crate::host::control_plane::ControlPlane;
use crate::host::located::{Located, locate};
use crate::host::monitor::{Monitor, MonitorError};
use crate::host::record;
use crate::host::vms::Running;

/// How long a killed monitor may take to be gone: its last disk I/O has to end.
pub const GONE_BOUND: Duration = Duration::from_secs(30);

/// Starts a VM: checks, lease, monitor, machine, kernel, in this order; what was made is unmade on any failure.
///
/// # Errors
/// Every reason why it cannot start here, or who holds it.
pub fn start(plane: &Arc<ControlPlane>, name: &VmName) -> Result<String, Diagnosis> {
    let what = format!("VM {name} was not started");
    let located = locate(plane, name, &what)?;
    let config = located.config(&what)?;
    let claimed = plane.vms.claim(name, VmState::Starting, &what);
    claimed.map_err(|busy| busy.vm_now(format!("it is on {}, this host", plane.name())))?;
    let started = start_claimed(plane, &located, &config, &what);
    if started.is_err() {
        plane.vms.remove(name, None, None);
    }
    started
}

fn start_claimed(
    plane: &Arc<ControlPlane>,
    located: &Located,
    config: &VmConfig,
    what: &str,
) -> Result<String, Diagnosis> {
    let problems = checks::start_problems(plane, located, config);
    if !problems.is_empty() {
        return Err(Diagnosis::of(what, problems));
    }
    let vm = located.vm();
    let epoch = plane.leases.acquire(&vm).map_err(|failure| Diagnosis::of(what, vec![failure.reason()]))?;
    let born = Born::new(plane, located, config, epoch).and_then(|born| {
        // Before its guest runs: a control plane after this one must find it whenever this one dies.
        record::write(&plane.run_dir, &born.running, false);
        boot(plane, located, &born.running).map(|()| born)
    });
    match born {
        Ok(born) => {
            let name = vm.vm.clone();
            plane.vms.put(&name, Arc::clone(&born.running), VmState::Running);
            watch(plane, born);
            Ok(format!("VM {name} runs on this host (lease epoch {epoch})"))
        }
        Err(reason) => {
            record::remove(&plane.run_dir, &vm.vm);
            // A lease that cannot be given up now ends with this host's, and this host may take it again meanwhile.
            if let Err(failure) = plane.leases.give_up(&vm) {
                log::warn!("lease of VM {}: {failure}", vm.vm);
            }
            Err(Diagnosis::of(what, vec![reason]))
        }
    }
}

/// A monitor with its machine built, and its child process. If it is dropped before its guest runs, the monitor is
/// killed.
#[derive(Debug)]
pub struct Born {
    /// What will run.
    pub running: Arc<Running>,
    child: Option<Child>,
}

impl Drop for Born {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            self.running.monitor.kill();
            // Killed: it ends; the wait only collects it.
            let _ = child.wait();
        }
    }
}

impl Born {
    /// One whose monitor an earlier control plane made.
    pub fn adopted(running: Running) -> Self {
        Self { running: Arc::new(running), child: None }
    }

    /// Makes taps (silent), monitor and machine of a VM; the monitor is registered with the lease role before
    /// anything can run in it.
    ///
    /// # Errors
    /// Why one of them cannot be made.
    pub fn new(plane: &ControlPlane, located: &Located, config: &VmConfig, epoch: u64) -> Result<Self, Reason> {
        let spec = machine_spec(located, config)?;
        Self::of_spec(plane, located, config, spec, epoch)
    }

    /// As [`Born::new`], with the machine's shape given: on the destination of a move it is the source's.
    ///
    /// # Errors
    /// As [`Born::new`].
    pub fn of_spec(
        plane: &ControlPlane,
        located: &Located,
        config: &VmConfig,
        spec: MachineSpec,
        epoch: u64,
    ) -> Result<Self, Reason> {
        let vm = located.vm();
        let reason = |error: &dyn std::fmt::Display| Reason::new(error.to_string(), "host check, then: log show vmm");
        let kvm = File::options().read(true).write(true).open("/dev/kvm");
        let kvm = kvm.map_err(|error| Reason::new(format!("/dev/kvm cannot be opened: {error}"), "host check"))?;
        let mut taps = Vec::new();
        for (n, nic) in config.nics.iter().enumerate() {
            taps.push(plane.plug(&nic.port_group, &tap_name(&vm, n))?);
        }
        let memory = model::units::Bytes(spec.memory_bytes);
        let (monitor, child) = Monitor::spawn(&plane.run_dir, &vm.vm, memory).map_err(|error| reason(&error))?;
        let configured = (config.clone(), located.config_text.clone());
        let running = Running::new(vm.clone(), epoch, configured, spec.clone(), monitor, taps);
        let born = Self { running: Arc::new(running), child: Some(child) };
        let monitor = &born.running.monitor;
        let held = plane.leases.guard(&vm, monitor.pidfd()).map_err(|failure| failure.reason())?;
        if epoch != 0 && !held {
            // Lost between the acquisition and the registration: nobody would have killed this monitor for it.
            return Err(Reason::new(
                "this host lost its lease on the datastore meanwhile",
                "datastore show; try again",
            ));
        }
        let built = born.running.with_taps(|taps| {
            let mut beside = vec![kvm.as_fd(), monitor.memory()];
            beside.extend(taps.iter().map(|tap| tap.file.as_fd()));
            monitor.ask(&VmmRequest::Build { spec }, &beside)
        });
        built.map_err(|error| reason(&error))?;
        Ok(born)
    }
}

/// The shape of a VM's machine. Looks at the sizes of its disks.
fn machine_spec(located: &Located, config: &VmConfig) -> Result<MachineSpec, Reason> {
    let mut disks = Vec::new();
    for (n, disk) in config.disks.iter().enumerate() {
        let capacity_bytes = located.disk_size(disk)?;
        disks.push(DiskSpec { capacity_bytes, read_only: disk.read_only, serial: format!("disk{n}") });
    }
    let nics = config.nics.iter().enumerate().map(|(n, nic)| {
        let mac = nic.mac.unwrap_or_else(|| located.made_mac(n));
        NicSpec { mac: mac.bytes(), mtu: None }
    });
    Ok(MachineSpec {
        cpus: config.cpus,
        memory_bytes: config.memory.0,
        cpu_baseline: config.cpu_baseline,
        disks,
        nics: nics.collect(),
        rng: true,
    })
}

/// Opens a VM's disks for this host's use and hands them to its monitor.
///
/// # Errors
/// A disk cannot be opened or attached.
pub fn attach_disks(located: &Located, running: &Running) -> Result<(), Reason> {
    for (index, disk) in running.config.disks.iter().enumerate() {
        let file = located.open_disk(disk)?;
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        let attached = running.monitor.ask(&VmmRequest::AttachDisk { index }, &[file.as_fd()]);
        attached.map_err(|error| Reason::new(format!("disk {}: {error}", disk.file), "log show vmm"))?;
    }
    Ok(())
}

/// The name of the tap of a VM's NIC: short enough for the kernel (15 bytes), and the same on every start.
pub fn tap_name(vm: &VmOnDatastore, nic: usize) -> String {
    let digest = xxhash_rust::xxh3::xxh3_64(format!("{}/{}", vm.datastore, vm.vm).as_bytes());
    format!("vm{:08x}-{nic}", digest >> 32)
}

fn boot(plane: &ControlPlane, located: &Located, running: &Running) -> Result<(), Reason> {
    let boot = &running.config.boot;
    attach_disks(located, running)?;
    plane.open_taps(running)?;
    let kernel = located.open_file(&boot.kernel)?;
    let initrd = boot.initrd.as_ref().map(|initrd| located.open_file(initrd)).transpose()?;
    let mut beside = vec![kernel.as_fd()];
    beside.extend(initrd.as_ref().map(AsFd::as_fd));
    let load = VmmRequest::Load { cmdline: boot.cmdline.clone(), initrd: initrd.is_some() };
    let loaded = running.monitor.ask(&load, &beside);
    let hint = "boot.kernel in vm.toml must be a bzImage or an ELF with a PVH entry";
    loaded.map_err(|error| Reason::new(format!("the kernel {} cannot be loaded: {error}", boot.kernel), hint))?;
    let resumed = running.monitor.ask(&VmmRequest::Resume, &[]);
    resumed.map_err(|error| Reason::new(error.to_string(), "log show vmm")).map(|_| ())
}

/// Watches a VM whose guest runs, on a thread of its own, until its monitor ends or hands it over.
pub fn watch(plane: &Arc<ControlPlane>, mut born: Born) {
    let child = born.child.take();
    let running = Arc::clone(&born.running);
    let plane = Arc::clone(plane);
    let name = format!("watch-{}", running.vm.vm);
    let watching = std::thread::Builder::new().name(name).spawn(move || watch_to_end(&plane, &running, child));
    if let Err(error) = watching {
        log::error!("VM {} is not watched: {error}", born.running.vm.vm);
    }
}

/// As [`watch`], for a VM that was found running.
pub fn watch_adopted(plane: &Arc<ControlPlane>, running: Arc<Running>) {
    watch(plane, Born { running, child: None });
}

/// How a guest, or its monitor, ended.
enum End {
    Shutdown,
    Reset,
    Crash(String),
}

fn watch_to_end(plane: &Arc<ControlPlane>, running: &Arc<Running>, child: Option<Child>) {
    let end = first_event(running);
    let Running { vm, monitor, .. } = &**running;
    monitor.kill();
    if let Err(error) = monitor.wait_gone(GONE_BOUND) {
        log::error!("monitor of VM {}: {error}", vm.vm);
    }
    if let Some(mut child) = child {
        // It is gone; this only collects it.
        let _ = child.wait();
    }
    let told = match &end {
        End::Shutdown => "its guest shut down".to_owned(),
        End::Reset => "its guest asked for a reset".to_owned(),
        End::Crash(why) => why.clone(),
    };
    // Whoever moved or killed the VM has taken the entry away: then this end was wanted and needs nothing more.
    let Some(running) = plane.vms.remove(&vm.vm, Some(monitor.pid()), Some(told.clone())) else { return };
    log::info!("VM {} ended: {told}", vm.vm);
    record::remove(&plane.run_dir, &vm.vm);
    running.drop_taps();
    if matches!(end, End::Reset) {
        restart(plane, &running);
    } else if let Err(failure) = plane.leases.give_up(vm) {
        log::warn!("lease of VM {}: {failure}", vm.vm);
    }
}

/// Waits for the first thing that ends a guest, or for the end of its monitor.
fn first_event(running: &Running) -> End {
    let events = running.monitor.connect().map_err(MonitorError::Spawn).and_then(|events| {
        events.send(&VmmRequest::Watch, &[])?;
        Ok(events)
    });
    let events = match events {
        Ok(events) => events,
        Err(error) => return End::Crash(format!("its monitor ended: {error}")),
    };
    loop {
        match events.receive() {
            Ok((VmmAnswer::Event(VmmEvent::Shutdown), _)) => return End::Shutdown,
            Ok((VmmAnswer::Event(VmmEvent::Reset), _)) => return End::Reset,
            Ok((VmmAnswer::Event(VmmEvent::TripleFault), _)) => {
                return End::Crash("its guest crashed with a triple fault".to_owned());
            }
            Ok((VmmAnswer::Event(VmmEvent::Failed(why)), _)) => {
                return End::Crash(format!("its machine failed: {why}"));
            }
            Ok(_) => {}
            Err(ChannelError::Closed) => {
                return End::Crash("its monitor ended without a word: log show vmm".to_owned());
            }
            Err(error) => return End::Crash(format!("its monitor cannot be heard: {error}")),
        }
    }
}

/// Starts a VM again whose guest asked for a reset, under the lease that this host still holds.
fn restart(plane: &Arc<ControlPlane>, before: &Running) {
    let name = &before.vm.vm;
    if let Err(refusal) = start(plane, name) {
        log::error!("VM {name} was reset by its guest and did not come up again: {refusal}");
        if let Err(failure) = plane.leases.give_up(&before.vm) {
            log::warn!("lease of VM {name}: {failure}");
        }
    }
}

/// Presses the power button.
///
/// # Errors
/// The VM does not run here.
pub fn stop(plane: &ControlPlane, name: &VmName) -> Result<String, Diagnosis> {
    let what = format!("VM {name} was not stopped");
    let running = plane.vms.transition(name, &[VmState::Running], VmState::Running, &what)?;
    asked(&running, &VmmRequest::PowerButton, &what)?;
    Ok(format!(
        "the power button of VM {name} was pressed; vm show {name} tells when it is off, vm kill {name} does not wait"
    ))
}

/// Ends a VM at once.
///
/// # Errors
/// The VM does not run here, or is being moved.
pub fn kill(plane: &ControlPlane, name: &VmName) -> Result<String, Diagnosis> {
    let what = format!("VM {name} was not killed");
    let states = [VmState::Running, VmState::Paused];
    let running = plane.vms.transition(name, &states, VmState::Running, &what)?;
    running.monitor.kill();
    let gone = running.monitor.wait_gone(GONE_BOUND);
    gone.map_err(|error| {
        let cause = format!("its monitor, process {}, is still there: {error}", running.monitor.pid());
        Diagnosis::new(&what, cause, "datastore list: a datastore that does not answer holds its last I/O")
    })?;
    let end = Some("it was killed on the console".to_owned());
    if plane.vms.remove(name, Some(running.monitor.pid()), end).is_some() {
        record::remove(&plane.run_dir, name);
        plane
            .leases
            .give_up(&running.vm)
            .map_err(|failure| Diagnosis::of("the lease was not given up", vec![failure.reason()]))?;
    }
    Ok(format!("VM {name} was killed"))
}

/// Stops a VM's vCPUs.
///
/// # Errors
/// It does not run here.
pub fn pause(plane: &ControlPlane, name: &VmName) -> Result<String, Diagnosis> {
    let what = format!("VM {name} was not paused");
    let running = plane.vms.transition(name, &[VmState::Running], VmState::Running, &what)?;
    asked(&running, &VmmRequest::Pause, &what)?;
    plane.vms.change_state(name, &VmState::Running, VmState::Paused);
    record::write(&plane.run_dir, &running, true);
    Ok(format!("VM {name} is paused on this host"))
}

/// Lets a paused VM's vCPUs run again.
///
/// # Errors
/// It is not paused here.
pub fn resume(plane: &ControlPlane, name: &VmName) -> Result<String, Diagnosis> {
    let what = format!("VM {name} was not resumed");
    let running = plane.vms.transition(name, &[VmState::Paused], VmState::Paused, &what)?;
    match plane.leases.holder(&running.vm) {
        Ok(Some(holder)) if holder.own => {}
        Ok(Some(holder)) => {
            let cause = format!("{} holds it now", holder.name);
            return Err(Diagnosis::new(&what, cause, format!("vm show {name}")));
        }
        Ok(None) => return Err(Diagnosis::new(&what, "its lease was given up", format!("vm show {name}"))),
        Err(failure) => return Err(Diagnosis::of(&what, vec![failure.reason()])),
    }
    asked(&running, &VmmRequest::Resume, &what)?;
    plane.vms.change_state(name, &VmState::Paused, VmState::Running);
    record::write(&plane.run_dir, &running, false);
    Ok(format!("VM {name} runs on this host"))
}

/// Lets a VM run that may be paused, so that it can shut down.
///
/// # Errors
/// As [`resume`].
pub fn resume_if_paused(plane: &ControlPlane, name: &VmName) -> Result<(), Diagnosis> {
    if plane.vms.state(name) == Some(VmState::Paused) {
        resume(plane, name)?;
    }
    Ok(())
}

fn asked(running: &Running, request: &VmmRequest, what: &str) -> Result<VmmAnswer, Diagnosis> {
    running.monitor.ask(request, &[]).map_err(|error| Diagnosis::new(what, error.to_string(), "log show vmm"))
}
