//! The order of work.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::bench::case::{Case, Pace};
use crate::bench::choice::Choice;
use crate::bench::contestant::{Contestant, Guest};
use crate::bench::godwit::{self, AtDepth, Godwit};
use crate::bench::link::Link;
use crate::bench::qemu::{self, Qemu, Way};
use crate::bench::surroundings::{self, Shares, Work};
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
    /// Which of them.
    pub choice: Choice,
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
    /// How much of its pace the guest kept, from the order until it was asked afterwards; none for an idle guest.
    pub(super) pace_kept: Option<f64>,
    /// Processors that were kept busy meanwhile.
    pub(super) busy: Shares,
}

/// All lives of one contestant in one case.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) lives: Vec<Measured>,
    pub(super) failures: Vec<String>,
}

/// All series, by case and contestant.
pub(super) type Results = BTreeMap<(Case, String), Series>;

/// Measures and gives the section of the page.
pub fn run(home: &Home, plan: &Plan) -> Result<String> {
    let cases = plan.choice.cases()?;
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
    qemu::write_key(&folder)?;
    let hosts = Godwit::boot(&program, &folder, &link, &kernel, &cases)?;
    let roles_memory = hosts.roles_memory()?;
    let hosts = RefCell::new(hosts);
    let mut depths = godwit::DEPTHS.map(|verify| AtDepth { verify, hosts: &hosts });
    let mut qemus = Way::ALL.map(|way| Qemu { way, link: &link, kernel: &kernel, folder: &folder });
    let mut contestants: Vec<&mut dyn Contestant> = Vec::new();
    contestants.extend(depths.iter_mut().map(|depth| -> &mut dyn Contestant { depth }));
    contestants.extend(qemus.iter_mut().map(|qemu| -> &mut dyn Contestant { qemu }));
    let all: Vec<String> = contestants.iter().map(|contestant| contestant.name()).collect();
    contestants.retain(|contestant| plan.choice.has(&contestant.name()));
    if contestants.is_empty() {
        return Err(LabError::Input(format!("no contestant is named so; they are: {}", all.join("; "))));
    }
    let names: Vec<String> = contestants.iter().map(|contestant| contestant.name()).collect();
    let results = measure_all(plan.repetitions, &cases, &mut contestants);
    page::section(plan, &names, &results, roles_memory)
}

fn measure_all(repetitions: u32, cases: &[Case], contestants: &mut [&mut dyn Contestant]) -> Results {
    let tsc_khz = time_stamp_counter_khz();
    let mut results = Results::new();
    for (at, case) in cases.iter().copied().enumerate() {
        // A start depends on the memory alone.
        let is_first_of_size = cases[..at].iter().all(|earlier| earlier.memory_mib != case.memory_mib);
        for repetition in 1..=repetitions {
            let takes_part = |contestant: &dyn Contestant| {
                contestant.is_among(case.rivals) && (contestant.moves() || is_first_of_size)
            };
            for contestant in contestants.iter_mut().filter(|contestant| takes_part(&***contestant)) {
                let name = contestant.name();
                let series = results.entry((case, name.clone())).or_default();
                print!("lab: {}, {name}, {repetition} of {repetitions}: ", case.title());
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
    let watched = witness::record_after(guest.serial(), ready)?;
    witness::forget_gaps(guest.serial())?;
    std::thread::sleep(WATCH);
    let before = witness::record_after(guest.serial(), watched)?;
    surroundings::warm(case.memory_bytes());
    let ordered = witness::record_after(guest.serial(), before)?;
    witness::forget_gaps(guest.serial())?;
    let mut workers = guest.workers();
    let work = Work::now(&workers);
    let told = guest.migrate()?;
    // Those of before too: one that is ending is not found any more by what it was started with, and its work is told all
    // the same, until its parent collects it and tells of it.
    workers.extend(guest.workers());
    workers.sort_unstable();
    workers.dedup();
    let busy = Work::now(&workers).shares_since(&work);
    let after = witness::record_after(guest.serial(), ordered)?;
    witness::audit(guest.serial())?;
    if after.faults > 0 {
        return Err(LabError::Input(format!("the guest found {} faults after the move", after.faults)));
    }
    if case.pace != Pace::Idle && after.dirtied == ordered.dirtied {
        return Err(LabError::Input("the guest was to rewrite pages and did not".into()));
    }
    let pace_kept =
        (case.pace != Pace::Idle).then(|| after.pages_per_s_since(ordered) / before.pages_per_s_since(watched));
    let moved = Some(MeasuredMove { told, felt: after.gap_max, pace_kept, busy });
    Ok(Measured { start, memory_beside, gap_before: before.gap_max, moved })
}
