//! Starts hosts, and sees boots through. An emulated boot hangs or trips over itself in about one of sixty; such a host is started once more, the
//! restart is counted and told. What the product does wrong is never retried.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError, Result};
use crate::image::Image;
use crate::machine::choice::Accelerator;
use crate::machine::command;
use crate::machine::spec::{Machine, StartFrom};
use crate::process::Background;
use crate::wire::Wires;

/// What the kernel says when the emulator, not the product, broke it.
const SIGNS_OF_TCG: &[&str] = &["rcu_preempt kthread starved", "rcu: INFO: rcu_preempt detected stalls", "Oops: int3"];

/// How a host's boot went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootOutcome {
    /// At the first try.
    First,
    /// The emulator hung; the second try did it.
    Restarted,
}

/// Starts these hosts side by side and waits until each has shown its init. Prints restarts.
pub fn start_hosts(
    machines: &[Machine],
    wires: &Wires,
    accelerator: Accelerator,
    image: &Image,
) -> Result<Vec<BootOutcome>> {
    for machine in machines {
        start(machine, wires, accelerator, image)?;
    }
    let see_through = |machine: &Machine| {
        let boot = Boot {
            name: &machine.spec.name,
            log: machine.serial_log(),
            process: machine.process(),
            idle_bound: idle_bound(machine.spec.start_from),
            shows_init,
        };
        boot.see_through(accelerator, || start(machine, wires, accelerator, image))
    };
    machines.iter().map(see_through).collect()
}

const HUNG: &str = "the emulated boot hung";

fn start(machine: &Machine, wires: &Wires, accelerator: Accelerator, image: &Image) -> Result<()> {
    fs::create_dir_all(&machine.folder).at("creating", &machine.folder)?;
    let _ = fs::remove_file(machine.serial_log());
    command::qemu(machine, wires, accelerator, image)?.run()
}

/// A boot that is under way: of a host, or of the machine of a server.
pub struct Boot<'a> {
    /// The machine's name.
    pub name: &'a str,
    /// What it says on its serial port.
    pub log: PathBuf,
    /// Its QEMU.
    pub process: Background,
    /// How long it may take on an idle machine.
    pub idle_bound: Duration,
    /// Whether the log shows that the first process runs.
    pub shows_init: fn(&str) -> bool,
}

impl Boot<'_> {
    /// Waits until the first process runs. Where the emulator hung before, starts the machine `again`, once, and says so.
    pub fn see_through(&self, accelerator: Accelerator, again: impl FnOnce() -> Result<()>) -> Result<BootOutcome> {
        match self.wait_for_init() {
            Ok(()) => Ok(BootOutcome::First),
            Err(LabError::Host { what, .. }) if accelerator == Accelerator::Tcg && what.starts_with(HUNG) => {
                println!("lab: {}: {what}; starting it once more (restart 1 of 1)", self.name);
                self.process.kill()?;
                again()?;
                self.wait_for_init()?;
                Ok(BootOutcome::Restarted)
            }
            Err(error) => Err(error),
        }
    }

    fn wait_for_init(&self) -> Result<()> {
        let (start, bound) = (Instant::now(), as_busy(self.idle_bound));
        loop {
            let log = fs::read(&self.log).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            if let Some(sign) = SIGNS_OF_TCG.iter().find(|sign| log.contains(**sign)) {
                return Err(self.failed(format!("{HUNG} ({sign})")));
            }
            if log.contains("Kernel panic") {
                let line = log.lines().find(|line| line.contains("Kernel panic")).unwrap_or_default();
                return Err(self.failed(format!("{line} (see {})", self.log.display())));
            }
            if (self.shows_init)(&log) {
                return Ok(());
            }
            if !self.process.runs() {
                return Err(self.failed("QEMU ended".into()));
            }
            if start.elapsed() > bound {
                return Err(self.failed(format!("{HUNG} (no init after {} s)", bound.as_secs())));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn failed(&self, what: String) -> LabError {
        LabError::Host { host: self.name.to_owned(), what }
    }
}

/// Init's first line, which names the product and the kernel it runs on.
fn shows_init(log: &str) -> bool {
    log.lines().any(|line| line.contains("godwit ") && line.contains(" on Linux "))
}

/// 20 s for a direct boot and 40 s by firmware.
fn idle_bound(start_from: StartFrom) -> Duration {
    Duration::from_secs(if start_from == StartFrom::Kernel { 20 } else { 40 })
}

/// A bound of an idle machine as many times longer as this one is busier than it has CPUs.
fn as_busy(idle: Duration) -> Duration {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let load = fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    idle.mul_f64((load.unwrap_or(0.0) / cpus).clamp(1.0, 6.0))
}
