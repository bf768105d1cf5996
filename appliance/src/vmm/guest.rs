//! The machine of this monitor and what its sessions share of it.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use model::diagnosis::chain;
use vmm::machine::{Event, Machine, MachineError, MachineSpec, Phase};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::api::vmm::{VmmAnswer, VmmEvent, VmmLife};
use crate::vmm::broadcast::{Broadcast, Connection, Consoles};
use crate::vmm::dirty_log::Holder;

/// Time until a console that could take no more output is tried again, ms.
const CONSOLE_AGAIN_MS: i32 = 50;
/// What is said to who wants something of a machine before there is one.
pub(super) const NOT_BUILT: &str = "the machine is not built";
/// Lines of its serial output that are kept of a guest that crashed.
const LAST_LINES: usize = 30;

/// What the sessions of a monitor share.
#[derive(Debug, Default)]
pub struct Guest {
    machine: Mutex<Option<Machine>>,
    memory: OnceLock<OwnedFd>,
    events: Mutex<Vec<VmmEvent>>,
    watchers: Broadcast,
    serial: Consoles,
    dirty_log: Holder,
    ran_here: AtomicBool,
}

impl Guest {
    /// The machine, for one session at a time.
    pub fn machine(&self) -> MutexGuard<'_, Option<Machine>> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets it run; one that `arrived` only if it never ran here.
    ///
    /// # Errors
    /// There is no machine, or it cannot.
    pub fn resume(&self, arrived: bool) -> Result<(), String> {
        let mut place = self.machine();
        let machine = place.as_mut().ok_or(NOT_BUILT)?;
        if arrived && self.ran_here.load(Ordering::Relaxed) {
            return Ok(());
        }
        machine.resume().map_err(|error| chain(&error))?;
        self.ran_here.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Whose the dirty log is.
    pub fn dirty_log(&self) -> &Holder {
        &self.dirty_log
    }

    /// The memfd of the memory, once the machine is built.
    pub fn memory(&self) -> Option<&OwnedFd> {
        self.memory.get()
    }

    /// Takes the machine that was just built, and begins to tell what happens in it.
    ///
    /// # Errors
    /// There is one already, or no thread is to be had.
    pub fn put(self: &Arc<Self>, machine: Machine, memory: OwnedFd) -> Result<(), String> {
        let mut place = self.machine();
        if place.is_some() || self.memory.set(memory).is_err() {
            return Err("the machine is built already".to_owned());
        }
        let (events, output) = (machine.events().clone(), machine.serial_output());
        *place = Some(machine);
        drop(place);
        let (guest, said) = (Arc::clone(self), output.clone());
        let told = std::thread::Builder::new().name("events".to_owned()).spawn(move || {
            each_time(events.event(), || {
                while let Some(event) = events.take() {
                    if event == Event::Reset && guest.reset_in_place() {
                        continue;
                    }
                    if matches!(event, Event::TripleFault | Event::Failed(_)) {
                        log_last_words(&said.read(0).bytes);
                    }
                    guest.tell(event);
                }
                false
            });
        });
        told.map_err(|error| format!("no thread for events: {error}"))?;
        let guest = Arc::clone(self);
        let told = std::thread::Builder::new().name("serial".to_owned()).spawn(move || {
            each_time(output.event(), || guest.serial.send(&output));
        });
        told.map_err(|error| format!("no thread for serial output: {error}")).map(|_| ())
    }

    /// Resets a guest that asked for it where it is, if it moves: elsewhere it would be another machine, and the move would end.
    fn reset_in_place(&self) -> bool {
        let mut place = self.machine();
        let Some(machine) = place.as_mut() else { return false };
        // One that a person paused meanwhile stays so.
        let ran = machine.phase() == Phase::Running;
        let went_on = match self.reset_if_it_moves(machine) {
            Ok(Some(AskedReset::Done)) if ran => machine.resume().map(|()| true),
            Ok(Some(AskedReset::Done)) => Ok(true),
            Ok(Some(AskedReset::DoneBefore)) => Ok(true),
            Ok(None) => Ok(false),
            Err(error) => Err(error),
        };
        went_on.unwrap_or_else(|error| {
            log::error!("the guest moves, and cannot be reset where it is: {}", chain(&error));
            false
        })
    }

    /// Resets a machine whose guest asked for it, if it is being moved. Its memory is cleared in the sight of the dirty log, so what the other host has of
    /// the guest before is overtaken. None where the guest ended and is not to be reset here.
    ///
    /// # Errors
    /// It cannot be, and is not to be run.
    pub fn reset_if_it_moves(&self, machine: &mut Machine) -> Result<Option<AskedReset>, MachineError> {
        match machine.events().end() {
            None => Ok(Some(AskedReset::DoneBefore)),
            Some(Event::Reset) if self.dirty_log.is_of_a_move() => {
                log::info!("the guest asked for a reset while it moves, and is reset where it is");
                machine.reset().map(|()| Some(AskedReset::Done))
            }
            Some(_) => Ok(None),
        }
    }

    fn tell(&self, event: Event) {
        let event = match event {
            Event::Shutdown => VmmEvent::Shutdown,
            Event::Reset => VmmEvent::Reset,
            Event::TripleFault => VmmEvent::TripleFault,
            Event::Failed(why) => VmmEvent::Failed(why),
        };
        log::info!("the guest ended: {event:?}");
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push(event.clone());
        // Under the lock, so that a watcher that is added now gets it once.
        self.watchers.send(&VmmAnswer::Event(event));
    }

    /// Adds a connection that gets all events, those that happened too.
    pub fn watch(&self, connection: Connection) {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        self.watchers.add(connection, events.iter().cloned().map(VmmAnswer::Event));
    }

    /// Adds a connection that gets the serial output, what is kept of it first.
    pub fn attach_serial(&self, connection: Connection) {
        let Some(output) = self.machine().as_ref().map(Machine::serial_output) else { return };
        self.serial.add(connection, &output);
        // As if there were new output: one thread alone sends it. A full counter means that it was told already.
        let _ = output.event().write(1);
    }

    /// The shape of the machine, once it is built.
    pub fn spec(&self) -> Option<MachineSpec> {
        self.machine().as_ref().map(|machine| machine.spec().clone())
    }

    /// Where the VM is in its life.
    pub fn life(&self) -> VmmLife {
        if !self.events.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return VmmLife::Ended;
        }
        match self.machine().as_ref().map(Machine::phase) {
            None => VmmLife::Empty,
            Some(Phase::Empty) => VmmLife::Built,
            Some(Phase::Ready) => VmmLife::Paused,
            Some(Phase::Running) => VmmLife::Running,
        }
    }
}

/// What a guest that crashed said last on its serial port is often all that there is to find out why: it goes to the log
/// before the monitor, and the output with it, ends.
fn log_last_words(output: &[u8]) {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
        log::error!("the guest said: {}", line.escape_debug());
    }
}

/// What became of the reset that a guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskedReset {
    /// It was made now; the machine stands still.
    Done,
    /// None is asked for: it was made where the guest was to be stunned.
    DoneBefore,
}

/// Does the work each time that the event is posted, and soon again for as long as it says so. The event is emptied first:
/// what is posted from there on wakes this thread again.
fn each_time(event: &EventFd, work: impl Fn() -> bool) {
    let waited = || -> std::io::Result<()> {
        let epoll = Epoll::new()?;
        epoll.ctl(ControlOperation::Add, event.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
        let mut again = false;
        loop {
            let bound = if again { CONSOLE_AGAIN_MS } else { -1 };
            let posted = match epoll.wait(bound, &mut [EpollEvent::default()]) {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                other => other? > 0,
            };
            if posted {
                // Empty already if another thread was faster; there is none.
                let _ = event.read();
            }
            again = work();
        }
    };
    if let Err(error) = waited() {
        log::error!("an event cannot be waited for: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn what_could_not_be_done_is_tried_again_though_the_event_is_not_posted_again() {
        let event = EventFd::new(0).expect("an event");
        event.write(1).expect("posted");
        let (told, tells) = channel();
        // It waits for the event for ever in the end, and goes with the process.
        std::thread::spawn(move || {
            let tries = std::cell::Cell::new(0);
            each_time(&event, || {
                tries.set(tries.get() + 1);
                told.send(tries.get()).expect("heard");
                tries.get() < 3
            });
        });
        let tries: Vec<i32> = (0..3).map(|_| tells.recv_timeout(Duration::from_secs(60)).expect("tried")).collect();
        assert_eq!(tries, [1, 2, 3]);
        assert!(tells.recv_timeout(Duration::from_millis(500)).is_err(), "and then it waits for the event");
    }
}
