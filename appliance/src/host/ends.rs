//! What follows when a guest ends, or its monitor does: each VM that runs here has a thread that watches for it.

use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::names::DatastoreName;

use crate::api::channel::ChannelError;
use crate::api::deadline::Deadline;
use crate::api::vmm::{EXIT_FENCED, VmmAnswer, VmmEvent, VmmRequest};
use crate::host::born::Born;
use crate::host::control_plane::ControlPlane;
use crate::host::reap::{self, GONE_BOUND};
use crate::host::running::Running;
use crate::host::vms::Claim;
use crate::host::{host_lease, owed, start};
use crate::journal;

/// Pause before a monitor that lives and cannot be heard is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// How a guest, or its monitor, ended.
#[derive(Debug)]
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

/// VMs whose watcher could not be made, which is tried again.
#[derive(Debug, Default)]
pub struct Unwatched {
    vms: Mutex<Vec<Watched>>,
}

/// A VM that is to be watched, and its monitor's process where this control plane made it.
type Watched = (Arc<Running>, Option<Child>);

impl Unwatched {
    fn lock(&self) -> MutexGuard<'_, Vec<Watched>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches a VM whose guest runs, on a thread of its own, until its monitor ends or hands it over.
pub fn watch(plane: &Arc<ControlPlane>, born: Born) {
    watch_on(plane, born.into_parts(), a_thread);
}

/// Makes the watchers that could not be made before.
pub fn watch_again(plane: &Arc<ControlPlane>) {
    let unwatched = std::mem::take(&mut *plane.unwatched.lock());
    for watched in unwatched {
        watch_on(plane, watched, a_thread);
    }
}

fn a_thread(name: String, work: Box<dyn FnOnce() + Send>) -> io::Result<()> {
    std::thread::Builder::new().name(name).spawn(work).map(|_| ())
}

fn watch_on(
    plane: &Arc<ControlPlane>,
    watched: Watched,
    thread: impl FnOnce(String, Box<dyn FnOnce() + Send>) -> io::Result<()>,
) {
    let vm = watched.0.vm.vm.clone();
    // Whoever takes it has it: a thread that cannot be made must not take the monitor's process with it.
    let here = Arc::new(Mutex::new(Some(watched)));
    let (there, its_plane) = (Arc::clone(&here), Arc::clone(plane));
    let take = |from: &Mutex<Option<Watched>>| from.lock().unwrap_or_else(PoisonError::into_inner).take();
    let watching = move || {
        if let Some((running, child)) = take(&there) {
            watch_to_end(&its_plane, &running, child);
        }
    };
    if let Err(error) = thread(format!("watch-{vm}"), Box::new(watching)) {
        log::error!("VM {vm} is not watched yet: {error}");
        plane.unwatched.lock().extend(take(&here));
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
    let is_fenced = matches!(end, End::Silent) && ended_itself(plane, status, &vm.datastore);
    let silenced = match end {
        End::Silent if is_fenced => Some(format!(
            "{}; its monitor ended itself, because the lease role did not end it: log show lease",
            host_lease::why_killed(&vm.datastore)
        )),
        End::Silent => reap::stopped_by_filter(monitor.pid(), status).or_else(|| status.and_then(killed)),
        _ => None,
    };
    let told = silenced.unwrap_or_else(|| end.told());
    // Whoever moved or killed the VM has taken the entry away: then this end was wanted and needs nothing more.
    let Some((running, releasing)) = plane.vms.ended(&vm.vm, monitor.pid(), told.clone()) else { return };
    if is_fenced {
        plane.vms.note_fenced(&vm.vm, &vm.datastore, Some(&running));
    }
    // Whoever killed it knew better.
    let again = if matches!(end, End::Reset) { "; it is started again" } else { "" };
    log::info!(target: journal::NEWS, "VM {} ended: {}{again}", vm.vm, plane.vms.last_end(&vm.vm).unwrap_or(told));
    running.drop_taps();
    if matches!(end, End::Reset) {
        restart(plane, &running, releasing);
    } else {
        // Tried again if it cannot be done now.
        let _ = owed::give_up(plane, vm);
    }
}

/// Whether a monitor ended itself because its host lease had not been renewed. How an adopted one ended is not known: then whether it had to.
fn ended_itself(plane: &ControlPlane, status: Option<ExitStatus>, datastore: &DatastoreName) -> bool {
    let had_to = || {
        let file = File::open(plane.run_dir.deadline(datastore)).ok()?;
        Some(Deadline::over(file).ok()?.has_passed())
    };
    status.map_or_else(|| had_to().unwrap_or(false), |status| status.code() == Some(EXIT_FENCED))
}

/// How a monitor ended that was killed: nothing of it is in a log.
fn killed(status: ExitStatus) -> Option<String> {
    Some(format!("its monitor was killed by signal {}", status.signal()?))
}

/// Waits for the first thing that ends a guest, or for the end of its monitor. A monitor that cannot be heard while it
/// lives, because this host is short of descriptors or memory, is asked again: it tells what happened meanwhile.
fn first_event(running: &Running) -> End {
    let Running { vm, monitor, .. } = running;
    let mut told = String::new();
    loop {
        let why = match hear(running) {
            Ok(end) => return end,
            Err(error) => error.to_string(),
        };
        match monitor.wait_gone(AGAIN) {
            Ok(()) => return End::Silent,
            Err(ChannelError::Timeout(_)) => {}
            Err(_) => std::thread::sleep(AGAIN),
        }
        if why != told {
            log::warn!("VM {} cannot be watched and is tried again: {why}", vm.vm);
            told = why;
        }
    }
}

/// The first thing that ends a guest, unless its monitor cannot be heard, or not any more.
fn hear(running: &Running) -> Result<End, ChannelError> {
    let events = running.monitor.connect()?;
    events.send(&VmmRequest::Watch, &[])?;
    loop {
        let (VmmAnswer::Event(event), _) = events.receive()? else { continue };
        match event {
            VmmEvent::Shutdown => return Ok(End::Shutdown),
            VmmEvent::Reset => return Ok(End::Reset),
            VmmEvent::TripleFault => return Ok(End::Crash("its guest crashed with a triple fault".to_owned())),
            VmmEvent::Failed(why) => return Ok(End::Crash(format!("its machine failed: {why}"))),
        }
    }
}

/// Starts a VM again whose guest asked for a reset, under the lease that this host still holds.
fn restart(plane: &Arc<ControlPlane>, before: &Running, ended: Claim<'_>) {
    let name = &before.vm.vm;
    if let Err(refusal) = start::start_again(plane, name, ended) {
        log::error!("VM {name} was reset by its guest and did not come up again: {refusal}");
        owed::owe(plane, &before.vm);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::host::VmState;
    use crate::api::lease::LeaseAnswer;
    use crate::host::control_plane::stand_in::Place;
    use crate::host::monitor::stand_in::StandIn;

    #[test]
    fn a_monitor_that_cannot_be_heard_for_a_while_is_not_taken_for_one_that_ended() {
        let monitor = StandIn::start(&"web".parse().expect("valid"));
        let running = monitor.running();
        drop(monitor.accept());
        monitor.reachable(false);
        let watching = std::thread::spawn(move || first_event(&running));
        std::thread::sleep(Duration::from_millis(100));
        monitor.reachable(true);
        drop(monitor.accept());
        let heard = monitor.accept();
        heard.receive().expect("it is asked again");
        heard.send(&VmmAnswer::Event(VmmEvent::Shutdown), &[]).expect("heard");
        let end = watching.join().expect("ended");
        assert!(matches!(end, End::Shutdown), "{end:?}");
    }

    #[test]
    fn a_vm_whose_watcher_could_not_be_made_gets_one_later() {
        let place = Place::without_datastore("ends-watcher", |_| LeaseAnswer::Done);
        let web = "web".parse().expect("valid");
        let monitor = StandIn::start(&web);
        let running = monitor.running();
        place.plane.vms.put(&web, Arc::clone(&running), VmState::Running);
        let fails = |_: String, _: Box<dyn FnOnce() + Send>| Err(io::ErrorKind::WouldBlock.into());
        watch_on(&place.plane, (Arc::clone(&running), None), fails);
        watch_again(&place.plane);
        drop(monitor);
        place.wait("its end is seen", || place.plane.vms.state(&web).is_none());
    }
}
