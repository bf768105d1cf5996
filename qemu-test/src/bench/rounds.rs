//! The order of work: every case with every contestant in turn, over and over, and what one guest lives through.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::bench::case::{self, Case};
use crate::bench::contestant::{Contestant, Guest, Moved};
use crate::bench::surroundings::{self, Shares, Work};
use crate::bench::{page, witness};
use crate::error::{LabError, Result};
use crate::machine::time_stamp_counter_khz;

/// How long the guest is watched before the move, for gaps that no move makes.
const WATCH: Duration = Duration::from_secs(1);

/// What one guest's life gave.
#[derive(Debug, Clone, Default)]
pub(super) struct Measured {
    /// From the order to the guest's first instruction, where the TSC of guests is the machine's.
    pub(super) start: Option<Duration>,
    /// Memory of the machine's process beside the guest's, in bytes, where it is a process of this machine.
    pub(super) memory_beside: Option<u64>,
    /// The longest gap of a second without a move.
    pub(super) gap_before: Duration,
    /// The move.
    pub(super) moved: Option<MeasuredMove>,
}

/// What one move gave.
#[derive(Debug, Clone)]
pub(super) struct MeasuredMove {
    pub(super) told: Moved,
    /// The longest gap that the guest felt.
    pub(super) felt: Duration,
    /// Seconds that the guest's clock lost: it stood while the guest did.
    pub(super) clock_lost_s: f64,
    /// None for an idle guest.
    pub(super) pace: Option<Pace>,
    /// Processors that were kept busy meanwhile.
    pub(super) busy: Shares,
}

/// How fast a guest rewrote pages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Pages a second in the second before the move.
    pub(super) before: f64,
    /// How much of that it kept, from the order until it was asked afterwards: 1 is all.
    pub(super) kept: f64,
}

/// All lives of one contestant in one case.
#[derive(Debug, Default)]
pub(super) struct Series {
    pub(super) lives: Vec<Measured>,
    pub(super) failures: Vec<String>,
}

/// All series, by case and contestant.
pub(super) type Results = BTreeMap<(Case, String), Series>;

/// Measures each case with each contestant so many times; every other time in the opposite order, so that none has the better place.
pub(super) fn measure_all(repetitions: u32, cases: &[Case], contestants: &mut [&mut dyn Contestant]) -> Results {
    let tsc_khz = time_stamp_counter_khz();
    let mut results = Results::new();
    for (at, case) in cases.iter().copied().enumerate() {
        // A start depends on the memory alone.
        let is_first_of_size = cases[..at].iter().all(|earlier| earlier.memory_mib != case.memory_mib);
        for repetition in 1..=repetitions {
            let takes_part = |contestant: &dyn Contestant| {
                contestant.is_among(case.rivals) && (contestant.moves() || is_first_of_size)
            };
            let mut turns: Vec<_> = contestants.iter_mut().filter(|contestant| takes_part(&***contestant)).collect();
            if repetition.is_multiple_of(2) {
                turns.reverse();
            }
            for contestant in turns {
                let name = contestant.name();
                let series = results.entry((case, name.clone())).or_default();
                let life = measure(&mut **contestant, case, tsc_khz);
                let said = life.as_ref().map_or_else(|error| format!("failed: {error}"), page::line);
                println!("lab: {}, {name}, {repetition} of {repetitions}: {said}", case.title());
                match life {
                    Ok(life) => series.lives.push(life),
                    Err(error) => series.failures.push(error.to_string()),
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
    let (lived, ended) = match contestant.start(case) {
        Ok(mut guest) => {
            let lived = live(&mut *guest, case, moves, tsc_khz);
            (lived, guest.end())
        }
        Err(error) => (Err(error), Err(LabError::Input("it did not start".into()))),
    };
    if ended.is_err() {
        contestant.give_up();
    }
    let lived = lived?;
    ended.map(|()| lived)
}

fn live(guest: &mut dyn Guest, case: Case, moves: bool, tsc_khz: u64) -> Result<Measured> {
    let first = witness::first_tsc(guest.serial()?)?;
    // Where guests have a TSC of their own it begins near 0 and tells nothing; that of a nested guest tells nothing to this machine.
    let ticks = guest.machine().and_then(|_| first.checked_sub(guest.ordered_tsc()));
    let start = ticks.map(|ticks| Duration::from_micros(ticks.saturating_mul(1000) / tsc_khz.max(1)));
    let ready = witness::ready(guest.serial()?)?;
    let beside = |machine| surroundings::memory_beside(machine, case.memory_bytes());
    let memory_beside = guest.machine().map(beside).transpose()?;
    if !moves {
        return Ok(Measured { start, memory_beside, ..Measured::default() });
    }
    guest.prepare_move()?;
    let watched = witness::record_after(guest.serial()?, ready)?;
    let watching = Instant::now();
    witness::forget_gaps(guest.serial()?)?;
    std::thread::sleep(WATCH);
    let before = witness::record_after(guest.serial()?, watched)?;
    let watching = watching.elapsed();
    surroundings::warm(case.memory_bytes());
    let began = Instant::now();
    let (behind_before, ordered) = witness::clock_behind(guest.serial()?, began, before)?;
    let moving = Instant::now();
    witness::forget_gaps(guest.serial()?)?;
    let mut workers = guest.workers()?;
    let work = Work::now(&workers);
    let told = guest.migrate()?;
    // Those of before too: one that is ending is not found any more by what it was started with, and its work is told all
    // the same, until its parent collects it and tells of it.
    workers.extend(guest.workers()?);
    workers.sort_unstable();
    workers.dedup();
    let busy = Work::now(&workers).shares_since(&work);
    let after = witness::record_after(guest.serial()?, ordered)?;
    let moving = moving.elapsed();
    let (behind_after, _) = witness::clock_behind(guest.serial()?, began, after)?;
    witness::audit(guest.serial()?)?;
    if after.faults > 0 {
        return Err(LabError::Input(format!("the guest found {} faults after the move", after.faults)));
    }
    let rewrites = case.pace != case::Pace::Idle;
    if rewrites && after.dirtied == ordered.dirtied {
        return Err(LabError::Input("the guest was to rewrite pages and did not".into()));
    }
    let pace = rewrites.then(|| {
        let before = before.pages_per_s_since(watched, watching);
        Pace { before, kept: after.pages_per_s_since(ordered, moving) / before }
    });
    let moved =
        Some(MeasuredMove { told, felt: after.gap_max, clock_lost_s: behind_after - behind_before, pace, busy });
    Ok(Measured { start, memory_beside, gap_before: before.gap_max, moved })
}
