//! The roles of two hosts as processes of this machine, on a datastore that is a folder, each host at its end of the cable.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bench::case::Case;
use crate::bench::contestant::MOVE_BOUND;
use crate::bench::conversation::Conversation;
use crate::bench::godwit::moves::{self, Host, Hosts};
use crate::bench::godwit::vm;
use crate::bench::link::{BARE_NIC, Link, bare_address};
use crate::bench::surroundings;
use crate::error::{Doing, LabError, Result};
use crate::wait;

/// The longest that a command may take: a move is one.
const COMMAND_BOUND: Duration = MOVE_BOUND;
/// From a role's start until its host holds its lease and knows the other: several lease periods, on a busy machine.
const READY_BOUND: Duration = Duration::from_secs(120);
/// How long a VM that was started or moved may take to be shown by its host.
const ATTACH_BOUND: Duration = Duration::from_secs(30);
const HOSTS: [&str; 2] = ["host-a", "host-b"];
/// In the order in which they are started.
const ROLES: [&str; 3] = ["lease", "migrate", "host"];

/// Two hosts.
pub(in crate::bench) struct Native<'a> {
    hosts: [Processes<'a>; 2],
}

impl<'a> Native<'a> {
    /// Boots both with `program`, on a datastore in `folder` with a VM of each of the cases, and of each depth where the case compares them.
    pub(in crate::bench) fn boot(
        program: &'a Path,
        folder: &Path,
        link: &'a Link,
        kernel: &Path,
        cases: &[Case],
    ) -> Result<Self> {
        let data = folder.join("data");
        vm::place(&data, kernel, cases)?;
        let boot = |end| Processes::boot(program, folder, link, end);
        let mut godwit = Self { hosts: [boot(0)?, boot(1)?] };
        for end in [0, 1] {
            godwit.hosts[end].wait_ready(HOSTS[1 - end])?;
        }
        Ok(godwit)
    }

    /// Memory of a host's own roles, whatever the number of its VMs: bytes.
    pub(in crate::bench) fn roles_memory(&self) -> Result<u64> {
        let roles = self.hosts[0].roles.iter().filter(|role| Path::new("/proc").join(role.id().to_string()).exists());
        roles.map(|role| surroundings::memory_of(role.id())).sum()
    }
}

impl Hosts for Native<'_> {
    fn both(&mut self) -> Result<[&mut dyn Host; 2]> {
        let [source, destination] = &mut self.hosts;
        Ok([source, destination])
    }
}

/// One host.
struct Processes<'a> {
    name: &'static str,
    end: usize,
    program: &'a Path,
    link: &'a Link,
    run: PathBuf,
    roles: Vec<Child>,
    console: Option<Conversation>,
    commands: u32,
}

impl<'a> Processes<'a> {
    fn boot(program: &'a Path, folder: &Path, link: &'a Link, end: usize) -> Result<Self> {
        let name = HOSTS[end];
        let run = folder.join(name);
        // Those of a run that was interrupted.
        end_processes_of(&run);
        let mut host = Self { name, end, program, link, run, roles: Vec::new(), console: None, commands: 0 };
        for part in ["log", "vm", "config"] {
            let part = host.run.join(part);
            fs::create_dir_all(&part).at("creating", &part)?;
        }
        let config = format!(
            "hostname = \"{name}\"\n[datastore.lab]\nkind = \"directory\"\npath = \"{}\"\n\
             [migration_nic]\nnic = \"{BARE_NIC}\"\naddress = \"{}/24\"\n",
            folder.join("data").display(),
            bare_address(end)
        );
        fs::write(host.run.join("config/host.toml"), config).at("writing", &host.run)?;
        fs::write(host.run.join("identity"), format!("{:02x}", 0xa0 + end).repeat(16)).at("writing", &host.run)?;
        for role in ROLES {
            host.start(role)?;
        }
        host.console = Some(host.sit_down()?);
        Ok(host)
    }

    /// Starts a role and waits until it listens.
    fn start(&mut self, role: &str) -> Result<()> {
        let path = self.run.join("log").join(format!("{role}.log"));
        let log = File::options().create(true).append(true).open(&path).at("opening", &path)?;
        let mut command = self.link.at(self.end, self.program);
        let mut child = command.arg(role).env("GODWIT_RUN", &self.run).stderr(log).spawn().doing("starting a role")?;
        let socket = self.run.join(format!("{role}.sock"));
        let listens = || {
            if let Some(status) = child.try_wait().doing("looking after a role")? {
                let said = fs::read_to_string(&path).unwrap_or_default();
                return Err(LabError::Input(format!("the {role} role ended ({status}): {said}")));
            }
            Ok(socket.exists().then_some(()).ok_or_else(|| format!("see {}", path.display())))
        };
        let listens = wait::until(&format!("the {role} role"), READY_BOUND, listens);
        self.roles.push(child);
        listens
    }

    /// A console of this host.
    fn sit_down(&self) -> Result<Conversation> {
        let mut command = self.link.at(self.end, self.program);
        command.arg("console").env("GODWIT_RUN", &self.run).env("TERM", "linux");
        Conversation::begin(command)
    }

    /// Waits until the host holds its lease, has its migration stack up, and knows the other.
    fn wait_ready(&mut self, other: &str) -> Result<()> {
        let waiting_for = format!("{} to be ready", self.name);
        let wanted =
            [("datastore show lab", "held, renewed"), ("host list", other), ("network migration-nic", BARE_NIC)];
        let ready = || {
            for (command, word) in wanted {
                let said = self.done(command).unwrap_or_else(|error| error.to_string());
                if !said.contains(word) {
                    return Ok(Err(said));
                }
            }
            Ok(Ok(()))
        };
        wait::until(&waiting_for, READY_BOUND, ready)
    }
}

impl Host for Processes<'_> {
    fn name(&self) -> String {
        self.name.into()
    }

    fn ready(&mut self) -> Result<()> {
        // A VM's serial port is read from a console of its own.
        Ok(())
    }

    fn done(&mut self, command: &str) -> Result<String> {
        self.commands += 1;
        let token = format!("c{}", self.commands);
        let console = self.console.as_mut().ok_or_else(|| LabError::Input("the host has no console".into()))?;
        console.type_line(&format!("@exec {token} {command}"))?;
        let (begin, end) = (format!("@begin {token}"), format!("@end {token} "));
        console.line(&format!("`{command}`"), COMMAND_BOUND, |line| (line == begin).then_some(()))?;
        let mut said = Vec::new();
        let status = console.line(&format!("the end of `{command}`"), COMMAND_BOUND, |line| {
            let status = line.strip_prefix(&end).map(str::to_owned);
            if status.is_none() {
                said.push(line.to_owned());
            }
            status
        })?;
        let said = said.join("\n");
        if status == "0" {
            return Ok(said);
        }
        Err(LabError::Host { host: self.name.into(), what: format!("`{command}` ended with status {status}: {said}") })
    }

    fn attach(&mut self, vm: &str) -> Result<Conversation> {
        wait::until("the VM's console", ATTACH_BOUND, || {
            let mut serial = self.sit_down()?;
            Ok(moves::attach(&mut serial, vm)?.map(|()| serial))
        })
    }

    fn machine(&mut self, vm: &str) -> Result<Option<u32>> {
        let said = self.done(&format!("vm show {vm} --json"))?;
        let told: Value = serde_json::from_str(&said).unwrap_or_default();
        let pid = told["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.map(Some).ok_or_else(|| LabError::Input(format!("{vm} has no monitor on {}: {said}", self.name)))
    }

    fn workers(&self) -> Vec<u32> {
        processes_of(&self.run)
    }
}

impl Drop for Processes<'_> {
    fn drop(&mut self) {
        self.console = None;
        for role in self.roles.iter_mut().rev() {
            // The only error is that it ended by itself.
            let _ = role.kill();
            let _ = role.wait();
        }
        // Monitors outlive the roles on purpose.
        end_processes_of(&self.run);
    }
}

/// The processes of a host: those that were started with its folder.
fn processes_of(run: &Path) -> Vec<u32> {
    let mark = format!("GODWIT_RUN={}", run.display());
    let has_mark = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|word| word == mark.as_bytes())
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(has_mark).collect()
}

fn end_processes_of(run: &Path) {
    for pid in processes_of(run).into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
        // The only error is that it ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_belongs_to_the_host_whose_folder_it_was_started_with() {
        let run = Path::new("/nonexistent/godwit-bench-test");
        let child = std::process::Command::new("sleep").arg("30").env("GODWIT_RUN", run).spawn();
        let mut child = child.expect("sleep is everywhere");
        // A child is told of before the kernel shows its environment.
        let found = || {
            let found = processes_of(run);
            Ok(if found == [child.id()] { Ok(()) } else { Err(format!("{found:?}")) })
        };
        wait::until("the process", Duration::from_secs(20), found).expect("it is found, and no other");
        child.kill().expect("killed");
        child.wait().expect("collected");
    }
}
