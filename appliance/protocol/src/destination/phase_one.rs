//! How long phase 1 of the lease's next epoch takes, which tells how long the commit will take in the stun: measured again where it is much of what
//! is accepted, because the datastore, or this host, may have been slow only once.

use crate::time::Duration;

/// A part of the longest accepted stun. The lease is asked twice in it, and is one of five or so who have a share.
const PART: u64 = 6;
/// What is slow, however long a stun is accepted.
const SLOW: Duration = Duration::from_millis(50);
/// Attempts at most: pages travel meanwhile.
const ATTEMPTS: u8 = 4;

/// When it is run again. The source is told when it is not: from then on it counts on what was prepared, which another attempt would undo first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// At once: whoever was slow may have been so for this one.
    AtOnce,
    /// A little later: whoever was slow may be so for a moment.
    Later,
    /// Not at all.
    Never,
}

/// The attempts at it so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct PhaseOne {
    share: Duration,
    least: Option<Duration>,
    attempts: u8,
}

impl PhaseOne {
    /// None yet, for a stun of this length at most.
    pub(super) fn new(stun_max: Duration) -> Self {
        Self { share: stun_max / PART, least: None, attempts: 0 }
    }

    /// One succeeded, after this time: what counts is the least of all.
    pub(super) fn took(&mut self, took: Duration) -> (Duration, Again) {
        let least = self.least.map_or(took, |least| least.min(took));
        self.least = Some(least);
        self.attempts += 1;
        let again = match self.attempts {
            _ if least <= self.share.min(SLOW) => Again::Never,
            1 => Again::AtOnce,
            attempts if attempts < ATTEMPTS && least > self.share => Again::Later,
            _ => Again::Never,
        };
        (least, again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_lease_that_was_slow_once_is_not_expected_to_be_so_in_the_stun() {
        let mut phase = PhaseOne::new(ms(50));
        assert_eq!(phase.took(ms(30)), (ms(30), Again::AtOnce));
        assert_eq!(phase.took(ms(4)), (ms(4), Again::Never));
    }

    #[test]
    fn a_lease_that_stays_slow_is_asked_some_times_and_is_expected_to_be_so() {
        let mut phase = PhaseOne::new(ms(50));
        for (took, expected) in
            [(30, (30, Again::AtOnce)), (20, (20, Again::Later)), (40, (20, Again::Later)), (19, (19, Again::Never))]
        {
            assert_eq!(phase.took(ms(took)), (ms(expected.0), expected.1));
        }
        let mut phase = PhaseOne::new(ms(50));
        let answers = [30, 30, 4].map(|took| phase.took(ms(took)).1);
        assert_eq!(answers, [Again::AtOnce, Again::Later, Again::Never], "it was slow for a moment");
    }

    #[test]
    fn where_a_long_stun_is_accepted_a_slow_lease_is_not_waited_for() {
        let mut phase = PhaseOne::new(ms(5_000));
        assert_eq!([100, 100].map(|took| phase.took(ms(took)).1), [Again::AtOnce, Again::Never]);
    }

    #[test]
    fn what_is_slow_depends_on_the_stun_that_is_accepted() {
        let again = |stun_max, took| PhaseOne::new(stun_max).took(took).1;
        assert_eq!([8, 9].map(|took| again(ms(50), ms(took))), [Again::Never, Again::AtOnce]);
        for stun_max in [300, 60_000] {
            assert_eq!([50, 51].map(|took| again(ms(stun_max), ms(took))), [Again::Never, Again::AtOnce]);
        }
    }
}
