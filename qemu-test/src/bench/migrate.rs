//! The order of work.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::bench::case::{CASES, Case};
use crate::bench::contestant::{Contestant, Guest};
use crate::bench::godwit::Godwit;
use crate::bench::link::Link;
use crate::bench::qemu::{Qemu, Way};
use crate::bench::surroundings::{self, Work};
use crate::bench::{page, witness};
use crate::error::{Doing, LabError, Result};
use crate::guests;
use crate::home::Home;
use crate::image;
use crate::machine::time_stamp_counter_khz;

/// How much more of the processors than others the run gets: what else the machine does would otherwise be measured.
const NICENESS: i32 = -10;
/// How long the guest is watched before the move, for gaps that no move makes.
const WATCH: Duration = Duration::from_secs(1);

/// What to measure.
#[derive(Debug)]
pub struct Plan {
    /// How often each case is measured with each contestant.
    pub repetitions: u32,
    /// Only cases whose title holds this.
    pub only: String,
    /// A `godwit` that is built already; none: it is built for release.
    pub program: Option<PathBuf>,
}

/// What one guest's life gave.
#[derive(Debug, Clone, Default)]
pub(super) struct Measured {
    /// From the order to the guest's first instruction, where the TSC of guests is the machine's.
    pub(super) start: Option<Duration>,
    /// Memory of the machine's process beside the guest's, in bytes.
    pub(super) memory_beside: u64,
    /// The longest gap of a second without a move.
    pub(super) gap_before: Duration,
    /// The move.
    pub(super) moved: Option<MeasuredMove>,
}

/// What one move gave.
#[derive(Debug, Clone)]
pub(super) struct MeasuredMove {
    pub(super) told: crate::bench::contestant::Moved,
    /// The longest gap that the guest felt.
    pub(super) felt: Duration,
    /// Processors that others kept busy meanwhile.
    pub(super) others: f64,
}

/// All lives of one contestant in one case.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) lives: Vec<Measured>,
    pub(super) failures: Vec<String>,
}

/// All series, by case (its place in the list) and contestant.
pub(super) type Results = BTreeMap<(usize, String), Series>;

/// Measures and gives the section of the page.
pub fn run(home: &Home, plan: &Plan) -> Result<String> {
    rustix::process::nice(NICENESS).doing("raising the priority of the run")?;
    let kernel = guests::build_witness(home)?;
    let program = match &plan.program {
        Some(program) => std::path::absolute(program).at("resolving", program)?,
        None => image::static_program(home, "godwit")?,
    };
    let folder = home.run();
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).at("creating", &folder)?;
    let link = Link::lay(&home.tag())?;
    let qemu = |way| Qemu { way, link: &link, kernel: &kernel, folder: &folder };
    let mut godwit = Godwit::boot(&program, &folder, &link, &kernel)?;
    let roles_memory = godwit.roles_memory()?;
    let (mut tcp, mut multifd, mut microvm) = (qemu(Way::Tcp), qemu(Way::Multifd), qemu(Way::MicroVm));
    let mut contestants: [&mut dyn Contestant; 4] = [&mut godwit, &mut tcp, &mut multifd, &mut microvm];
    let names: Vec<String> = contestants.iter().map(|contestant| contestant.name()).collect();
    let results = measure_all(plan, &mut contestants);
    if results.is_empty() {
        return Err(LabError::Input(format!("no case's title holds \"{}\"", plan.only)));
    }
    page::section(plan, &names, &results, roles_memory)
}

fn measure_all(plan: &Plan, contestants: &mut [&mut dyn Contestant]) -> Results {
    let tsc_khz = time_stamp_counter_khz();
    let mut results = Results::new();
    for (at, case) in CASES.into_iter().enumerate().filter(|(_, case)| case.title().contains(&plan.only)) {
        for repetition in 1..=plan.repetitions {
            for contestant in &mut *contestants {
                let name = contestant.name();
                let series = results.entry((at, name.clone())).or_default();
                print!("lab: {}, {name}, {repetition} of {}: ", case.title(), plan.repetitions);
                match measure(&mut **contestant, case, tsc_khz) {
                    Ok(life) => {
                        println!("{}", page::line(&life));
                        series.lives.push(life);
                    }
                    Err(error) => {
                        println!("failed: {error}");
                        series.failures.push(error.to_string());
                    }
                }
            }
        }
    }
    results
}

/// One guest's life: started, filled, watched, moved, verified, ended.
fn measure(contestant: &mut dyn Contestant, case: Case, tsc_khz: u64) -> Result<Measured> {
    let moves = contestant.moves();
    surroundings::warm(case.memory_bytes());
    let mut guest = contestant.start(case)?;
    let lived = live(&mut *guest, case, moves, tsc_khz);
    let ended = guest.end();
    let lived = lived?;
    ended.map(|()| lived)
}

fn live(guest: &mut dyn Guest, case: Case, moves: bool, tsc_khz: u64) -> Result<Measured> {
    let first = witness::first_tsc(guest.serial())?;
    // Where guests have a TSC of their own it begins near 0 and tells nothing.
    let ticks = first.checked_sub(guest.ordered_tsc());
    let start = ticks.map(|ticks| Duration::from_micros(ticks.saturating_mul(1000) / tsc_khz.max(1)));
    let ready = witness::ready(guest.serial())?;
    let memory_beside = surroundings::memory_beside(guest.machine(), case.memory_bytes())?;
    if !moves {
        return Ok(Measured { start, memory_beside, ..Measured::default() });
    }
    guest.prepare_move()?;
    witness::forget_gaps(guest.serial())?;
    std::thread::sleep(WATCH);
    let before = witness::record_after(guest.serial(), ready)?;
    surroundings::warm(case.memory_bytes());
    witness::forget_gaps(guest.serial())?;
    let mut workers = guest.workers();
    let work = Work::now(&workers);
    let told = guest.migrate()?;
    // Those of before too: one that is ending is not found any more by what it was started with, and its work is told all
    // the same, until its parent collects it and tells of it.
    workers.extend(guest.workers());
    workers.sort_unstable();
    workers.dedup();
    let others = Work::now(&workers).of_others_since(&work);
    let after = witness::record_after(guest.serial(), before)?;
    witness::audit(guest.serial())?;
    if after.faults > 0 {
        return Err(LabError::Input(format!("the guest found {} faults after the move", after.faults)));
    }
    if case.pages_per_s > 0 && after.dirtied == before.dirtied {
        return Err(LabError::Input("the guest was to rewrite pages and did not".into()));
    }
    let moved = Some(MeasuredMove { told, felt: after.gap_max, others });
    Ok(Measured { start, memory_beside, gap_before: before.gap_max, moved })
}
