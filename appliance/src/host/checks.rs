//! Whether a VM can run on this host: every reason against it, at once.

use std::fs::File;

use model::diagnosis::Reason;
use model::units::Bytes;
use model::vm_config::VmConfig;

use crate::api::host::Check;
use crate::host::control_plane::ControlPlane;
use crate::host::located::Located;

/// One condition of a start: what it looks at, and what it found or what is wrong.
type Condition = (&'static str, fn(&ControlPlane, &Located, &VmConfig) -> Result<String, Vec<Reason>>);

/// All conditions; a new one is a line here and a function below.
const CONDITIONS: &[Condition] =
    &[("KVM", kvm), ("CPU features", cpu), ("memory", memory), ("port groups", port_groups), ("files", files)];

/// Looks at every condition of a start on this host.
pub fn start_checks(plane: &ControlPlane, located: &Located, config: &VmConfig) -> Vec<Check> {
    let looked = CONDITIONS.iter().map(|(subject, look)| match look(plane, located, config) {
        Ok(found) => Check::new(*subject, found, Vec::new()),
        Err(problems) => Check::new(*subject, "not fulfilled", problems),
    });
    looked.collect()
}

/// Every reason why a VM cannot start on this host.
pub fn start_problems(plane: &ControlPlane, located: &Located, config: &VmConfig) -> Vec<Reason> {
    start_checks(plane, located, config).into_iter().flat_map(|check| check.problems).collect()
}

/// Why KVM cannot be used here, if it cannot.
pub fn kvm_problem() -> Option<Reason> {
    let error = File::options().read(true).write(true).open("/dev/kvm").err()?;
    let hint = "switch virtualization (AMD-V, VT-x) on in the firmware; in a nested host, let the outer one pass it on";
    Some(Reason::new(format!("/dev/kvm cannot be opened: {error}"), hint))
}

fn kvm(_: &ControlPlane, _: &Located, _: &VmConfig) -> Result<String, Vec<Reason>> {
    match kvm_problem() {
        None => Ok("usable".to_owned()),
        Some(problem) => Err(vec![problem]),
    }
}

fn cpu(plane: &ControlPlane, _: &Located, config: &VmConfig) -> Result<String, Vec<Reason>> {
    let Some(report) = &plane.cpu else { return Ok("unknown without KVM".to_owned()) };
    let missing = report.missing_for(config.cpu_baseline);
    if missing.is_empty() { Ok(format!("{} is there", config.cpu_baseline)) } else { Err(missing) }
}

fn memory(plane: &ControlPlane, located: &Located, config: &VmConfig) -> Result<String, Vec<Reason>> {
    let free = plane.memory_free_for(&located.name);
    if config.memory <= free {
        return Ok(format!("{} of {free} free", config.memory));
    }
    Err(vec![too_little_memory(config.memory, free)])
}

/// Why a VM of this size cannot run here.
pub fn too_little_memory(needs: Bytes, free: Bytes) -> Reason {
    let cause = format!("the VM needs {needs}, this host has {free} free for VMs");
    Reason::new(cause, "stop another VM, give this one less memory, or choose another host: host list")
}

fn port_groups(plane: &ControlPlane, _: &Located, config: &VmConfig) -> Result<String, Vec<Reason>> {
    let missing: Vec<Reason> = config.nics.iter().filter_map(|nic| plane.port_group_problem(&nic.port_group)).collect();
    if missing.is_empty() { Ok(format!("{} NICs can be plugged in", config.nics.len())) } else { Err(missing) }
}

fn files(_: &ControlPlane, located: &Located, config: &VmConfig) -> Result<String, Vec<Reason>> {
    let boot = [Some(&config.boot.kernel), config.boot.initrd.as_ref()];
    let boot = boot.into_iter().flatten().filter_map(|file| located.open_file(file).err());
    let disks = config.disks.iter().filter_map(|disk| located.disk_size(disk).err());
    let problems: Vec<Reason> = boot.chain(disks).collect();
    if problems.is_empty() { Ok("all there".to_owned()) } else { Err(problems) }
}
