//! The monitor process of one VM, as the control plane holds it: born with nothing but a listening socket, and found
//! again by its folder after the control plane itself was restarted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::limits;
use model::names::VmName;
use model::units::Bytes;
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::api::channel::{Channel, ChannelError, Listener};
use crate::api::paths::RunDir;
use crate::api::vmm::{VmmAnswer, VmmRequest};

/// A connection to a monitor.
pub type MonitorChannel = Channel<VmmRequest, VmmAnswer>;

/// Why a monitor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The process could not be made.
    #[error("the monitor of the VM could not be started: {0}")]
    Spawn(io::Error),
    /// The connection failed.
    #[error("the monitor of the VM does not answer: {0}")]
    Channel(#[from] ChannelError),
    /// It answered that it could not.
    #[error("{0}")]
    Refused(String),
    /// It answered something else.
    #[error("the monitor of the VM answered something that was not asked")]
    Unexpected,
}

/// A monitor process.
#[derive(Debug)]
pub struct Monitor {
    pid: u32,
    pidfd: OwnedFd,
    folder: PathBuf,
    memory: OwnedFd,
    control: Mutex<MonitorChannel>,
}

impl Monitor {
    /// Makes a monitor and its VM's memory. The child is returned too: whoever waits for it learns how it ended.
    ///
    /// # Errors
    /// The folder, the memory or the process cannot be made.
    pub fn spawn(run_dir: &RunDir, vm: &VmName, memory: Bytes) -> Result<(Self, Child), MonitorError> {
        let folder = run_dir.vm(vm);
        let spawn = || -> io::Result<(Child, MonitorChannel, OwnedFd)> {
            std::fs::create_dir_all(&folder)?;
            let socket = folder.join("control.sock");
            let listener = Listener::bind(&socket)?;
            // The listening socket is its standard input: the one descriptor that survives the exec, beside standard
            // error, by which its log lines come to lie in this role's log.
            let child = Command::new("/proc/self/exe")
                .args(["vmm", vm.as_str()])
                .stdin(Stdio::from(listener.into_socket()))
                .stdout(Stdio::null())
                .spawn()?;
            Ok((child, Channel::connect(&socket)?, guest_memory(vm, memory)?))
        };
        let (child, control, memory) = spawn().map_err(MonitorError::Spawn)?;
        let pidfd = pidfd(child.id()).map_err(MonitorError::Spawn)?;
        Ok((Self { pid: child.id(), pidfd, folder, memory, control: Mutex::new(control) }, child))
    }

    /// Finds the monitor of a VM that was started before this control plane was.
    ///
    /// # Errors
    /// It is not there any more.
    pub fn adopt(
        run_dir: &RunDir,
        vm: &VmName,
        pid: u32,
    ) -> Result<(Self, vmm::machine::spec::MachineSpec), MonitorError> {
        let folder = run_dir.vm(vm);
        let pidfd = pidfd(pid).map_err(MonitorError::Spawn)?;
        let control = MonitorChannel::connect(&folder.join("control.sock")).map_err(MonitorError::Spawn)?;
        let (answer, descriptors) = control.ask(&VmmRequest::Describe, &[], request_bound())?;
        let VmmAnswer::Described(spec) = answer else { return Err(MonitorError::Unexpected) };
        let memory = descriptors.into_iter().next().ok_or(MonitorError::Unexpected)?;
        Ok((Self { pid, pidfd, folder, memory, control: Mutex::new(control) }, spec))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A descriptor of its process, by which it can be killed and waited for.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// The memfd of its VM's memory.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    /// A further connection, for the console, for events, or for the migration engine.
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn connect(&self) -> io::Result<MonitorChannel> {
        MonitorChannel::connect(&self.folder.join("control.sock"))
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// The monitor is gone, does not answer in time, or answers that it could not.
    pub fn ask(&self, request: &VmmRequest, descriptors: &[BorrowedFd<'_>]) -> Result<VmmAnswer, MonitorError> {
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        match control.ask(request, descriptors, request_bound())?.0 {
            VmmAnswer::Failed(why) => Err(MonitorError::Refused(why)),
            answer => Ok(answer),
        }
    }

    /// Ends the process at once. Its VM does not run when the pidfd becomes readable.
    pub fn kill(&self) {
        // The only error is that it is gone already.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Waits until the process is gone.
    ///
    /// # Errors
    /// It is still there after the bound.
    pub fn wait_gone(&self, bound: Duration) -> Result<(), ChannelError> {
        if crate::api::channel::wait_readable(self.pidfd.as_fd(), bound)? {
            Ok(())
        } else {
            Err(ChannelError::Timeout(bound))
        }
    }
}

/// Ends a monitor that cannot be adopted, and waits until it is gone. A process of this number that is no monitor of the VM
/// (the number was used again) is left alone.
///
/// # Errors
/// It is still there after `bound`.
pub fn end_unadopted(vm: &VmName, pid: u32, bound: Duration) -> io::Result<()> {
    let Ok(process) = pidfd(pid) else { return Ok(()) };
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    if words.get(1..3) != Some(&[b"vmm".as_slice(), vm.as_str().as_bytes()]) {
        return Ok(());
    }
    // The only error is that it is gone already.
    let _ = pidfd_send_signal(&process, Signal::KILL);
    if crate::api::channel::wait_readable(process.as_fd(), bound).map_err(io::Error::other)? {
        return Ok(());
    }
    Err(io::Error::other(format!("process {pid} is still there {} s after it was killed", bound.as_secs())))
}

fn request_bound() -> Duration {
    Duration::from_millis(limits::API_REQUEST_MS_MAX)
}

fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// A memfd of the VM's memory, sized and not yet touched.
fn guest_memory(vm: &VmName, size: Bytes) -> io::Result<OwnedFd> {
    let memory = rustix::fs::memfd_create(format!("vm-{vm}"), MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&memory, size.0)?;
    Ok(memory)
}
