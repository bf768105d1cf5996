//! What follows when a guest ends, or its monitor does: each VM that runs here has a thread that watches for it.

use std::process::Child;
use std::sync::Arc;

use crate::api::channel::ChannelError;
use crate::api::vmm::{VmmAnswer, VmmEvent, VmmRequest};
use crate::host::born::Born;
use crate::host::caller::Caller;
use crate::host::control_plane::ControlPlane;
use crate::host::monitor::MonitorError;
use crate::host::reap::{self, GONE_BOUND};
use crate::host::running::Running;
use crate::host::{owed, record, start};

/// How a guest, or its monitor, ended.
enum End {
    Shutdown,
    Reset,
    Crash(String),
    /// The monitor ended, and nothing was heard of why.
    Silent,
}

impl End {
    fn told(&self) -> String {
        match self {
            Self::Shutdown => "its guest shut down".to_owned(),
            Self::Reset => "its guest asked for a reset".to_owned(),
            Self::Crash(why) => why.clone(),
            Self::Silent => "its monitor ended without a word: log show vmm".to_owned(),
        }
    }
}

/// Watches a VM whose guest runs, on a thread of its own, until its monitor ends or hands it over.
pub fn watch(plane: &Arc<ControlPlane>, born: Born) {
    let (running, child) = born.into_parts();
    let (plane, vm) = (Arc::clone(plane), running.vm.vm.clone());
    let watching = move || watch_to_end(&plane, &running, child);
    if let Err(error) = std::thread::Builder::new().name(format!("watch-{vm}")).spawn(watching) {
        log::error!("VM {vm} is not watched: {error}");
    }
}

fn watch_to_end(plane: &Arc<ControlPlane>, running: &Arc<Running>, child: Option<Child>) {
    let end = first_event(running);
    let Running { vm, monitor, .. } = &**running;
    monitor.kill();
    plane.vms.ending(&vm.vm, monitor.pid());
    reap::wait_gone(&vm.vm, monitor, GONE_BOUND, |what| plane.vms.waits_for(&vm.vm, Some(what)));
    // It is gone; this only collects it.
    let status = child.and_then(|mut child| child.wait().ok());
    let silenced = match end {
        End::Silent => reap::stopped_by_filter(monitor.pid(), status),
        _ => None,
    };
    let told = silenced.unwrap_or_else(|| end.told());
    // Whoever moved or killed the VM has taken the entry away: then this end was wanted and needs nothing more.
    let Some((running, releasing)) = plane.vms.ended(&vm.vm, monitor.pid(), told.clone()) else { return };
    log::info!("VM {} ended: {told}", vm.vm);
    record::remove(&plane.run_dir, &vm.vm);
    running.drop_taps();
    if matches!(end, End::Reset) {
        drop(releasing);
        restart(plane, &running);
    } else {
        owed::give_up(plane, vm);
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
            Err(ChannelError::Closed) => return End::Silent,
            Err(error) => return End::Crash(format!("its monitor cannot be heard: {error}")),
        }
    }
}

/// Starts a VM again whose guest asked for a reset, under the lease that this host still holds.
fn restart(plane: &Arc<ControlPlane>, before: &Running) {
    let name = &before.vm.vm;
    if let Err(refusal) = start::start(plane, name, &Caller::nobody()) {
        log::error!("VM {name} was reset by its guest and did not come up again: {refusal}");
        plane.owed.add(&before.vm);
    }
}
