//! `cargo lab status`.

use std::process::ExitCode;

use crate::error::Result;
use crate::fleet::Fleet;
use crate::home::Home;
use crate::wire::Wire;

/// Says what is up.
pub(super) fn run(home: &Home) -> Result<ExitCode> {
    for other in Fleet::others(home) {
        println!("the fleet `{other}` is up too: cargo lab status --fleet {other}, cargo lab down --fleet {other}");
    }
    let Some(fleet) = Fleet::open(home)? else {
        println!("no hosts are up (cargo lab up)");
        return Ok(ExitCode::SUCCESS);
    };
    let (wires, runs) = (fleet.wires(), if fleet.server().runs() { "runs" } else { "does not run" });
    println!("accelerator {}, namespace {}", fleet.accelerator(), wires.namespace());
    let (make, export) = (fleet.server_make(), fleet.server_make().export());
    println!("{make} {runs}: NFS {}, {}:{}", export.version, export.server, export.path);
    println!("{:<8} {:<8} {:>8}  {:<12}  CUT", "HOST", "STATE", "PID", "MANAGEMENT");
    for machine in fleet.machines() {
        let name = &machine.spec.name;
        let pid = machine.process().pid().map(|pid| pid.as_raw_nonzero().to_string());
        let state = match &pid {
            None => "off",
            Some(_) if machine.is_frozen()? => "frozen",
            Some(_) => "running",
        };
        let cut: Vec<String> = Wire::ALL
            .into_iter()
            .filter(|wire| !wires.is_whole(name, *wire).unwrap_or(false))
            .map(|wire| wire.to_string())
            .collect();
        let (pid, cut) = (pid.unwrap_or_else(|| "-".into()), if cut.is_empty() { "-".into() } else { cut.join(",") });
        let address = Wire::Management.host_address(machine.spec.number).to_string();
        println!("{name:<8} {state:<8} {pid:>8}  {address:<12}  {cut}");
    }
    Ok(ExitCode::SUCCESS)
}
