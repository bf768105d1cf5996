//! What is going to happen, in order.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use protocol::time::{Duration, Instant};

/// Events of one world in the order of their time; events of the same moment keep the order in which they were
/// planned. Time is the true time of the world: a host's own clock is a function of it.
#[derive(Clone, Debug)]
pub struct EventQueue<E> {
    now: Instant,
    planned: BinaryHeap<Reverse<Planned<E>>>,
    count: u64,
    handled: u64,
}

#[derive(Clone, Debug)]
struct Planned<E> {
    at: Instant,
    order: u64,
    event: E,
}

impl<E> EventQueue<E> {
    /// No events, at the origin of time.
    pub fn new() -> Self {
        Self { now: Instant::ZERO, planned: BinaryHeap::new(), count: 0, handled: 0 }
    }

    /// The true time: that of the event which was taken last.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Plans an event at a moment; a moment in the past means now.
    pub fn at(&mut self, at: Instant, event: E) {
        self.planned.push(Reverse(Planned { at: at.max(self.now), order: self.count, event }));
        self.count += 1;
    }

    /// Plans an event a span from now.
    pub fn after(&mut self, span: Duration, event: E) {
        self.at(self.now + span, event);
    }

    /// The time of the next event.
    pub fn next_at(&self) -> Option<Instant> {
        self.planned.peek().map(|Reverse(planned)| planned.at)
    }

    /// Takes the next event and moves time to it.
    #[expect(clippy::should_implement_trait, reason = "a world plans events between two calls; it is no iterator")]
    pub fn next(&mut self) -> Option<E> {
        let Reverse(planned) = self.planned.pop()?;
        self.now = planned.at;
        self.handled += 1;
        Some(planned.event)
    }

    /// How many events were taken.
    pub fn handled(&self) -> u64 {
        self.handled
    }

    /// How many events wait.
    pub fn len(&self) -> usize {
        self.planned.len()
    }

    /// Nothing is going to happen.
    pub fn is_empty(&self) -> bool {
        self.planned.is_empty()
    }
}

impl<E> Default for EventQueue<E> {
    fn default() -> Self {
        Self::new()
    }
}

impl<E> PartialEq for Planned<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<E> Eq for Planned<E> {}

impl<E> PartialOrd for Planned<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Planned<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_the_order_of_time_and_then_of_planning() {
        let mut queue = EventQueue::new();
        queue.after(Duration::from_secs(2), 'c');
        queue.after(Duration::from_secs(1), 'a');
        queue.after(Duration::from_secs(1), 'b');
        assert_eq!((queue.next(), queue.next()), (Some('a'), Some('b')));
        queue.at(Instant::ZERO, 'd');
        assert_eq!((queue.next(), queue.now()), (Some('d'), Instant::ZERO + Duration::from_secs(1)));
        assert_eq!((queue.next(), queue.next()), (Some('c'), None));
    }
}
