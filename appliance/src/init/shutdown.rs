//! The end of the machine: roles stop in order, what is left is killed, file systems are written back and unmounted.
//! Each step has a bound: a datastore whose server is away cannot keep the machine from going down.

use std::fs;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use rustix::system::{RebootCommand, reboot};

use super::screen::{say, stop_and_explain};
use super::supervise::Supervisor;
use crate::api::init::InitRequest;

/// Kinds of file systems that need no unmounting: they live in RAM or in the kernel.
const IN_MEMORY: [&str; 11] =
    ["proc", "sysfs", "devtmpfs", "devpts", "tmpfs", "ramfs", "rootfs", "debugfs", "cgroup2", "securityfs", "tracefs"];

/// Time for the answer to an order to reach its terminal.
const ANSWER_PAUSE: Duration = Duration::from_secs(1);

/// Carries the order out. Does not return.
pub(super) fn carry_out(order: InitRequest, supervisor: &mut Supervisor) -> ! {
    let (verb, command) = match order {
        InitRequest::Shutdown => ("power off", RebootCommand::PowerOff),
        InitRequest::Reboot | InitRequest::Report => ("reboot", RebootCommand::Restart),
    };
    say(&format!("the machine will {verb}"));
    // Consoles stop first, and one of them has yet to print the answer to whoever typed the order.
    std::thread::sleep(ANSWER_PAUSE);
    supervisor.stop_all();
    kill_the_rest();
    within(Duration::from_secs(10), "writing back file systems", rustix::fs::sync);
    within(Duration::from_secs(10), "unmounting", unmount_all);
    say(&format!("{verb} now"));
    let failure = reboot(command).err();
    stop_and_explain(
        &format!("the kernel refused to {verb}: {failure:?}"),
        "everything is stopped: reset the machine by hand",
    )
}

/// Kills every process but this one: VMMs that outlived their host, children of roles.
fn kill_the_rest() {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()).filter(|pid| *pid > 1);
    for pid in pids {
        // Kernel threads have no program.
        let user_space = fs::read_link(format!("/proc/{pid}/exe")).is_ok();
        if let Some(pid) = Pid::from_raw(pid).filter(|_| user_space) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn unmount_all() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for line in mounts.lines().rev() {
        let mut fields = line.split(' ');
        let (Some(_), Some(target), Some(kind)) = (fields.next(), fields.next(), fields.next()) else { continue };
        if IN_MEMORY.contains(&kind) {
            continue;
        }
        let target = target.replace("\\040", " ");
        // Of NFS, calls that wait for a server that is away are ended first; an orderly unmount would join them.
        let first = if kind.starts_with("nfs") { UnmountFlags::FORCE } else { UnmountFlags::empty() };
        if unmount(&target, first).is_err() {
            let _ = unmount(&target, UnmountFlags::DETACH);
        }
    }
}

/// Runs `work` in a thread and goes on without it when it takes longer than `bound`.
fn within(bound: Duration, what: &str, work: impl FnOnce() + Send + 'static) {
    let (done, waiter) = channel();
    let spawned = std::thread::Builder::new().spawn(move || {
        work();
        let _ = done.send(());
    });
    if spawned.is_ok() && waiter.recv_timeout(bound).is_err() {
        say(&format!("warning: {what} took longer than {} s and was left", bound.as_secs()));
    }
}
