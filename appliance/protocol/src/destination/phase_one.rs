//! How long phase 1 of the lease's next epoch takes, which tells how long the commit will take in the stun: measured again where it is much of what
//! is accepted, because the datastore, or this host, may have been slow only once.

use crate::time::Duration;

/// A part of the longest accepted stun. The lease is asked twice in it, and is one of five or so who have a share.
const PART: u64 = 6;
/// What is slow, however long a stun is accepted.
const SLOW: Duration = Duration::from_millis(50);

/// When it is run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Before the source is told.
    AtOnce,
    /// A little later; the source is told what it takes.
    Later,
    /// Not at all.
    Never,
}

/// The attempts at it so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct PhaseOne {
    slow: Duration,
    last: Option<Duration>,
}

impl PhaseOne {
    /// None yet, for a stun of this length at most.
    pub(super) fn new(stun_max: Duration) -> Self {
        Self { slow: (stun_max / PART).min(SLOW), last: None }
    }

    /// One succeeded, after this time: what counts is the lesser of the last two.
    pub(super) fn took(&mut self, took: Duration) -> (Duration, Again) {
        let before = self.last.replace(took);
        let least = before.map_or(took, |before| before.min(took));
        let again = match before {
            _ if least <= self.slow => Again::Never,
            None => Again::AtOnce,
            Some(_) => Again::Later,
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
    fn a_lease_that_stays_slow_is_expected_to_be_so_until_it_is_quick_again() {
        let mut phase = PhaseOne::new(ms(50));
        assert_eq!(phase.took(ms(30)).1, Again::AtOnce);
        for (took, expected) in
            [(20, (ms(20), Again::Later)), (40, (ms(20), Again::Later)), (90, (ms(40), Again::Later))]
        {
            assert_eq!(phase.took(ms(took)), expected);
        }
        assert_eq!(phase.took(ms(3)), (ms(3), Again::Never));
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
