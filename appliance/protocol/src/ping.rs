//! The path to a peer is measured without a VM: hello and probe as a move begins with them, and no offer follows.
//!
//! ```text
//!   Greeting --hello--> Probing --measured--> Finished
//!       |                  |
//!       +------------------+--- silent, refused, cancelled, connection lost ---> Finished
//! ```
//!
//! The peer takes it for a move that is given up before its offer, which costs it nothing: so every build that a VM can
//! move to can be measured.
//!
//! Order of calls: as for [`crate::source::Source`].

use std::collections::VecDeque;

use model::diagnosis::Reason;
use model::limits;
use model::names::HostName;

use crate::checks::facts::LinkFacts;
use crate::session::{Conversation, PhaseName, Timers, Versions};
use crate::source::probing::PROBE;
use crate::time::{Duration, Instant};
use crate::wire::message::Hello;
use crate::wire::{Message, MigrationId};

/// Who measures, and whom.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What the peer knows it by; random.
    pub id: MigrationId,
    /// This host.
    pub here: HostName,
    /// The peer.
    pub peer: HostName,
    /// This host's build, for people.
    pub build: String,
}

/// What is wanted. Only [`Effect::MeasureLink`] is answered, by [`Input::LinkMeasured`].
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send these bytes on the control stream, in order.
    SendControl(Vec<u8>),
    /// Measure the path to the peer.
    MeasureLink,
    /// Tell whoever watches.
    Report(PhaseName),
    /// It is over; the last effect.
    Finish(Result<LinkFacts, Reason>),
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Bytes arrived on the control stream, in order.
    Control(Vec<u8>),
    /// The connection is gone, and why.
    LinkDown {
        /// What happened.
        cause: String,
    },
    /// To [`Effect::MeasureLink`].
    LinkMeasured(LinkFacts),
    /// A person wants it to end.
    Cancel,
}

/// Why it wants to be woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The peer has not answered the hello.
    Hello,
    /// The measurement takes too long.
    Probe,
}

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Greeting,
    Probing,
    Finished,
}

/// One measurement.
#[derive(Debug)]
pub struct Ping {
    plan: Plan,
    phase: Phase,
    conversation: Conversation,
    timers: Timers<Timer>,
    effects: VecDeque<Effect>,
}

impl Ping {
    /// Begins over a connection that was just made.
    pub fn new(now: Instant, plan: Plan) -> Self {
        let conversation = Conversation::new(now, Versions::OURS);
        let mut ping =
            Self { plan, phase: Phase::Greeting, conversation, timers: Timers::new(), effects: VecDeque::new() };
        ping.enter(now, PhaseName::Hello, Timer::Hello, Duration::from_millis(limits::MIGRATION_HANDSHAKE_MS));
        let Plan { id, here, build, .. } = &ping.plan;
        let hello = ping.conversation.hello(*id, here.clone(), build.clone());
        ping.say(now, &hello);
        ping
    }

    fn enter(&mut self, now: Instant, phase: PhaseName, timer: Timer, within: Duration) {
        self.timers.clear();
        self.timers.set(timer, now + within);
        self.effects.push_back(Effect::Report(phase));
    }

    fn say(&mut self, now: Instant, message: &Message) {
        self.effects.extend(self.conversation.say(now, message).map(Effect::SendControl));
    }

    /// Tells it what happened.
    pub fn handle_input(&mut self, now: Instant, input: Input) {
        match input {
            Input::Control(bytes) => self.hear(now, &bytes),
            Input::LinkDown { cause } => {
                self.conversation.close();
                self.fail(now, cause, self.look_at_both());
            }
            Input::LinkMeasured(link) if self.phase == Phase::Probing => self.finish(now, Ok(link)),
            Input::LinkMeasured(_) => {}
            Input::Cancel => {
                let hint = format!("network ping {} measures it again", self.plan.peer);
                self.fail(now, "it was cancelled".to_owned(), hint);
            }
        }
    }

    /// Tells it that a deadline may have passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_expired(now) {
            let what = if timer == Timer::Hello { "answer the hello" } else { "answer the probe of the link" };
            let (cause, hint) = (format!("{} did not {what} in time", self.plan.peer), self.look_at_both());
            self.fail(now, cause, hint);
        }
        if self.is_finished() {
            return;
        }
        if self.conversation.lost_at() <= now {
            let (cause, hint) = (format!("{} was silent for too long", self.plan.peer), self.look_at_both());
            self.fail(now, cause, hint);
        } else if self.conversation.keepalive_at() <= now {
            self.say(now, &Message::Keepalive);
        }
    }

    /// The next effect.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When the other host counts as silent, if nothing is heard of it before; none where nobody listens to it any more.
    pub fn lost_at(&self) -> Option<Instant> {
        (self.conversation.is_open() && !self.is_finished()).then(|| self.conversation.lost_at())
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_finished() {
            return None;
        }
        let conversation = &self.conversation;
        [conversation.lost_at(), conversation.keepalive_at()].into_iter().chain(self.timers.next()).min()
    }

    /// Whether the last effect was given or waits to be taken.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    fn hear(&mut self, now: Instant, bytes: &[u8]) {
        self.conversation.hear(now, bytes);
        while !self.is_finished() {
            match self.conversation.next_message() {
                Ok(None) => return,
                Ok(Some(Message::Keepalive)) => {}
                Ok(Some(Message::Hello(hello))) if self.phase == Phase::Greeting => self.greeted(now, &hello),
                Ok(Some(Message::Cancel(reason))) => self.fail(now, reason.cause, reason.hint),
                Ok(Some(other)) => {
                    let peer = &self.plan.peer;
                    let cause = format!("{peer} said \"{}\", which means nothing here", other.name());
                    let hint = format!("check that both hosts run builds that fit together: host show, on {peer} too");
                    self.fail(now, cause, hint);
                }
                Err(error) => {
                    let cause = format!("{} cannot be understood: {error}", self.plan.peer);
                    self.fail(now, cause, self.look_at_both());
                }
            }
        }
    }

    fn greeted(&mut self, now: Instant, hello: &Hello) {
        if hello.migration != self.plan.id || hello.host != self.plan.peer {
            let cause = format!("{} answered instead of {}", hello.host, self.plan.peer);
            return self.fail(now, cause, "check the addresses of the migration NICs: host list".to_owned());
        }
        if let Err(reason) = self.conversation.agree(hello) {
            return self.fail(now, reason.cause, reason.hint);
        }
        self.phase = Phase::Probing;
        self.enter(now, PhaseName::Probe, Timer::Probe, PROBE);
        self.effects.push_back(Effect::MeasureLink);
    }

    fn look_at_both(&self) -> String {
        format!("network migration-nic, on {} too; there: log show migrate", self.plan.peer)
    }

    fn fail(&mut self, now: Instant, cause: String, hint: String) {
        self.finish(now, Err(Reason::new(cause, hint)));
    }

    fn finish(&mut self, now: Instant, outcome: Result<LinkFacts, Reason>) {
        if self.is_finished() {
            return;
        }
        // The peer waits for an offer: it is told that none comes.
        let why = Reason::new(format!("{} only measured the link", self.plan.here), "");
        self.say(now, &Message::Cancel(why));
        self.timers.clear();
        self.phase = Phase::Finished;
        self.effects.push_back(Effect::Finish(outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::{self, Destination, Welcome};
    use crate::session::conversation::{IDLE, KEEPALIVE};

    const START: Instant = Instant::ZERO;

    fn ping() -> Ping {
        let (here, peer) = ("host-a".parse().expect("valid"), "host-b".parse().expect("valid"));
        Ping::new(START, Plan { id: MigrationId(7), here, peer, build: "1".to_owned() })
    }

    fn destination() -> Destination {
        let (here, peer) = ("host-b".parse().expect("valid"), "host-a".parse().expect("valid"));
        Destination::new(START, Welcome { here, peer, build: "1".to_owned(), started_unix_s: 0 })
    }

    /// Carries what both say to the other until neither says more, and gives the rest of what the one that measures wants.
    fn talk(now: Instant, ping: &mut Ping, there: &mut Destination) -> Vec<Effect> {
        let mut wanted = Vec::new();
        loop {
            let (mut said, before) = (false, wanted.len());
            while let Some(effect) = ping.poll_effect() {
                match effect {
                    Effect::SendControl(bytes) => {
                        said = true;
                        there.handle_input(now, destination::Input::Control(bytes));
                    }
                    effect => wanted.push(effect),
                }
            }
            while let Some(effect) = there.poll_effect() {
                if let destination::Effect::SendControl(bytes) = effect {
                    said = true;
                    ping.handle_input(now, Input::Control(bytes));
                }
            }
            if !said && wanted.len() == before {
                return wanted;
            }
        }
    }

    fn outcome(effects: &[Effect]) -> Option<&Result<LinkFacts, Reason>> {
        effects.iter().find_map(|effect| match effect {
            Effect::Finish(outcome) => Some(outcome),
            _ => None,
        })
    }

    #[test]
    fn a_destination_of_a_move_answers_it_and_is_free_again_at_its_end() {
        let (mut ping, mut there) = (ping(), destination());
        let wanted = talk(START, &mut ping, &mut there);
        assert_eq!(wanted.last(), Some(&Effect::MeasureLink), "{wanted:?}");
        let link = LinkFacts { rtt_us: 300, bandwidth_bytes_per_s: Some(1 << 27), mtu: Some(9000) };
        ping.handle_input(START + Duration::from_millis(200), Input::LinkMeasured(link));
        let wanted = talk(START + Duration::from_millis(200), &mut ping, &mut there);
        assert_eq!(outcome(&wanted), Some(&Ok(link)));
        assert!(ping.is_finished() && ping.poll_timeout().is_none());
        assert!(there.poll_timeout().is_none(), "it waits for nothing more");
    }

    #[test]
    fn a_long_measurement_lets_the_peer_hear_that_it_goes_on() {
        let (mut ping, mut there) = (ping(), destination());
        talk(START, &mut ping, &mut there);
        let mut now = START;
        while now < START + IDLE + KEEPALIVE {
            now += KEEPALIVE;
            ping.handle_timeout(now);
            there.handle_timeout(now);
            let wanted = talk(now, &mut ping, &mut there);
            assert!(wanted.is_empty() && !ping.is_finished(), "{now:?}: {wanted:?}");
        }
    }

    #[test]
    fn each_way_to_no_measurement_is_told_with_its_cause_and_what_mends_it() {
        let refused = |work: &dyn Fn(&mut Ping, &mut Destination)| {
            let (mut ping, mut there) = (ping(), destination());
            work(&mut ping, &mut there);
            let wanted: Vec<Effect> = std::iter::from_fn(|| ping.poll_effect()).collect();
            let Some(Err(reason)) = outcome(&wanted).cloned() else { panic!("{wanted:?}") };
            assert!(!reason.hint.is_empty(), "{reason:?}");
            reason.cause
        };
        let late = |ping: &mut Ping| {
            let at = ping.poll_timeout().expect("it waits");
            ping.handle_timeout(at.max(START + PROBE));
        };
        assert_eq!(refused(&|ping, _| late(ping)), "host-b did not answer the hello in time");
        let probe = |ping: &mut Ping, there: &mut Destination| {
            talk(START, ping, there);
            late(ping);
        };
        assert_eq!(refused(&probe), "host-b did not answer the probe of the link in time");
        assert_eq!(refused(&|ping, _| ping.handle_input(START, Input::Cancel)), "it was cancelled");
        let lost = |ping: &mut Ping| ping.handle_input(START, Input::LinkDown { cause: "the link went down".into() });
        assert_eq!(refused(&|ping, _| lost(ping)), "the link went down");
        let stranger = |ping: &mut Ping| {
            let mut conversation = Conversation::new(START, Versions::OURS);
            let hello = conversation.hello(MigrationId(7), "host-c".parse().expect("valid"), "1".to_owned());
            ping.handle_input(START, Input::Control(conversation.say(START, &hello).expect("open")));
        };
        assert_eq!(refused(&|ping, _| stranger(ping)), "host-c answered instead of host-b");
    }
}
