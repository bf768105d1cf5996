//! Starts hosts. An emulated boot hangs or trips over itself in about one of sixty; such a host is started once more, the
//! restart is counted and told. What the product does wrong is never retried.

use std::fs;
use std::time::{Duration, Instant};

use crate::error::{Doing, LabError, Result};
use crate::image::Image;
use crate::machine::choice::Accelerator;
use crate::machine::command;
use crate::machine::spec::{Machine, StartFrom};
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
    let mut outcomes = Vec::new();
    for machine in machines {
        let first = wait_for_init(machine);
        outcomes.push(match first {
            Ok(()) => BootOutcome::First,
            Err(LabError::Host { what, .. }) if accelerator == Accelerator::Tcg && what.starts_with(HUNG) => {
                println!("lab: {}: {what}; starting it once more (restart 1 of 1)", machine.spec.name);
                machine.process().kill()?;
                start(machine, wires, accelerator, image)?;
                wait_for_init(machine)?;
                BootOutcome::Restarted
            }
            Err(error) => return Err(error),
        });
    }
    Ok(outcomes)
}

const HUNG: &str = "the emulated boot hung";

fn start(machine: &Machine, wires: &Wires, accelerator: Accelerator, image: &Image) -> Result<()> {
    fs::create_dir_all(&machine.folder).at("creating", &machine.folder)?;
    let _ = fs::remove_file(machine.serial_log());
    command::qemu(machine, wires, accelerator, image)?.run()
}

/// Waits for init's first line, which names the product and the kernel it runs on.
fn wait_for_init(machine: &Machine) -> Result<()> {
    let start = Instant::now();
    let bound = bound(machine.spec.start_from);
    loop {
        let log = fs::read(machine.serial_log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        if let Some(sign) = SIGNS_OF_TCG.iter().find(|sign| log.contains(**sign)) {
            return Err(failed(machine, format!("{HUNG} ({sign})")));
        }
        if log.contains("Kernel panic") {
            let line = log.lines().find(|line| line.contains("Kernel panic")).unwrap_or_default();
            return Err(failed(machine, format!("{line} (see {})", machine.serial_log().display())));
        }
        if shows_init(&log) {
            return Ok(());
        }
        if !machine.process().runs() {
            return Err(failed(machine, "QEMU ended".into()));
        }
        if start.elapsed() > bound {
            return Err(failed(machine, format!("{HUNG} (no init after {} s)", bound.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn shows_init(log: &str) -> bool {
    log.lines().any(|line| line.contains("godwit ") && line.contains(" on Linux "))
}

/// 20 s for a direct boot and 40 s by firmware on an idle machine; as many times more as the machine is busier than it has CPUs.
fn bound(start_from: StartFrom) -> Duration {
    let idle = if start_from == StartFrom::Kernel { 20.0 } else { 40.0 };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let load = fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    Duration::from_secs_f64(idle * (load.unwrap_or(0.0) / cpus).clamp(1.0, 6.0))
}

fn failed(machine: &Machine, what: String) -> LabError {
    LabError::Host { host: machine.spec.name.clone(), what }
}
