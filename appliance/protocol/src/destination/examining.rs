//! The facts of this host are gathered, and all conditions judged.

use model::diagnosis::Reason;

use super::answered::Answered;
use super::context::{Context, Ending};
use super::effect::{Effect, Input};
use super::greeting::end;
use super::machine::{Phase, Step};
use crate::checks::facts::HostFacts;
use crate::checks::physical_network::Found;
use crate::checks::{Conditions, FINDINGS_MAX, Finding, judge};
use crate::session::PhaseName;
use crate::wire::message::Answer;
use crate::wire::{Message, ValidatedOffer};

/// Waits for this host's facts.
#[derive(Debug)]
pub struct Examining(());

impl Examining {
    pub(super) fn begin(cx: &mut Context, offer: ValidatedOffer) -> Self {
        cx.learn(offer.clone());
        cx.enter(PhaseName::Checks);
        cx.effect(Effect::Examine(Box::new(offer)));
        Self(())
    }

    fn examined(self, cx: &mut Context, facts: &HostFacts, others: Vec<Finding>, uplinks: Option<Vec<Found>>) -> Phase {
        let Some(offer) = &cx.offer else { return self.into() };
        let mut findings = judge(&Conditions {
            vm: &offer.vm,
            source: &offer.source,
            destination: facts,
            link: &offer.link,
            force_link: offer.force_link,
        });
        let known: Vec<_> = findings.iter().map(|finding| finding.reason.cause.clone()).collect();
        findings.extend(others.into_iter().filter(|finding| !known.contains(&finding.reason.cause)));
        findings.truncate(FINDINGS_MAX);
        cx.findings.clone_from(&findings);
        cx.say(&Message::Answer(Answer { findings, nic: facts.nic, uplinks }));
        // Whether it goes on, the source says: by the next word, or by ending the migration.
        Answered::begin(cx).into()
    }
}

impl Step for Examining {
    fn message(self, cx: &mut Context, message: Message) -> Phase {
        let reason = cx.nonsense(&message);
        self.lost(cx, reason)
    }

    fn input(self, cx: &mut Context, input: Input) -> Phase {
        match input {
            Input::Examined { facts, findings, uplinks } => self.examined(cx, &facts, findings, uplinks),
            _ => self.into(),
        }
    }

    fn lost(self, cx: &mut Context, reason: Reason) -> Phase {
        end(cx, &Ending::failed(reason)).into()
    }

    fn cancel(self, cx: &mut Context) -> Phase {
        let ending = Ending::cancelled(&cx.welcome.here);
        end(cx, &ending).into()
    }

    fn guest_gone(self, _cx: &mut Context, _reason: Reason) -> Phase {
        self.into()
    }
}
