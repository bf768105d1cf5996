//! Our address is ours alone, or it is known who else uses it: address conflict detection (RFC 5227; for IPv6 the
//! questions of RFC 4862 section 5.4 with the same moments).
//!
//! ```text
//!   probe, probe, probe --nobody has it--> announce, announce --> held
//!        |                                                         |  another says that it has it: defended once in 10 s
//!        +--somebody has it: not announced ----------------------> held, in conflict --> asked for again, until nobody answers
//! ```
//!
//! The address is configured, there is no other to take, and a migrate role that was started again must answer its peers
//! before they lose patience: so it is used from the start (as RFC 4429 does it), and never given up (RFC 5227 section
//! 2.4 (c)). A conflict is told.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::neighbour::{Said, Word};

/// PROBE_NUM, PROBE_MIN, ANNOUNCE_WAIT, ANNOUNCE_NUM, ANNOUNCE_INTERVAL and DEFEND_INTERVAL of RFC 5227 section 1.1.
const PROBES: u8 = 3;
const BETWEEN_PROBES: Duration = Duration::from_secs(1);
const BEFORE_ANNOUNCEMENTS: Duration = Duration::from_secs(2);
const ANNOUNCEMENTS: u8 = 2;
const BETWEEN_ANNOUNCEMENTS: Duration = Duration::from_secs(2);
const BETWEEN_DEFENCES: Duration = Duration::from_secs(10);
/// A conflict is asked after so often, and is over when nobody answered this many times.
const BETWEEN_QUESTIONS: Duration = Duration::from_secs(5);
const UNANSWERED: u32 = 3;

/// Another NIC uses our address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: IpAddr,
    /// The other NIC.
    pub mac: [u8; 6],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Probe(u8),
    Announce(u8),
    Question,
    Nothing,
}

/// One address and what is known of others who use it.
#[derive(Debug)]
pub(crate) struct Claim {
    address: IpAddr,
    mac: [u8; 6],
    next: Next,
    at: Instant,
    /// When the address was defended last.
    defended: Option<Instant>,
    /// It is to be said now that we have it.
    defends: bool,
    conflict: Option<(Conflict, Instant)>,
    /// The other had the address before us: there is nothing to defend.
    came_second: bool,
    /// What was found is not told yet.
    is_news: bool,
}

impl Claim {
    /// Begins to ask whether somebody has the address. Hosts that are switched on together do not ask together: each waits
    /// up to a second first (PROBE_WAIT), by its MAC address.
    pub(crate) fn new(now: Instant, address: IpAddr, mac: [u8; 6]) -> Self {
        let wait = Duration::from_millis(u64::from(u16::from_be_bytes([mac[4], mac[5]]) % 1_000));
        let (next, at) = (Next::Probe(0), now + wait);
        Self {
            address,
            mac,
            next,
            at,
            defended: None,
            defends: false,
            conflict: None,
            came_second: false,
            is_news: false,
        }
    }

    /// Takes what somebody said.
    pub(crate) fn hear(&mut self, now: Instant, said: &Said) {
        if said.mac == self.mac {
            // A switch may send back what we said ourselves.
            return;
        }
        let probing = matches!(self.next, Next::Probe(_));
        self.came_second |= probing && said.has == Some(self.address);
        if said.has == Some(self.address) {
            self.conflicts(now, said.mac);
            let due = self.defended.is_none_or(|at| now.saturating_duration_since(at) >= BETWEEN_DEFENCES);
            if !self.came_second && due {
                (self.defends, self.defended) = (true, Some(now));
            }
        } else if said.has.is_none() && said.about == self.address {
            if probing {
                // Two that ask at once (RFC 5227 section 2.1.1).
                self.conflicts(now, said.mac);
            } else {
                // smoltcp answers nobody who has no address.
                self.defends = !self.came_second;
            }
        }
    }

    fn conflicts(&mut self, now: Instant, mac: [u8; 6]) {
        let conflict = Conflict { address: self.address, mac };
        self.is_news |= self.conflict.is_none_or(|(known, _)| known != conflict);
        self.conflict = Some((conflict, now));
        (self.next, self.at) = (Next::Question, now + BETWEEN_QUESTIONS);
    }

    /// What is to be said now.
    pub(crate) fn poll(&mut self, now: Instant) -> Option<Word> {
        if std::mem::take(&mut self.defends) {
            return Some(Word::Announcement);
        }
        if self.next == Next::Nothing || now < self.at {
            return None;
        }
        let (word, next, wait) = match self.next {
            Next::Probe(sent) if sent + 1 < PROBES => (Word::Probe, Next::Probe(sent + 1), BETWEEN_PROBES),
            Next::Probe(_) => (Word::Probe, Next::Announce(0), BEFORE_ANNOUNCEMENTS),
            Next::Announce(sent) if sent + 1 < ANNOUNCEMENTS => {
                (Word::Announcement, Next::Announce(sent + 1), BETWEEN_ANNOUNCEMENTS)
            }
            Next::Announce(_) => (Word::Announcement, Next::Nothing, Duration::ZERO),
            Next::Question if self.is_unanswered(now) => {
                (self.conflict, self.came_second, self.is_news) = (None, false, true);
                (Word::Announcement, Next::Announce(1), BETWEEN_ANNOUNCEMENTS)
            }
            Next::Question => (Word::Probe, Next::Question, BETWEEN_QUESTIONS),
            Next::Nothing => return None,
        };
        (self.next, self.at) = (next, now + wait);
        Some(word)
    }

    fn is_unanswered(&self, now: Instant) -> bool {
        self.conflict.is_none_or(|(_, heard)| now.saturating_duration_since(heard) > BETWEEN_QUESTIONS * UNANSWERED)
    }

    /// When `poll` has something to say.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        (self.next != Next::Nothing).then_some(self.at)
    }

    /// Who else uses the address.
    pub(crate) fn conflict(&self) -> Option<Conflict> {
        self.conflict.map(|(conflict, _)| conflict)
    }

    /// The same, where it changed since the last call.
    pub(crate) fn news(&mut self) -> Option<Option<Conflict>> {
        std::mem::take(&mut self.is_news).then(|| self.conflict())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn address() -> IpAddr {
        "10.74.0.1".parse().unwrap()
    }

    fn has() -> Said {
        Said { mac: OTHER, has: Some(address()), about: address() }
    }

    /// All that is said until `until`, in order.
    fn words(claim: &mut Claim, now: &mut Instant, until: Instant) -> Vec<Word> {
        let mut words = Vec::new();
        loop {
            words.extend(std::iter::from_fn(|| claim.poll(*now)));
            match claim.next_timeout() {
                Some(at) if at <= until => *now = at,
                _ => {
                    *now = until;
                    return words;
                }
            }
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn an_address_that_nobody_has_is_asked_for_three_times_and_announced_twice() {
        let start = Instant::now();
        let (mut now, mut claim) = (start, Claim::new(start, address(), OWN));
        let (probe, announcement) = (Word::Probe, Word::Announcement);
        let said = words(&mut claim, &mut now, start + MINUTE);
        assert_eq!(said, [probe, probe, probe, announcement, announcement]);
        assert_eq!((claim.conflict(), claim.news(), claim.next_timeout()), (None, None, None));
    }

    #[test]
    fn an_address_that_another_had_first_is_not_announced_and_the_other_is_told_of_until_it_is_gone() {
        let start = Instant::now();
        let (mut now, mut claim) = (start, Claim::new(start, address(), OWN));
        claim.hear(start, &has());
        let conflict = Some(Conflict { address: address(), mac: OTHER });
        assert_eq!((claim.news(), claim.news()), (Some(conflict), None));
        for second in 1..100 {
            let said = words(&mut claim, &mut now, start + Duration::from_secs(second));
            assert!(!said.contains(&Word::Announcement), "{second}: {said:?}");
            if said.contains(&Word::Probe) {
                claim.hear(now, &has());
            }
        }
        assert_eq!((claim.conflict(), claim.news()), (conflict, None), "told once");
        let until = now + MINUTE;
        let said = words(&mut claim, &mut now, until);
        assert_eq!(said.last(), Some(&Word::Announcement), "{said:?}");
        assert_eq!((claim.conflict(), claim.news()), (None, Some(None)));
    }

    #[test]
    fn an_address_that_is_held_is_defended_and_no_more_than_once_in_ten_seconds() {
        let start = Instant::now();
        let (mut now, mut claim) = (start, Claim::new(start, address(), OWN));
        words(&mut claim, &mut now, start + MINUTE);
        let mut defences = 0;
        for _ in 0..400 {
            now += Duration::from_millis(100);
            claim.hear(now, &has());
            defences += std::iter::from_fn(|| claim.poll(now)).filter(|word| *word == Word::Announcement).count();
        }
        assert_eq!(defences, 4, "in 40 s");
        assert_eq!(claim.conflict().map(|conflict| conflict.mac), Some(OTHER));
    }

    #[test]
    fn who_asks_whether_the_address_is_free_is_answered_and_is_no_conflict() {
        let start = Instant::now();
        let (mut now, mut claim) = (start, Claim::new(start, address(), OWN));
        let probe = |mac| Said { mac, has: None, about: address() };
        words(&mut claim, &mut now, start + MINUTE);
        claim.hear(now, &probe(OTHER));
        assert_eq!((claim.poll(now), claim.poll(now)), (Some(Word::Announcement), None));
        claim.hear(now, &probe(OWN));
        assert_eq!((claim.poll(now), claim.conflict()), (None, None), "our own, come back");
        let mut second = Claim::new(now, address(), OWN);
        second.hear(now, &probe(OTHER));
        assert_eq!(second.conflict().map(|conflict| conflict.mac), Some(OTHER), "two that ask at once");
    }
}
