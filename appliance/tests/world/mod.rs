//! Hosts of a test: the roles as processes of this machine, on a datastore that is a folder. [`two_hosts`] are those between which a VM moves, [`cable`]
//! is what lies between them, [`lease_line`] what lies between a host and its lease role, [`engine_line`] between it and its migration engine,
//! [`later_build`] an engine of another version, [`command`] a command under way, [`echo`] who talks to a
//! witness, [`journal`] what a witness writes to its disk, [`guest_clocks`] what its clocks show, [`leftovers`] what a host holds that it should
//! let go of, [`role_memory`] how much memory its roles take, [`power`] how it loses its power and boots again, [`mount`] a file system under a
//! datastore.
#![allow(dead_code, reason = "each test file uses its part of the world")]

pub(crate) mod cable;
pub(crate) mod command;
pub(crate) mod echo;
pub(crate) mod engine_line;
pub(crate) mod guest_clocks;
pub(crate) mod journal;
pub(crate) mod later_build;
pub(crate) mod lease_line;
pub(crate) mod leftovers;
pub(crate) mod mount;
pub(crate) mod power;
pub(crate) mod role_memory;
pub(crate) mod two_hosts;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use godwit::api::channel::{Channel, wait_readable};
use godwit::api::host::{HostAnswer, HostRequest, MigrationRow, VmDetail, VmState};
use godwit::api::vmm::{VmmAnswer, VmmLife, VmmRequest};
use godwit::console::command::{Line, parse};
use rustix::fd::AsFd;
use rustix::process::{Pid, Signal, kill_process};

pub(crate) use cable::Cable;

/// Longest wait for anything: machines that run tests are slow.
pub(crate) const BOUND: Duration = Duration::from_secs(180);

/// Waits until something holds.
pub(crate) fn wait(what: &str, holds: impl FnMut() -> bool) {
    wait_looking_every(Duration::from_millis(50), what, holds);
}

/// The same for something that does not last.
pub(crate) fn wait_closely(what: &str, holds: impl FnMut() -> bool) {
    wait_looking_every(Duration::from_millis(1), what, holds);
}

fn wait_looking_every(pause: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + BOUND;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {BOUND:?}");
        std::thread::sleep(pause);
    }
}

/// An answer as a person reads it.
pub(crate) fn line(answer: &HostAnswer) -> String {
    godwit::console::render::text(answer)
}

/// A folder that hosts share, removed at the end.
pub(crate) struct Datastore {
    folder: PathBuf,
}

/// The command line of a witness that is there to run: it naps when nothing is due, because a dozen tests run at once, and each such guest would
/// want a processor.
pub(crate) const WITNESS: &str = "seed=7 rate=1000 set=16M scan=500 nap=on tick_hz=25 report_ms=200";

impl Datastore {
    /// A datastore without VMs, which needs no KVM.
    pub(crate) fn empty(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("data")).expect("made");
        Self { folder }
    }

    /// A datastore with the VM `witness`; none, with the reason on standard error, where this machine has no KVM.
    pub(crate) fn with_witness(name: &str) -> Option<Self> {
        if !Path::new("/dev/kvm").exists() {
            eprintln!("skipped: this machine has no /dev/kvm");
            return None;
        }
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let datastore = Self { folder };
        datastore.add("witness", 1, "64 MiB", WITNESS, "");
        Some(datastore)
    }

    /// Adds a VM that runs the witness with this command line; `migration` is what its vm.toml says of migration.
    pub(crate) fn add(&self, name: &str, cpus: u8, memory: &str, cmdline: &str, migration: &str) {
        let config = format!(
            "[vm]\nname = \"{name}\"\ncpus = {cpus}\nmemory = \"{memory}\"\ncpu_baseline = \"host\"\n\
             [boot]\nkernel = \"witness.elf\"\ncmdline = \"{cmdline}\"\n[migration]\n{migration}\n"
        );
        self.write(&format!("vms/{name}/vm.toml"), &config);
        std::fs::copy(witness(), self.path(&format!("vms/{name}/witness.elf"))).expect("copied");
    }

    /// Lets a VM be started by each boot of a host.
    pub(crate) fn autostarts(&self, name: &str) {
        let config = self.path(&format!("vms/{name}/vm.toml"));
        let text = std::fs::read_to_string(&config).expect("it is there");
        std::fs::write(&config, text.replacen("[vm]", "[vm]\nautostart = true", 1)).expect("written");
    }

    /// Gives a VM a disk; its file.
    pub(crate) fn add_disk(&self, name: &str) -> PathBuf {
        let disk = self.path(&format!("vms/{name}/disk.img"));
        std::fs::write(&disk, [0; 65_536]).expect("written");
        let config = self.path(&format!("vms/{name}/vm.toml"));
        let text = std::fs::read_to_string(&config).expect("it is there");
        std::fs::write(&config, format!("{text}[[disk]]\nfile = \"disk.img\"\n")).expect("written");
        disk
    }

    /// Gives a VM a network interface in a port group.
    pub(crate) fn add_nic(&self, name: &str, port_group: &str) {
        let config = self.path(&format!("vms/{name}/vm.toml"));
        let text = std::fs::read_to_string(&config).expect("it is there");
        std::fs::write(&config, format!("{text}[[nic]]\nport_group = \"{port_group}\"\n")).expect("written");
    }

    /// The place of a file or folder there.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.folder.join("data").join(path)
    }

    /// All files there, by their paths, with their sizes.
    pub(crate) fn files(&self) -> BTreeMap<String, u64> {
        files_below(&self.path(""))
    }

    /// Puts a file there.
    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().expect("below the datastore")).expect("made");
        std::fs::write(path, text).expect("written");
    }
}

impl Drop for Datastore {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// All files below a folder, by their paths from there, with their sizes. One that goes meanwhile may be missing.
fn files_below(folder: &Path) -> BTreeMap<String, u64> {
    let (mut files, mut folders) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => {
                    let path = entry.path();
                    let path = path.strip_prefix(folder).expect("below it").to_string_lossy().into_owned();
                    files.insert(path, metadata.len());
                }
                Err(_) => {}
            }
        }
    }
    files
}

/// The witness, built once for all tests.
fn witness() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guest-kernel/Cargo.toml");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-kernel");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--target", "x86_64-unknown-none", "--manifest-path"])
        .arg(manifest)
        .env("CARGO_TARGET_DIR", &target)
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the witness is built");
    target.join("x86_64-unknown-none/release/witness")
}

/// A host: its folder of sockets and its roles.
pub(crate) struct Host {
    run: PathBuf,
    /// The binary that its roles are.
    build: PathBuf,
    lease: Option<Child>,
    control_plane: Option<Child>,
    migrate: Option<Child>,
    /// The network namespace that its processes stand in.
    namespace: Option<String>,
    /// What is mounted for its processes alone, as commands of a shell; only with a network namespace.
    mounts: String,
}

impl Host {
    /// Starts the lease role and the control plane, and waits until the host lease is held.
    pub(crate) fn boot(datastore: &Datastore, name: &str, identity: u8) -> Self {
        Self::boot_with(datastore, name, identity, "")
    }

    /// The same with more in its configuration.
    pub(crate) fn boot_with(datastore: &Datastore, name: &str, identity: u8, more: &str) -> Self {
        let mut host = Self::prepare(datastore, name, identity, more, None);
        host.start_lease();
        host.start_control_plane();
        host.wait_for_lease();
        host
    }

    /// Boots a host whose name is another's, in a folder of its own. It gets no host lease while the other lives.
    pub(crate) fn boot_called(datastore: &Datastore, folder: &str, name: &str, identity: u8) -> Self {
        let mut host = Self::prepare(datastore, folder, identity, "", None);
        let config = host.run.join("config/host.toml");
        let text = std::fs::read_to_string(&config).expect("it is there");
        let renamed = text.replacen(&format!("hostname = \"{folder}\""), &format!("hostname = \"{name}\""), 1);
        std::fs::write(&config, renamed).expect("written");
        host.start_lease();
        host.start_control_plane();
        host
    }

    /// Starts the control plane alone: the host lease cannot be held before [`Host::start_lease`].
    pub(crate) fn boot_without_lease(datastore: &Datastore, name: &str, identity: u8) -> Self {
        let mut host = Self::prepare(datastore, name, identity, "", None);
        host.start_control_plane();
        host
    }

    /// Boots at one end of a cable, with a migration NIC.
    pub(crate) fn boot_at(datastore: &Datastore, cable: &Cable, end: usize) -> Self {
        Self::boot_at_with(datastore, cable, end, "")
    }

    /// The same with more in its configuration.
    pub(crate) fn boot_at_with(datastore: &Datastore, cable: &Cable, end: usize, more: &str) -> Self {
        let host = Self::begin_at(datastore, cable, end, "mig0", more);
        wait("the migration stack is up", || host.stack_is_up());
        host
    }

    /// Boots with a migration NIC of this name, which may not be there.
    pub(crate) fn boot_at_nic(datastore: &Datastore, cable: &Cable, end: usize, nic: &str) -> Self {
        Self::begin_at(datastore, cable, end, nic, "")
    }

    /// Boots at one end of a cable, where these commands mount something for this host alone: it sees datastores as no other does.
    pub(crate) fn boot_at_mounting(datastore: &Datastore, cable: &Cable, end: usize, more: &str, mounts: &str) -> Self {
        let mut host = Self::prepare_at(datastore, cable, end, "mig0", more);
        mounts.clone_into(&mut host.mounts);
        let host = host.begun();
        wait("the migration stack is up", || host.stack_is_up());
        host
    }

    fn begin_at(datastore: &Datastore, cable: &Cable, end: usize, nic: &str, more: &str) -> Self {
        Self::prepare_at(datastore, cable, end, nic, more).begun()
    }

    fn begun(mut self) -> Self {
        self.start_roles();
        self
    }

    /// Starts every role, and waits until VMs may run.
    fn start_roles(&mut self) {
        self.start_lease();
        self.migrate = Some(self.start("migrate"));
        self.start_control_plane();
        self.wait_for_lease();
    }

    fn prepare_at(datastore: &Datastore, cable: &Cable, end: usize, nic: &str, more: &str) -> Self {
        let name = ["host-a", "host-b"][end];
        let more = format!("[migration_nic]\nnic = \"{nic}\"\n{}\n{more}", cable.address(end));
        let namespace = cable.namespace(end).to_owned();
        Self::prepare(datastore, name, 0xa0 + end as u8, &more, Some(namespace))
    }

    /// A host whose roles do not run yet.
    fn prepare(datastore: &Datastore, name: &str, identity: u8, more: &str, namespace: Option<String>) -> Self {
        let run = datastore.folder.join(name);
        for folder in ["log", "vm", "config"] {
            std::fs::create_dir_all(run.join(folder)).expect("made");
        }
        let data = datastore.folder.join("data");
        let config = format!(
            "hostname = \"{name}\"\n[datastore.lab]\nkind = \"directory\"\npath = \"{}\"\n{more}",
            data.display()
        );
        std::fs::write(run.join("config/host.toml"), config).expect("written");
        std::fs::write(run.join("identity"), format!("{identity:02x}").repeat(16)).expect("written");
        Self {
            run,
            build: PathBuf::from(env!("CARGO_BIN_EXE_godwit")),
            lease: None,
            control_plane: None,
            migrate: None,
            namespace,
            mounts: String::new(),
        }
    }

    /// Starts the lease role.
    pub(crate) fn start_lease(&mut self) {
        self.lease = Some(self.start("lease"));
    }

    /// Starts the control plane.
    pub(crate) fn start_control_plane(&mut self) {
        self.control_plane = Some(self.start("host"));
        wait("the control plane answers", || self.try_ask("host show").is_some());
        wait("the datastore is there", || line(&self.ask("datastore list").1).contains("available"));
    }

    fn start(&self, role: &str) -> Child {
        let log = self.run.join(format!("log/{role}.log"));
        let log = std::fs::File::options().create(true).append(true).open(log).expect("a log");
        let process = self.command(role).stderr(log).spawn().expect("started");
        wait("it listens", || Channel::<(), ()>::connect(&self.run.join(format!("{role}.sock"))).is_ok());
        process
    }

    /// A process of this host, not started yet.
    fn command(&self, role: &str) -> Command {
        let mut command = match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]);
                // ip-netns(8) gives what it runs a mount namespace of its own.
                if !self.mounts.is_empty() {
                    command.args(["sh", "-ec", &format!("{}\nexec \"$0\" \"$@\"", self.mounts)]);
                }
                command.arg(&self.build);
                command
            }
            None => Command::new(&self.build),
        };
        command.arg(role).env("GODWIT_RUN", &self.run);
        command
    }

    /// Boots at one end of a cable with the roles of another build, which this one's programs do not ask anything: its own
    /// console does, [`Host::types`].
    pub(crate) fn boot_of_build(datastore: &Datastore, cable: &Cable, end: usize, more: &str, build: &Path) -> Self {
        let mut host = Self::prepare_at(datastore, cable, end, "mig0", more);
        build.clone_into(&mut host.build);
        host.lease = Some(host.start("lease"));
        host.migrate = Some(host.start("migrate"));
        host.control_plane = Some(host.start("host"));
        host
    }

    /// Types a line on a console of this host's build; all that is to be read on it.
    pub(crate) fn types(&self, typed: &str) -> String {
        let mut console = self.command("console");
        let console = console.arg("test").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut console = console.spawn().expect("started");
        let mut keys = console.stdin.take().expect("a pipe");
        keys.write_all(format!("{typed}\n").as_bytes()).expect("typed");
        drop(keys);
        let mut read = String::new();
        console.stdout.take().expect("a pipe").read_to_string(&mut read).expect("read");
        console.wait().expect("collected");
        read
    }

    fn wait_for_lease(&self) {
        wait("the host lease is held", || line(&self.ask("datastore show lab").1).contains("held, renewed"));
    }

    /// Types a command; its status and answer.
    pub(crate) fn ask(&self, typed: &str) -> (u8, HostAnswer) {
        self.try_ask(typed).expect("the control plane answers")
    }

    /// Types a command that succeeds.
    pub(crate) fn done(&self, typed: &str) {
        let (status, answer) = self.ask(typed);
        assert_eq!(status, 0, "{typed}: {}", line(&answer));
    }

    fn try_ask(&self, typed: &str) -> Option<(u8, HostAnswer)> {
        let Ok(Line::Ask(request)) = parse(typed) else { panic!("{typed} is a command") };
        let (answer, _) = self.request(&request)?;
        Some((u8::from(answer.is_refusal()), answer))
    }

    /// Boots one host at each end of a cable, which know each other.
    pub(crate) fn boot_two(datastore: &Datastore, cable: &Cable) -> [Self; 2] {
        Self::boot_two_with(datastore, cable, "")
    }

    /// The same with more in the configuration of both.
    pub(crate) fn boot_two_with(datastore: &Datastore, cable: &Cable, more: &str) -> [Self; 2] {
        let hosts = [0, 1].map(|end| Self::boot_at_with(datastore, cable, end, more));
        for (host, other) in [(&hosts[0], "host-b"), (&hosts[1], "host-a")] {
            wait("the hosts know each other", || line(&host.ask("host list").1).contains(other));
        }
        hosts
    }

    /// Types a command and does not wait for its end: the command goes on as long as what is given lives.
    pub(crate) fn begin(&self, typed: &str) -> Channel<HostRequest, HostAnswer> {
        let Ok(Line::Ask(request)) = parse(typed) else { panic!("{typed} is a command") };
        let channel = Channel::<HostRequest, HostAnswer>::connect(&self.run.join("host.sock")).expect("it listens");
        channel.send(&request, &[]).expect("it is taken");
        channel
    }

    fn request(&self, request: &HostRequest) -> Option<(HostAnswer, Vec<rustix::fd::OwnedFd>)> {
        let channel = Channel::<HostRequest, HostAnswer>::connect(&self.run.join("host.sock")).ok()?;
        channel.send(request, &[]).ok()?;
        loop {
            match channel.receive_within(BOUND).ok()? {
                (HostAnswer::TakenUp | HostAnswer::Progress { .. }, _) => {}
                answered => return Some(answered),
            }
        }
    }

    /// All that the control plane shows of a VM.
    pub(crate) fn vm(&self, name: &str) -> VmDetail {
        match self.ask(&format!("vm show {name}")).1 {
            HostAnswer::Vm(vm) => *vm,
            other => panic!("{other:?}"),
        }
    }

    /// Whether a VM's vCPUs run, as its monitor says.
    pub(crate) fn life(&self, name: &str) -> VmmLife {
        let socket = self.run.join(format!("vm/{name}/control.sock"));
        let monitor = Channel::<VmmRequest, VmmAnswer>::connect(&socket).expect("it has a monitor");
        match monitor.ask(&VmmRequest::Status, &[], BOUND).expect("it answers").0 {
            VmmAnswer::Status(status) => status.life,
            other => panic!("{other:?}"),
        }
    }

    /// The phases of the migrations that this host takes or took part in, with their identities.
    pub(crate) fn migrations(&self) -> Vec<MigrationRow> {
        match self.ask("migration list").1 {
            HostAnswer::Migrations(rows) => rows,
            other => panic!("{other:?}"),
        }
    }

    /// Where a VM is in its life.
    pub(crate) fn state(&self, name: &str) -> VmState {
        self.vm(name).row.state
    }

    /// The epoch of a VM's lease.
    pub(crate) fn epoch(&self, name: &str) -> u64 {
        self.vm(name).epoch
    }

    /// How a VM ended the last time.
    pub(crate) fn last_end(&self, name: &str) -> String {
        self.vm(name).last_end.unwrap_or_default()
    }

    /// The process of a VM's monitor.
    pub(crate) fn pid(&self, name: &str) -> Option<u32> {
        self.vm(name).pid
    }

    /// Attaches to a VM's serial port.
    pub(crate) fn serial(&self, name: &str) -> Serial {
        let request = HostRequest::VmConsole(name.parse().expect("valid"));
        let (_, descriptors) = self.request(&request).expect("the control plane answers");
        let monitor = descriptors.into_iter().next().expect("the VM runs here");
        let channel = Channel::of(monitor);
        channel.send(&VmmRequest::SerialAttach, &[]).expect("sent");
        Serial { channel, seen: String::new() }
    }

    /// Kills the control plane and starts it again.
    pub(crate) fn restart_control_plane(&mut self) {
        self.kill_control_plane();
        self.start_control_plane();
    }

    /// Kills the control plane.
    pub(crate) fn kill_control_plane(&mut self) {
        let mut control_plane = self.control_plane.take().expect("it runs");
        control_plane.kill().expect("killed");
        control_plane.wait().expect("collected");
    }

    /// The process of the control plane.
    pub(crate) fn control_plane_pid(&self) -> u32 {
        self.control_plane.as_ref().expect("it runs").id()
    }

    /// Stops the control plane.
    pub(crate) fn freeze_control_plane(&self) -> Frozen {
        freeze(self.control_plane_pid())
    }

    /// Asks the control plane to end, as `init` does when the host is to end.
    pub(crate) fn ask_to_end(&self) {
        signal(self.control_plane_pid(), Signal::TERM);
    }

    /// Waits until a control plane that was asked to end has ended.
    pub(crate) fn wait_for_end(&mut self) -> ExitStatus {
        let mut control_plane = self.control_plane.take().expect("it runs");
        let mut status = None;
        wait("the control plane ends", || {
            status = control_plane.try_wait().expect("asked");
            status.is_some()
        });
        status.expect("it ended")
    }

    /// Stops the lease role and all monitors, as a host stops that is frozen together with its clock.
    pub(crate) fn freeze(&self) -> Frozen {
        let mut processes = self.recorded_monitors();
        processes.extend(self.lease.as_ref().map(Child::id));
        freeze_all(processes)
    }

    /// Stops the lease role alone.
    pub(crate) fn freeze_lease_role(&self) -> Frozen {
        freeze(self.lease.as_ref().expect("it runs").id())
    }

    /// The monitor processes of this host, whatever its control plane knows of them.
    pub(crate) fn monitor_processes(&self) -> Vec<u32> {
        let is_monitor = |words: &[String]| words.get(1).is_some_and(|role| role == "vmm");
        self.processes().into_iter().filter(|(_, words)| is_monitor(words)).map(|(pid, _)| pid).collect()
    }

    /// Every process of this host, with its command line.
    pub(crate) fn processes(&self) -> Vec<(u32, Vec<String>)> {
        let own = format!("GODWIT_RUN={}", self.run.display());
        let words = |pid: u32, file: &str| -> Vec<String> {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
        };
        let all = std::fs::read_dir("/proc").expect("/proc").flatten();
        let all = all.filter_map(|entry| entry.file_name().to_string_lossy().parse::<u32>().ok());
        all.filter(|pid| words(*pid, "environ").contains(&own)).map(|pid| (pid, words(pid, "cmdline"))).collect()
    }

    /// The monitor processes that a control plane of this host would find.
    pub(crate) fn recorded_monitors(&self) -> Vec<u32> {
        let left = godwit::host::record::left(&godwit::api::paths::RunDir::at(&self.run));
        left.records.iter().map(|record| record.pid).collect()
    }

    /// Kills the lease role and starts it again.
    pub(crate) fn restart_lease_role(&mut self) {
        let mut lease = self.lease.take().expect("it runs");
        lease.kill().expect("killed");
        lease.wait().expect("collected");
        self.start_lease();
    }

    /// Kills the migration engine and starts it again.
    pub(crate) fn restart_migrate(&mut self) {
        if let Some(migrate) = &mut self.migrate {
            migrate.kill().expect("killed");
            migrate.wait().expect("collected");
        }
        self.migrate = self.migrate.take().map(|_| self.start("migrate"));
    }

    /// Whether the migration stack is up and its NIC has a link.
    pub(crate) fn stack_is_up(&self) -> bool {
        match self.ask("network migration-nic").1 {
            HostAnswer::MigrationNic(nic) => nic.problems.is_empty() && nic.link,
            _ => false,
        }
    }

    /// The process of the migration engine.
    pub(crate) fn migrate_pid(&self) -> u32 {
        self.migrate.as_ref().map(Child::id).expect("the host has a migration NIC")
    }

    /// A role's whole log.
    pub(crate) fn whole_log(&self, role: &str) -> String {
        std::fs::read_to_string(self.run.join(format!("log/{role}.log"))).unwrap_or_default()
    }

    /// The end of a role's log.
    pub(crate) fn log(&self, role: &str) -> String {
        let text = self.whole_log(role);
        text.lines().rev().take(20).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Whether this boot has looked for VMs of a datastore that want to be started by it.
    pub(crate) fn has_started_what_wants_it(&self, datastore: &str) -> bool {
        self.run.join(format!("autostarted-{datastore}")).exists()
    }

    /// Kills the roles, the control plane first.
    fn kill_roles(&mut self) {
        for mut role in [self.control_plane.take(), self.lease.take(), self.migrate.take()].into_iter().flatten() {
            // It may be gone already.
            let _ = role.kill();
            let _ = role.wait();
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.kill_roles();
        self.recorded_monitors().into_iter().for_each(kill);
    }
}

/// Processes that were stopped; they go on when this is dropped.
pub(crate) struct Frozen {
    processes: Vec<u32>,
}

impl Frozen {
    /// Lets them go on.
    pub(crate) fn thaw(self) {}
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.processes.iter().for_each(|pid| signal(*pid, Signal::CONT));
    }
}

/// Stops a process; [`Frozen::thaw`] lets it go on.
pub(crate) fn freeze(pid: u32) -> Frozen {
    freeze_all(vec![pid])
}

/// The same with several.
pub(crate) fn freeze_all(processes: Vec<u32>) -> Frozen {
    processes.iter().for_each(|pid| signal(*pid, Signal::STOP));
    Frozen { processes }
}

/// The end of a command that was begun, with what it said before: its progress, and its answer.
pub(crate) fn finish(command: &Channel<HostRequest, HostAnswer>) -> (Vec<String>, HostAnswer) {
    let mut said = Vec::new();
    loop {
        match command.receive_within(BOUND).expect("the control plane answers").0 {
            HostAnswer::TakenUp => {}
            HostAnswer::Progress { doing, .. } => said.push(doing),
            answer => return (said, answer),
        }
    }
}

/// Whether somebody has a disk's lock.
pub(crate) fn is_locked(disk: &Path) -> bool {
    let file = std::fs::File::options().read(true).write(true).open(disk).expect("it is there");
    match file.try_lock() {
        Ok(()) => false,
        Err(std::fs::TryLockError::WouldBlock) => true,
        Err(std::fs::TryLockError::Error(error)) => panic!("{error}"),
    }
}

/// Kills a process.
pub(crate) fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // The only error is that it is gone already.
        let _ = kill_process(pid, signal);
    }
}

/// A VM's serial port.
pub(crate) struct Serial {
    channel: Channel<VmmRequest, VmmAnswer>,
    seen: String,
}

impl Serial {
    /// Waits until the guest has written `text` since the last call.
    pub(crate) fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + BOUND;
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            self.hear(deadline, text);
        }
    }

    fn hear(&mut self, deadline: Instant, text: &str) {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(wait_readable(self.channel.as_fd(), left).expect("polled"), "no {text:?} in {:?}", self.seen);
        match self.channel.receive() {
            Ok((VmmAnswer::Serial(bytes), _)) => self.seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("{other:?} before {text:?} in {:?}", self.seen),
        }
    }

    /// The rest of the line of what was waited for.
    fn rest_of_line(&mut self) -> String {
        let deadline = Instant::now() + BOUND;
        while !self.seen.contains('\n') {
            self.hear(deadline, "the end of a line");
        }
        let end = self.seen.find('\n').unwrap_or(self.seen.len());
        self.seen.drain(..end).collect()
    }

    /// Waits until the guest has verified all its memory once, from now on, and gives what it says of it.
    pub(crate) fn audit(&mut self) -> String {
        self.asked("v", "witness: audit ")
    }

    /// Types a command and waits for its answer; what follows these words in its line.
    fn asked(&mut self, command: &str, answer: &str) -> String {
        static MARKS: AtomicU32 = AtomicU32::new(200);
        // What the port keeps of earlier output may hold an earlier answer: a word that was never said marks the start.
        let mark = format!("report_ms {}", MARKS.fetch_add(1, Ordering::Relaxed));
        self.type_line(&mark);
        self.wait_for(&format!("witness: ok {mark}"));
        self.type_line(command);
        self.wait_for(answer);
        self.rest_of_line()
    }

    /// The same, where every page has to be as its guest left it, and no write may be lost.
    pub(crate) fn audit_whole(&mut self, name: &str) {
        let audit = self.audit();
        println!("{name}: {audit}");
        assert!(audit.contains(" bad=0 "), "{name}: {audit}");
        let number =
            |word: &str| audit.split_whitespace().find_map(|part| part.strip_prefix(word)?.parse::<u64>().ok());
        assert_eq!(number("versions="), number("versions_due="), "{name}: a write was lost: {audit}");
    }

    /// Types a line.
    pub(crate) fn type_line(&mut self, text: &str) {
        self.channel.send(&VmmRequest::Serial(format!("{text}\n").into_bytes()), &[]).expect("sent");
    }
}
