//! The requests of a keeper: one at a time for each VM, each driven by its job.

use std::collections::BTreeSet;

use model::limits;
use model::names::VmName;

use super::io::Purpose;
use super::machine::{Effect, Keeper};
use crate::lease::round::Ask;
use crate::lease::vm_lease::{Answer, Context, LeaseError, Next, Request, VmJob};
use crate::time::Instant;

/// Names a request in its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A request that is worked on.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) job: VmJob,
    pub(super) wake_at: Option<Instant>,
    pub(super) waits_for_directory: bool,
}

impl Keeper {
    pub(super) fn request(&mut self, now: Instant, id: RequestId, request: Request) {
        if self.life.is_none() {
            return self.reply(id, Err(LeaseError::NotLive));
        }
        if self.waiting.len() as u64 >= limits::LEASE_VMS_MAX {
            return self.reply(id, Err(LeaseError::Busy));
        }
        if request.ends_holding() {
            self.held.remove(request.vm());
        }
        self.waiting.push_back((id, request));
        self.begin_waiting(now);
    }

    /// Begins every waiting request whose VM no other request is busy with.
    pub(super) fn begin_waiting(&mut self, now: Instant) {
        let mut busy: BTreeSet<VmName> = self.active.values().map(|a| a.job.request().vm().clone()).collect();
        for (id, request) in std::mem::take(&mut self.waiting) {
            let vm = request.vm().clone();
            if !busy.insert(vm.clone()) {
                self.waiting.push_back((id, request));
                continue;
            }
            // Whoever writes the own block makes void what was prepared.
            let reads_only = matches!(request, Request::Query(_) | Request::Glance(_));
            let prepared = if reads_only { None } else { self.prepared.remove(&vm) };
            let mut job = VmJob::new(request, prepared);
            let Some(context) = self.context(now) else { continue };
            let next = job.begin(&context);
            self.active.insert(id, Active { job, wake_at: None, waits_for_directory: false });
            self.go_on(now, id, next);
        }
    }

    pub(super) fn bank_free_at(&self, active: &Active) -> Instant {
        active.job.home().map_or(Instant::ZERO, |(place, _)| self.resting.free_at(self.area.geometry.vm(place)))
    }

    pub(super) fn due(&self, now: Instant) -> impl Iterator<Item = RequestId> + '_ {
        let due = move |active: &Active| active.wake_at.is_some_and(|at| now >= at.max(self.bank_free_at(active)));
        self.active.iter().filter(move |(_, active)| due(active)).map(|(id, _)| *id)
    }

    pub(super) fn context(&mut self, now: Instant) -> Option<Context<'_>> {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(Context {
            now,
            area: self.area,
            me: self.life?,
            unix_s: self.unix_s,
            watch: &self.watch,
            chance: self.chance >> 33,
        })
    }

    /// Drives a job with a context, if it still runs.
    pub(super) fn drive(
        &mut self,
        now: Instant,
        id: RequestId,
        step: impl FnOnce(&mut VmJob, &Context<'_>) -> Option<Next>,
    ) {
        let Some(mut active) = self.active.remove(&id) else { return };
        let next = self.context(now).and_then(|context| step(&mut active.job, &context));
        self.active.insert(id, active);
        if let Some(next) = next {
            self.go_on(now, id, next);
        }
    }

    pub(super) fn go_on(&mut self, now: Instant, id: RequestId, next: Next) {
        let Some(active) = self.active.get_mut(&id) else { return };
        for who in std::mem::take(&mut active.job.declared) {
            self.own.declare_dead(who);
        }
        match next {
            Next::Locate(change) => {
                active.waits_for_directory = true;
                let vm = active.job.request().vm().clone();
                self.directory.want(vm, change);
            }
            Next::Ask(ask) => {
                let Some((place, _)) = active.job.home() else { return };
                let bank = self.area.geometry.vm(place);
                if matches!(ask, Ask::Write(_)) && self.resting.free_at(bank) > now {
                    // What an earlier write may still change is no ground for another: survey again after it.
                    active.wake_at = Some(now);
                    return;
                }
                self.ask(bank, ask, Purpose::Vm(id));
            }
            Next::Look if self.looking => self.look_again = true,
            Next::Look => self.look(now),
            Next::Pause(until) => active.wake_at = Some(until),
            Next::AnswerThen(answer, ask) => {
                let vm = active.job.request().vm().clone();
                let home = active.job.home();
                self.learned(&vm, &answer);
                self.reply(id, Ok(answer));
                if let Some((place, _)) = home {
                    self.ask(self.area.geometry.vm(place), ask, Purpose::Vm(id));
                }
            }
            Next::Finish(result) => {
                if let Some(active) = self.active.remove(&id) {
                    self.finish(id, active.job, result);
                }
            }
            Next::End => {
                self.active.remove(&id);
            }
        }
    }

    fn finish(&mut self, id: RequestId, job: VmJob, result: Result<Answer, LeaseError>) {
        let vm = job.request().vm().clone();
        if let Some(prepared) = job.prepared {
            self.prepared.insert(vm.clone(), prepared);
        }
        if let Ok(answer) = &result {
            self.learned(&vm, answer);
        }
        self.reply(id, result);
    }

    fn learned(&mut self, vm: &VmName, answer: &Answer) {
        match answer {
            // A VM that is about to be given up must not be started on the strength of an earlier answer.
            Answer::Held { .. } if self.waiting.iter().any(|(_, r)| r.ends_holding() && r.vm() == vm) => {}
            Answer::Held { epoch, .. } => {
                self.held.insert(vm.clone(), *epoch);
            }
            Answer::HeldBy(_) | Answer::GivenUp | Answer::Forgotten | Answer::Holder(None) => {
                self.held.remove(vm);
            }
            Answer::Prepared(_) | Answer::Holder(Some(_)) => {}
        }
    }

    pub(super) fn reply(&mut self, id: RequestId, result: Result<Answer, LeaseError>) {
        self.effects.push_back(Effect::Reply(id, result));
    }
}
