//! Which vCPUs dirty, and so which are slowed when a guest is to dirty less.
//!
//! A vCPU's dirtying is the page faults that KVM served for it while the dirty log was on ([`super::faults`]), held against what
//! the log found in the same time: where the faults are too few for the pages, pages are dirtied in a way that no count
//! shows, and nothing is known. Then all vCPUs count as dirtying.
//!
//! Who is slowed dirties less for it, and would be let go at once: so what counts is what a vCPU would dirty if it ran freely.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::control::Control;
use super::faults::FaultCount;
use crate::bus::enter;

/// The shortest time that tells who dirties.
const SPAN_MIN: Duration = Duration::from_millis(50);
/// vCPUs that are left alone may together dirty this much a second, in pages, if it is the lesser part: 1 MiB, which no link
/// that is good enough for a move feels. A vCPU that does nothing but take its timer's interrupts writes some pages for each harvest.
const LEFT_ALONE_PAGES_PER_S: f64 = 256.0;
/// What the lesser part is at most.
const LESSER_PART: f64 = 1.0 / 4.0;

/// One vCPU as it is seen here.
struct Seen {
    faults: Option<FaultCount>,
    control: Arc<Control>,
}

/// Faults and time held of each vCPU.
type Counts = Vec<(u64, Duration)>;

#[derive(Debug)]
struct Span {
    since: Instant,
    /// At its beginning; `None` where a count cannot be read.
    counts: Option<Counts>,
    /// Pages that the log found since.
    pages: u64,
}

#[derive(Debug)]
struct Watched {
    span: Span,
    estimate: Estimate,
}

/// Watches the vCPUs of a machine.
pub(crate) struct Dirtying {
    vcpus: Vec<Seen>,
    watched: Mutex<Watched>,
}

impl std::fmt::Debug for Dirtying {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dirtying").field("watched", &self.watched).finish_non_exhaustive()
    }
}

impl Dirtying {
    /// Watches these vCPUs.
    pub(crate) fn new(vcpus: impl IntoIterator<Item = (Option<FaultCount>, Arc<Control>)>) -> Self {
        let vcpus: Vec<_> = vcpus.into_iter().map(|(faults, control)| Seen { faults, control }).collect();
        let span = Span { since: Instant::now(), counts: None, pages: 0 };
        Self { vcpus, watched: Mutex::new(Watched { span, estimate: Estimate::default() }) }
    }

    fn span(&self) -> Span {
        let one = |seen: &Seen| Some((seen.faults.as_ref()?.read()?, seen.control.held()));
        Span { since: Instant::now(), counts: self.vcpus.iter().map(one).collect(), pages: 0 }
    }

    /// The dirty log begins, or found every page as it does at first: nothing is known yet.
    pub(crate) fn begin(&self) {
        *enter(&self.watched) = Watched { span: self.span(), estimate: Estimate::default() };
    }

    /// The dirty log found this many pages that vCPUs wrote since the last time.
    pub(crate) fn harvested(&self, pages: u64) {
        let mut watched = enter(&self.watched);
        watched.span.pages += pages;
        let took = watched.span.since.elapsed();
        if took < SPAN_MIN {
            return;
        }
        let span = std::mem::replace(&mut watched.span, self.span());
        let Watched { span: next, estimate } = &mut *watched;
        match (&span.counts, &next.counts) {
            (Some(before), Some(now)) => estimate.add(before, now, took, span.pages),
            _ => *estimate = Estimate::default(),
        }
    }

    /// Which vCPUs are to be slowed, where those that dirty are slowed by `percent`.
    pub(crate) fn slowed(&self, percent: u8) -> Vec<bool> {
        match enter(&self.watched).estimate.rates() {
            Some(rates) => who(rates, percent),
            None => vec![true; self.vcpus.len()],
        }
    }
}

/// What is thought of the vCPUs, the latest first: half of what was thought before counts on.
#[derive(Debug, Default)]
struct Estimate {
    /// Pages a second that each would dirty if it were not held.
    rates: Vec<f64>,
    faults: f64,
    pages: f64,
}

impl Estimate {
    fn add(&mut self, before: &[(u64, Duration)], now: &[(u64, Duration)], took: Duration, pages: u64) {
        let first = self.rates.is_empty();
        self.rates.resize(now.len(), 0.0);
        (self.faults, self.pages) = (self.faults / 2.0, self.pages / 2.0 + pages as f64);
        for (rate, (before, now)) in self.rates.iter_mut().zip(before.iter().zip(now)) {
            let (faults, held) = (now.0.saturating_sub(before.0) as f64, now.1.saturating_sub(before.1));
            let ran = took.saturating_sub(held).max(took / 100).as_secs_f64();
            // Who hardly ran has shown hardly anything.
            let tells = if first { 1.0 } else { ran / took.as_secs_f64() / 2.0 };
            *rate += (faults / ran - *rate) * tells;
            self.faults += faults;
        }
    }

    /// `None` where the faults do not explain the pages.
    fn rates(&self) -> Option<&[f64]> {
        (self.faults > 0.0 && self.faults >= self.pages / 2.0).then_some(&self.rates)
    }
}

/// Those that dirty most, until those that are left alone dirty together no more than a quarter of what is left to all
/// when all are slowed: so that slowing a part does nearly what slowing all would.
fn who(rates: &[f64], percent: u8) -> Vec<bool> {
    let all: f64 = rates.iter().sum();
    let quarter = all * f64::from(100u8.saturating_sub(percent)) / 400.0;
    let mut left = quarter.max(LEFT_ALONE_PAGES_PER_S.min(all * LESSER_PART));
    let mut order: Vec<usize> = (0..rates.len()).collect();
    order.sort_by(|one, other| rates[*one].total_cmp(&rates[*other]));
    let mut slowed = vec![true; rates.len()];
    for index in order {
        left -= rates[index];
        if left < 0.0 {
            break;
        }
        slowed[index] = false;
    }
    slowed
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn those_that_dirty_are_slowed_and_the_others_are_not() {
        let rates = [100.0, 50_000.0, 0.0, 30_000.0];
        for percent in [20, 60, 95, 99] {
            assert_eq!(who(&rates, percent), [false, true, false, true], "{percent} %");
        }
        assert_eq!(who(&[10_000.0; 4], 99), [true; 4]);
        // What is little beside a guest that is hardly slowed is too much beside one that nearly stands still.
        let uneven = [40_000.0, 3_000.0];
        assert_eq!((who(&uneven, 20), who(&uneven, 99)), (vec![true, false], vec![true, true]));
        // A guest that dirties little is slowed all the same, if that is wanted.
        assert_eq!(who(&[20.0, 0.0], 20), [true, false]);
        assert_eq!(who(&[5.0, 5.0], 20), [true, true]);
    }

    #[test]
    fn who_is_held_counts_as_if_it_ran_freely_and_stays_slowed() {
        let mut estimate = Estimate::default();
        let ms = Duration::from_millis;
        let mut counts = [(0, ms(0)), (0, ms(0))];
        // The first is held for nine tenths of the time and dirties no more than the second, and once does not run at all.
        for (faults, held) in [(1_000, 900), (1_000, 900), (0, 1_000)] {
            let before = counts;
            counts = [(before[0].0 + faults, before[0].1 + ms(held)), (before[1].0 + 100, ms(0))];
            estimate.add(&before, &counts, SECOND, faults + 102);
            let rates = estimate.rates().expect("known");
            assert!(rates[0] > 9_000.0 && (rates[1] - 100.0).abs() < 1.0, "{rates:?}");
            assert_eq!(who(rates, 60), [true, false]);
        }
    }

    #[test]
    fn another_vcpu_that_begins_to_dirty_is_found_and_one_that_ends_is_let_go() {
        let mut estimate = Estimate::default();
        let idle = Duration::ZERO;
        estimate.add(&[(0, idle), (0, idle)], &[(50_000, idle), (0, idle)], SECOND, 50_000);
        assert_eq!(estimate.rates().map(|rates| who(rates, 60)), Some(vec![true, false]));
        let mut turned = 0;
        while estimate.rates().map(|rates| who(rates, 60)) != Some(vec![false, true]) {
            estimate.add(&[(0, idle), (0, idle)], &[(0, idle), (50_000, idle)], SECOND, 50_000);
            turned += 1;
            assert!(turned < 8, "{estimate:?}");
        }
    }

    #[test]
    fn where_the_faults_do_not_explain_the_pages_nobody_is_known_to_dirty() {
        let known = |pages| {
            let mut estimate = Estimate::default();
            estimate.add(&[(7, Duration::ZERO)], &[(407, Duration::ZERO)], SECOND, pages);
            estimate.rates().is_some()
        };
        assert!(known(800) && !known(1_000));
        assert!(Estimate::default().rates().is_none());
        let unknown = Dirtying::new([(None, Arc::new(Control::new())), (None, Arc::new(Control::new()))]);
        unknown.begin();
        unknown.harvested(10);
        assert_eq!(unknown.slowed(80), [true, true]);
    }
}
