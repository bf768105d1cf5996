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
use crate::api::vmm::{VmmAnswer, VmmRequest, VmmStatus};
use crate::host::{pinned, reap};

/// How long a question that only looks is waited for.
const LOOK_BOUND: Duration = Duration::from_secs(1);

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
    pub fn spawn(
        run_dir: &RunDir,
        vm: &VmName,
        memory: Bytes,
        cpus: Option<&[u32]>,
    ) -> Result<(Self, Child), MonitorError> {
        let folder = run_dir.vm(vm);
        let spawn = || -> io::Result<(Unfinished<'_>, MonitorChannel, OwnedFd, OwnedFd)> {
            std::fs::create_dir_all(&folder)?;
            let socket = folder.join("control.sock");
            let listener = Listener::bind(&socket)?;
            // The listening socket is its standard input: the one descriptor that survives the exec, beside standard
            // error, by which its log lines come to lie in this role's log.
            let mut command = Command::new("/proc/self/exe");
            command.args(["vmm", vm.as_str()]).stdin(Stdio::from(listener.into_socket())).stdout(Stdio::null());
            let child = pinned::on(cpus, move || command.spawn())?;
            let pid = child.id();
            let child = Unfinished { vm, child: Some(child) };
            Ok((child, Channel::connect(&socket)?, guest_memory(vm, memory)?, pidfd(pid)?))
        };
        let (child, control, memory, pidfd) = spawn().map_err(MonitorError::Spawn)?;
        let child = child.finished().ok_or(MonitorError::Unexpected)?;
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
        self.ask_within(request_bound(), request, descriptors)
    }

    fn ask_within(
        &self,
        bound: Duration,
        request: &VmmRequest,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<VmmAnswer, MonitorError> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        match control.ask(request, descriptors, bound) {
            Ok((VmmAnswer::Failed(why), _)) => Err(MonitorError::Refused(why)),
            Ok((answer, _)) => Ok(answer),
            Err(error) => {
                // An answer that comes after all must not be taken for that to a later question.
                if let (ChannelError::Timeout(_), Ok(fresh)) = (&error, self.connect()) {
                    *control = fresh;
                }
                Err(error.into())
            }
        }
    }

    /// How the VM is, asked on a connection of its own, so that it never waits for what another command asked.
    ///
    /// # Errors
    /// The monitor is gone or does not answer at once.
    pub fn status(&self) -> Result<VmmStatus, MonitorError> {
        let channel = self.connect().map_err(ChannelError::from)?;
        match channel.ask(&VmmRequest::Status, &[], LOOK_BOUND)?.0 {
            VmmAnswer::Status(status) => Ok(status),
            _ => Err(MonitorError::Unexpected),
        }
    }

    /// Whether the process is gone.
    pub fn is_gone(&self) -> bool {
        self.wait_gone(Duration::ZERO).is_ok()
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

/// A monitor process of which nobody knows yet: dropped, it is killed and collected.
struct Unfinished<'a> {
    vm: &'a VmName,
    child: Option<Child>,
}

impl Unfinished<'_> {
    fn finished(mut self) -> Option<Child> {
        self.child.take()
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // The only error is that it ended already.
            let _ = child.kill();
            reap::collect(self.vm, child, reap::GONE_BOUND);
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

/// Ends the monitor of a VM of which no record was written yet, found by its socket, and waits until it is gone.
///
/// # Errors
/// It is still there after `bound`.
pub fn end_unrecorded(run_dir: &RunDir, vm: &VmName, bound: Duration) -> io::Result<()> {
    // The socket listens from before the process is there until the process ends.
    let Ok(channel) = MonitorChannel::connect(&run_dir.vm(vm).join("control.sock")) else { return Ok(()) };
    // It does not answer: the connection ends with the process.
    match channel.ask(&VmmRequest::Quit, &[], bound) {
        Err(ChannelError::Timeout(_)) => {
            Err(io::Error::other(format!("it is still there {} s after it was told to end", bound.as_secs())))
        }
        _ => Ok(()),
    }
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

/// A process that stands for a monitor in tests of what is done with monitors.
#[cfg(test)]
pub(super) mod stand_in {
    use std::sync::Arc;

    use model::vm_config::VmConfig;

    use super::*;
    use crate::api::vmm::VmmLife;
    use crate::host::running::Running;

    /// A process that does nothing, and the socket on which the monitor that it stands for would listen.
    pub(crate) struct StandIn {
        vm: VmName,
        process: Child,
        folder: PathBuf,
        listener: Arc<Listener>,
    }

    impl StandIn {
        pub(crate) fn start(vm: &VmName) -> Self {
            let process = Command::new("sleep").arg("600").spawn().expect("started");
            let folder = std::env::temp_dir().join(format!("godwit-monitor-{}", process.id()));
            std::fs::create_dir_all(&folder).expect("made");
            let listener = Arc::new(Listener::bind(&folder.join("control.sock")).expect("bound"));
            Self { vm: vm.clone(), process, folder, listener }
        }

        pub(crate) fn pid(&self) -> u32 {
            self.process.id()
        }

        pub(crate) fn monitor(&self) -> Monitor {
            let control = Channel::connect(&self.folder.join("control.sock")).expect("connected");
            Monitor {
                pid: self.pid(),
                pidfd: pidfd(self.pid()).expect("opened"),
                folder: self.folder.clone(),
                memory: guest_memory(&self.vm, Bytes::mib(1)).expect("made"),
                control: Mutex::new(control),
            }
        }

        pub(crate) fn running(&self) -> Arc<Running> {
            self.running_with("")
        }

        /// The same with more in its vm.toml.
        pub(crate) fn running_with(&self, more: &str) -> Arc<Running> {
            let text =
                format!("[vm]\nname = \"{}\"\ncpus = 1\nmemory = \"64 MiB\"\n[boot]\nkernel = \"x\"\n{more}", self.vm);
            let config = VmConfig::parse("vm.toml", &text).expect("valid");
            let spec = vmm::machine::spec::MachineSpec {
                cpus: config.cpus,
                memory_bytes: config.memory.0,
                cpu_baseline: config.cpu_baseline,
                disks: Vec::new(),
                nics: Vec::new(),
                rng: false,
            };
            let vm = crate::api::lease::VmOnDatastore { datastore: "lab".parse().expect("valid"), vm: self.vm.clone() };
            Arc::new(Running::new(vm, 1, (config, text), spec, self.monitor(), Vec::new()))
        }

        /// The next connection to the socket.
        pub(crate) fn accept(&self) -> Channel<VmmAnswer, VmmRequest> {
            let bound = Duration::from_secs(30);
            assert!(
                crate::api::channel::wait_readable(self.listener.as_fd(), bound).expect("polled"),
                "nobody connects"
            );
            self.listener.accept().expect("connected")
        }

        /// Has its socket found, or not.
        pub(crate) fn reachable(&self, reachable: bool) {
            let (socket, away) = (self.folder.join("control.sock"), self.folder.join("away.sock"));
            let (from, to) = if reachable { (away, socket) } else { (socket, away) };
            std::fs::rename(from, to).expect("renamed");
        }

        /// Answers every connection from now on; what gets no answer waits. Ends with the process of the test.
        pub(crate) fn answers(&self, answer: impl Fn(&VmmRequest) -> Option<VmmAnswer> + Send + Sync + 'static) {
            let (listener, answer) = (Arc::clone(&self.listener), Arc::new(answer));
            std::thread::spawn(move || {
                while let Ok(channel) = listener.accept::<VmmAnswer, VmmRequest>() {
                    let answer = Arc::clone(&answer);
                    std::thread::spawn(move || {
                        while let Ok((request, _)) = channel.receive() {
                            let answered = answer(&request).map_or(Ok(()), |answer| channel.send(&answer, &[]));
                            if answered.is_err() {
                                return;
                            }
                        }
                    });
                }
            });
        }
    }

    /// What a monitor says of itself whose guest lives so and has done nothing yet.
    pub(crate) fn status(life: VmmLife) -> VmmAnswer {
        VmmAnswer::Status(VmmStatus { life, cpu_us: 0, clock: None, failed_requests: 0 })
    }

    impl Drop for StandIn {
        fn drop(&mut self) {
            // It may be gone already.
            let _ = self.process.kill();
            let _ = self.process.wait();
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::stand_in::StandIn;
    use super::*;
    use crate::api::vmm::VmmLife;

    /// The processes that this one started from its own program, also those that ended and were not collected.
    fn children() -> Vec<String> {
        let all = std::fs::read_dir("/proc").expect("/proc").flatten();
        let stats = all.filter_map(|entry| std::fs::read_to_string(entry.path().join("stat")).ok());
        let parent = format!(" {} ", std::process::id());
        let is_child = |stat: &String| {
            // proc_pid_stat(5): number, (name), state, parent. The name is the end of /proc/self/exe.
            let after = stat.split_once("(exe) ").map(|(_, after)| after);
            after.and_then(|after| after.get(1..)).is_some_and(|after| after.starts_with(&parent))
        };
        stats.filter(is_child).collect()
    }

    #[test]
    fn a_monitor_that_cannot_be_made_whole_leaves_no_process_behind() {
        let folder = std::env::temp_dir().join(format!("godwit-unfinished-{}", std::process::id()));
        // More memory than a file can have: that is found when the process is there already.
        let made = Monitor::spawn(&RunDir::at(&folder), &"unfinished".parse().expect("valid"), Bytes(u64::MAX), None);
        assert!(matches!(made, Err(MonitorError::Spawn(_))), "{made:?}");
        assert_eq!(children(), Vec::<String>::new());
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn an_answer_that_comes_too_late_is_not_taken_for_that_to_a_later_question() {
        let stand_in = StandIn::start(&"web".parse().expect("valid"));
        let monitor = stand_in.monitor();
        let slow = stand_in.accept();
        let late = monitor.ask_within(Duration::from_millis(1), &VmmRequest::Pause, &[]);
        assert!(matches!(late, Err(MonitorError::Channel(ChannelError::Timeout(_)))), "{late:?}");
        slow.receive().expect("the question");
        // Nobody hears it any more.
        let _ = slow.send(&VmmAnswer::Done, &[]);
        let asking = std::thread::spawn(move || monitor.ask(&VmmRequest::Status, &[]));
        let next = stand_in.accept();
        next.receive().expect("the next question");
        let status = VmmStatus { life: VmmLife::Paused, cpu_us: 7, clock: None, failed_requests: 0 };
        next.send(&VmmAnswer::Status(status), &[]).expect("heard");
        let answer = asking.join().expect("ended");
        assert!(matches!(answer, Ok(VmmAnswer::Status(known)) if known == status), "{answer:?}");
    }
}
