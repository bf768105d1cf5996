//! Supervision of roles: start, notice the end, start again after a growing pause. Never waits for a child.
//!
//! ```text
//!   Waiting(until) --pause over--> Running(pid) --ended--> Waiting(until)      restart = always
//!                                       \------ended--> Ended                  restart = never, or absent from the build
//! ```

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process};

use super::gather;
use super::screen::say;
use super::terminals;
use crate::api::init::{InitRequest, RoleReport};
use crate::role::{self, EXIT_ABSENT, Restart, Role, RoleName, Start};

/// What happens to PID 1.
pub(super) enum Event {
    /// A child ended (one of ours, or an orphan that was left to us).
    Ended(Pid, WaitStatus),
    /// This process, which listened as the control plane, answers nobody any more.
    Silent(Pid),
    /// A role asks for something.
    Ordered(InitRequest, Sender<Vec<RoleReport>>),
}

enum State {
    Running { pid: Pid, since: Instant },
    Waiting { until: Instant },
    Ended,
}

struct Supervised {
    name: RoleName,
    terminal: Option<String>,
    role: &'static Role,
    state: State,
    failures: u32,
    restarts: u32,
    falls: u32,
    last_fall: Option<String>,
    /// It answered nobody, and is being ended for that.
    silent: bool,
}

impl Supervised {
    fn title(&self) -> String {
        self.terminal.as_ref().map_or_else(|| self.name.to_string(), |terminal| format!("{}-{terminal}", self.name))
    }
}

/// The roles under supervision and the stream of events.
pub(super) struct Supervisor {
    roles: Vec<Supervised>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    logs: PathBuf,
    program: PathBuf,
    // Ends of children that are nobody's yet: a child may end before its spawn call returned.
    strays: VecDeque<(Pid, WaitStatus)>,
}

impl Supervisor {
    /// Starts reaping: from now on no other code of this process may wait for a child. Roles are started as `program ROLE`
    /// and their logs kept in `logs`.
    pub(super) fn new(program: PathBuf, logs: PathBuf) -> std::io::Result<Self> {
        let (sender, events) = channel();
        let reaped = sender.clone();
        std::thread::Builder::new().name("reap".into()).spawn(move || reap(&reaped))?;
        Ok(Self { roles: Vec::new(), events, sender, logs, program, strays: VecDeque::new() })
    }

    /// Where others put events.
    pub(super) fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Takes on every role that starts at boot, and a console for each terminal; the last to stop is the first to start.
    pub(super) fn take_on_manifest(&mut self) {
        let mut names: Vec<_> = role::manifest().iter().collect();
        names.sort_by_key(|(_, role)| std::cmp::Reverse(role.stop_order));
        for (name, role) in names {
            match role.start {
                Start::Boot => self.take_on(*name, role, None),
                Start::Terminal => {
                    for terminal in terminals::present() {
                        self.take_on(*name, role, Some(terminal));
                    }
                }
                Start::Order => {}
            }
        }
    }

    fn take_on(&mut self, name: RoleName, role: &'static Role, terminal: Option<String>) {
        let state = State::Waiting { until: Instant::now() };
        let (failures, restarts, falls, last_fall) = (0, 0, 0, None);
        self.roles.push(Supervised {
            name,
            terminal,
            role,
            state,
            failures,
            restarts,
            falls,
            last_fall,
            silent: false,
        });
        let index = self.roles.len() - 1;
        self.start(index);
    }

    /// Handles events until one orders the end of the machine.
    pub(super) fn run(&mut self) -> InitRequest {
        loop {
            self.start_due();
            match self.events.recv_timeout(self.until_next_start()) {
                Ok(Event::Ended(pid, status)) => self.ended(pid, status),
                Ok(Event::Silent(pid)) => self.end_silent(pid),
                Ok(Event::Ordered(order, answer)) => {
                    let _ = answer.send(self.report());
                    if order != InitRequest::Report {
                        return order;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// Stops all roles in the manifest's order: SIGTERM, the time of the manifest, SIGKILL. One whose turn has not come is needed
    /// still, and starts again when it ends.
    pub(super) fn stop_all(&mut self) {
        let mut orders: Vec<u8> = self.roles.iter().map(|one| one.role.stop_order).collect();
        orders.sort_unstable();
        orders.dedup();
        for order in orders {
            self.stop_group(order);
        }
    }

    fn stop_group(&mut self, order: u8) {
        let deadline = |one: &Supervised| Instant::now() + Duration::from_secs(one.role.stop_s_max);
        let mut last = Instant::now();
        for one in self.roles.iter_mut().filter(|one| one.role.stop_order == order) {
            match one.state {
                State::Running { pid, .. } => {
                    say(&format!("stopping {}", one.title()));
                    let _ = kill_process(pid, Signal::TERM);
                    // One that somebody stopped hears nothing before it goes on.
                    let _ = kill_process(pid, Signal::CONT);
                    last = last.max(deadline(one));
                }
                State::Waiting { .. } | State::Ended => one.state = State::Ended,
            }
        }
        while self.running(order) && Instant::now() < last {
            self.note_ends(order, last.saturating_duration_since(Instant::now()));
        }
        for one in self.roles.iter().filter(|one| one.role.stop_order == order) {
            if let State::Running { pid, .. } = one.state {
                say(&format!("warning: {} did not stop within {} s and is killed", one.title(), one.role.stop_s_max));
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let killed = Instant::now() + Duration::from_secs(5);
        while self.running(order) && Instant::now() < killed {
            self.note_ends(order, killed.saturating_duration_since(Instant::now()));
        }
    }

    fn running(&self, order: u8) -> bool {
        self.roles.iter().any(|one| one.role.stop_order == order && matches!(one.state, State::Running { .. }))
    }

    /// Handles one event while the roles of this order stop.
    fn note_ends(&mut self, order: u8, within: Duration) {
        self.start_due();
        match self.events.recv_timeout(within.min(self.until_next_start())) {
            Ok(Event::Ended(pid, status)) => {
                let mut stopping = self.roles.iter_mut().filter(|one| one.role.stop_order <= order);
                match stopping.find(|one| one.pid() == Some(pid)) {
                    Some(one) => one.state = State::Ended,
                    None => self.ended(pid, status),
                }
            }
            Ok(Event::Ordered(_, answer)) => drop(answer.send(self.report())),
            // It has been asked to stop, or will be, and has its time for that.
            Ok(Event::Silent(_)) | Err(_) => {}
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        for index in 0..self.roles.len() {
            if matches!(self.roles[index].state, State::Waiting { until } if until <= now) {
                self.roles[index].restarts += 1;
                self.start(index);
            }
        }
    }

    fn until_next_start(&self) -> Duration {
        let now = Instant::now();
        let waiting = self.roles.iter().filter_map(|one| match one.state {
            State::Waiting { until } => Some(until.saturating_duration_since(now)),
            State::Running { .. } | State::Ended => None,
        });
        waiting.min().unwrap_or(Duration::from_secs(3600))
    }

    fn start(&mut self, index: usize) {
        let one = &mut self.roles[index];
        match spawn(one, &self.program, &self.logs) {
            Ok(pid) => {
                one.state = State::Running { pid, since: Instant::now() };
                if let Some(at) = self.strays.iter().position(|(stray, _)| *stray == pid)
                    && let Some((pid, status)) = self.strays.remove(at)
                {
                    self.ended(pid, status);
                }
            }
            Err(error) => {
                one.failures += 1;
                let pause = one.role.backoff(one.failures);
                one.state = State::Waiting { until: Instant::now() + pause };
                say(&format!(
                    "error: role {} could not be started: {error}; the next try is in {pause:?}",
                    one.title()
                ));
            }
        }
    }

    /// Ends a role that is alive and answers nobody, so that it starts again as one that fell. A process that is none of ours any more is
    /// left alone.
    fn end_silent(&mut self, pid: Pid) {
        let Some(one) = self.roles.iter_mut().find(|one| one.pid() == Some(pid)) else { return };
        say(&format!("error: role {} answers nobody and is ended", one.title()));
        one.silent = true;
        let _ = kill_process(pid, Signal::KILL);
    }

    fn ended(&mut self, pid: Pid, status: WaitStatus) {
        let Some(one) = self.roles.iter_mut().find(|one| one.pid() == Some(pid)) else {
            // An orphan, or a child whose spawn has not returned yet. A few are remembered for the second case.
            self.strays.push_back((pid, status));
            if self.strays.len() > 16 {
                self.strays.pop_front();
            }
            return;
        };
        let State::Running { since, .. } = one.state else { return };
        let was_silent = std::mem::take(&mut one.silent);
        let absent = status.exit_status() == Some(i32::from(EXIT_ABSENT));
        if absent || one.role.restart == Restart::Never {
            one.state = State::Ended;
            if absent {
                say(&format!("role {} is not in this build", one.title()));
            }
            return;
        }
        let steady = since.elapsed() >= Duration::from_secs(one.role.steady_s);
        one.failures = if steady { 1 } else { one.failures + 1 };
        let pause = one.role.backoff(one.failures);
        one.state = State::Waiting { until: Instant::now() + pause };
        // A console ends whenever somebody logs out: that is no news.
        if status.exit_status() != Some(0) || one.role.start != Start::Terminal {
            let how = if was_silent { "answered nobody and was ended".to_owned() } else { describe(status) };
            say(&format!("warning: role {} {how}; it starts again in {pause:?}", one.title()));
            one.falls += 1;
            one.last_fall = Some(how);
        }
    }

    fn report(&self) -> Vec<RoleReport> {
        self.roles
            .iter()
            .map(|one| RoleReport {
                title: one.title(),
                pid: one.pid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned()),
                restarts: one.restarts,
                falls: one.falls,
                last_fall: one.last_fall.clone(),
            })
            .collect()
    }
}

impl Supervised {
    fn pid(&self) -> Option<Pid> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            State::Waiting { .. } | State::Ended => None,
        }
    }
}

fn spawn(one: &Supervised, program: &Path, logs: &Path) -> std::io::Result<Pid> {
    let mut command = Command::new(program);
    command.arg(one.name.to_string()).env_clear().current_dir("/").stderr(gather::into_log(logs, &one.title())?);
    match &one.terminal {
        Some(name) => {
            let terminal: File =
                terminals::open(name).ok_or_else(|| std::io::Error::other(format!("/dev/{name} is gone")))?;
            command.arg(name).stdin(terminal.try_clone()?).stdout(terminal);
        }
        None => {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
    }
    let child = command.spawn()?;
    Pid::from_raw(child.id().cast_signed()).ok_or_else(|| std::io::Error::other("a child without a process id"))
}

/// Waits for children for ever and reports each.
fn reap(events: &Sender<Event>) {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                if events.send(Event::Ended(pid, status)).is_err() {
                    return;
                }
            }
            // No child at the moment: look again soon.
            Ok(None) | Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// `ended with status 1`, `was killed by signal 11`.
fn describe(status: WaitStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended without a status".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// Generous: only a failure waits this long.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Supervision takes every child of its process, so each test runs alone in one of its own: this very test, started
    /// again with `--ignored`.
    fn alone(test: &str) {
        let name = format!("init::supervise::tests::{test}");
        let outcome =
            Command::new(std::env::current_exe().unwrap()).args(["--exact", &name, "--ignored"]).output().unwrap();
        let said = String::from_utf8_lossy(&outcome.stdout);
        assert!(outcome.status.success() && said.contains("1 passed"), "{said}");
    }

    struct Stage {
        folder: PathBuf,
        supervisor: Supervisor,
    }

    impl Stage {
        /// A supervisor whose roles are this script.
        fn new(name: &str, script: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("godwit-{name}-{}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            let program = folder.join("role");
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            let supervisor = Supervisor::new(program, folder.clone()).unwrap();
            Self { folder, supervisor }
        }

        fn role(&mut self, stop_s_max: u64) {
            self.named(RoleName::Host, stop_s_max);
        }

        fn named(&mut self, name: RoleName, stop_s_max: u64) {
            let role = Role { stop_s_max, backoff_ms_min: 20, steady_s: 3600, ..role::manifest()[&name].clone() };
            self.supervisor.take_on(name, Box::leak(Box::new(role)), None);
        }

        /// Carries on until the log says `wanted`.
        fn until_logged(&mut self, wanted: &str) {
            let deadline = Instant::now() + PATIENCE;
            while !fs::read_to_string(self.folder.join("host.log")).unwrap_or_default().contains(wanted) {
                assert!(Instant::now() < deadline, "the log never said {wanted}");
                self.supervisor.start_due();
                if let Ok(Event::Ended(pid, status)) = self.supervisor.events.recv_timeout(Duration::from_millis(10)) {
                    self.supervisor.ended(pid, status);
                }
            }
        }
    }

    impl Drop for Stage {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn a_role_that_ends_is_started_again_and_its_orphans_are_reaped() {
        alone("restarts");
    }

    #[test]
    #[ignore = "started by the test above, in a process of its own"]
    fn restarts() {
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        // Leaves an orphan behind, says which run this is, and fails.
        let mut stage =
            Stage::new("restarts", "sleep 0.01 & echo run >> $0.runs; wc -l < $0.runs | sed 's/^/run /' >&2; exit 3");
        stage.role(1);
        stage.until_logged("run 3");
        let report = stage.supervisor.report().remove(0);
        assert!(report.restarts >= 2 && report.falls >= 2, "{report:?}");
        assert_eq!(report.last_fall.as_deref(), Some("ended with status 3"), "who asks is told");
        assert!(stage.supervisor.roles[0].failures >= 2, "the pauses grow");
        stage.supervisor.stop_all();
        assert_eq!(stage.supervisor.report()[0].pid, None, "and stays down at shutdown");
        let children =
            fs::read_to_string(format!("/proc/self/task/{}/children", std::process::id())).unwrap_or_default();
        for pid in children.split_whitespace() {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            assert!(!state.contains(") Z "), "a zombie is left: {state}");
        }
    }

    #[test]
    fn a_role_that_was_killed_fell_and_a_console_that_somebody_left_did_not() {
        alone("falls");
    }

    #[test]
    #[ignore = "started by the test above, in a process of its own"]
    fn falls() {
        let mut stage = Stage::new("falls", "[ $1 = console ] && exit 0; kill -9 $$");
        stage.named(RoleName::Console, 1);
        stage.role(1);
        let deadline = Instant::now() + PATIENCE;
        while stage.supervisor.report().iter().any(|role| role.restarts < 2) {
            assert!(Instant::now() < deadline, "they are not started again");
            stage.supervisor.start_due();
            if let Ok(Event::Ended(pid, status)) = stage.supervisor.events.recv_timeout(Duration::from_millis(10)) {
                stage.supervisor.ended(pid, status);
            }
        }
        let [console, host] = &stage.supervisor.report()[..] else { panic!("two roles") };
        assert_eq!((console.falls, &console.last_fall), (0, &None));
        assert!(host.falls >= 2 && host.last_fall.as_deref() == Some("was killed by signal 9"), "{host:?}");
        stage.supervisor.stop_all();
    }

    #[test]
    fn a_role_that_answers_nobody_is_ended_and_starts_again_and_so_it_is_told() {
        alone("is_silent");
    }

    #[test]
    #[ignore = "started by the test above, in a process of its own"]
    fn is_silent() {
        let script = "echo run >> $0.runs; wc -l < $0.runs | sed 's/^/run /' >&2; while :; do sleep 0.05; done";
        let mut stage = Stage::new("silent", script);
        stage.role(1);
        stage.until_logged("run 1");
        let pid = stage.supervisor.roles[0].pid().unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        stage.supervisor.end_silent(pid);
        stage.until_logged("run 2");
        let report = stage.supervisor.report().remove(0);
        assert_eq!((report.falls, report.last_fall.as_deref()), (1, Some("answered nobody and was ended")));
        // What is told of a process that is gone by then ends no other.
        stage.supervisor.end_silent(pid);
        assert!(!stage.supervisor.roles[0].silent);
        stage.supervisor.stop_all();
    }

    #[test]
    fn a_role_that_was_stopped_by_a_signal_goes_on_to_stop_in_order() {
        alone("is_continued");
    }

    #[test]
    #[ignore = "started by the test above, in a process of its own"]
    fn is_continued() {
        let mut stage = Stage::new(
            "continued",
            "trap 'echo tidied up >&2; exit 0' TERM; echo here >&2; while :; do sleep 0.05; done",
        );
        stage.role(PATIENCE.as_secs());
        stage.until_logged("here");
        kill_process(stage.supervisor.roles[0].pid().unwrap(), Signal::STOP).unwrap();
        stage.supervisor.stop_all();
        stage.until_logged("tidied up");
    }

    #[test]
    fn a_role_that_does_not_stop_is_killed_and_holds_nobody_up() {
        alone("is_killed");
    }

    #[test]
    #[ignore = "started by the test above, in a process of its own"]
    fn is_killed() {
        let mut stage = Stage::new("killed", "trap '' TERM; echo deaf >&2; while :; do sleep 0.05; done");
        stage.role(1);
        stage.until_logged("deaf");
        stage.supervisor.stop_all();
        assert_eq!(stage.supervisor.report()[0].pid, None);
    }

    #[test]
    fn a_role_whose_turn_to_stop_has_not_come_is_started_again_when_it_ends() {
        alone("is_needed_still");
    }

    #[test]
    #[ignore = "started by the test above, in a process of its own"]
    fn is_needed_still() {
        // The control plane stops when the lease role, which fell meanwhile, is back.
        let script = "case $1 in
            host) trap 'touch $0.stopping; until [ -e $0.back ]; do sleep 0.02; done; exit 0' TERM; echo here >&2
                while :; do sleep 0.02; done;;
            lease) until [ -e $0.stopping ]; do sleep 0.02; done
                [ -e $0.fell ] || { touch $0.fell; exit 3; }
                touch $0.back; while :; do sleep 0.02; done;;
            esac";
        let mut stage = Stage::new("needed", script);
        stage.named(RoleName::Lease, 1);
        stage.role(PATIENCE.as_secs());
        stage.until_logged("here");
        stage.supervisor.stop_all();
        assert!(stage.folder.join("role.back").exists(), "nobody renewed the leases while guests were shut down");
        assert!(stage.supervisor.report().iter().all(|role| role.pid.is_none()), "all are down in the end");
    }

    #[test]
    fn a_role_gets_the_time_that_the_manifest_gives_it() {
        alone("stops_itself");
    }

    #[test]
    #[ignore = "started by the test above, in a process of its own"]
    fn stops_itself() {
        let script = "trap 'sleep 0.3; echo tidied up >&2; exit 0' TERM; echo here >&2; while :; do sleep 0.05; done";
        let mut stage = Stage::new("stops", script);
        stage.role(PATIENCE.as_secs());
        stage.until_logged("here");
        stage.supervisor.stop_all();
        stage.until_logged("tidied up");
    }
}
