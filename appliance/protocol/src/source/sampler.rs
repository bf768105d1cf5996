//! Watches for a moment what the guest dirties, by the dirty log that was just started.
//!
//! The first harvest takes the marks that the log begins with; from it on writes are seen. Two more count them.

use super::context::Context;
use super::effect::{Effect, Timer};
use crate::forecast::DirtySample;
use crate::pages::PageSet;
use crate::time::{Duration, Instant};

/// One moment of watching, in two halves.
#[derive(Debug)]
pub(super) struct Sampler {
    half: Duration,
    /// When writes began to be seen.
    since: Option<Instant>,
    /// The first half, once it is over: how long it was, and its pages.
    first: Option<(Duration, PageSet)>,
    sample: Option<DirtySample>,
}

impl Sampler {
    /// Will watch for twice this time.
    pub(super) fn new(half: Duration) -> Self {
        Self { half, since: None, first: None, sample: None }
    }

    /// The log is on, or it is time to look.
    pub(super) fn look(&self, cx: &mut Context) {
        cx.effect(Effect::HarvestDirty);
    }

    /// This was found.
    pub(super) fn harvested(&mut self, cx: &mut Context, dirty: &PageSet) {
        let Some(since) = self.since else {
            self.since = Some(cx.now);
            return cx.deadline(Timer::NextHarvest, self.half);
        };
        let span = cx.now.since(since);
        let Some((part, mut pages)) = self.first.take() else {
            self.first = Some((span, dirty.clone()));
            return cx.deadline(Timer::NextHarvest, self.half);
        };
        let part_pages = pages.count();
        pages.union(dirty);
        self.sample = Some(DirtySample { part, part_pages, whole: span, whole_pages: pages.count() });
    }

    /// What was seen, once it is over.
    pub(super) fn sample(&self) -> Option<DirtySample> {
        self.sample
    }
}
