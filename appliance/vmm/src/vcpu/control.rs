//! Asking a vCPU's thread to run or to park, and hearing that it did.
//!
//! A thread inside KVM_RUN is brought out by a signal. The signal alone would be lost if it came just before the thread
//! enters; so `immediate_exit` in the page that the thread shares with KVM is set first, and KVM looks at it on entry.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler, unblock_signal};

use crate::bus::enter;
use crate::machine::events::StopOnEvent;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Park,
    Run,
    Exit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The thread has not come up yet, or is gone.
    Absent,
    Parked,
    Running,
}

/// How to bring a thread out of KVM_RUN.
struct Kick {
    thread: libc::pid_t,
    immediate_exit: *const AtomicU8,
}

// SAFETY: the pointer goes to the kvm_run page of a VcpuFd, which may be written from any thread (the kernel reads it once
// on entry). It is only used while the thread that owns the VcpuFd is alive, which `Control` sees to.
unsafe impl Send for Kick {}

struct State {
    wanted: Wanted,
    phase: Phase,
    kick: Option<Kick>,
    /// How long the guest has to be held for the throttle's sake.
    owed: Duration,
    /// Since when the guest has run without being held.
    runs_since: Instant,
    /// How long it has been held altogether, without the hold that goes on.
    held: Duration,
    /// Since when it is being held.
    held_since: Option<Instant>,
}

impl State {
    fn kick(&self) {
        if let Some(kick) = &self.kick {
            // SAFETY: `kick` is there only while its thread is alive and holds the VcpuFd whose page the pointer goes to:
            // the thread takes it away, under the mutex that our caller holds, before it lets go of either. tgkill(2) takes
            // plain numbers, and the thread's is not used again while it is alive. (Not pthread_kill, which names a thread
            // without its process in musl: a filter round this process could then not tell whose thread it is.)
            unsafe {
                (*kick.immediate_exit).store(1, Ordering::SeqCst);
                libc::syscall(libc::SYS_tgkill, std::process::id(), kick.thread, SIGRTMIN());
            }
        }
    }

    fn allow_entry(&self) {
        if let Some(kick) = &self.kick {
            // SAFETY: as in `kick`.
            unsafe { (*kick.immediate_exit).store(0, Ordering::SeqCst) };
        }
    }
}

/// The meeting point of a vCPU's thread and those who command it.
pub(crate) struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

extern "C" fn on_signal(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // Its delivery is all that is wanted: KVM_RUN returns with EINTR.
}

impl Control {
    pub(crate) fn new() -> Self {
        let state = State {
            wanted: Wanted::Park,
            phase: Phase::Absent,
            kick: None,
            owed: Duration::ZERO,
            runs_since: Instant::now(),
            held: Duration::ZERO,
            held_since: None,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    // What the commanding side calls.

    /// Asks the thread to run.
    pub(crate) fn request_run(&self) {
        let mut state = enter(&self.state);
        if state.wanted == Wanted::Park {
            state.wanted = Wanted::Run;
            self.changed.notify_all();
        }
    }

    /// Asks the thread to park, without waiting for it.
    pub(crate) fn request_park(&self) {
        let mut state = enter(&self.state);
        if state.wanted == Wanted::Run {
            state.wanted = Wanted::Park;
        }
        state.kick();
        self.changed.notify_all();
    }

    /// Asks the thread to end.
    pub(crate) fn request_exit(&self) {
        let mut state = enter(&self.state);
        state.wanted = Wanted::Exit;
        state.kick();
        self.changed.notify_all();
    }

    /// If the guest has run for `slice` since it was last held, asks the thread to hold it for as long as `hold` says.
    pub(crate) fn hold_after(&self, slice: Duration, hold: impl FnOnce(Duration) -> Duration) {
        let mut state = enter(&self.state);
        let ran = state.runs_since.elapsed();
        if state.phase == Phase::Running && state.wanted == Wanted::Run && state.owed.is_zero() && ran >= slice {
            state.owed = hold(ran);
            state.kick();
        }
    }

    /// The guest is to be held from now on: for none of the time that it ran before.
    pub(crate) fn begin_holding(&self) {
        enter(&self.state).runs_since = Instant::now();
    }

    /// How long the guest has been held altogether.
    pub(crate) fn held(&self) -> Duration {
        let state = enter(&self.state);
        state.held + state.held_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits until the thread has parked. False if it did not before the deadline.
    pub(crate) fn wait_parked(&self, deadline: Instant) -> bool {
        self.wait_for(deadline, |state| state.phase == Phase::Parked)
    }

    /// Waits until the thread runs the guest, or does not have to any more. False if neither before the deadline.
    pub(crate) fn wait_running(&self, deadline: Instant) -> bool {
        self.wait_for(deadline, |state| state.phase == Phase::Running || state.wanted != Wanted::Run)
    }

    fn wait_for(&self, deadline: Instant, done: impl Fn(&State) -> bool) -> bool {
        let mut state = enter(&self.state);
        while !done(&state) {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    // What the thread calls.

    /// The thread is up: from now on it can be kicked.
    pub(crate) fn thread_starts(&self, vcpu: &mut VcpuFd) {
        static HANDLER: std::sync::Once = std::sync::Once::new();
        HANDLER.call_once(|| {
            if let Err(error) = register_signal_handler(SIGRTMIN(), on_signal) {
                log::error!("vCPUs cannot be interrupted: {error}");
            }
        });
        if let Err(error) = unblock_signal(SIGRTMIN()) {
            log::error!("this vCPU cannot be interrupted: {error:?}");
        }
        let immediate_exit = (&raw mut vcpu.get_kvm_run().immediate_exit).cast::<AtomicU8>().cast_const();
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        enter(&self.state).kick = Some(Kick { thread, immediate_exit });
    }

    /// The thread is about to end: from now on it is not kicked any more.
    pub(crate) fn thread_ends(&self) {
        let mut state = enter(&self.state);
        state.kick = None;
        state.phase = Phase::Absent;
        self.changed.notify_all();
    }

    /// Parks until the guest is wanted to run. False if the thread is wanted to end.
    pub(crate) fn park(&self) -> bool {
        let mut state = enter(&self.state);
        state.phase = Phase::Parked;
        self.changed.notify_all();
        while state.wanted == Wanted::Park {
            state = self.wait(state);
        }
        if state.wanted == Wanted::Exit {
            return false;
        }
        state.phase = Phase::Running;
        (state.owed, state.runs_since) = (Duration::ZERO, Instant::now());
        state.allow_entry();
        self.changed.notify_all();
        true
    }

    /// KVM_RUN was interrupted: holds the guest as long as is owed. True if it is to run on.
    pub(crate) fn goes_on(&self) -> bool {
        let mut state = enter(&self.state);
        let from = Instant::now();
        let until = from + state.owed;
        if !state.owed.is_zero() {
            state.held_since = Some(from);
        }
        while state.wanted == Wanted::Run {
            let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else { break };
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if state.held_since.take().is_some() {
            state.held += from.elapsed();
            (state.owed, state.runs_since) = (Duration::ZERO, Instant::now());
        }
        if state.wanted == Wanted::Run {
            state.allow_entry();
        }
        state.wanted == Wanted::Run
    }

    /// The guest has ended on this vCPU: it is not run again before it is asked to.
    pub(crate) fn park_next(&self) {
        let mut state = enter(&self.state);
        if state.wanted == Wanted::Run {
            state.wanted = Wanted::Park;
        }
    }
}

impl StopOnEvent for Control {
    fn request_stop(&self) {
        self.request_park();
    }
}
