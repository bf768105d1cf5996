//! When an end sends, for how long it listens, and what it heard.
//!
//! Order of calls: [`Exchange::new`] when the uplinks listen; then [`Exchange::step`], which says what to do now, and
//! [`Exchange::hear`] with each frame that comes meanwhile.
//!
//! The source begins first, and sends until its destination has answered the offer. The destination listens for a bounded time,
//! and ends sooner where it has heard of every port group.

use model::limits;

use super::frame;
use super::tokens::{Agreed, End, Token};
use crate::time::{Duration, Instant};

/// A frame may be lost: an end sends so many at least. The other end listens already.
const FRAMES_MIN: u32 = 3;
/// Between two frames.
const PAUSE: Duration = Duration::from_millis(limits::MIGRATION_UPLINK_PAUSE_MS);
/// For how long the destination listens, and the source sends at that pace.
const WINDOW: Duration = Duration::from_millis(limits::MIGRATION_UPLINK_PROBE_MS);
/// Between two frames of a source whose destination still has not answered: it may have begun late.
const SLOW_PAUSE: Duration = Duration::from_secs(1);
/// A source whose destination does not answer at all ends with its offer.
const SOURCE_BOUND: Duration = Duration::from_millis(limits::API_REQUEST_MS_MAX);

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send a frame on each port group, and ask again.
    Send,
    /// Listen until then, and ask again.
    Wait(Instant),
    /// Nothing more.
    Over,
}

/// One end of a probe.
#[derive(Debug)]
pub struct Exchange {
    end: End,
    groups: Vec<(Agreed, bool)>,
    began: Instant,
    next: Instant,
    sent: u32,
}

impl Exchange {
    /// Begins on these port groups, whose uplinks listen now.
    pub fn new(now: Instant, end: End, groups: Vec<Agreed>) -> Self {
        let groups = groups.into_iter().map(|agreed| (agreed, false)).collect();
        Self { end, groups, began: now, next: now, sent: 0 }
    }

    /// What is to be done now.
    pub fn step(&mut self, now: Instant) -> Step {
        let ends = self.ends();
        if now >= ends {
            return Step::Over;
        }
        if now < self.next {
            return Step::Wait(self.next.min(ends));
        }
        self.sent += 1;
        self.next = now + if now.since(self.began) < WINDOW { PAUSE } else { SLOW_PAUSE };
        Step::Send
    }

    /// When it is over.
    fn ends(&self) -> Instant {
        let is_done = self.sent >= FRAMES_MIN && self.groups.iter().all(|(_, heard)| *heard);
        match self.end {
            _ if self.groups.is_empty() => self.began,
            End::Source => self.began + SOURCE_BOUND,
            End::Destination if is_done => self.began,
            End::Destination => self.began + WINDOW,
        }
    }

    /// What is sent on the port group of this place in the list.
    pub fn token(&self, index: usize) -> Option<Token> {
        self.groups.get(index).map(|(agreed, _)| agreed.sent_by(self.end))
    }

    /// A frame came on the uplink of the port group of this place in the list.
    pub fn hear(&mut self, index: usize, frame: &[u8]) {
        let Some((agreed, heard)) = self.groups.get_mut(index) else { return };
        *heard |= frame::read(frame) == Some(agreed.awaited_by(self.end));
    }

    /// Each port group, and whether the other end was heard on it.
    pub fn heard(&self) -> impl Iterator<Item = (&Agreed, bool)> {
        self.groups.iter().map(|(agreed, heard)| (agreed, *heard))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tokens::example::agreed;
    use super::*;

    const LABELS: [&str; 2] = ["lab", "dmz"];

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    /// A frame as the other end sends it on the port group of this place.
    fn frame_of(exchange: &Exchange, index: usize) -> Vec<u8> {
        frame::write([2, 0, 0, 0, 0, 1], None, exchange.token(index).unwrap())
    }

    /// Sends and waits from `from` on until it is over; how many frames were sent on each port group, and when it was over.
    fn play(exchange: &mut Exchange, from: Instant) -> (u32, Instant) {
        let (mut now, mut sent) = (from, 0);
        loop {
            match exchange.step(now) {
                Step::Send => sent += 1,
                Step::Wait(until) => {
                    assert!(until > now, "it goes on");
                    now = until;
                }
                Step::Over => return (sent, now),
            }
        }
    }

    #[test]
    fn a_destination_that_hears_of_every_port_group_sends_its_least_and_is_done() {
        let source = Exchange::new(at(0), End::Source, agreed(&LABELS));
        let mut destination = Exchange::new(at(0), End::Destination, agreed(&LABELS));
        (0..2).for_each(|index| destination.hear(index, &frame_of(&source, index)));
        let (sent, over) = play(&mut destination, at(0));
        assert_eq!(sent, FRAMES_MIN);
        assert!(over < at(limits::MIGRATION_UPLINK_PROBE_MS));
        assert!(destination.heard().all(|(_, heard)| heard));
    }

    #[test]
    fn a_destination_that_misses_one_port_group_listens_to_the_end_of_its_time_and_no_longer() {
        let source = Exchange::new(at(0), End::Source, agreed(&LABELS));
        let mut destination = Exchange::new(at(0), End::Destination, agreed(&LABELS));
        destination.hear(0, &frame_of(&source, 0));
        let (sent, over) = play(&mut destination, at(0));
        assert_eq!(over, at(limits::MIGRATION_UPLINK_PROBE_MS));
        assert_eq!(u64::from(sent), limits::MIGRATION_UPLINK_PROBE_MS / limits::MIGRATION_UPLINK_PAUSE_MS);
        let heard: Vec<bool> = destination.heard().map(|(_, heard)| heard).collect();
        assert_eq!(heard, [true, false]);
    }

    #[test]
    fn a_source_sends_until_its_offer_is_too_old_and_slowly_in_the_end() {
        let mut source = Exchange::new(at(0), End::Source, agreed(&LABELS));
        let (sent, over) = play(&mut source, at(0));
        assert_eq!(over, at(limits::API_REQUEST_MS_MAX));
        let fast = limits::MIGRATION_UPLINK_PROBE_MS / limits::MIGRATION_UPLINK_PAUSE_MS;
        assert!(u64::from(sent) <= fast + limits::API_REQUEST_MS_MAX / 1_000, "{sent} frames");
    }

    #[test]
    fn neither_its_own_frames_nor_those_of_another_port_group_or_move_count() {
        let source = Exchange::new(at(0), End::Source, agreed(&LABELS));
        let mut destination = Exchange::new(at(0), End::Destination, agreed(&LABELS));
        let own = frame_of(&destination, 0);
        destination.hear(0, &own);
        destination.hear(0, &frame_of(&source, 1));
        destination.hear(0, &frame::write([2; 6], None, Token([99; 16])));
        destination.hear(7, &frame_of(&source, 0));
        assert!(destination.heard().all(|(_, heard)| !heard));
    }

    #[test]
    fn nothing_is_sent_where_there_is_no_port_group() {
        for end in [End::Source, End::Destination] {
            assert_eq!(Exchange::new(at(5), end, Vec::new()).step(at(5)), Step::Over);
        }
    }

    proptest! {
        /// Whenever it is asked, it sends no more than its pace allows, and ends.
        #[test]
        fn it_never_sends_faster_than_its_pace(gaps in prop::collection::vec(0u64..120, 1..200)) {
            let mut destination = Exchange::new(at(0), End::Destination, agreed(&LABELS));
            let (mut now, mut last) = (0, None);
            for gap in gaps {
                now += gap;
                if destination.step(at(now)) == Step::Send {
                    prop_assert!(last.is_none_or(|last| now - last >= limits::MIGRATION_UPLINK_PAUSE_MS));
                    prop_assert!(now < limits::MIGRATION_UPLINK_PROBE_MS);
                    last = Some(now);
                }
            }
            prop_assert_eq!(destination.step(at(now + limits::MIGRATION_UPLINK_PROBE_MS)), Step::Over);
        }
    }
}
