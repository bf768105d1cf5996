//! Which processes run VMs of a datastore, and their end. The list survives this role's own end, because a successor
//! must be able to kill what its predecessor guarded.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use model::names::VmName;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::api::channel::wait_readable;

/// Time in which the threads of a process that was stopped come to stand still.
const STANDSTILL: Duration = Duration::from_millis(100);
/// Time between two looks at a process that does not end: the storage holds its last I/O.
const LOOK: Duration = Duration::from_millis(500);

/// The monitors of one datastore's VMs.
#[derive(Debug)]
pub struct Guard {
    list: PathBuf,
    monitors: BTreeMap<VmName, OwnedFd>,
}

impl Guard {
    /// The monitors that the list at `list` names and that still run.
    pub fn load(list: PathBuf) -> Self {
        let text = fs::read_to_string(&list).unwrap_or_default();
        let monitors = text.lines().filter_map(|line| {
            let mut words = line.split(' ');
            let (vm, pid, started) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
            let pidfd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
            // Looked at after the process was opened: a number that was used again since shows a later start.
            (started_at(pid).ok()? == started).then_some((vm, pidfd))
        });
        Self { monitors: monitors.collect(), list }
    }

    /// Adds the monitor of a VM.
    ///
    /// # Errors
    /// The list cannot be written, so that a successor would not know it.
    pub fn add(&mut self, vm: VmName, pidfd: OwnedFd) -> io::Result<()> {
        let same = |known: &OwnedFd| Ok::<_, io::Error>(pid_of(known)? == pid_of(&pidfd)?);
        if let Some(known) = self.monitors.get(&vm)
            && same(known).unwrap_or(false)
        {
            return Ok(());
        }
        self.monitors.insert(vm, pidfd);
        self.monitors.retain(|_, pidfd| runs(pidfd));
        self.write()
    }

    /// The VMs whose monitors are known to run.
    pub fn running(&mut self) -> Vec<VmName> {
        self.monitors.retain(|_, pidfd| runs(pidfd));
        self.monitors.keys().cloned().collect()
    }

    fn write(&self) -> io::Result<()> {
        let mut text = String::new();
        for (vm, pidfd) in &self.monitors {
            let pid = pid_of(pidfd)?;
            text.push_str(&format!("{vm} {pid} {}\n", started_at(pid)?));
        }
        let fresh = self.list.with_extension("new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.list)
    }

    /// Stops every monitor, so that none begins I/O any more, and gives them the time to stand still.
    pub fn stop_all(&self) {
        for pidfd in self.monitors.values() {
            // The only error is that it is gone already.
            let _ = pidfd_send_signal(pidfd, Signal::STOP);
        }
        if !self.monitors.is_empty() {
            std::thread::sleep(STANDSTILL);
        }
    }

    /// Kills every monitor and calls `done` with the VMs that ran until then when none runs any more, on a thread of its
    /// own. It waits as long as it takes: a VM that may still write must not be called dead.
    pub fn kill_all(&mut self, done: impl FnOnce(Vec<VmName>) + Send + 'static) {
        // A VM that ended before, or moved away, was not killed here and must not be told to have been.
        self.monitors.retain(|_, pidfd| runs(pidfd));
        let monitors = std::mem::take(&mut self.monitors);
        for pidfd in monitors.values() {
            // The only error is that it is gone already.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        // The list keeps them until others are added: a successor must not call dead what still hangs in the kernel.
        let waited = std::thread::Builder::new().name("fence".to_owned()).spawn(move || {
            for (vm, pidfd) in &monitors {
                let mut told = false;
                while !wait_readable(pidfd.as_fd(), LOOK).unwrap_or(false) {
                    if !told {
                        log::warn!("the monitor of VM {vm} was killed and is still there");
                    }
                    told = true;
                }
            }
            done(monitors.into_keys().collect());
        });
        if let Err(error) = waited {
            // Not called dead, so the lease stays lost: the safe side.
            log::error!("no thread to wait for the end of monitors: {error}");
        }
    }
}

fn runs(pidfd: &OwnedFd) -> bool {
    !wait_readable(pidfd.as_fd(), Duration::ZERO).unwrap_or(false)
}

/// The process behind a pidfd (proc_pid_fdinfo(5)).
fn pid_of(pidfd: &OwnedFd) -> io::Result<i32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
    pid.ok_or_else(|| io::Error::other("it is not the descriptor of a process"))
}

/// When a process was started, in the kernel's ticks (proc_pid_stat(5), field 22): with its number it names one process.
fn started_at(pid: i32) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest);
    let field = after_name.and_then(|rest| rest.split(' ').nth(19));
    field.map(str::to_owned).ok_or_else(|| io::Error::other("/proc/PID/stat has too few fields"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::mpsc::channel;

    #[test]
    fn a_successor_kills_what_its_predecessor_guarded() {
        let list = std::env::temp_dir().join(format!("godwit-guard-{}", std::process::id()));
        let mut child = Command::new("sleep").arg("600").spawn().expect("started");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
        let mut first = Guard::load(list.clone());
        first
            .add("web".parse().expect("valid"), pidfd_open(pid, PidfdFlags::empty()).expect("opened"))
            .expect("listed");
        drop(first);
        let mut successor = Guard::load(list.clone());
        assert_eq!(successor.running().len(), 1);
        let (told, tells) = channel();
        successor.kill_all(move |vms| told.send(vms).expect("heard"));
        // A killed child is a zombie until it is waited for, and a pidfd is readable from its death on.
        let vms = tells.recv_timeout(Duration::from_secs(60)).expect("told");
        assert_eq!(vms, ["web".parse().expect("valid")]);
        assert!(!child.wait().expect("collected").success());
        assert!(Guard::load(list.clone()).running().is_empty());
        fs::remove_file(list).expect("removed");
    }

    #[test]
    fn a_vm_that_ended_before_the_fence_is_not_told_to_have_been_killed_by_it() {
        let list = std::env::temp_dir().join(format!("godwit-guard-ended-{}", std::process::id()));
        let mut guard = Guard::load(list.clone());
        let [mut moved, mut stays] = ["moved", "stays"].map(|vm| {
            let child = Command::new("sleep").arg("600").spawn().expect("started");
            let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("opened");
            guard.add(vm.parse().expect("valid"), pidfd).expect("listed");
            child
        });
        moved.kill().expect("killed");
        moved.wait().expect("collected");
        let (told, tells) = channel();
        guard.kill_all(move |vms| told.send(vms).expect("heard"));
        assert_eq!(tells.recv_timeout(Duration::from_secs(60)).expect("told"), ["stays".parse().expect("valid")]);
        assert!(!stays.wait().expect("collected").success());
        fs::remove_file(list).expect("removed");
    }
}
