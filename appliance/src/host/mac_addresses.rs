//! The MAC addresses of a VM's NICs among those of all other VMs on this host's datastores: a VM whose folder was copied has
//! those of the VM that it was copied from.

use std::collections::BTreeSet;

use model::diagnosis::Reason;
use model::names::{DatastoreName, MacAddress, VmName};
use model::vm_config::VmConfig;

use crate::api::host::Check;
use crate::host::control_plane::ControlPlane;
use crate::host::located::{Located, vm_names};

/// The address that is made for a NIC of a VM, by its number from 0: of their names, so that it is the same at every start and
/// on every host. Each `turn` makes another.
pub fn made(datastore: &DatastoreName, vm: &VmName, nic: usize, turn: u32) -> MacAddress {
    let turn = if turn == 0 { String::new() } else { format!("/{turn}") };
    let name = format!("{datastore}/{vm}/{nic}{turn}");
    let [a, b, c, ..] = xxhash_rust::xxh3::xxh3_64(name.as_bytes()).to_be_bytes();
    // 0x52: locally administered (IEEE 802, second bit of the first byte).
    MacAddress::new([0x52, 0x54, 0x00, a, b, c]).expect("0x52 is even, so the address is unicast")
}

/// The addresses of all VMs on the datastores of this host that answer.
pub fn in_use(plane: &ControlPlane) -> BTreeSet<MacAddress> {
    let mut macs = BTreeSet::new();
    for datastore in plane.datastores.all() {
        for name in vm_names(&datastore).unwrap_or_default() {
            let Ok(located) = Located::read(&datastore, &name) else { continue };
            if let Ok(config) = located.draft().config {
                macs.extend(located.macs(&config));
            }
        }
    }
    macs
}

/// Looks whether another VM has an address of this one. That is told and stands in the way of nothing: only one of them may
/// ever run, and they may be on networks that never meet.
pub fn check(plane: &ControlPlane, located: &Located, config: &VmConfig) -> Option<Check> {
    let own = located.macs(config);
    if own.is_empty() {
        return None;
    }
    let (mut warnings, mut unread) = (Vec::new(), Vec::new());
    for datastore in plane.datastores.all() {
        let names = match vm_names(&datastore) {
            Ok(names) => names,
            Err(Reason { cause, hint }) => {
                let what = format!("whether a VM on datastore {} has one of them, too, is not known", datastore.name());
                unread.push(Reason::new(format!("{what}: {cause}"), hint));
                continue;
            }
        };
        for name in names {
            let Ok(other) = Located::read(&datastore, &name) else { continue };
            let (Ok(config), false) = (other.draft().config, other.vm() == located.vm()) else { continue };
            for mac in other.macs(&config).into_iter().filter(|mac| own.contains(mac)) {
                let cause = format!("VM {name} on datastore {} has {mac}, too", datastore.name());
                let hint = "give a NIC of one of them another mac in its vm.toml, or none: one is made then";
                warnings.push(Reason::new(cause, hint));
            }
        }
    }
    let found = match (warnings.is_empty(), unread.is_empty()) {
        (true, true) => "no other VM has them",
        (true, false) => "no other VM is known to have them",
        (false, _) => "not this VM's alone",
    };
    warnings.extend(unread);
    Some(Check { warnings, ..Check::well("MAC addresses", found) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::host::{HostAnswer, HostRequest};
    use crate::api::lease::LeaseAnswer;
    use crate::host::answers;
    use crate::host::control_plane::stand_in::Place;

    #[test]
    fn a_mac_address_that_another_vm_has_is_told_in_the_check_and_refuses_nothing() {
        let place = Place::without_datastore("macs", |_| LeaseAnswer::Holder(None));
        let nic = |mac: &str| format!("[[nic]]\nport_group = \"lab\"\n{mac}\n");
        let copied = "mac = \"52:54:00:12:34:56\"";
        for (name, nics) in [("web", nic("") + &nic(copied)), ("copy", nic(copied) + &nic("")), ("other", nic(""))] {
            let vm = format!("[vm]\nname = \"{name}\"\ncpus = 1\nmemory = \"64 MiB\"\n[boot]\nkernel = \"x\"\n{nics}");
            place.write(&format!("vms/{name}/vm.toml"), &vm);
        }
        place.wait("the datastore is there", || place.plane.datastores.all()[0].available());
        let told = |name: &str| {
            let request = HostRequest::VmCheck(name.parse().expect("valid"));
            let Ok(HostAnswer::Checks(checks)) = answers::answer(&place.plane, &request) else { panic!("no checks") };
            let of_macs: Vec<Check> = checks.into_iter().filter(|check| check.subject == "MAC addresses").collect();
            assert!(of_macs.iter().all(|check| check.problems.is_empty()), "{of_macs:?}");
            of_macs.into_iter().flat_map(|check| check.warnings).map(|reason| reason.cause).collect::<Vec<_>>()
        };
        assert_eq!(told("web"), ["VM copy on datastore lab has 52:54:00:12:34:56, too"]);
        assert!(told("other").is_empty());
    }
}
