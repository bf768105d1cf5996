//! Deadlines, each with its reason.

use std::collections::BTreeMap;

use crate::time::Instant;

/// At most one deadline for each reason.
#[derive(Clone, Debug)]
pub struct Timers<T> {
    deadlines: BTreeMap<T, Instant>,
}

impl<T: Ord + Copy> Timers<T> {
    /// No deadline.
    pub fn new() -> Self {
        Self { deadlines: BTreeMap::new() }
    }

    /// Sets or moves a deadline.
    pub fn set(&mut self, reason: T, at: Instant) {
        self.deadlines.insert(reason, at);
    }

    /// Drops a deadline.
    pub fn stop(&mut self, reason: T) {
        self.deadlines.remove(&reason);
    }

    /// Whether a deadline is set for this reason.
    pub fn is_set(&self, reason: T) -> bool {
        self.deadlines.contains_key(&reason)
    }

    /// Drops all deadlines.
    pub fn clear(&mut self) {
        self.deadlines.clear();
    }

    /// The first deadline.
    pub fn next(&self) -> Option<Instant> {
        self.deadlines.values().min().copied()
    }

    /// Takes a deadline that has passed, the earliest first.
    pub fn take_expired(&mut self, now: Instant) -> Option<T> {
        let (reason, _) = self.deadlines.iter().filter(|(_, at)| **at <= now).min_by_key(|(_, at)| **at)?;
        let reason = *reason;
        self.deadlines.remove(&reason);
        Some(reason)
    }
}

impl<T: Ord + Copy> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_pass_in_their_order_and_once() {
        let mut timers = Timers::new();
        timers.set('b', Instant::from_nanos(2));
        timers.set('a', Instant::from_nanos(5));
        timers.set('a', Instant::from_nanos(3));
        assert_eq!(timers.next(), Some(Instant::from_nanos(2)));
        let now = Instant::from_nanos(4);
        assert_eq!(
            (timers.take_expired(now), timers.take_expired(now), timers.take_expired(now)),
            (Some('b'), Some('a'), None)
        );
    }
}
