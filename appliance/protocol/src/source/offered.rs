//! The offer is made, and the destination judges it; meanwhile both hosts send probe frames on the uplinks of the VM's port groups.

use model::diagnosis::Reason;
use model::limits;
use model::receipt::Verdict;

use super::context::{Context, Ending};
use super::effect::{Effect, Input, Timer};
use super::greeting::{end, ends_unnoticed};
use super::machine::{Phase, Step};
use super::reserving::Reserving;
use super::sampling::Sampling;
use crate::checks::link::Seen;
use crate::checks::physical_network::{self, Found};
use crate::checks::{FINDINGS_MAX, Finding, blockers};
use crate::session::PhaseName;
use crate::time::Duration;
use crate::wire::Message;
use crate::wire::message::Answer;

/// Uplinks are opened, and what was heard on them is told, within this time, or the move goes on without. The destination waits for the
/// offer a little longer than for the probe of the link.
const UPLINKS: Duration = Duration::from_secs(3);

const _: () = assert!(UPLINKS.millis() < limits::MIGRATION_HANDSHAKE_MS);

/// Waits for the answer, and for what is heard on the uplinks.
#[derive(Debug)]
pub enum Offered {
    /// The uplinks do not listen yet: a destination that has the offer sends on its own.
    Opening,
    /// The offer is made. This host listens, unless its uplinks were late.
    Made {
        /// What it hears says something.
        listens: bool,
    },
    /// It is answered, and what this host heard is not told yet.
    Hearing(Answer),
}

impl Offered {
    pub(super) fn begin(cx: &mut Context) -> Self {
        cx.enter(PhaseName::Offer);
        if cx.plan.offer.probe.is_empty() {
            return Self::make(cx, false);
        }
        cx.effect(Effect::ProbeUplinks);
        cx.deadline(Timer::Uplinks, UPLINKS);
        Self::Opening
    }

    fn make(cx: &mut Context, listens: bool) -> Self {
        cx.timers.clear();
        let offer = Message::Offer(Box::new(cx.plan.offer.clone()));
        cx.say(&offer);
        cx.deadline(Timer::Answer, Duration::from_millis(limits::API_REQUEST_MS_MAX));
        Self::Made { listens }
    }

    fn answered(cx: &mut Context, answer: Answer, listens: bool) -> Phase {
        let offer = &cx.plan.offer;
        cx.link = Some(Seen { here: offer.source.nic, there: answer.nic, measured: offer.link });
        if offer.probe.is_empty() {
            return Self::judged(cx, answer.findings);
        }
        if !listens {
            // What came meanwhile, or did not, says nothing; it is asked for all the same, so that nobody listens on.
            cx.effect(Effect::HearUplinks);
            return Self::heard(cx, answer, None);
        }
        cx.timers.clear();
        cx.effect(Effect::HearUplinks);
        cx.deadline(Timer::Uplinks, UPLINKS);
        Self::Hearing(answer).into()
    }

    /// What the destination found is judged already; what both heard is judged here.
    fn heard(cx: &mut Context, answer: Answer, here: Option<&[Found]>) -> Phase {
        let Answer { mut findings, uplinks, .. } = answer;
        let sides = ((&cx.here(), here), (&cx.plan.destination, uplinks.as_deref()));
        findings.extend(physical_network::judge(sides.0, sides.1, cx.plan.offer.force_link));
        Self::judged(cx, findings)
    }

    fn judged(cx: &mut Context, mut findings: Vec<Finding>) -> Phase {
        // Before the list is cut short: none is to be lost by that.
        let reasons: Vec<_> = blockers(&findings).map(|finding| finding.reason.clone()).collect();
        findings.truncate(FINDINGS_MAX);
        cx.findings = findings;
        if !reasons.is_empty() {
            return end(cx, &Ending { verdict: Verdict::Failed, reasons }).into();
        }
        if cx.plan.offer.check_only {
            return Sampling::begin(cx).into();
        }
        Reserving::begin(cx).into()
    }
}

impl Step for Offered {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        match (self, message) {
            (Self::Made { listens }, Message::Answer(answer)) => Self::answered(cx, answer, listens),
            (phase, other) => {
                let reason = cx.nonsense(&other);
                phase.lost(cx, reason)
            }
        }
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match (self, input) {
            (Self::Opening, Input::UplinksOpen) => Self::make(cx, true).into(),
            (Self::Hearing(answer), Input::UplinksHeard(found)) => Self::heard(cx, answer, found.as_deref()),
            (phase, _) => phase.into(),
        }
    }

    fn timeout(self, cx: &mut Context, timer: Timer) -> Phase {
        match (self, timer) {
            (Self::Opening, Timer::Uplinks) => {
                // What it then does not hear, nobody can judge, and the operator is told so.
                Self::make(cx, false).into()
            }
            (Self::Hearing(answer), Timer::Uplinks) => Self::heard(cx, answer, None),
            (phase, Timer::Answer) => {
                // Its migration role answered until now: what it asks on its host does not.
                let peer = &cx.plan.destination;
                let reason = Reason::new(
                    format!("{peer} did not judge the offer in time: its control plane or its storage does not answer"),
                    format!("on {peer}: host check, log show host; host reboot --force where nothing answers"),
                );
                phase.lost(cx, reason)
            }
            (phase, _) => phase.into(),
        }
    }

    ends_unnoticed!();
}

#[cfg(test)]
mod tests {
    use model::vm_config::Verify;

    use super::super::{Plan, Source};
    use super::*;
    use crate::checks::Severity;
    use crate::checks::facts::{LinkFacts, NicFacts, example};
    use crate::checks::physical_network::Heard;
    use crate::convergence::{Costs, NoConvergence, Policy};
    use crate::session::Outcome;
    use crate::time::Instant;
    use crate::uplink_probe::tokens::example::agreed;
    use crate::wire::message::{Hello, Offer};
    use crate::wire::{FrameReader, MigrationId, ValidatedOffer};

    const START: Instant = Instant::from_nanos(1_000_000_000);
    const MIGRATION: MigrationId = MigrationId(7);

    /// A source that has measured its link, and offers a VM whose port group `lab` is probed.
    fn source(force_link: bool) -> Source {
        let offer = Offer { force_link, verify: Verify::Audit, probe: agreed(&["lab"]), ..example::offer() };
        let stun_max = Duration::from_millis(300);
        let plan = Plan {
            migration: MIGRATION,
            destination: "host-b".parse().unwrap(),
            build: String::new(),
            offer: ValidatedOffer::new(offer).unwrap(),
            policy: Policy { stun_max, throttle: true, no_convergence: NoConvergence::Abort, bounded: false },
            costs: Costs::expected(1),
            touched_pages: 1,
            started_unix_s: 0,
        };
        let mut source = Source::new(START, plan);
        let (host, build) = ("host-b".parse().unwrap(), String::new());
        says(&mut source, &Message::Hello(Hello { oldest: 1, newest: 1, migration: MIGRATION, host, build }));
        wants(&mut source);
        source.handle_input(START, Input::LinkMeasured(LinkFacts::default()));
        source
    }

    fn says(source: &mut Source, message: &Message) {
        source.handle_input(START, Input::Control(message.encode(1)));
    }

    /// The names of what it says, and what else it wants, but for reports.
    fn wants(source: &mut Source) -> (Vec<&'static str>, Vec<Effect>) {
        let (mut said, mut others) = (Vec::new(), Vec::new());
        while let Some(effect) = source.poll_effect() {
            match effect {
                Effect::SendControl(bytes) => {
                    let mut reader = FrameReader::default();
                    reader.push(&bytes);
                    let frame = reader.next_frame().unwrap().unwrap();
                    said.push(Message::decode(&frame, Some(1)).map_or("hello", |message| message.name()));
                }
                Effect::Report(_) => {}
                other => others.push(other),
            }
        }
        (said, others)
    }

    fn found(heard: Heard) -> Vec<Found> {
        vec![Found { label: "lab".parse().unwrap(), heard }]
    }

    fn answer(uplinks: Option<Vec<Found>>) -> Message {
        Message::Answer(Answer { findings: Vec::new(), nic: NicFacts::default(), uplinks })
    }

    /// What it does when both hosts have told what they heard: how it ended if it did, and what it found of the networks if it goes on.
    fn judged(force_link: bool, here: Option<Heard>, there: Option<Heard>) -> Result<Vec<Finding>, Box<Outcome>> {
        let mut source = source(force_link);
        assert_eq!(wants(&mut source), (vec![], vec![Effect::ProbeUplinks]), "first it listens");
        source.handle_input(START, Input::UplinksOpen);
        assert_eq!(wants(&mut source), (vec!["offer"], vec![]));
        says(&mut source, &answer(there.map(found)));
        assert_eq!(wants(&mut source), (vec![], vec![Effect::HearUplinks]));
        match here {
            Some(heard) => source.handle_input(START, Input::UplinksHeard(Some(found(heard)))),
            None => source.handle_timeout(START + UPLINKS),
        }
        let (said, others) = wants(&mut source);
        match others
            .into_iter()
            .find_map(|effect| if let Effect::Finish(outcome) = effect { Some(outcome) } else { None })
        {
            Some(outcome) => Err(outcome),
            None => {
                assert_eq!(said, ["reserve"]);
                Ok(source.findings())
            }
        }
    }

    #[test]
    fn a_vm_moves_where_frames_pass_between_the_uplinks() {
        assert_eq!(judged(false, Some(Heard::Frames), Some(Heard::Frames)).ok(), Some(vec![]));
    }

    #[test]
    fn a_vm_does_not_move_to_another_physical_network_unless_that_is_wanted() {
        let outcome = judged(false, Some(Heard::Nothing), Some(Heard::Nothing)).unwrap_err();
        assert_eq!(outcome.verdict, Verdict::Failed);
        assert_eq!(outcome.findings.iter().filter(|found| found.severity == Severity::Blocker).count(), 1);
        let forced = judged(true, Some(Heard::Nothing), Some(Heard::Nothing)).unwrap();
        assert!(forced.len() == 1 && forced[0].severity == Severity::Warning, "{forced:?}");
    }

    #[test]
    fn a_vm_moves_where_one_of_the_hosts_cannot_tell_what_it_heard() {
        for (here, there) in [(Some(Heard::Nothing), None), (None, Some(Heard::Nothing)), (None, None)] {
            let warned = judged(false, here, there).unwrap();
            assert!(warned.len() == 1 && warned[0].severity == Severity::Warning, "{warned:?}");
        }
    }

    #[test]
    fn an_offer_is_made_though_its_uplinks_do_not_open_and_what_is_heard_on_them_later_says_nothing() {
        let mut source = source(false);
        wants(&mut source);
        source.handle_timeout(START + UPLINKS);
        assert_eq!(wants(&mut source), (vec!["offer"], vec![]));
        source.handle_input(START, Input::UplinksOpen);
        says(&mut source, &answer(Some(found(Heard::Nothing))));
        let (said, others) = wants(&mut source);
        assert_eq!(said, ["reserve"], "it was refused for what nobody listened to");
        assert!(others.contains(&Effect::HearUplinks), "it listens on: {others:?}");
        source.handle_input(START, Input::UplinksHeard(Some(found(Heard::Nothing))));
        let told = source.findings();
        assert!(told.len() == 1 && told[0].severity == Severity::Warning, "{told:?}");
    }

    #[test]
    fn another_physical_network_is_refused_however_much_else_is_told() {
        let mut source = source(false);
        wants(&mut source);
        source.handle_input(START, Input::UplinksOpen);
        let warning = Finding::warning("memory", Reason::new("much", "less"));
        let Message::Answer(answer) = answer(Some(found(Heard::Nothing))) else { panic!("an answer") };
        says(&mut source, &Message::Answer(Answer { findings: vec![warning; FINDINGS_MAX], ..answer }));
        source.handle_input(START, Input::UplinksHeard(Some(found(Heard::Nothing))));
        let (said, others) = wants(&mut source);
        assert!(others.iter().any(|effect| matches!(effect, Effect::Finish(_))), "{said:?}");
    }
}
