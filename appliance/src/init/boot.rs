//! The boot phases, in order, each with its name and its time on the screen.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustix::process::getpid;
use rustix::system::{RebootCommand, reboot};

use super::configure::{ANSWER_BYTES_MAX, Answer};
use super::modules::Modules;
use super::screen::{self, say, stop_and_explain};
use super::supervise::Supervisor;
use super::{filesystems, gather, identity, liveness, order, power_button, shutdown};
use crate::api::paths::RunDir;
use crate::network;

/// Name of a host that nobody named.
const HOSTNAME_DEFAULT: &str = "godwit";
/// The one binary, even after somebody replaced it.
const OURSELVES: &str = "/proc/self/exe";
/// Where logs of roles are kept.
const LOG_FOLDER: &str = "/run/godwit/log";
/// How long boot media may take to appear when a boot loader that must have read one started this kernel.
const MEDIA_PATIENCE: Duration = Duration::from_secs(15);
/// How long one run of the `configure` role may take.
const CONFIGURE_PATIENCE: Duration = Duration::from_secs(20);

/// Boots the machine and supervises it until somebody orders its end. Runs only as PID 1.
pub fn run() -> ExitCode {
    if !getpid().is_init() {
        eprintln!("godwit init: runs only as the first process of a machine");
        return ExitCode::FAILURE;
    }
    screen::explain_panics();
    let mut boot = Boot::default();
    boot.fatal(
        "mounts",
        "the kernel lacks a file system that godwit needs; boot the kernel of the image",
        Boot::mounts,
    );
    boot.phase("console", Boot::console);
    boot.phase("modules", Boot::modules);
    boot.phase("configuration", Boot::configuration);
    boot.phase("identity", Boot::identity);
    boot.phase("loopback", |_| network::loopback_up().map(|()| String::new()).map_err(|error| error.to_string()));
    let supervisor = boot.fatal("roles", "the machine is out of memory or processes; give it more", Boot::roles);
    supervise(supervisor)
}

fn supervise(mut supervisor: Supervisor) -> ! {
    say("ready");
    screen::leave_to_consoles();
    let order = supervisor.run();
    screen::take_back();
    shutdown::carry_out(order, &mut supervisor)
}

/// What one phase leaves for the next.
#[derive(Default)]
struct Boot {
    modules: Option<Modules>,
    answer: Answer,
    missed: Vec<String>,
}

impl Boot {
    /// Runs a phase that the machine can live without and prints its outcome.
    fn phase(&mut self, name: &str, work: impl FnOnce(&mut Self) -> Result<String, String>) {
        let begin = Instant::now();
        let outcome = work(self);
        let took = begin.elapsed().as_millis();
        match outcome {
            Ok(detail) if detail.is_empty() => say(&format!("{name}: done ({took} ms)")),
            Ok(detail) => say(&format!("{name}: {detail} ({took} ms)")),
            Err(error) => say(&format!("error: {name}: {error} ({took} ms)")),
        }
    }

    /// Runs a phase without which nothing else makes sense.
    fn fatal<T>(&mut self, name: &str, hint: &str, work: impl FnOnce(&mut Self) -> Result<T, String>) -> T {
        work(self).unwrap_or_else(|error| stop_and_explain(&format!("{name}: {error}"), hint))
    }

    fn mounts(&mut self) -> Result<(), String> {
        self.missed = filesystems::mount_all()?;
        Ok(())
    }

    fn console(&mut self) -> Result<String, String> {
        screen::open();
        say(&format!(
            "godwit {} on Linux {}",
            env!("CARGO_PKG_VERSION"),
            rustix::system::uname().release().to_string_lossy()
        ));
        // Ctrl-Alt-Del must not reset a machine with running VMs.
        let _ = reboot(RebootCommand::CadOff);
        for missed in &self.missed {
            say(&format!("warning: not mounted: {missed}"));
        }
        Ok(String::new())
    }

    fn modules(&mut self) -> Result<String, String> {
        let modules = self.modules.insert(Modules::of_running_kernel());
        modules.load_all();
        let (loaded, failed) = modules.outcome();
        match failed.len() {
            0 => Ok(format!("{loaded} loaded")),
            count => Err(format!("{loaded} loaded, {count} failed")),
        }
    }

    /// Runs the `configure` role until it finds host.toml, while late devices still appear.
    fn configuration(&mut self) -> Result<String, String> {
        let patience = if came_from_medium() { MEDIA_PATIENCE } else { Duration::ZERO };
        let begin = Instant::now();
        loop {
            self.answer = configure()?;
            if self.answer.origin.is_some() || begin.elapsed() >= patience {
                break;
            }
            let pause = Instant::now() + Duration::from_millis(500);
            while Instant::now() < pause {
                match &mut self.modules {
                    Some(modules) => {
                        modules.watch(Duration::from_millis(100));
                    }
                    None => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        }
        for problem in &self.answer.problems {
            problem.lines().for_each(|line| say(&format!("error: {line}")));
        }
        let origin = self.answer.origin.as_deref().unwrap_or("no host.toml on any medium: the defaults");
        match self.answer.problems.len() {
            0 => Ok(origin.to_owned()),
            count => Err(format!(
                "{count} problems; the host comes up with its name and its console only until they are corrected ({origin})"
            )),
        }
    }

    fn identity(&mut self) -> Result<String, String> {
        let hostname = self.answer.hostname.as_deref().unwrap_or(HOSTNAME_DEFAULT);
        let digits = identity::establish(hostname, self.answer.identity).map_err(|error| error.to_string())?;
        Ok(format!("host {hostname}, identity {digits}"))
    }

    fn roles(&mut self) -> Result<Supervisor, String> {
        let mut supervisor =
            Supervisor::new(PathBuf::from(OURSELVES), PathBuf::from(LOG_FOLDER)).map_err(|error| error.to_string())?;
        order::listen_for(&RunDir::from_environment(), supervisor.sender()).map_err(|error| error.to_string())?;
        power_button::watch(&supervisor.sender());
        liveness::watch(&RunDir::from_environment(), supervisor.sender()).map_err(|error| error.to_string())?;
        supervisor.take_on_manifest();
        if let Some(modules) = self.modules.take() {
            watch_devices(modules);
        }
        Ok(supervisor)
    }
}

/// True if a boot loader read this kernel from a medium (GRUB says from where), so that the medium must be here somewhere.
fn came_from_medium() -> bool {
    let words = std::fs::read_to_string("/proc/cmdline").unwrap_or_default();
    words
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("BOOT_IMAGE="))
        .any(|image| !["(tftp", "(http", "(pxe", "tftp:", "http:"].iter().any(|network| image.starts_with(network)))
}

/// Runs the `configure` role once and takes its bounded answer.
#[allow(clippy::zombie_processes, reason = "the supervisor, which starts later, collects every child")]
fn configure() -> Result<Answer, String> {
    let log = gather::into_log(LOG_FOLDER.as_ref(), "configure").map_err(|error| error.to_string())?;
    let mut child = Command::new(OURSELVES)
        .arg("configure")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(|error| format!("configure could not be started: {error}"))?;
    let output = child.stdout.take();
    let (sender, receiver) = channel();
    let spawned = std::thread::Builder::new().name("configure".into()).spawn(move || {
        let mut bytes = Vec::new();
        let read = output.map(|output| output.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes));
        let _ = sender.send(read.and_then(Result::ok).map(|_| bytes));
    });
    spawned.map_err(|error| error.to_string())?;
    let bytes = receiver.recv_timeout(CONFIGURE_PATIENCE);
    let _ = child.kill();
    // Not waited for: a child that a medium holds in the kernel outlives even that. The supervisor collects it.
    match bytes {
        Ok(Some(bytes)) => {
            postcard::from_bytes(&bytes).map_err(|_| "configure ended without an answer; its log says why".to_owned())
        }
        Ok(None) => Err("configure ended without an answer; its log says why".to_owned()),
        Err(_) => Err(format!("configure did not answer within {} s: a medium hangs", CONFIGURE_PATIENCE.as_secs())),
    }
}

/// Goes on loading modules for devices that appear later (hot plug), in a thread of its own.
fn watch_devices(mut modules: Modules) {
    let watch = move || {
        loop {
            modules.watch(Duration::from_secs(60));
        }
    };
    let _ = std::thread::Builder::new().name("devices".into()).spawn(watch);
}
