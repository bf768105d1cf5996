//! Whether a VM can run on this host: every reason against it, at once.

use std::fs::File;

use model::diagnosis::Reason;
use model::units::Bytes;
use model::vm_config::Draft;

use crate::api::host::Check;
use crate::host::control_plane::ControlPlane;
use crate::host::located::Located;
use crate::host::pinned;

/// One condition of a start: what it looks at, and what it found or what is wrong.
type Condition = (&'static str, fn(&ControlPlane, &Located, &Draft) -> Result<String, Vec<Reason>>);

/// All conditions; a new one is a line here and a function below.
const CONDITIONS: &[Condition] = &[
    ("vm.toml", text),
    ("KVM", kvm),
    ("CPU features", cpu),
    ("CPU affinity", affinity),
    ("memory", memory),
    ("port groups", port_groups),
    ("files", files),
];

/// What a condition says of a value that vm.toml does not give, or not well formed: `text` tells that.
const NOT_SAID: &str = "vm.toml does not say";

/// Looks at every condition of a start on this host; where vm.toml has errors, at what is well formed in it.
pub fn start_checks(plane: &ControlPlane, located: &Located, draft: &Draft) -> Vec<Check> {
    let looked = CONDITIONS.iter().map(|(subject, look)| match look(plane, located, draft) {
        Ok(found) => Check::well(*subject, found),
        Err(problems) => Check { problems, ..Check::well(*subject, "not fulfilled") },
    });
    looked.collect()
}

/// Every reason why a VM cannot start on this host.
pub fn start_problems(plane: &ControlPlane, located: &Located, draft: &Draft) -> Vec<Reason> {
    start_checks(plane, located, draft).into_iter().flat_map(|check| check.problems).collect()
}

/// Why KVM cannot be used here, if it cannot.
pub fn kvm_problem() -> Option<Reason> {
    let error = File::options().read(true).write(true).open("/dev/kvm").err()?;
    let hint = "switch virtualization (AMD-V, VT-x) on in the firmware; in a nested host, let the outer one pass it on";
    Some(Reason::new(format!("/dev/kvm cannot be opened: {error}"), hint))
}

fn text(_: &ControlPlane, located: &Located, draft: &Draft) -> Result<String, Vec<Reason>> {
    let Err(errors) = &draft.config else { return Ok("valid".to_owned()) };
    let hint = format!("mend it on datastore {}, then: vm check {}", located.datastore.name(), located.name);
    Err(errors.iter().map(|error| Reason::new(error.to_string(), &hint)).collect())
}

fn kvm(_: &ControlPlane, _: &Located, _: &Draft) -> Result<String, Vec<Reason>> {
    match kvm_problem() {
        None => Ok("usable".to_owned()),
        Some(problem) => Err(vec![problem]),
    }
}

fn cpu(plane: &ControlPlane, _: &Located, draft: &Draft) -> Result<String, Vec<Reason>> {
    let Some(report) = &plane.cpu else { return Ok("unknown without KVM".to_owned()) };
    let Some(baseline) = draft.cpu_baseline else { return Ok(NOT_SAID.to_owned()) };
    let missing = report.missing_for(baseline);
    if missing.is_empty() { Ok(format!("{baseline} is there")) } else { Err(missing) }
}

fn affinity(_: &ControlPlane, _: &Located, draft: &Draft) -> Result<String, Vec<Reason>> {
    let Ok(Some(cpus)) = draft.config.as_ref().map(|config| &config.cpu_affinity) else {
        return Ok("any processor".to_owned());
    };
    pinned::problem(cpus).map_or_else(|| Ok(format!("{} processors", cpus.len())), |problem| Err(vec![problem]))
}

fn memory(plane: &ControlPlane, located: &Located, draft: &Draft) -> Result<String, Vec<Reason>> {
    let Some(memory) = draft.memory else { return Ok(NOT_SAID.to_owned()) };
    let free = plane.memory_free_for(&located.name);
    if memory <= free { Ok(format!("{memory} of {free} free")) } else { Err(vec![too_little_memory(memory, free)]) }
}

/// Why a VM of this size cannot run here.
pub fn too_little_memory(needs: Bytes, free: Bytes) -> Reason {
    let cause = format!("the VM needs {needs}, this host has {free} free for VMs");
    Reason::new(cause, "stop another VM, give this one less memory, or choose another host: host list")
}

fn port_groups(plane: &ControlPlane, _: &Located, draft: &Draft) -> Result<String, Vec<Reason>> {
    let missing: Vec<Reason> = draft.nics.iter().filter_map(|nic| plane.port_group_problem(&nic.port_group)).collect();
    if missing.is_empty() { Ok(format!("{} NICs can be plugged in", draft.nics.len())) } else { Err(missing) }
}

fn files(_: &ControlPlane, located: &Located, draft: &Draft) -> Result<String, Vec<Reason>> {
    let kernel = draft.kernel.iter().filter_map(|kernel| located.look_at_kernel(kernel).err());
    let initrd = draft.initrd.iter().filter_map(|initrd| located.open_file(initrd).err());
    let disks = draft.disks.iter().filter_map(|disk| located.disk_size(disk).err());
    let problems: Vec<Reason> = kernel.chain(initrd).chain(disks).collect();
    if problems.is_empty() { Ok("all there".to_owned()) } else { Err(problems) }
}
