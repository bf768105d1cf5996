//! The VMs that went on running while this control plane did not.

use std::sync::Arc;

use model::vm_config::VmConfig;

use crate::api::host::VmState;
use crate::host::born::Born;
use crate::host::control_plane::ControlPlane;
use crate::host::monitor::{self, Monitor};
use crate::host::reap::GONE_BOUND;
use crate::host::record::{self, Left, VmRecord};
use crate::host::running::Running;
use crate::host::{announcing, arrivals, departures, ends, owed};

/// Finds them by their records, and ends what was only being made. Must come before anybody is served.
pub fn adopt(plane: &Arc<ControlPlane>) {
    let Left { records, begun } = record::left(&plane.run_dir);
    for vm in begun {
        match monitor::end_unrecorded(&plane.run_dir, &vm.vm, GONE_BOUND) {
            Ok(()) => {
                log::warn!("VM {} was being made when the control plane ended, and is given up", vm.vm);
                // Tried again if it cannot be done now.
                let _ = owed::give_up(plane, &vm);
            }
            Err(error) => log::error!("monitor of VM {}: {error}", vm.vm),
        }
    }
    for record in records {
        let (vm, pid) = (record.vm.clone(), record.pid);
        let name = &vm.vm;
        let Err(why) = adopt_one(plane, record) else {
            log::info!("VM {name} is adopted");
            continue;
        };
        log::error!("VM {name} cannot be adopted: {why}");
        match monitor::end_unadopted(name, pid, GONE_BOUND) {
            // Tried again if it cannot be done now.
            Ok(()) => drop(owed::give_up(plane, &vm)),
            // Its record stays, and so does the lease: nobody may start the VM beside it.
            Err(error) => log::error!("monitor of VM {name}: {error}"),
        }
    }
}

fn adopt_one(plane: &Arc<ControlPlane>, record: VmRecord) -> Result<(), String> {
    let VmRecord { vm, epoch, config_text, pid, paused, moving_out, moving_in } = record;
    let config = VmConfig::parse("vm.toml", &config_text).map_err(|_| "its record is broken".to_owned())?;
    let (monitor, spec) = Monitor::adopt(&plane.run_dir, &vm.vm, pid).map_err(|error| error.to_string())?;
    let running = Arc::new(Running::new(vm.clone(), epoch, (config, config_text), spec, monitor, Vec::new()));
    if let Some(moving_in) = moving_in {
        arrivals::adopt(plane, running, moving_in);
        return Ok(());
    }
    let state = if paused { VmState::Paused } else { VmState::Running };
    plane.vms.put(&vm.vm, Arc::clone(&running), state);
    ends::watch(plane, Born::adopted(Arc::clone(&running)));
    announcing::go_on(&running);
    if let Some(moving_out) = moving_out {
        departures::adopt(plane, &running, moving_out);
    }
    Ok(())
}
