//! Moves between two hosts made of processes of this machine.

use std::cell::RefCell;
use std::path::Path;

use crate::bench::case;
use crate::bench::choice::Plan;
use crate::bench::contestant::Contestant;
use crate::bench::godwit::{self, AtDepth};
use crate::bench::link::Link;
use crate::bench::qemu::{self, Qemu, Way};
use crate::bench::{page, rounds};
use crate::error::{Doing, Result};
use crate::guests;
use crate::home::Home;
use crate::image;

/// How much more of the processors than others the run gets: what else the machine does would otherwise be measured.
const NICENESS: i32 = -10;

/// Measures and gives the section of the page. `program` is a `godwit` that is built already; without one it is built for release.
pub fn run(home: &Home, plan: &Plan, program: Option<&Path>) -> Result<String> {
    let cases = plan.choice.cases(&case::native())?;
    rustix::process::nice(NICENESS).doing("raising the priority of the run")?;
    let kernel = guests::build_witness(home)?;
    let built = match program {
        Some(program) => std::path::absolute(program).at("resolving", program)?,
        None => image::static_program(home, "godwit")?,
    };
    let folder = home.run();
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).at("creating", &folder)?;
    let link = Link::lay(&home.tag())?;
    let ends = RefCell::new(qemu::Native::at(&link, &kernel, &folder)?);
    let hosts = godwit::Native::boot(&built, &folder, &link, &kernel, &cases)?;
    let roles_memory = hosts.roles_memory()?;
    let hosts = RefCell::new(hosts);
    let mut depths = godwit::DEPTHS.map(|verify| AtDepth { verify, hosts: &hosts });
    let ways = Way::MOVING.into_iter().chain([Way::MicroVm]);
    let mut qemus: Vec<_> = ways.map(|way| Qemu { way, ends: &ends }).collect();
    let mut contestants: Vec<&mut dyn Contestant> = Vec::new();
    contestants.extend(depths.iter_mut().map(|depth| -> &mut dyn Contestant { depth }));
    contestants.extend(qemus.iter_mut().map(|qemu| -> &mut dyn Contestant { qemu }));
    let names = plan.choice.choose(&mut contestants)?;
    let results = rounds::measure_all(plan.repetitions, &cases, &mut contestants);
    let program = if program.is_some() { " --program GODWIT" } else { "" };
    let command = format!("{}{program}", plan.command("migrate"));
    page::native(&command, &names, &results, roles_memory)
}
