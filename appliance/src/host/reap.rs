//! The end of monitor processes that were killed: waited for within a bound, collected whenever it comes. A process in
//! the middle of I/O that its storage does not answer ends only when the kernel lets go of it.

use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use model::names::VmName;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::api::channel::{ChannelError, wait_readable};
use crate::host::kernel_log;
use crate::host::monitor::Monitor;

/// How long a killed monitor may take to be gone: its last disk I/O has to end.
pub const GONE_BOUND: Duration = Duration::from_secs(30);

/// Pause before a process is looked at again that cannot be waited for.
const LOOK: Duration = Duration::from_secs(1);

/// Collects a monitor that was killed. If it does not end within `bound`, the log says so and it is collected when it
/// does, on a thread of its own; returns whether it is gone.
pub fn collect(vm: &VmName, mut child: Child, bound: Duration) -> bool {
    let pid = child.id();
    if is_over(&child, bound) {
        // It ended: this only takes its status away. What ended it before it was killed is told here alone: who asked it
        // something heard no answer.
        if let Ok(status) = child.wait()
            && let Some(told) = stopped_by_filter(pid, Some(status))
        {
            log::error!("VM {vm}: {told}");
        }
        return true;
    }
    log::error!("{}", still_there(vm, pid, bound));
    let vm = vm.clone();
    let late = std::thread::Builder::new().name(format!("reap-{vm}")).spawn(move || {
        let _ = child.wait();
        log::info!("the monitor of VM {vm}, process {pid}, is gone at last");
    });
    if let Err(error) = late {
        log::error!("process {pid} is not collected: {error}");
    }
    false
}

/// Waits as long as it takes until a monitor that was killed is gone: a VM that may still write must not be called dead.
/// `late` is told once what holds it up, if it is not gone in time.
pub fn wait_gone(vm: &VmName, monitor: &Monitor, bound: Duration, late: impl FnOnce(String)) {
    let mut late = Some(late);
    loop {
        match monitor.wait_gone(bound) {
            Ok(()) => break,
            Err(ChannelError::Timeout(_)) => {}
            Err(error) => {
                log::error!("process {} cannot be waited for: {error}", monitor.pid());
                std::thread::sleep(LOOK);
            }
        }
        if let Some(late) = late.take() {
            let what = still_there(vm, monitor.pid(), bound);
            log::error!("{what}");
            late(what);
        }
    }
    if late.is_none() {
        log::info!("the monitor of VM {vm}, process {}, is gone at last", monitor.pid());
    }
}

/// Whether it was its system call filter that ended a monitor that is gone, in words; `status` is how the process ended, if
/// that is known (of an adopted one it is not). Takes a second where the kernel does not say.
pub fn stopped_by_filter(pid: u32, status: Option<ExitStatus>) -> Option<String> {
    let known = status.map(|status| status.signal() == Some(libc::SIGSYS));
    if known == Some(false) {
        return None;
    }
    let at = match kernel_log::filtered_call(pid) {
        Some(call) => format!(" at system call {call}"),
        None => known.map(|_| String::new())?,
    };
    Some(format!(
        "its monitor was stopped by its system call filter{at}: a defect of Godwit, or a guest that broke into its monitor"
    ))
}

fn still_there(vm: &VmName, pid: u32, bound: Duration) -> String {
    format!(
        "the monitor of VM {vm}, process {pid}, was killed and is still there after {} s: a datastore that does not answer \
         holds its last I/O",
        bound.as_secs()
    )
}

fn is_over(child: &Child, bound: Duration) -> bool {
    let pid = Pid::from_raw(child.id().cast_signed());
    // Its number is not used again before it is collected.
    let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    pidfd.is_some_and(|pidfd| wait_readable(pidfd.as_fd(), bound).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::monitor::stand_in::StandIn;
    use std::process::Command;
    use std::sync::mpsc::channel;
    use std::time::Instant;

    const BOUND: Duration = Duration::from_secs(60);

    /// Ends a process, also where a test fails before it would.
    struct Kills(Pid);

    impl Drop for Kills {
        fn drop(&mut self) {
            // It may be gone already.
            let _ = rustix::process::kill_process(self.0, rustix::process::Signal::KILL);
        }
    }

    #[test]
    fn a_monitor_that_does_not_end_in_time_holds_nobody_up_and_is_collected_when_it_does() {
        // A process that nobody killed stands for one that the kernel does not let end.
        let child = Command::new("sleep").arg("600").spawn().expect("started");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
        let process = Kills(pid);
        let (told, tells) = channel();
        std::thread::spawn(move || {
            told.send(collect(&"web".parse().expect("valid"), child, Duration::from_millis(1))).expect("heard");
        });
        assert!(!tells.recv_timeout(BOUND).expect("nobody is held up"), "it is not gone");
        drop(process);
        let deadline = Instant::now() + BOUND;
        while std::path::Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists() {
            assert!(Instant::now() < deadline, "it was never collected");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    #[test]
    fn a_vm_whose_monitor_is_not_gone_yet_is_not_called_dead_and_what_holds_it_up_is_told() {
        let stand_in = StandIn::start(&"web".parse().expect("valid"));
        let monitor = stand_in.monitor();
        let (told, tells) = channel();
        let (over, overs) = channel();
        std::thread::spawn(move || {
            let vm = "web".parse().expect("valid");
            wait_gone(&vm, &monitor, Duration::from_millis(1), |what| told.send(what).expect("heard"));
            over.send(()).expect("heard");
        });
        let what = tells.recv_timeout(BOUND).expect("it is late");
        assert!(what.contains(&format!("process {}", stand_in.pid())), "{what}");
        assert!(overs.try_recv().is_err(), "it still runs");
        drop(stand_in);
        overs.recv_timeout(BOUND).expect("it is gone");
    }
}
