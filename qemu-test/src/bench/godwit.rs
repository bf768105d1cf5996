//! Godwit as it is: the roles of two hosts as processes of this machine, on a datastore that is a folder, each host at its
//! end of the cable. What a person would type is typed on their consoles.

use std::cell::{RefCell, RefMut};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use model::receipt::{Receipt, Verdict};
use model::vm_config::Verify;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::bench::case::{Case, Rivals};
use crate::bench::contestant::{Contestant, Guest, MOVE_BOUND, Moved};
use crate::bench::conversation::Conversation;
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
pub(super) struct Godwit<'a> {
    hosts: [Host<'a>; 2],
}

impl<'a> Godwit<'a> {
    /// Boots both with `program`, on a datastore in `folder` with a VM of each of the cases, and of each depth where the case compares them.
    pub(super) fn boot(
        program: &'a Path,
        folder: &Path,
        link: &'a Link,
        kernel: &Path,
        cases: &[Case],
    ) -> Result<Self> {
        let data = folder.join("data");
        let vms = cases.iter().flat_map(|case| DEPTHS.map(|verify| (*case, verify)));
        for (case, verify) in vms.filter(|(case, verify)| is_measured(case.rivals, *verify)) {
            let vm = data.join("vms").join(vm_name(case, verify));
            fs::create_dir_all(&vm).at("creating", &vm)?;
            fs::copy(kernel, vm.join("witness")).at("copying", kernel)?;
            fs::write(vm.join("vm.toml"), vm_toml(case, verify)).at("writing", &vm)?;
        }
        let boot = |end| Host::boot(program, folder, link, end);
        let mut godwit = Self { hosts: [boot(0)?, boot(1)?] };
        for end in [0, 1] {
            godwit.hosts[end].wait_ready(HOSTS[1 - end])?;
        }
        Ok(godwit)
    }

    /// Memory of a host's own roles, whatever the number of its VMs: bytes.
    pub(super) fn roles_memory(&self) -> Result<u64> {
        let roles = self.hosts[0].roles.iter().filter(|role| Path::new("/proc").join(role.id().to_string()).exists());
        roles.map(|role| surroundings::memory_of(role.id())).sum()
    }
}

/// The hosts as one of those who are compared: they verify moves to this depth.
pub(super) struct AtDepth<'a, 'b> {
    pub(super) verify: Verify,
    /// One guest at a time is theirs.
    pub(super) hosts: &'a RefCell<Godwit<'b>>,
}

/// The least of the depths, beside which the others are shown.
pub(super) const LEAST: Verify = Verify::Transfer;
/// All depths.
pub(super) const DEPTHS: [Verify; 3] = [Verify::Audit, LEAST, Verify::Full];

/// The name of Godwit where it verifies to this depth.
pub(super) fn name(verify: Verify) -> String {
    if verify == Verify::default() { "Godwit".into() } else { format!("Godwit, {verify}") }
}

/// Other programs are met as Godwit is by default.
fn is_measured(rivals: Rivals, verify: Verify) -> bool {
    rivals == Rivals::Depths || verify == Verify::default()
}

impl Contestant for AtDepth<'_, '_> {
    fn name(&self) -> String {
        name(self.verify)
    }

    fn is_among(&self, rivals: Rivals) -> bool {
        is_measured(rivals, self.verify)
    }

    fn start(&mut self, case: Case) -> Result<Box<dyn Guest + '_>> {
        let verify = self.verify;
        let mut godwit = self.hosts.borrow_mut();
        let source = &mut godwit.hosts[0];
        let vm = vm_name(case, verify);
        let ordered_tsc = surroundings::tsc();
        source.done(&format!("vm start {vm}"))?;
        let found = source.attach(&vm).and_then(|serial| Ok((serial, source.machine(&vm)?)));
        let (serial, machine) = match found {
            Ok(found) => found,
            Err(error) => {
                // The first error is the one to show.
                let _ = source.done(&format!("vm kill {vm}"));
                return Err(error);
            }
        };
        Ok(Box::new(Running { godwit, verify, vm, ordered_tsc, serial, machine }))
    }
}

struct Running<'a, 'b> {
    godwit: RefMut<'a, Godwit<'b>>,
    verify: Verify,
    vm: String,
    ordered_tsc: u64,
    serial: Conversation,
    machine: u32,
}

impl Guest for Running<'_, '_> {
    fn ordered_tsc(&self) -> u64 {
        self.ordered_tsc
    }

    fn serial(&mut self) -> &mut Conversation {
        &mut self.serial
    }

    fn machine(&self) -> u32 {
        self.machine
    }

    fn workers(&self) -> Vec<u32> {
        self.godwit.hosts.iter().flat_map(|host| processes_of(&host.run)).collect()
    }

    fn prepare_move(&mut self) -> Result<()> {
        // The other end is made within the move.
        Ok(())
    }

    fn migrate(&mut self) -> Result<Moved> {
        let [source, destination] = &mut self.godwit.hosts;
        let ordered = Instant::now();
        let said = source.done(&format!("vm migrate {} {} --json", self.vm, destination.name))?;
        let whole = ordered.elapsed();
        let receipt: Receipt = serde_json::from_str(&said)
            .map_err(|error| LabError::Input(format!("the receipt is not understood: {error}\n{said}")))?;
        if receipt.verdict != Verdict::Moved {
            return Err(LabError::Input(format!("Godwit did not move its guest: {}", receipt.reason)));
        }
        if receipt.audit.different_pages > 0 {
            return Err(LabError::Input(format!("the audit found {} pages different", receipt.audit.different_pages)));
        }
        if !is_verified(&receipt, self.verify) {
            return Err(LabError::Input(format!("the move was not verified by {}:\n{said}", self.verify)));
        }
        self.serial = destination.attach(&self.vm)?;
        self.machine = destination.machine(&self.vm)?;
        Ok(moved(&receipt, whole))
    }

    fn end(self: Box<Self>) -> Result<()> {
        let Self { mut godwit, vm, .. } = *self;
        let kill = format!("vm kill {vm}");
        let killed = godwit.hosts.iter_mut().map(|host| u8::from(host.done(&kill).is_ok())).sum::<u8>();
        if killed == 1 { Ok(()) } else { Err(LabError::Input(format!("{vm} ran on {killed} hosts"))) }
    }
}

/// What comes after the resume, audit and release, is no part of the time until the guest runs there.
fn moved(receipt: &Receipt, whole: Duration) -> Moved {
    let after = |name: &str| ["audit", "release"].contains(&name);
    let after: u64 = receipt.phases.iter().filter(|phase| after(&phase.name)).map(|phase| phase.us).sum();
    Moved {
        runs_there: whole.saturating_sub(Duration::from_micros(after)),
        whole,
        sent_bytes: receipt.sent_bytes,
        stun: Duration::from_micros(receipt.stun.total_us),
    }
}

/// Whether a move was verified to this depth and no other, as far as its receipt tells.
fn is_verified(receipt: &Receipt, verify: Verify) -> bool {
    receipt.audit.done == (verify == Verify::Audit) && (receipt.stun.verify_us > 0) == (verify == Verify::Full)
}

fn vm_name(case: Case, verify: Verify) -> String {
    match case.rivals {
        Rivals::Programs => case.vm_name(),
        Rivals::Depths => format!("{}-{verify}", case.vm_name()),
    }
}

fn vm_toml(case: Case, verify: Verify) -> String {
    let Case { memory_mib, stun_ms_max, .. } = case;
    format!(
        "[vm]\nname = \"{}\"\ncpus = 1\nmemory = \"{memory_mib} MiB\"\ncpu_baseline = \"host\"\n\n\
         [boot]\nkernel = \"witness\"\ncmdline = \"{}\"\n\n[migration]\nstun_ms_max = {stun_ms_max}\nverify = \"{verify}\"\n",
        vm_name(case, verify),
        case.cmdline()
    )
}

/// One host.
struct Host<'a> {
    name: &'static str,
    end: usize,
    program: &'a Path,
    link: &'a Link,
    run: PathBuf,
    roles: Vec<Child>,
    console: Option<Conversation>,
    commands: u32,
}

impl<'a> Host<'a> {
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

    /// Types a command that must succeed; gives what it printed.
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

    /// The serial port of a VM that runs here, or is about to: a host may tell of a move before the other shows the VM.
    fn attach(&self, vm: &str) -> Result<Conversation> {
        let attach = || {
            let mut serial = self.sit_down()?;
            serial.type_line(&format!("vm console {vm}"))?;
            let answer = serial.line("the VM's console", COMMAND_BOUND, |line| {
                let answers = line.starts_with("Attached") || line.starts_with("cause:");
                answers.then(|| line.to_owned())
            })?;
            Ok(if answer.starts_with("Attached") { Ok(serial) } else { Err(answer) })
        };
        wait::until("the VM's console", ATTACH_BOUND, attach)
    }

    /// The process of a VM's monitor.
    fn machine(&mut self, vm: &str) -> Result<u32> {
        let said = self.done(&format!("vm show {vm} --json"))?;
        let told: Value = serde_json::from_str(&said).unwrap_or_default();
        let pid = told["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.ok_or_else(|| LabError::Input(format!("{vm} has no monitor on {}: {said}", self.name)))
    }
}

impl Drop for Host<'_> {
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

    const RECEIPT: &str = r#"{"id":"1","vm":"w","source":"host-a","destination":"host-b","verdict":"moved","reason":"","epoch":2,
            "started_unix_s":0,"total_us":0,"memory_bytes":0,"sent_bytes":7,"zero_pages":0,"compression_saved_bytes":0,
            "throughput_bytes_per_s":0,"dirty_pages_per_s":0,"clock_step_us":0,"predicted_stun_us":0,
            "stun":{"stop_us":0,"last_pages_us":0,"state_us":0,"verify_us":0,"lease_us":0,"resume_us":0,"announce_us":0,"total_us":9000},
            "audit":{"done":true,"compared_pages":1,"rewritten_pages":0,"different_pages":0},
            "phases":[{"name":"pre-copy","us":500},{"name":"audit","us":200000},{"name":"release","us":100000}],"rounds":[]}"#;

    #[test]
    fn what_follows_the_resume_does_not_count_as_time_until_the_guest_runs_there() {
        let moved = moved(&serde_json::from_str(RECEIPT).unwrap(), Duration::from_secs(1));
        assert_eq!((moved.runs_there, moved.whole), (Duration::from_millis(700), Duration::from_secs(1)));
        assert_eq!((moved.sent_bytes, moved.stun), (7, Duration::from_millis(9)));
    }

    #[test]
    fn a_depth_is_asked_for_in_the_vm_toml_and_a_move_to_another_does_not_count() {
        let case = *crate::bench::case::all().last().unwrap();
        let asked = DEPTHS.map(|verify| {
            let config = model::vm_config::VmConfig::parse("vm.toml", &vm_toml(case, verify)).unwrap();
            assert_eq!(config.name.as_str(), vm_name(case, verify));
            config.migration.verify
        });
        assert_eq!(asked, DEPTHS);
        let audited: Receipt = serde_json::from_str(RECEIPT).unwrap();
        let mut compared = audited.clone();
        compared.audit.done = false;
        let mut hashed = compared.clone();
        hashed.stun.verify_us = 1;
        for (receipt, depth) in [(audited, Verify::Audit), (compared, Verify::Transfer), (hashed, Verify::Full)] {
            assert_eq!(DEPTHS.map(|verify| is_verified(&receipt, verify)), DEPTHS.map(|verify| verify == depth));
        }
    }

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
