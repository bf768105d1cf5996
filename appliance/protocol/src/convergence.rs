//! Whether a move will end: how fast the link is, how fast the guest dirties, how long the stun would be now, and
//! what follows from that after each round.
//!
//! The stun is a promise (DESIGN.md, section 1): a guest is stunned only while the prediction says that it stays
//! within the operator's limit, unless the operator asked for a stun at any price.

use model::limits;
use serde::{Deserialize, Serialize};

use crate::forecast::{DirtySample, Forecast};
use crate::time::{Duration, Instant};

/// What happens when a guest dirties faster than the link carries, and slowing it did not help.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoConvergence {
    /// Rounds go on, until their greatest number is reached.
    Wait,
    /// The guest is stunned for as long as it takes.
    Force,
    /// The move is given up.
    #[default]
    Abort,
}

/// A word that none of these is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is wait (rounds go on), force (a stun of any length) or abort (the move is given up)")]
pub struct UnknownNoConvergence;

impl std::str::FromStr for NoConvergence {
    type Err = UnknownNoConvergence;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "wait" => Ok(Self::Wait),
            "force" => Ok(Self::Force),
            "abort" => Ok(Self::Abort),
            _ => Err(UnknownNoConvergence),
        }
    }
}

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The longest acceptable stun.
    pub stun_max: Duration,
    /// The vCPUs that dirty may be slowed.
    pub throttle: bool,
    /// And if that does not help.
    pub no_convergence: NoConvergence,
    /// The rounds may take a part of the link only, and teach no more of it than that; the stun takes all of it.
    pub bounded: bool,
}

/// The parts of a stun that do not depend on how much is left to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Costs {
    /// Stopping the vCPUs and draining I/O.
    pub stop: Duration,
    /// Saving and restoring the state.
    pub state: Duration,
    /// Phase 2 of the lease.
    pub lease: Duration,
    /// Opening the disks and starting the vCPUs.
    pub resume: Duration,
    /// All of memory hashed on both sides, where that is done in the stun.
    pub hashing: Duration,
}

impl Costs {
    /// What to expect of a guest before anything was measured.
    pub fn expected(cpus: u8) -> Self {
        Self {
            stop: Duration::from_millis(2),
            state: Duration::from_millis(4) + Duration::from_micros(500) * u64::from(cpus),
            lease: Duration::from_millis(10),
            resume: Duration::from_millis(5),
            hashing: Duration::ZERO,
        }
    }
}

/// A part of a stun that has nothing to do with the pages that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Until vCPUs and devices stand still.
    Stopping,
    /// Saving, sending and loading the state.
    State,
    /// The commit.
    Lease,
    /// Opening the disks, and the start of the vCPUs.
    Disks,
    /// Of all memory, where its digest is compared.
    Hashing,
    /// Turns of the two hosts, and questions to the monitor here.
    Answers,
    /// Learned of stuns that took longer than expected.
    CalledOff,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Stopping => "stopping the guest",
            Self::State => "its state",
            Self::Lease => "the lease",
            Self::Disks => "disks and vCPUs",
            Self::Hashing => "hashing its memory",
            Self::Answers => "the hosts' answers",
            Self::CalledOff => "what stuns took that were called off",
        })
    }
}

/// A round as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundMeasure {
    /// Pages that were sent.
    pub pages: u64,
    /// Bytes on the link.
    pub bytes: u64,
    /// From the first page's reading until the destination had stored all.
    pub took: Duration,
}

/// What would happen now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prediction {
    /// The stun, microseconds.
    pub stun_us: u64,
    /// Until the guest runs on the destination, microseconds; none if the rounds would not end.
    pub left_us: Option<u64>,
    /// What the link carries, bytes a second.
    pub bandwidth_bytes_per_s: u64,
    /// What the guest dirties, pages a second.
    pub dirty_pages_per_s: u64,
}

/// What to do after a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send what is dirty, while the guest runs.
    NextRound,
    /// Slow the vCPUs that dirty to `100 - percent` %, then the next round.
    Throttle {
        /// 1 to 99.
        percent: u8,
    },
    /// Stop the guest and send the rest.
    Stun,
    /// The promise cannot be kept.
    GiveUp,
}

/// What one page costs on the link where nothing better is known: its bytes and its share of a record's header.
const PAGE_COST: u64 = 4_170;
/// A round of fewer bytes tells more of latency than of bandwidth.
const TELLING_BYTES: u64 = 1 << 20;
/// Most pages of a round that tells how long a turn takes: more of them take time themselves, also where they are zero and no bytes.
const TELLING_PAGES: u64 = 512;
/// How far the vCPUs that dirty are slowed, step by step, percent.
const THROTTLE_STEPS: [u8; 6] = [20, 40, 60, 80, 95, 99];
/// What a guest that is slowed is to dirty of what the link carries: rounds shrink then.
const SLOWED_TO_PERCENT: u64 = 80;
/// A round that left more than this of what the one before left: the guest wrote all of it again.
const ALL_AGAIN_PERCENT: u64 = 97;
/// Rounds that may go on although the stun would fit, as long as each makes it markedly shorter.
const POLISHING_ROUNDS: u8 = 4;
/// Stuns that had to be called off, from which on what they took is what they take.
const ACCIDENTS: u8 = 3;

/// Watches the rounds of one move.
#[derive(Clone, Debug)]
pub struct Convergence {
    policy: Policy,
    costs: Costs,
    state_bytes: u64,
    rtt: Duration,
    /// What the end of a round took until the other host's word of it was heard, in the last two that showed it: a host that is slow to wake takes
    /// longer than the wire.
    turns: [Option<Duration>; 2],
    /// How long the monitor took to answer the last two times: one alone may have met it at something else.
    monitor: [Duration; 2],
    /// What was expected of the link before the first round, bytes a second.
    link: u64,
    bandwidth: u64,
    measured: bool,
    dirty_rate: u64,
    /// What the guest dirtied before the first round.
    sample: Option<DirtySample>,
    rounds: u16,
    last_left: Option<u64>,
    strikes: u8,
    overruns: u8,
    /// What stuns took that were called off, beyond what was expected of them, as far as it is expected again.
    called_off: Duration,
    polished: u8,
    throttle_step: usize,
    harvested: Instant,
}

impl Convergence {
    /// Starts; the dirty log begins at `now`. `bandwidth` is the expected one, bytes a second.
    pub fn new(now: Instant, policy: Policy, costs: Costs, state_bytes: u64, rtt: Duration, bandwidth: u64) -> Self {
        Self {
            policy,
            costs,
            state_bytes,
            rtt,
            turns: [None; 2],
            monitor: [Duration::ZERO; 2],
            link: bandwidth,
            bandwidth: bandwidth.max(1 << 20),
            measured: false,
            dirty_rate: 0,
            sample: None,
            rounds: 0,
            last_left: None,
            strikes: 0,
            overruns: 0,
            called_off: Duration::ZERO,
            polished: 0,
            throttle_step: 0,
            harvested: now,
        }
    }

    /// What the guest was seen to dirty before the first round: it counts until a round has shown more.
    pub fn expect(&mut self, sample: DirtySample) {
        self.sample = Some(sample);
    }

    /// What is known of the parts of a stun.
    pub fn costs_mut(&mut self) -> &mut Costs {
        &mut self.costs
    }

    /// The operator's wishes.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Pages a second that the guest dirtied last.
    pub fn dirty_pages_per_s(&self) -> u64 {
        self.dirty_rate
    }

    /// How far the vCPUs that dirty are slowed, percent.
    pub fn throttle_percent(&self) -> u8 {
        self.throttle_step.checked_sub(1).map_or(0, |step| THROTTLE_STEPS[step])
    }

    /// A round ended: learns the bandwidth, where the round was large enough to tell.
    pub fn round_ended(&mut self, round: RoundMeasure) {
        self.rounds = self.rounds.saturating_add(1);
        let sending = round.took.saturating_sub(self.rtt).nanos().max(1);
        if round.bytes >= TELLING_BYTES {
            let now = (u128::from(round.bytes) * 1_000_000_000 / u128::from(sending)) as u64;
            // The latest tells most; one slow round does not undo what several showed.
            self.bandwidth = if self.measured { (self.bandwidth + now * 3) / 4 } else { now }.max(1 << 10);
            self.measured = true;
        } else if round.pages <= TELLING_PAGES {
            // Of an empty round nobody spoke. It counts as a quick one, so that a guest at rest is not kept from its stun by what was slow once.
            let took = if round.pages == 0 { Duration::ZERO } else { round.took };
            self.turns = [self.turns[1], Some(took.saturating_sub(self.sending(round.bytes)).max(self.rtt))];
        }
    }

    /// A harvest came in, `took` after it was asked for: learns the dirty rate, and what a question to the monitor takes.
    pub fn harvested(&mut self, now: Instant, took: Duration, dirtied: u64) {
        self.monitor = [self.monitor[1], took];
        let span = now.since(self.harvested).nanos();
        // What two harvests in quick succession find tells nothing of a rate.
        if span >= 1_000_000 {
            self.dirty_rate = (u128::from(dirtied) * 1_000_000_000 / u128::from(span)) as u64;
        }
        self.harvested = now;
    }

    /// A stun had to be called off after `took`. Three quarters of what goes beyond a stun without a page are expected again: all of it would leave no
    /// stun that could ever be begun, for a packet that was lost once. From the third on it is no accident, and all of it is.
    pub fn stun_overran(&mut self, took: Duration) {
        self.overruns = self.overruns.saturating_add(1);
        let quarters = if self.overruns < ACCIDENTS { 3 } else { 4 };
        self.called_off += took.saturating_sub(self.stun_for(0)) * quarters / 4;
        self.last_left = None;
        self.polished = 0;
        self.strikes = self.strikes.saturating_add(1);
    }

    fn sending(&self, bytes: u64) -> Duration {
        time_for(bytes, self.bandwidth)
    }

    /// What the link carries in the stun, bytes a second. Where the rounds may not take all of it, half of what was expected before them counts:
    /// that was measured in a moment, in which others may have been silent; where a stun showed that it is less, it does not.
    fn stun_bandwidth(&self) -> u64 {
        if self.policy.bounded && self.overruns == 0 { self.bandwidth.max(self.link / 2) } else { self.bandwidth }
    }

    /// What the two hosts take to answer each other. The link is crossed twice, by the hand-over and by the word that the guest goes on: the word of
    /// the commit is on its way meanwhile, and nobody waits for it. What the hosts themselves take to wake up counts twice all the same, because the
    /// other host has its monitor, its lease and its control plane to wake besides.
    fn turns(&self) -> Duration {
        // One alone may have been an accident.
        let turn = self.turns.into_iter().flatten().min().unwrap_or(self.rtt);
        self.rtt + turn.saturating_sub(self.rtt) * 2
    }

    /// Two questions to the monitor here: to save, and the last harvest; those of the other host are in its rehearsal.
    fn questions(&self) -> Duration {
        self.monitor[0].min(self.monitor[1]) * 2
    }

    /// The parts that do not depend on what is sent.
    fn parts(&self) -> [(Part, Duration); 7] {
        let Costs { stop, state, lease, resume, hashing } = self.costs;
        [
            (Part::Stopping, stop),
            (Part::State, state),
            (Part::Lease, lease),
            (Part::Disks, resume),
            (Part::Hashing, hashing),
            (Part::Answers, self.turns() + self.questions()),
            (Part::CalledOff, self.called_off),
        ]
    }

    fn fixed(&self) -> Duration {
        self.parts().into_iter().fold(Duration::ZERO, |sum, (_, takes)| sum + takes)
    }

    /// The parts of a stun without a page, where these alone are more than is accepted: rounds make no difference to them. With nothing of less than a
    /// millisecond.
    pub fn what_takes_too_long(&self) -> Option<Vec<(Part, Duration)>> {
        let sending = time_for(self.state_bytes, self.stun_bandwidth());
        let whole = |(part, takes)| (part, if part == Part::State { takes + sending } else { takes });
        let told = || self.parts().map(whole).into_iter().filter(|(_, takes)| takes.millis() > 0).collect();
        (self.stun_for(0) > self.policy.stun_max).then(told)
    }

    fn stun_for(&self, pages: u64) -> Duration {
        self.fixed() + time_for(pages * PAGE_COST + self.state_bytes, self.stun_bandwidth())
    }

    /// What the guest was seen to dirty before the first round, as long as none has shown more.
    fn sampled(&self) -> Option<&DirtySample> {
        self.sample.as_ref().filter(|_| self.rounds == 0)
    }

    /// Pages that the guest is expected to dirty in this time.
    fn dirtied_in(&self, span: Duration) -> f64 {
        let by_rate = || self.dirty_rate as f64 * span.nanos() as f64 / 1e9;
        self.sampled().map_or_else(by_rate, |sample| sample.dirtied_in(span))
    }

    fn rate(&self) -> u64 {
        self.sampled().map_or(self.dirty_rate, DirtySample::pages_per_s)
    }

    /// The time until the guest runs on the destination and the stun in it, if the rounds come so far.
    fn to_the_end(&self, left: u64) -> Option<(Duration, Duration)> {
        let (mut pages, mut rounds, mut polished) = (left as f64, Duration::ZERO, 0);
        for _ in 0..limits::MIGRATION_ROUNDS_MAX {
            let stun = self.stun_for(pages as u64);
            let sending = Duration::from_nanos((pages * self.sending(PAGE_COST).nanos() as f64) as u64);
            let next = self.dirtied_in(sending);
            if stun <= self.policy.stun_max {
                let polishes = self.is_worth_polishing(stun) && next <= pages * 0.7 && polished < POLISHING_ROUNDS;
                if !polishes {
                    return Some((rounds + stun, stun));
                }
                polished += 1;
            } else if next >= pages {
                return None;
            }
            rounds += self.rtt + sending;
            pages = next;
        }
        None
    }

    fn is_worth_polishing(&self, stun: Duration) -> bool {
        stun.saturating_sub(self.stun_for(0)) > self.policy.stun_max / 20
    }

    /// What would happen with `left` dirty pages, if the guest were stunned now or after the rounds that it takes.
    pub fn predict(&self, left: u64) -> Prediction {
        Prediction {
            stun_us: self.stun_for(left).micros(),
            left_us: self.to_the_end(left).map(|(left, _)| left.micros()),
            bandwidth_bytes_per_s: self.bandwidth,
            dirty_pages_per_s: self.rate(),
        }
    }

    /// What a move of these pages would be like, as the guest dirties now.
    pub fn forecast(&self, pages: u64) -> Forecast {
        Forecast {
            moved: self.to_the_end(pages),
            stun_least: self.stun_for(0),
            stun_max: self.policy.stun_max,
            bandwidth_bytes_per_s: self.bandwidth,
            dirty_pages_per_s: self.rate(),
        }
    }

    /// What to do with `left` dirty pages; the destination is ready.
    pub fn decide(&mut self, left: u64) -> Decision {
        let before = self.last_left.replace(left);
        let shrank_to = |parts: u64| before.is_none_or(|before| left * 100 <= before * parts);
        if self.stun_for(left) <= self.policy.stun_max {
            if self.is_worth_polishing(self.stun_for(left))
                && shrank_to(70)
                && self.polished < POLISHING_ROUNDS
                && !self.exhausted()
            {
                self.polished += 1;
                return Decision::NextRound;
            }
            return Decision::Stun;
        }
        if self.exhausted() {
            return if self.policy.no_convergence == NoConvergence::Force { Decision::Stun } else { Decision::GiveUp };
        }
        if shrank_to(85) {
            self.strikes = 0;
            return Decision::NextRound;
        }
        self.strikes = self.strikes.saturating_add(1);
        if self.strikes < 2 { Decision::NextRound } else { self.does_not_converge(!shrank_to(ALL_AGAIN_PERCENT)) }
    }

    fn exhausted(&self) -> bool {
        u64::from(self.rounds) >= limits::MIGRATION_ROUNDS_MAX
    }

    fn does_not_converge(&mut self, all_again: bool) -> Decision {
        // Slowing the guest helps only where pages are what takes so long.
        if self.policy.throttle && self.throttle_step < THROTTLE_STEPS.len() && self.stun_for(0) < self.policy.stun_max
        {
            self.throttle_step = self.next_throttle_step(all_again);
            // What the next round leaves was all dirtied at this step: it tells at once whether that was enough. After the last step it is not one
            // round that ends the move.
            self.strikes = u8::from(self.throttle_step < THROTTLE_STEPS.len());
            return Decision::Throttle { percent: self.throttle_percent() };
        }
        match self.policy.no_convergence {
            NoConvergence::Wait => Decision::NextRound,
            NoConvergence::Force => Decision::Stun,
            NoConvergence::Abort => Decision::GiveUp,
        }
    }

    /// The step at which the guest is expected to dirty [`SLOWED_TO_PERCENT`] of what the link carries: one further at least, and two where the last
    /// made no difference. `all_again`: a round left as much as the one before.
    fn next_throttle_step(&self, all_again: bool) -> usize {
        let freely = self.dirty_rate * 100 / u64::from(100 - self.throttle_percent());
        // A log counts a page once, however often it was written: of who writes the same pages again and again, a shorter look tells more.
        let seen = self.sample.filter(|_| all_again).map_or(0, |sample| sample.at_first_pages_per_s());
        let carried = self.bandwidth / PAGE_COST * SLOWED_TO_PERCENT / 100;
        let wanted = 100_u64.saturating_sub(carried * 100 / freely.max(seen).max(1));
        let far_enough = THROTTLE_STEPS.partition_point(|percent| u64::from(*percent) < wanted) + 1;
        let further = if all_again && self.throttle_step > 0 { 2 } else { 1 };
        far_enough.max(self.throttle_step + further).min(THROTTLE_STEPS.len())
    }
}

fn time_for(bytes: u64, bytes_per_s: u64) -> Duration {
    Duration::from_nanos((u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_s)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        stun_max: Duration::from_millis(300),
        throttle: true,
        no_convergence: NoConvergence::Abort,
        bounded: false,
    };

    fn convergence(policy: Policy) -> Convergence {
        let rtt = Duration::from_micros(200);
        Convergence::new(Instant::ZERO, policy, Costs::expected(1), 100_000, rtt, 1_000_000_000)
    }

    /// Rounds against a guest that dirties `rate` pages a second of `set` pages, until a decision other than to go on.
    fn run(convergence: &mut Convergence, pages: u64, set: u64, rate: u64) -> (Decision, u64, u32) {
        let (mut now, mut left, mut rounds, mut speed) = (Instant::ZERO, pages, 0, 100);
        loop {
            let bytes = left * PAGE_COST;
            let took = Duration::from_nanos(bytes);
            now += took;
            rounds += 1;
            convergence.round_ended(RoundMeasure { pages: left, bytes, took });
            left = (rate * speed / 100 * took.nanos() / 1_000_000_000).min(set);
            convergence.harvested(now, Duration::ZERO, left);
            match convergence.decide(left) {
                Decision::NextRound => {}
                Decision::Throttle { percent } => speed = 100 - u64::from(percent),
                decision => return (decision, left, rounds),
            }
        }
    }

    #[test]
    fn an_idle_guest_is_stunned_after_the_first_round() {
        assert_eq!(run(&mut convergence(POLICY), 131_072, 1_000, 0), (Decision::Stun, 0, 1));
    }

    #[test]
    fn a_guest_that_dirties_half_of_what_the_link_carries_is_moved_in_some_rounds() {
        let (decision, left, rounds) = run(&mut convergence(POLICY), 262_144, 262_144, 100_000);
        assert_eq!(decision, Decision::Stun);
        assert!(left < 20_000 && rounds < 12, "{left} pages left after {rounds} rounds");
    }

    #[test]
    fn a_guest_that_outruns_the_link_is_slowed_until_it_fits() {
        let mut convergence = convergence(POLICY);
        let (decision, ..) = run(&mut convergence, 262_144, 262_144, 1_000_000);
        assert_eq!(decision, Decision::Stun);
        assert!(convergence.throttle_percent() >= 80, "{} %", convergence.throttle_percent());
    }

    #[test]
    fn a_guest_is_slowed_as_far_as_it_was_seen_to_need_and_not_in_small_steps_only() {
        let ms = Duration::from_millis;
        // It writes all of its 262,144 pages forty times a second; the link carries 240,000.
        let slowed = |sample: Option<DirtySample>| {
            let mut convergence = convergence(POLICY);
            sample.into_iter().for_each(|sample| convergence.expect(sample));
            let (decision, _, rounds) = run(&mut convergence, 524_288, 262_144, 10_000_000);
            assert_eq!(decision, Decision::Stun);
            (rounds, convergence.throttle_percent())
        };
        let seen = DirtySample { part: ms(10), part_pages: 100_000, whole: ms(20), whole_pages: 200_000 };
        let ((rounds, percent), (rounds_unseen, percent_unseen)) = (slowed(Some(seen)), slowed(None));
        assert!(rounds < rounds_unseen && rounds_unseen < 12, "{rounds} and {rounds_unseen} rounds");
        assert!(percent >= 99 && percent_unseen >= 99, "{percent} and {percent_unseen} %");
        // One that is only a little too fast is not stopped for it.
        let mut little = convergence(POLICY);
        assert_eq!(run(&mut little, 1_000_000, 1_000_000, 300_000).0, Decision::Stun);
        assert!((20..=60).contains(&little.throttle_percent()), "{} %", little.throttle_percent());
    }

    #[test]
    fn a_promise_that_cannot_be_kept_is_given_up_and_not_broken() {
        let policy = Policy { throttle: false, ..POLICY };
        assert_eq!(run(&mut convergence(policy), 262_144, 262_144, 1_000_000).0, Decision::GiveUp);
        let hopeless = Policy { stun_max: Duration::from_millis(5), ..POLICY };
        assert_eq!(run(&mut convergence(hopeless), 1_000, 100, 1_000_000).0, Decision::GiveUp);
    }

    #[test]
    fn force_stuns_whatever_it_takes_and_wait_gives_up_only_when_the_rounds_are_used_up() {
        let force = Policy { throttle: false, no_convergence: NoConvergence::Force, ..POLICY };
        assert_eq!(run(&mut convergence(force), 262_144, 262_144, 1_000_000).0, Decision::Stun);
        let wait = Policy { throttle: false, no_convergence: NoConvergence::Wait, ..POLICY };
        let (decision, _, rounds) = run(&mut convergence(wait), 262_144, 262_144, 1_000_000);
        assert_eq!((decision, u64::from(rounds)), (Decision::GiveUp, limits::MIGRATION_ROUNDS_MAX));
    }

    #[test]
    fn a_stun_that_overran_once_is_begun_again_with_less_to_send_and_one_that_always_does_is_not() {
        let mut convergence = convergence(POLICY);
        // 200 ms of the link's time.
        let left = 200_000_000 / PAGE_COST;
        assert!(convergence.stun_for(left) < POLICY.stun_max);
        // A timer that ends it, and a moment.
        let took = POLICY.stun_max + Duration::from_micros(10);
        convergence.stun_overran(took);
        assert!(convergence.stun_for(left) > POLICY.stun_max, "as if nothing had been");
        assert_eq!(convergence.clone().decide(0), Decision::Stun, "a hiccup dooms the move");
        (0..2).for_each(|_| convergence.stun_overran(took));
        assert_ne!(convergence.decide(0), Decision::Stun, "the guest stands still again and again");
    }

    #[test]
    fn a_host_that_is_slow_to_answer_is_expected_to_be_so_in_the_stun_and_one_that_was_so_once_is_not() {
        let mut slow = convergence(POLICY);
        let before = slow.stun_for(0);
        let more = |slow: &Convergence| slow.stun_for(0).saturating_sub(before).millis();
        // A page takes 4 us of the link: what else such a round took, the two hosts took, and they take it twice in a stun.
        let round = |ms| RoundMeasure { pages: 1, bytes: PAGE_COST, took: Duration::from_millis(ms) };
        for (ms, expected) in [(40, 79), (300, 79), (200, 399), (50, 99)] {
            slow.round_ended(round(ms));
            assert_eq!(more(&slow), expected, "after {ms} ms");
        }
        // What takes long for its pages or its bytes tells nothing of a turn.
        let took = Duration::from_millis(900);
        slow.round_ended(RoundMeasure { pages: 100_000, bytes: 100_000, took });
        assert_eq!(more(&slow), 99);
        // A guest at rest.
        slow.round_ended(RoundMeasure { pages: 0, bytes: 0, took: Duration::from_millis(100) });
        assert_eq!(more(&slow), 0);
        // Two questions to the monitor are in a stun.
        for (second, took, expected) in [(1, 20, 0), (2, 30, 40), (3, 1, 2)] {
            slow.harvested(Instant::ZERO + Duration::from_secs(second), Duration::from_millis(took), 0);
            assert_eq!(more(&slow), expected, "after {took} ms");
        }
    }

    #[test]
    fn a_stun_is_expected_to_cross_the_link_there_and_back_once() {
        let ms = Duration::from_millis;
        // The hosts take so long beside the link.
        let stun = |rtt, hosts| {
            let mut convergence = Convergence { rtt, ..convergence(POLICY) };
            let took = rtt + hosts + convergence.sending(PAGE_COST);
            convergence.round_ended(RoundMeasure { pages: 1, bytes: PAGE_COST, took });
            convergence.stun_for(0)
        };
        for hosts in [ms(0), ms(5)] {
            assert_eq!(stun(ms(40), hosts), stun(ms(0), hosts) + ms(40));
        }
        assert_eq!(stun(ms(40), ms(5)), stun(ms(40), ms(0)) + ms(10));
    }

    #[test]
    fn what_takes_too_long_is_told_where_it_is_not_the_pages() {
        let policy = Policy { stun_max: Duration::from_millis(50), ..POLICY };
        let mut convergence = convergence(policy);
        assert_eq!(convergence.what_takes_too_long(), None);
        convergence.costs_mut().lease = Duration::from_millis(45);
        let told = convergence.what_takes_too_long().expect("it is more than 50 ms");
        let ms = Duration::from_millis;
        let state = ms(4) + Duration::from_micros(500 + 100);
        let expected = [(Part::Stopping, ms(2)), (Part::State, state), (Part::Lease, ms(45)), (Part::Disks, ms(5))];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_guest_that_comes_to_rest_after_a_slow_round_is_stunned() {
        let mut convergence = convergence(POLICY);
        convergence.round_ended(RoundMeasure { pages: 3, bytes: 3 * PAGE_COST, took: Duration::from_secs(1) });
        assert_eq!(convergence.decide(0), Decision::NextRound, "so slow that it would take too long");
        convergence.round_ended(RoundMeasure { pages: 0, bytes: 0, took: Duration::from_millis(100) });
        assert_eq!(convergence.decide(0), Decision::Stun);
    }

    #[test]
    fn a_stun_that_may_take_all_of_the_link_is_not_predicted_by_the_part_that_the_rounds_may() {
        let paced = RoundMeasure { pages: 1_000, bytes: 4 << 20, took: Duration::from_secs(1) };
        let [unbounded, bounded] = [false, true].map(|bounded| {
            let mut convergence = convergence(Policy { bounded, ..POLICY });
            convergence.round_ended(paced);
            convergence.predict(1_000)
        });
        assert_eq!(bounded.bandwidth_bytes_per_s, unbounded.bandwidth_bytes_per_s);
        assert!(unbounded.stun_us > 900_000, "{unbounded:?}");
        assert!((8_000..100_000).contains(&bounded.stun_us), "{bounded:?}");
    }

    #[test]
    fn before_the_first_round_the_prediction_knows_what_the_guest_was_seen_to_dirty() {
        let ms = Duration::from_millis;
        let sampled = |part_pages, whole_pages| {
            let mut convergence = convergence(POLICY);
            convergence.expect(DirtySample { part: ms(100), part_pages, whole: ms(200), whole_pages });
            // The harvest before the first round.
            convergence.harvested(Instant::ZERO + ms(300), Duration::ZERO, 0);
            convergence
        };
        // The link carries 240,000 pages a second.
        let calm = sampled(10_000, 20_000).forecast(262_144);
        let (took, stun) = calm.moved.expect("it converges");
        assert!((1_200..3_000).contains(&took.millis()) && stun <= POLICY.stun_max, "{calm:?}");
        assert_eq!(calm.dirty_pages_per_s, 100_000);
        assert_eq!(sampled(50_000, 100_000).forecast(262_144).moved, None, "faster than the link");
        // The same rate, on the same pages again and again.
        assert!(sampled(60_000, 60_000).forecast(262_144).moved.is_some());
        // A round has shown more than that moment.
        let mut convergence = sampled(50_000, 100_000);
        convergence.round_ended(RoundMeasure { pages: 262_144, bytes: 262_144 * PAGE_COST, took: ms(1_100) });
        convergence.harvested(Instant::ZERO + ms(1_400), Duration::ZERO, 1_000);
        assert!(convergence.predict(1_000).left_us.is_some());
    }

    #[test]
    fn the_prediction_says_whether_the_rounds_end() {
        let mut convergence = convergence(POLICY);
        convergence.harvested(Instant::ZERO + Duration::from_secs(1), Duration::ZERO, 50_000);
        let prediction = convergence.predict(262_144);
        let left = prediction.left_us.expect("it converges");
        assert!((1_000_000..3_000_000).contains(&left), "{left} us");
        assert!(prediction.stun_us > 300_000);
        convergence.harvested(Instant::ZERO + Duration::from_secs(2), Duration::ZERO, 500_000);
        assert_eq!(convergence.predict(262_144).left_us, None);
    }
}
