//! Many worlds, one a seed.

use std::fmt;
use std::ops::{AddAssign, Range};
use std::time::{Duration, Instant};

use super::world::{Setup, World};
use crate::violation::Violation;

/// How a world is built, apart from its luck.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Hosts.
    pub hosts: usize,
    /// VMs.
    pub vms: usize,
}

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Starts of VMs.
    pub starts: u64,
    /// Moves that were committed.
    pub moves: u64,
    /// Moves that were committed after a stun of theirs was called off.
    pub moves_after_all: u64,
    /// Leases that were taken from dead hosts.
    pub takeovers: u64,
    /// Fences.
    pub fences: u64,
    /// Clients of the server that had locks and were given up by a host which took them for dead.
    pub restarted_clients: u64,
    /// Damaged leases that were mended.
    pub mended: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.starts += other.starts;
        self.moves += other.moves;
        self.moves_after_all += other.moves_after_all;
        self.takeovers += other.takeovers;
        self.fences += other.fences;
        self.restarted_clients += other.restarted_clients;
        self.mended += other.mended;
    }
}

/// How a world ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What happened, in numbers.
    pub counts: Counts,
    /// The broken promise, if any.
    pub violation: Option<Violation>,
    /// What happened, if it was asked for.
    pub trace: Vec<String>,
}

/// What many worlds showed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Worlds.
    pub seeds: u64,
    /// What happened in all of them.
    pub counts: Counts,
    /// How long it took.
    pub took: Duration,
    /// The seeds whose worlds broke a promise.
    pub failures: Vec<(u64, Violation)>,
}

impl Report {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.counts += outcome.counts;
        self.failures.extend(outcome.violation.map(|violation| (seed, violation)));
    }

    /// Adds the worlds of another report, which ran after those of this one.
    pub fn merge(&mut self, other: Self) {
        self.seeds += other.seeds;
        self.counts += other.counts;
        self.took += other.took;
        self.failures.extend(other.failures);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64().max(1e-9);
        let rate = |count: u64| count as f64 / seconds;
        let Counts { events, starts, moves, moves_after_all, takeovers, fences, restarted_clients, mended } =
            self.counts;
        write!(
            f,
            "lease: {} seeds, {events} events ({starts} starts, {moves} moves, {moves_after_all} of them after a stun was called off, {takeovers} takeovers, {fences} fences, \
             {restarted_clients} clients given up, {mended} leases mended) in {seconds:.1} s: {:.0} schedules/s, {:.0} events/s; {} failures",
            self.seeds,
            rate(self.seeds),
            rate(events),
            self.failures.len()
        )?;
        for (seed, violation) in self.failures.iter().take(20) {
            write!(f, "\nseed {seed}: {violation}")?;
        }
        Ok(())
    }
}

/// The world of one seed.
pub fn run_seed(seed: u64) -> Outcome {
    World::new(seed, Setup::default()).run()
}

/// The world of one seed, with its diary.
pub fn trace_seed(seed: u64) -> Outcome {
    World::new(seed, Setup { traced: true, ..Setup::default() }).run()
}

/// The world of one seed with so many hosts and VMs.
pub fn run_sized(seed: u64, size: Size) -> Outcome {
    World::new(seed, Setup { size: Some(size), ..Setup::default() }).run()
}

/// The world of one seed in which leases of VMs are damaged, with its diary if `traced`. It is another than that of [`run_seed`].
pub fn run_damaged(seed: u64, traced: bool) -> Outcome {
    World::new(seed, Setup { traced, is_damaged: true, ..Setup::default() }).run()
}

/// The worlds of these seeds, on all processors.
pub fn run_seeds(seeds: Range<u64>) -> Report {
    run_each(seeds, run_seed)
}

/// The worlds of these seeds in which leases of VMs are damaged, on all processors.
pub fn run_damaged_seeds(seeds: Range<u64>) -> Report {
    run_each(seeds, |seed| run_damaged(seed, false))
}

fn run_each(seeds: Range<u64>, run: impl Fn(u64) -> Outcome + Sync) -> Report {
    let run = &run;
    let began = Instant::now();
    let workers = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let mut report = Report::default();
    std::thread::scope(|scope| {
        let parts: Vec<_> = (0..workers)
            .map(|worker| {
                let mine = seeds.clone().skip(worker as usize).step_by(workers as usize);
                scope.spawn(move || {
                    let mut part = Report::default();
                    for seed in mine {
                        part.add(seed, run(seed));
                    }
                    part
                })
            })
            .collect();
        for part in parts {
            report.merge(part.join().expect("a world does not panic"));
        }
    });
    report.failures.sort_by_key(|(seed, _)| *seed);
    report.took = began.elapsed();
    report
}
