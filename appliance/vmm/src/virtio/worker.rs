//! The thread of a device: it owns engine and queues from start to stop, and gives both back when it has drained.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::device::{Engine, Queues};
use crate::bus::enter;

const RUN: u8 = 0;
const STOP: u8 = 1;
const STOPPED: u8 = 2;

/// What the thread is told. Stopping can be called off until the engine has agreed to it.
pub struct Control {
    wish: AtomicU8,
    wake: EventFd,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Control {
    fn new() -> io::Result<Self> {
        let wake = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self { wish: AtomicU8::new(RUN), wake, ended: Mutex::new(false), end: Condvar::new() })
    }

    /// Readable when the engine should look here. Reset by [`Self::take_wake`].
    pub fn wake_descriptor(&self) -> RawFd {
        self.wake.as_raw_fd()
    }

    /// Resets the wake-up, for who waits level-triggered.
    pub fn take_wake(&self) {
        let _ = self.wake.read();
    }

    /// Whether the engine should take no new requests and drain.
    pub fn stopping(&self) -> bool {
        self.wish.load(Ordering::Acquire) != RUN
    }

    /// The engine has drained and agrees to stop: it must return now if this is true. False if the stop was called off.
    pub fn agree_to_stop(&self) -> bool {
        self.wish.compare_exchange(STOP, STOPPED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// For an engine that has nothing to do until it is stopped.
    pub fn park(&self) {
        while !self.agree_to_stop() {
            wait_for(&mut [interest(self.wake_descriptor(), libc::POLLIN)]);
            self.take_wake();
        }
    }

    fn ask_to_stop(&self) {
        let _ = self.wish.compare_exchange(RUN, STOP, Ordering::AcqRel, Ordering::Acquire);
        let _ = self.wake.write(1);
    }

    fn call_off(&self) -> bool {
        let off = self.wish.compare_exchange(STOP, RUN, Ordering::AcqRel, Ordering::Acquire).is_ok();
        let _ = self.wake.write(1);
        off
    }

    fn has_ended(&self) -> bool {
        *enter(&self.ended)
    }

    fn wait_end(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut ended = enter(&self.ended);
        while !*ended {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            ended = match self.end.wait_timeout(ended, left) {
                Ok((ended, _)) => ended,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}

/// What to wait for on a descriptor: POLLIN, POLLOUT, or nothing for now.
pub fn interest(descriptor: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd: if events == 0 { -1 } else { descriptor }, events, revents: 0 }
}

/// Waits until one of the descriptors is ready; `revents` tells which.
pub fn wait_for(descriptors: &mut [libc::pollfd]) {
    // SAFETY: a valid slice for the length of the call. Interrupted or refused: nobody is ready, and the caller looks again.
    unsafe { libc::poll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, -1) };
}

/// Tells who waits that the thread is over, also when it panicked.
struct Ended(Arc<Control>);

impl Drop for Ended {
    fn drop(&mut self) {
        *enter(&self.0.ended) = true;
        self.0.end.notify_all();
    }
}

/// A running engine.
pub struct Worker<E: Engine> {
    thread: JoinHandle<(E, Queues)>,
    control: Arc<Control>,
}

/// The thread panicked; engine and queues are lost.
#[derive(Debug, thiserror::Error)]
#[error("the device's thread panicked")]
pub struct WorkerLost;

impl<E: Engine> Worker<E> {
    /// Starts a thread that runs the engine on the queues.
    ///
    /// # Errors
    /// If there is no descriptor or thread to be had; engine and queues come back.
    #[allow(clippy::result_large_err)]
    pub fn start(name: &str, engine: E, queues: Queues) -> Result<Self, (E, Queues, io::Error)> {
        let control = match Control::new() {
            Ok(control) => Arc::new(control),
            Err(error) => return Err((engine, queues, error)),
        };
        // The halves travel through a slot, so that a thread that cannot be made does not take them along.
        let slot = Arc::new(Mutex::new(Some((engine, queues))));
        let (theirs, thread_control) = (Arc::clone(&slot), Arc::clone(&control));
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            let ended = Ended(thread_control);
            let (mut engine, mut queues) = enter(&theirs).take().expect("the slot is filled before the thread exists");
            engine.run(&mut queues, &ended.0);
            (engine, queues)
        });
        match thread {
            Ok(thread) => Ok(Self { thread, control }),
            Err(error) => {
                let (engine, queues) = enter(&slot).take().expect("no thread has taken it");
                Err((engine, queues, error))
            }
        }
    }

    /// Asks the thread to drain and end; does not wait.
    pub fn ask_to_stop(&self) {
        self.control.ask_to_stop();
    }

    /// Takes the wish to stop back. False if the thread has agreed already: it ends.
    pub fn call_off(&self) -> bool {
        self.control.call_off()
    }

    /// Whether [`Self::join`] would return at once.
    pub fn has_ended(&self) -> bool {
        self.control.has_ended()
    }

    /// Waits until the thread has ended, at most `patience`.
    pub fn wait_end(&self, patience: Duration) -> bool {
        self.control.wait_end(patience)
    }

    /// Waits for the thread and takes engine and queues back.
    ///
    /// # Errors
    /// [`WorkerLost`].
    pub fn join(self) -> Result<(E, Queues), WorkerLost> {
        self.thread.join().map_err(|_| WorkerLost)
    }
}
