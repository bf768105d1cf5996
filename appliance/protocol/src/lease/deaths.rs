//! The deaths that a storage server is to be told of, so that it gives up what it keeps for the dead: whose turn that is, when, and that
//! it is done once.
//!
//! Every host that lives sees a death by itself ([`super::watch`]), and none of them can ask the others who tells the server. So they take turns
//! in the order of their slots: the first at once, each other [`TURN`] after the one before it. Who has his turn asks the server
//! first whether it keeps anything still. A host that died as well, or does not see the death, or does not reach the server, costs a turn and no more.
//! That two tell the server all the same does no harm.
//!
//! ```text
//!   observe ──> seen ──(its turn)──> due ──> tried ──(AGAIN)──> due ...
//!                 │                            └──── settle ──> settled
//!                 └── not dead any more: forgotten, and its next death is another
//! ```

use std::collections::BTreeMap;

use super::identity::BootId;
use crate::time::{Duration, Instant};

/// How long a host is given to do it before the next does: longer than a server is waited for that is reached and well.
pub const TURN: Duration = Duration::from_secs(10);
/// Pause before a host tries again what it did not bring about.
pub const AGAIN: Duration = Duration::from_secs(3);

/// A death, as one host knows it.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// When it was seen first.
    seen: Instant,
    /// When this host tried last.
    tried: Option<Instant>,
    /// The server keeps nothing for it.
    settled: bool,
}

/// The deaths that one host has seen on one datastore. Call [`Deaths::observe`] with each look, and then [`Deaths::due`].
#[derive(Clone, Debug, Default)]
pub struct Deaths {
    boots: BTreeMap<BootId, Known>,
    looked: bool,
}

impl Deaths {
    /// Takes in a look that ended at `now`: all boots that are dead by it. One that is not among them any more lives, or died too long ago for
    /// any server to keep something for it.
    pub fn observe(&mut self, now: Instant, dead: impl IntoIterator<Item = BootId>) {
        let known = std::mem::take(&mut self.boots);
        let new = Known { seen: now, tried: None, settled: false };
        self.boots = dead.into_iter().map(|boot| (boot, known.get(&boot).copied().unwrap_or(new))).collect();
        self.looked = true;
    }

    /// The boots of which this host is to tell the server now, each of which counts as tried. `before` hosts that live have their slots
    /// before its own; none where this host is not known to live itself: it may be the one that is taken for dead.
    pub fn due(&mut self, now: Instant, before: Option<usize>) -> Vec<BootId> {
        let Some(before) = before else { return Vec::new() };
        let waits = TURN * before as u64;
        let is_due = |known: &Known| {
            !known.settled
                && now.since(known.seen) >= waits
                && known.tried.is_none_or(|tried| now.since(tried) >= AGAIN)
        };
        let due = self.boots.iter_mut().filter(|(_, known)| is_due(known));
        due.map(|(boot, known)| {
            known.tried = Some(now);
            *boot
        })
        .collect()
    }

    /// The server keeps nothing for this boot, whoever told it.
    pub fn settle(&mut self, boot: BootId) {
        if let Some(known) = self.boots.get_mut(&boot) {
            known.settled = true;
        }
    }

    /// Whether the server may keep something for a dead boot, for all that is known here: before the first look, it may.
    pub fn is_open(&self) -> bool {
        !self.looked || self.boots.values().any(|known| !known.settled)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEAD: BootId = BootId(0xdead);

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    fn seen(ms: u64) -> Deaths {
        let mut deaths = Deaths::default();
        deaths.observe(at(ms), [DEAD]);
        deaths
    }

    #[test]
    fn the_host_with_the_first_slot_tells_at_once_and_each_other_a_turn_later() {
        let turn = TURN.millis();
        for before in 0..3 {
            let mut deaths = seen(1_000);
            let waits = before * turn;
            if waits > 0 {
                assert_eq!(deaths.due(at(1_000 + waits - 1), Some(before as usize)), []);
            }
            assert_eq!(deaths.due(at(1_000 + waits), Some(before as usize)), [DEAD]);
        }
    }

    #[test]
    fn a_host_that_does_not_hold_its_own_lease_tells_of_nobody() {
        assert_eq!(seen(0).due(at(60_000), None), []);
    }

    #[test]
    fn what_was_not_brought_about_is_tried_again_and_what_was_is_not() {
        let mut deaths = seen(0);
        assert_eq!(deaths.due(at(0), Some(0)), [DEAD]);
        let again = AGAIN.millis();
        assert_eq!(deaths.due(at(again - 1), Some(0)), []);
        assert_eq!(deaths.due(at(again), Some(0)), [DEAD]);
        deaths.settle(DEAD);
        deaths.observe(at(2 * again), [DEAD]);
        assert_eq!(deaths.due(at(2 * again), Some(0)), []);
    }

    #[test]
    fn a_boot_that_lives_again_is_told_of_no_more_and_its_next_death_is_another() {
        let mut deaths = seen(0);
        deaths.observe(at(1_000), []);
        assert_eq!(deaths.due(at(60_000), Some(0)), []);
        let mut deaths = seen(0);
        deaths.settle(DEAD);
        deaths.observe(at(1_000), []);
        deaths.observe(at(60_000), [DEAD]);
        assert_eq!(deaths.due(at(60_000), Some(0)), [DEAD]);
    }

    #[test]
    fn something_may_be_kept_for_the_dead_before_the_first_look_and_until_each_death_is_settled() {
        let mut deaths = Deaths::default();
        assert!(deaths.is_open());
        deaths.observe(at(0), []);
        assert!(!deaths.is_open());
        deaths.observe(at(1_000), [DEAD, BootId(2)]);
        deaths.settle(DEAD);
        assert!(deaths.is_open());
        deaths.settle(BootId(2));
        assert!(!deaths.is_open());
    }

    /// What a host is like that sees a death.
    #[derive(Clone, Copy, Debug)]
    struct Witness {
        /// It died with the other, and is taken for alive at first.
        dies: bool,
        /// How much later than the first it sees the death, ms: hosts look once a second.
        late: u64,
        /// How often the server does not hear it.
        unheard: u32,
    }

    fn witness() -> impl Strategy<Value = Witness> {
        (any::<bool>(), 0_u64..2_000, 0_u32..3).prop_map(|(dies, late, unheard)| Witness { dies, late, unheard })
    }

    /// How long a silent host is called alive by others, at most.
    const CALLED_ALIVE: u64 = 4_000;

    proptest! {
        #[test]
        fn the_server_is_told_of_each_death_once_by_whichever_hosts_are_left(witnesses in prop::collection::vec(witness(), 1..6)) {
            prop_assume!(witnesses.iter().any(|witness| !witness.dies));
            let mut hosts: Vec<(Witness, Deaths, u32)> =
                witnesses.iter().map(|witness| (*witness, Deaths::default(), 0)).collect();
            let (mut kept, mut told) = (true, 0);
            let bound = (witnesses.len() as u64 + 1) * TURN.millis() + 10_000;
            for ms in (0..bound).step_by(500) {
                let live = |witness: &Witness| !witness.dies || ms < CALLED_ALIVE;
                for n in 0..hosts.len() {
                    let before = hosts[..n].iter().filter(|(witness, ..)| live(witness)).count();
                    let (witness, deaths, tries) = &mut hosts[n];
                    if witness.dies || ms < witness.late {
                        continue;
                    }
                    deaths.observe(at(ms), [DEAD]);
                    for boot in deaths.due(at(ms), Some(before)) {
                        *tries += 1;
                        if *tries <= witness.unheard {
                            continue;
                        }
                        // Who is heard asks first whether anything is kept.
                        told += u32::from(std::mem::take(&mut kept));
                        deaths.settle(boot);
                    }
                }
            }
            prop_assert_eq!((kept, told), (false, 1));
            prop_assert!(hosts.iter().filter(|(witness, ..)| !witness.dies).all(|(_, deaths, _)| !deaths.is_open()));
        }
    }
}
