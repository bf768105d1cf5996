//! Serves one connection: a request, its answer, the next request.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use model::diagnosis::chain;
use model::limits;
use rustix::fs::MemfdFlags;
use vmm::clock::ClockReading;
use vmm::machine::{InstallError, Machine, MachineError, MachineSpec, Resources};
use vmm::memory::DirtyBitmap;

use crate::api::channel::ChannelError;
use crate::api::vmm::{GuestClock, VmmAnswer, VmmRequest, VmmStatus};
use crate::vmm::broadcast::Connection;
use crate::vmm::deadline;
use crate::vmm::dirty_log::Asker;
use crate::vmm::guest::{AskedReset, Guest, NOT_BUILT};

/// An answer and the descriptor beside it, or why the request was not done.
type Outcome = Result<(VmmAnswer, Option<OwnedFd>), String>;

/// What belongs to one connection: its end ends the dirty log that it started.
struct Session<'a> {
    guest: &'a Arc<Guest>,
    connection: &'a Connection,
    asker: Asker,
    bitmap: Option<DirtyBitmap>,
}

/// Serves a connection to its end.
pub fn serve(guest: &Arc<Guest>, connection: &Connection) {
    let mut session = Session { guest, connection, asker: guest.dirty_log().asker(), bitmap: None };
    loop {
        let (request, beside) = match connection.receive() {
            Ok(received) => received,
            Err(ChannelError::Closed) => return,
            Err(error) => return log::warn!("a connection was not understood: {error}"),
        };
        let answered = match request {
            VmmRequest::Watch => {
                guest.watch(Arc::clone(connection));
                continue;
            }
            VmmRequest::SerialAttach => {
                guest.attach_serial(Arc::clone(connection));
                continue;
            }
            VmmRequest::Serial(input) => {
                session.type_in(&input);
                continue;
            }
            VmmRequest::Quit => std::process::exit(0),
            request => session.answer(request, beside),
        };
        let (answer, beside) = answered.unwrap_or_else(|why| (VmmAnswer::Failed(why), None));
        let beside: Vec<_> = beside.iter().map(AsFd::as_fd).collect();
        if connection.send(&answer, &beside).is_err() {
            return;
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if self.bitmap.take().is_some()
            && let Err(why) = self.stop_dirty_log()
        {
            log::warn!("the dirty log of a lost connection was not stopped: {why}");
        }
    }
}

impl Session<'_> {
    fn answer(&mut self, request: VmmRequest, beside: Vec<OwnedFd>) -> Outcome {
        let done = |result: Result<(), String>| result.map(|()| (VmmAnswer::Done, None));
        match request {
            VmmRequest::Obey => {
                done(one(beside).and_then(|file| deadline::obey(file).map_err(|error| error.to_string())))
            }
            VmmRequest::Build { spec } => done(self.build(spec, beside)),
            VmmRequest::AttachDisk { index } => self.attach_disk(index, beside),
            VmmRequest::Load { cmdline, initrd } => done(self.load(&cmdline, initrd, beside)),
            VmmRequest::Image { cmdline, initrd } => done(self.set_image(&cmdline, initrd, beside)),
            VmmRequest::TakeDisks => {
                done(self.with_machine(|machine| machine.take_disks().map_err(|error| chain(&error))))
            }
            VmmRequest::Resume => done(self.guest.resume(false)),
            VmmRequest::ResumeArrived => done(self.guest.resume(true)),
            VmmRequest::Pause => done(self.pause()),
            VmmRequest::PowerButton => done(self.with_machine(|machine| {
                machine.power_button();
                Ok(())
            })),
            VmmRequest::Status => Ok((VmmAnswer::Status(self.status()), None)),
            VmmRequest::Describe => self.describe(),
            VmmRequest::DirtyLogStart { sample } => done(self.start_dirty_log(sample, beside)),
            VmmRequest::DirtyLogHarvest => self.harvest(),
            VmmRequest::DirtyLogStop => {
                self.bitmap = None;
                done(self.stop_dirty_log())
            }
            VmmRequest::Throttle { percent } => done(self.with_machine(|machine| throttle(machine, percent))),
            VmmRequest::Announce { again } => self.announce(again),
            VmmRequest::AnnounceByGuest => done(self.with_machine(|machine| {
                // Drivers that cannot leave it to the host's own announcement.
                machine.announce();
                Ok(())
            })),
            VmmRequest::Save => self.save(),
            VmmRequest::Rehearse => self.rehearse(),
            VmmRequest::Restore { length, clock } => done(self.restore(length, clock, beside)),
            VmmRequest::Watch | VmmRequest::SerialAttach | VmmRequest::Serial(_) | VmmRequest::Quit => {
                Err("this request has no answer".to_owned())
            }
        }
    }

    fn with_machine<T>(&self, work: impl FnOnce(&mut Machine) -> Result<T, String>) -> Result<T, String> {
        work(self.guest.machine().as_mut().ok_or(NOT_BUILT)?)
    }

    fn pause(&self) -> Result<(), String> {
        self.with_machine(|machine| {
            self.is_awaited()?;
            machine.pause().map_err(|error| chain(&error))
        })
    }

    /// A guest is not stopped for who has gone since he asked: whoever took it over may have let it run on before this request was read, and nobody
    /// would learn that it stands still. To be asked where the machine is held.
    fn is_awaited(&self) -> Result<(), String> {
        if self.connection.is_left() { Err("who asked is gone".to_owned()) } else { Ok(()) }
    }

    fn build(&self, spec: MachineSpec, beside: Vec<OwnedFd>) -> Result<(), String> {
        let mut beside = beside.into_iter();
        let kvm = beside.next().ok_or("no /dev/kvm came with the request")?;
        let memory = beside.next().ok_or("no memory came with the request")?;
        let kept = memory.try_clone().map_err(|error| error.to_string())?;
        let resources = Resources { kvm, memory, taps: beside.collect() };
        let machine = Machine::build(spec, resources).map_err(|error| chain(&error))?;
        self.guest.put(machine, kept)
    }

    fn attach_disk(&self, index: u8, beside: Vec<OwnedFd>) -> Outcome {
        let file = one(beside)?;
        self.with_machine(|machine| match machine.attach_disk(usize::from(index), file) {
            Ok(()) => Ok((VmmAnswer::Done, None)),
            Err(MachineError::Install(InstallError::Locked { .. })) => Ok((VmmAnswer::DiskLocked, None)),
            Err(error) => Err(chain(&error)),
        })
    }

    fn load(&self, cmdline: &str, initrd: bool, beside: Vec<OwnedFd>) -> Result<(), String> {
        let (kernel, initrd) = image(initrd, beside)?;
        self.with_machine(|machine| machine.load(kernel, initrd, cmdline).map_err(|error| chain(&error)))
    }

    fn set_image(&self, cmdline: &str, initrd: bool, beside: Vec<OwnedFd>) -> Result<(), String> {
        let (kernel, initrd) = image(initrd, beside)?;
        self.with_machine(|machine| {
            machine.set_image(kernel, initrd, cmdline);
            Ok(())
        })
    }

    fn type_in(&self, input: &[u8]) {
        // What the guest does not read in time is lost, as on a real serial line.
        let _ = self.with_machine(|machine| {
            machine.serial_input(input);
            Ok(())
        });
    }

    fn status(&self) -> VmmStatus {
        // Everything that this process computed; the vCPUs are nearly all of it.
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu_us =
            u64::try_from(used.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(used.tv_nsec).unwrap_or(0) / 1000;
        let failed_requests = self.with_machine(|machine| Ok(machine.failed_requests())).unwrap_or(0);
        VmmStatus { life: self.guest.life(), cpu_us, clock: self.clock().ok(), failed_requests }
    }

    fn clock(&self) -> Result<GuestClock, String> {
        self.with_machine(|machine| machine.clock_ns().map(GuestClock::now).map_err(|error| chain(&error)))
    }

    fn describe(&self) -> Outcome {
        let spec = self.guest.spec().ok_or(NOT_BUILT)?;
        let memory = self.guest.memory().ok_or(NOT_BUILT)?;
        let memory = memory.try_clone().map_err(|error| error.to_string())?;
        Ok((VmmAnswer::Described(spec), Some(memory)))
    }

    fn start_dirty_log(&mut self, sample: bool, beside: Vec<OwnedFd>) -> Result<(), String> {
        let shared = OwnedFd::from(one(beside)?);
        let bitmap = self.with_machine(|machine| {
            let bitmap = DirtyBitmap::shared(shared, machine.dirty_log().pages()).map_err(|error| chain(&error))?;
            let start = || machine.dirty_log().start().map_err(|error| chain(&error));
            self.guest.dirty_log().start(self.asker, sample, start)?;
            Ok(bitmap)
        })?;
        self.bitmap = Some(bitmap);
        Ok(())
    }

    /// Where a move took the log over, nothing is to be done.
    fn stop_dirty_log(&self) -> Result<(), String> {
        self.with_machine(|machine| {
            self.guest.dirty_log().stop(self.asker, || {
                throttle(machine, 0)?;
                machine.dirty_log().stop().map_err(|error| chain(&error))
            })
        })
    }

    fn harvest(&self) -> Outcome {
        let bitmap = self.bitmap.as_ref().ok_or("this connection did not start the dirty log")?;
        // The machine is not held meanwhile: a harvest must not wait for a pause, nor hold one up.
        let (log, slowed) = self.with_machine(|machine| Ok((Arc::clone(machine.dirty_log()), machine.slowed())))?;
        let harvested = self.guest.dirty_log().with(self.asker, || log.harvest(bitmap));
        harvested.map_err(|error| chain(&error))?.map_err(|error| chain(&error))?;
        Ok((VmmAnswer::Harvested { pages: bitmap.count(), slowed }, None))
    }

    fn announce(&self, again: bool) -> Outcome {
        let told = self.with_machine(|machine| machine.announce_place(again).map_err(|error| chain(&error)))?;
        let since_ms = told.since.map(|since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        Ok((VmmAnswer::Announced { frames: told.frames, unheard: told.unheard, since_ms }, None))
    }

    fn rehearse(&self) -> Outcome {
        let once = || {
            let begun = Instant::now();
            self.with_machine(|machine| machine.rehearse().map_err(|error| chain(&error)))?;
            Ok::<_, String>(begun.elapsed())
        };
        let least = once()?.min(once()?);
        Ok((VmmAnswer::Rehearsed { us: u64::try_from(least.as_micros()).unwrap_or(u64::MAX) }, None))
    }

    fn save(&self) -> Outcome {
        let begun = Instant::now();
        let stopped = self.with_machine(|machine| {
            self.is_awaited()?;
            machine.pause().map_err(|error| chain(&error))?;
            // Until its last vCPU stood still it could ask for a reset. That takes longer than a stun: it goes on, and is stunned another time.
            if self.guest.reset_if_it_moves(machine).map_err(|error| chain(&error))? == Some(AskedReset::Done) {
                machine.resume().map_err(|error| chain(&error))?;
                return Ok(None);
            }
            let stopped = begun.elapsed();
            let state = machine.export_state().map_err(|error| chain(&error))?;
            let save = begun.elapsed() - stopped;
            // Whoever gets the state gets the disks with it. If this machine goes on after all, it takes them back: not before, so nobody else has
            // the machine meanwhile.
            machine.release_disks().map_err(|error| chain(&error))?;
            Ok(Some((state, stopped, save)))
        })?;
        let Some((state, stopped, save)) = stopped else { return Ok((VmmAnswer::Reset, None)) };
        let length = state.len() as u64;
        if length > limits::MIGRATION_STATE_BYTES_MAX {
            return Err(format!("the state has {length} bytes, more than {}", limits::MIGRATION_STATE_BYTES_MAX));
        }
        let memfd = rustix::fs::memfd_create("state", MemfdFlags::CLOEXEC).map_err(|error| error.to_string())?;
        File::from(memfd.try_clone().map_err(|error| error.to_string())?)
            .write_all(&state)
            .map_err(|error| error.to_string())?;
        let us = |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let clock = self.clock()?;
        Ok((VmmAnswer::Saved { length, stop_us: us(stopped), save_us: us(save), clock }, Some(memfd)))
    }

    fn restore(&self, length: u64, clock: Option<GuestClock>, beside: Vec<OwnedFd>) -> Result<(), String> {
        if length > limits::MIGRATION_STATE_BYTES_MAX {
            return Err(format!("a state of {length} bytes is larger than {}", limits::MIGRATION_STATE_BYTES_MAX));
        }
        let mut file = one(beside)?;
        let mut state = Vec::new();
        file.rewind().map_err(|error| error.to_string())?;
        file.take(length).read_to_end(&mut state).map_err(|error| error.to_string())?;
        let real = clock.map(|clock| ClockReading { ns: clock.shows(), at: Instant::now() });
        self.with_machine(|machine| machine.import_state(&state, real).map_err(|error| chain(&error)))
    }
}

fn throttle(machine: &mut Machine, percent: u8) -> Result<(), String> {
    machine.throttle(percent).map_err(|error| chain(&error))
}

/// The kernel and, if there is one, the initial RAM disk beside a request.
fn image(initrd: bool, beside: Vec<OwnedFd>) -> Result<(File, Option<File>), String> {
    let mut files = beside.into_iter().map(File::from);
    let kernel = files.next().ok_or("no kernel came with the request")?;
    let initrd = if initrd { Some(files.next().ok_or("no initrd came with the request")?) } else { None };
    Ok((kernel, initrd))
}

/// The file that came beside a request.
fn one(beside: Vec<OwnedFd>) -> Result<File, String> {
    beside.into_iter().next().map(File::from).ok_or_else(|| "no file came with the request".to_owned())
}
