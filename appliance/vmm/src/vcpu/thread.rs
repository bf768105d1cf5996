//! The thread of a vCPU.

use std::io;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use kvm_ioctls::VcpuFd;

use super::control::Control;
use super::exits::{Exit, Exits};
use crate::bus::{Shared, enter};
use crate::machine::events::Events;

/// A vCPU with its thread, which is parked when made. The descriptor is free for the taking while it is parked.
pub(crate) struct Vcpu {
    pub(crate) fd: Shared<VcpuFd>,
    pub(crate) control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl Vcpu {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(crate) fn spawn(index: u8, fd: VcpuFd, exits: Exits, events: Events) -> io::Result<Self> {
        let fd = Arc::new(Mutex::new(fd));
        let control = Arc::new(Control::new());
        let (thread_fd, thread_control) = (Arc::clone(&fd), Arc::clone(&control));
        let thread = std::thread::Builder::new()
            .name(format!("vcpu{index}"))
            .spawn(move || live(&thread_fd, &thread_control, &exits, &events))?;
        Ok(Self { fd, control, thread: Some(thread) })
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        self.control.request_exit();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

fn live(fd: &Mutex<VcpuFd>, control: &Control, exits: &Exits, events: &Events) {
    control.thread_starts(&mut enter(fd));
    while control.park() {
        let mut vcpu = enter(fd);
        if let Some(event) = run(&mut vcpu, control, exits) {
            control.park_next();
            events.post(event);
        }
    }
    control.thread_ends();
}

/// Runs the guest until it is to be parked, or cannot go on.
///
/// An access that was handled is not behind the guest yet: KVM puts what was read into its register, and steps over the
/// instruction, at the next entry, before it looks for signals and at `immediate_exit`. So the guest is always entered once
/// more after an access, and an interrupted entry means that nothing is under way and the vCPU's state can be taken.
fn run(vcpu: &mut VcpuFd, control: &Control, exits: &Exits) -> Option<crate::machine::Event> {
    loop {
        match exits.step(vcpu) {
            Exit::Handled => {}
            Exit::Interrupted if control.goes_on() => {}
            Exit::Interrupted => return None,
            Exit::Ended(event) => return Some(event),
        }
    }
}
