//! A monitor with its machine built, before its guest runs: on a start, and at the destination of a move.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Child;
use std::sync::Arc;

use model::diagnosis::Reason;
use model::vm_config::{Boot, Medium, VmConfig};
use vmm::machine::spec::{DiskSpec, MachineSpec, NicSpec};

use crate::api::lease::VmOnDatastore;
use crate::api::vmm::{VmmAnswer, VmmRequest};
use crate::host::control_plane::ControlPlane;
use crate::host::located::Located;
use crate::host::monitor::Monitor;
use crate::host::reap::{self, GONE_BOUND};
use crate::host::running::Running;

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
        if let Some(child) = self.child.take() {
            self.running.monitor.kill();
            reap::collect(&self.running.vm.vm, child, GONE_BOUND);
        }
    }
}

impl Born {
    /// One whose monitor an earlier control plane made.
    pub fn adopted(running: Arc<Running>) -> Self {
        Self { running, child: None }
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
        let (monitor, child) = Monitor::spawn(&plane.run_dir, &vm.vm, memory, config.cpu_affinity.as_deref())
            .map_err(|error| reason(&error))?;
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
        let deadline = plane.run_dir.deadline(&vm.datastore);
        let deadline = File::open(&deadline).map_err(|error| {
            Reason::new(format!("{}: {error}", deadline.display()), "the lease role makes it: log show lease")
        })?;
        monitor.ask(&VmmRequest::Obey, &[deadline.as_fd()]).map_err(|error| reason(&error))?;
        let built = born.running.with_taps(|taps| {
            let mut beside = vec![kvm.as_fd(), monitor.memory()];
            beside.extend(taps.iter().map(|tap| tap.file.as_fd()));
            monitor.ask(&VmmRequest::Build { spec }, &beside)
        });
        built.map_err(|error| reason(&error))?;
        Ok(born)
    }

    /// The guest runs: from now on its watcher looks after the child.
    pub fn into_parts(mut self) -> (Arc<Running>, Option<Child>) {
        (Arc::clone(&self.running), self.child.take())
    }
}

/// The shape of a VM's machine. Looks at the sizes of its disks.
fn machine_spec(located: &Located, config: &VmConfig) -> Result<MachineSpec, Reason> {
    let mut disks = Vec::new();
    for (n, disk) in config.disks.iter().enumerate() {
        let capacity_bytes = located.disk_size(disk)?;
        disks.push(DiskSpec { capacity_bytes, read_only: disk.read_only, serial: format!("disk{n}") });
    }
    let nics = located.macs(config).into_iter().map(|mac| NicSpec { mac: mac.bytes(), mtu: None });
    Ok(MachineSpec {
        cpus: config.cpus,
        memory_bytes: config.memory.0,
        cpu_baseline: config.cpu_baseline,
        disks,
        nics: nics.collect(),
        rng: true,
    })
}

/// What a VM boots from, open.
pub struct BootFiles {
    kernel: File,
    /// The initial RAM disk, where its vm.toml names one.
    pub initrd: Option<File>,
}

impl BootFiles {
    /// Opens them.
    ///
    /// # Errors
    /// One is not there or not readable.
    pub fn open(located: &Located, boot: &Boot) -> Result<Self, Reason> {
        let initrd = boot.initrd.as_ref().map(|initrd| located.open_file(initrd)).transpose()?;
        Ok(Self { kernel: located.open_file(&boot.kernel)?, initrd })
    }

    /// As they stand beside a request.
    pub fn beside(&self) -> Vec<BorrowedFd<'_>> {
        [&self.kernel].into_iter().chain(&self.initrd).map(AsFd::as_fd).collect()
    }
}

/// Why a VM has not got its disks.
#[derive(Debug)]
pub enum Unattached {
    /// Another has one locked: it comes free when that one ends, or its server gives it up.
    Locked(Reason),
    /// Anything else.
    Failed(Reason),
}

impl Unattached {
    /// What a person is told.
    pub fn reason(self) -> Reason {
        match self {
            Self::Locked(reason) | Self::Failed(reason) => reason,
        }
    }
}

/// Opens a VM's disks for this host's use and hands them to its monitor, which locks those that its guest may write. Disks
/// that it has already it keeps, so this can be tried again.
///
/// # Errors
/// A disk cannot be opened, locked or attached.
pub fn attach_disks(located: &Located, running: &Running) -> Result<(), Unattached> {
    let mut disks: Vec<_> = running.config.disks.iter().enumerate().collect();
    // A drive that this monitor has already cannot be opened once more: nothing that is tried again comes after one.
    disks.sort_by_key(|(_, disk)| matches!(disk.medium, Medium::Device(_)));
    for (index, disk) in disks {
        let file = located.open_disk(disk).map_err(Unattached::Failed)?;
        let index = u8::try_from(index).unwrap_or(u8::MAX);
        match running.monitor.ask(&VmmRequest::AttachDisk { index }, &[file.as_fd()]) {
            Ok(VmmAnswer::DiskLocked) => return Err(Unattached::Locked(located.locked(disk))),
            Ok(_) => {}
            Err(error) => {
                let cause = format!("disk {}: {error}", disk.medium);
                return Err(Unattached::Failed(Reason::new(cause, "log show vmm")));
            }
        }
    }
    Ok(())
}

/// The name of the tap of a VM's NIC: short enough for the kernel (15 bytes), and the same on every start.
pub fn tap_name(vm: &VmOnDatastore, nic: usize) -> String {
    let digest = xxhash_rust::xxh3::xxh3_64(format!("{}/{}", vm.datastore, vm.vm).as_bytes());
    format!("vm{:08x}-{nic}", digest >> 32)
}
