//! Serves consoles: a thread for each connection, a request at a time, Ctrl-C heard meanwhile. A request whose console is gone, or
//! gave it up, before it is taken up here is not carried out (`docs/decisions/a-control-plane-that-stands-still.md`).

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use model::diagnosis::Diagnosis;

use crate::api::channel::{Channel, ChannelError, Listener};
use crate::api::host::{HostAnswer, HostRequest};
use crate::api::init::InitRequest;
use crate::host::caller::Caller;
use crate::host::control_plane::ControlPlane;
use crate::host::news::NEWS;
use crate::host::{
    answers, clone, departures, lease_break, lifecycle, maintenance, moves, ping, sent_off, start, whereabouts,
};

/// Serves consoles until the process ends.
pub fn serve(plane: &Arc<ControlPlane>, listener: &Listener) {
    loop {
        match listener.accept::<HostAnswer, HostRequest>() {
            Ok(channel) => {
                let plane = Arc::clone(plane);
                let served =
                    std::thread::Builder::new().name("console".to_owned()).spawn(move || converse(&plane, &channel));
                if let Err(error) = served {
                    log::error!("a console is not served: {error}");
                }
            }
            Err(error) => {
                log::error!("consoles cannot be accepted: {error}");
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

fn converse(plane: &Arc<ControlPlane>, channel: &Channel<HostAnswer, HostRequest>) {
    loop {
        let request = match channel.receive() {
            // A Ctrl-C that came after the answer concerns nothing any more.
            Ok((HostRequest::Cancel, _)) => continue,
            // It is answered here and not by `answer`: no lock and no datastore may stand between.
            Ok((HostRequest::Alive, _)) => match channel.send(&HostAnswer::TakenUp, &[]) {
                Ok(()) => continue,
                Err(_) => return,
            },
            Ok((request, _)) => request,
            Err(ChannelError::Closed) => return,
            Err(error) => return log::warn!("a console was not understood: {error}"),
        };
        let caller = Caller::console(channel);
        let (answer, beside) = match take_up(&request, channel, &caller) {
            TakeUp::Wanted => noted(request, |request| answer(plane, request, &caller)),
            TakeUp::GivenUp => (HostAnswer::Refused(given_up()), Vec::new()),
            TakeUp::Gone => return,
        };
        let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
        let sent = match channel.send(&answer, &beside) {
            Err(ChannelError::TooLong) => channel.send(&HostAnswer::Refused(too_long()), &[]),
            other => other,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Whether a request is still wanted when this process comes to it, which may be long after it was sent.
enum TakeUp {
    Wanted,
    /// Ctrl-C was pressed, and the console waits to be told so.
    GivenUp,
    Gone,
}

/// Tells the console that its request is taken up, before anything is done for it. The socket refuses that once the console has shut its
/// end, so each side knows the same of a request that was given up at this moment.
fn take_up(request: &HostRequest, channel: &Channel<HostAnswer, HostRequest>, caller: &Caller<'_>) -> TakeUp {
    if !request.is_typed() {
        return TakeUp::Wanted;
    }
    let outcome = match channel.send(&HostAnswer::TakenUp, &[]) {
        Err(_) => TakeUp::Gone,
        Ok(()) if caller.cancelled() => TakeUp::GivenUp,
        Ok(()) => return TakeUp::Wanted,
    };
    if let Some(order) = request.order() {
        log::info!("ordered on a console: {order}: it was given up before it was taken up, and is not carried out");
    }
    outcome
}

fn given_up() -> Diagnosis {
    Diagnosis::new(
        "the command was not carried out",
        "it was cancelled before it was taken up",
        "type it again if it is wanted",
    )
}

/// Has a request answered; what a person ordered, and what came of it, stands in the log.
fn noted<T>(request: HostRequest, answer: impl FnOnce(HostRequest) -> (HostAnswer, T)) -> (HostAnswer, T) {
    let Some(order) = request.order() else { return answer(request) };
    let (answer, beside) = answer(request);
    let outcome = match &answer {
        HostAnswer::Refused(refusal) => refusal.to_string().replace('\n', "; "),
        _ => "done".to_owned(),
    };
    log::info!("ordered on a console: {order}: {outcome}");
    (answer, beside)
}

fn too_long() -> Diagnosis {
    Diagnosis::new("the answer cannot be shown", "it is longer than one message may be", "ask for less of it")
}

/// Answers a request; a refusal tells where the VM is that it is about.
fn answer(plane: &Arc<ControlPlane>, request: HostRequest, caller: &Caller<'_>) -> (HostAnswer, Vec<OwnedFd>) {
    let vm = request.changes().cloned();
    match (carry_out(plane, request, caller), vm) {
        ((HostAnswer::Refused(mut refusal), _), Some(vm)) if refusal.vm_now.is_none() => {
            refusal.vm_now = whereabouts::where_is(plane, &vm);
            (HostAnswer::Refused(refusal), Vec::new())
        }
        (answered, _) => answered,
    }
}

fn carry_out(plane: &Arc<ControlPlane>, request: HostRequest, caller: &Caller<'_>) -> (HostAnswer, Vec<OwnedFd>) {
    let alone = |answer: Result<HostAnswer, Diagnosis>| (answer.unwrap_or_else(HostAnswer::Refused), Vec::new());
    let line = |line: Result<String, Diagnosis>| alone(line.map(HostAnswer::Done));
    match request {
        HostRequest::VmStart(vm) => line(start::start(plane, &vm, caller)),
        HostRequest::VmStop(vm) => line(lifecycle::stop(plane, &vm)),
        HostRequest::VmKill(vm) => line(lifecycle::kill(plane, &vm, caller)),
        HostRequest::VmPause(vm) => line(lifecycle::pause(plane, &vm)),
        HostRequest::VmResume(vm) => line(lifecycle::resume(plane, &vm)),
        HostRequest::LeaseBreak { vm, force } => line(lease_break::break_lease(plane, &vm, force)),
        HostRequest::VmClone { vm, new } => {
            let cloned = clone::order::clone(plane, &vm, &new, caller);
            alone(cloned.map(|clone| HostAnswer::Cloned(Box::new(clone))))
        }
        HostRequest::VmConsole(vm) => match answers::vm_console(plane, &vm) {
            Ok(monitor) => (HostAnswer::Console, vec![monitor]),
            Err(refusal) => (HostAnswer::Refused(refusal), Vec::new()),
        },
        HostRequest::VmMigrate { vm, destination, wish, no_wait: true } => {
            alone(sent_off::begin(plane, &vm, &destination, wish))
        }
        HostRequest::VmMigrate { vm, destination, wish, no_wait: false } => {
            alone(departures::migrate(plane, &vm, &destination, wish, caller))
        }
        HostRequest::NetworkPing(host) => {
            alone(ping::ping(plane, &host, caller).map(|measured| HostAnswer::Ping(Box::new(measured))))
        }
        HostRequest::MigrationCancel(id) => line(moves::cancel(plane, &id)),
        HostRequest::News { after } => {
            let (last, items) = NEWS.after(after);
            alone(Ok(HostAnswer::News { last, items }))
        }
        HostRequest::HostMaintenance { on: true } => line(maintenance::enter(plane)),
        HostRequest::HostMaintenance { on: false } => line(maintenance::exit(plane)),
        HostRequest::HostReboot => line(plane.end_host(InitRequest::Reboot)),
        HostRequest::HostShutdown => line(plane.end_host(InitRequest::Shutdown)),
        other => alone(answers::answer(plane, &other)),
    }
}
