//! What this host has, as the checks of a migration want it.

use model::host_config::DatastoreKind;
use protocol::checks::facts::{DatastoreFacts, HostFacts, NicFacts, PortGroupFacts, Uplink};

use crate::api::host::NicRow;
use crate::datastore::Datastore;
use crate::host::control_plane::ControlPlane;

/// The facts as they are now; none where KVM cannot be used and so no processor is known.
pub fn facts(plane: &ControlPlane) -> Option<HostFacts> {
    let rows = plane.with_fabric("", |fabric| (fabric.port_groups(), fabric.nics().unwrap_or_default()));
    let (groups, nics) = rows.unwrap_or_default();
    // An uplink may be named by any of the things that a NIC is known by.
    let is = |nic: &NicRow, name: &String| {
        nic.name == *name || nic.pci.as_ref() == Some(name) || nic.mac.is_some_and(|mac| mac.to_string() == *name)
    };
    let uplink = |name: &Option<String>| match name {
        None => Uplink::None,
        Some(name) if nics.iter().any(|nic| is(nic, name) && !nic.link) => Uplink::Down,
        Some(_) => Uplink::Up,
    };
    let groups = groups.iter().map(|group| PortGroupFacts {
        label: group.name.clone(),
        vlan: group.vlan,
        uplink: uplink(&group.uplink),
    });
    Some(HostFacts {
        host: plane.name().clone(),
        cpu: plane.cpu.clone()?,
        memory_free: plane.memory_free(),
        datastores: plane.datastores.all().iter().map(|datastore| datastore_facts(plane, datastore)).collect(),
        port_groups: groups.collect(),
        maintenance: plane.maintenance.is_on(),
        // The migration engine knows it.
        nic: NicFacts::default(),
        // The migration engine counts them.
        slots_free: 0,
        vms: plane.vms.all_running().into_iter().map(|(running, _)| running.vm.vm.clone()).collect(),
    })
}

fn datastore_facts(plane: &ControlPlane, datastore: &Datastore) -> DatastoreFacts {
    let identity = match datastore.kind() {
        DatastoreKind::Nfs { server, export, .. } => format!("nfs {server}:{export}"),
        DatastoreKind::Directory { path } => format!("directory {path}"),
    };
    DatastoreFacts {
        name: datastore.name().clone(),
        identity,
        area: plane.hosts.area(plane.name(), datastore.name()),
        writable: datastore.writable(),
        trouble: datastore.problems().first().map(|reason| reason.cause.clone()).unwrap_or_default(),
    }
}
