//! Which processes run VMs of a datastore, and their end. The list survives this role's own end, because a successor
//! must be able to kill what its predecessor guarded.

use std::collections::BTreeSet;
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
    /// A VM may have several: one that was killed can hang in its last I/O while the next one starts.
    monitors: Vec<(VmName, OwnedFd)>,
    /// Whether the list names all of them.
    listed: bool,
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
        Self { monitors: monitors.collect(), list, listed: true }
    }

    /// Adds the monitor of a VM. One that has ended is nothing to guard.
    ///
    /// # Errors
    /// The list cannot be written, so that a successor would not know it.
    pub fn add(&mut self, vm: VmName, pidfd: OwnedFd) -> io::Result<()> {
        self.monitors.retain(|(_, pidfd)| runs(pidfd));
        if !runs(&pidfd) {
            return Ok(());
        }
        let pid = pid_of(&pidfd)?;
        if !self.monitors.iter().any(|(name, known)| *name == vm && pid_of(known).is_ok_and(|known| known == pid)) {
            // Kept even if the list then cannot be written: this process at least is able to kill it.
            self.monitors.push((vm, pidfd));
            self.listed = false;
        }
        if !self.listed {
            self.write()?;
            self.listed = true;
        }
        Ok(())
    }

    /// The VMs whose monitors are known to run.
    pub fn running(&mut self) -> Vec<VmName> {
        self.monitors.retain(|(_, pidfd)| runs(pidfd));
        vms(&self.monitors)
    }

    fn write(&self) -> io::Result<()> {
        let mut text = String::new();
        for (vm, pidfd) in &self.monitors {
            match pid_of(pidfd).and_then(|pid| Ok((pid, started_at(pid)?))) {
                Ok((pid, started)) => text.push_str(&format!("{vm} {pid} {started}\n")),
                // It ended meanwhile.
                Err(_) if !runs(pidfd) => {}
                Err(error) => return Err(error),
            }
        }
        let fresh = self.list.with_extension("new");
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.list)
    }

    /// Stops every monitor, so that none begins I/O any more, and gives them the time to stand still.
    pub fn stop_all(&self) {
        for (_, pidfd) in &self.monitors {
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
        self.monitors.retain(|(_, pidfd)| runs(pidfd));
        let monitors = std::mem::take(&mut self.monitors);
        for (_, pidfd) in &monitors {
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
            done(vms(&monitors));
        });
        if let Err(error) = waited {
            // Not called dead, so the lease stays lost: the safe side.
            log::error!("no thread to wait for the end of monitors: {error}");
        }
    }
}

/// The VMs of some monitors, sorted, each once.
fn vms(monitors: &[(VmName, OwnedFd)]) -> Vec<VmName> {
    monitors.iter().map(|(vm, _)| vm).collect::<BTreeSet<_>>().into_iter().cloned().collect()
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
    fn a_monitor_that_could_not_be_listed_is_listed_when_it_is_added_again() {
        let folder = std::env::temp_dir().join(format!("godwit-guard-folder-{}", std::process::id()));
        let list = folder.join("list");
        let mut child = Command::new("sleep").arg("600").spawn().expect("started");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
        let mut guard = Guard::load(list.clone());
        let mut add =
            || guard.add("web".parse().expect("valid"), pidfd_open(pid, PidfdFlags::empty()).expect("opened"));
        assert!(add().is_err(), "there is no folder for the list");
        assert!(add().is_err(), "nor is there now");
        fs::create_dir(&folder).expect("made");
        add().expect("listed");
        let successor = Guard::load(list).running();
        child.kill().expect("killed");
        child.wait().expect("collected");
        assert_eq!(successor, ["web".parse().expect("valid")]);
        fs::remove_dir_all(folder).expect("removed");
    }

    #[test]
    fn a_monitor_that_ended_is_no_trouble_to_who_guards_and_not_called_running() {
        let list = std::env::temp_dir().join(format!("godwit-guard-gone-{}", std::process::id()));
        let mut child = Command::new("sleep").arg("600").spawn().expect("started");
        let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
        let pidfd = || pidfd_open(pid, PidfdFlags::empty()).expect("opened");
        let (gone, collected) = (pidfd(), pidfd());
        child.kill().expect("killed");
        assert!(wait_readable(gone.as_fd(), Duration::from_secs(60)).expect("polled"), "it ends");
        let (mut guard, web): (_, VmName) = (Guard::load(list), "web".parse().expect("valid"));
        guard.add(web.clone(), gone).expect("nothing is to be guarded");
        child.wait().expect("collected");
        guard.add(web, collected).expect("nor when it was collected");
        assert!(guard.running().is_empty());
    }

    #[test]
    fn a_monitor_that_still_hangs_is_not_forgotten_for_the_next_one_of_its_vm() {
        let list = std::env::temp_dir().join(format!("godwit-guard-next-{}", std::process::id()));
        let mut guard = Guard::load(list.clone());
        let [mut hangs, mut next] = [(); 2].map(|()| {
            let child = Command::new("sleep").arg("600").spawn().expect("started");
            let pid = Pid::from_raw(child.id().cast_signed()).expect("a process");
            let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("opened");
            guard.add("web".parse().expect("valid"), pidfd).expect("listed");
            child
        });
        let web = ["web".parse::<VmName>().expect("valid")];
        assert_eq!(guard.running(), web, "named once");
        next.kill().expect("killed");
        next.wait().expect("collected");
        assert_eq!(guard.running(), web, "the first one still runs");
        assert_eq!(Guard::load(list.clone()).running(), web, "and a successor knows it");
        hangs.kill().expect("killed");
        hangs.wait().expect("collected");
        assert!(guard.running().is_empty());
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
