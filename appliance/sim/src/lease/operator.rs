//! The operator: starts, stops and moves VMs, and wants those of a host in trouble to run elsewhere.

use protocol::lease::vm_lease::{Request, Take};
use protocol::time::{Duration, Instant};

use super::event::Event;
use super::guest::Stage;
use super::wishes::Wish;
use super::world::{HEALTHY, World, vm_name};

impl World {
    pub(super) fn operator(&mut self) {
        if self.healed {
            self.queue.after(Duration::from_secs(3), Event::Operator);
            for vm in 0..self.vms {
                if !self.hosts.iter().any(|host| host.instances.contains_key(&vm)) {
                    // At random first; in the end at each in turn: a host may hold a VM without knowing, because its
                    // lease process died with the answer, and then only that host can start it.
                    let drawn = self.rng.index(self.hosts.len());
                    let patient = self.queue.now() < Instant::ZERO + self.faults.lasts + HEALTHY / 2;
                    let turn = self.queue.now().nanos() / Duration::from_secs(3).nanos();
                    self.start(if patient { drawn } else { turn as usize % self.hosts.len() }, vm);
                }
            }
            return;
        }
        let next = self.rng.span(Duration::from_millis(1), self.faults.action_every * 2);
        self.queue.after(next, Event::Operator);
        let vm = self.rng.index(self.vms);
        let host = self.rng.index(self.hosts.len());
        let runner = self.hosts.iter().find(|h| h.up && h.instances.contains_key(&vm)).map(|h| h.index);
        match self.rng.below(100) {
            0..40 => {
                self.start(host, vm);
                if self.rng.chance(300_000) {
                    self.start((host + 1) % self.hosts.len(), vm);
                }
            }
            40..70 => {
                if let Some(from) = runner.filter(|from| *from != host) {
                    self.invite(from, host, vm);
                }
            }
            70..85 => {
                if let Some(host) = runner.filter(|h| self.hosts[*h].frozen.is_none()) {
                    self.stop(host, vm);
                }
            }
            _ if self.hosts[host].up && self.hosts[host].frozen.is_none() => {
                self.ask(host, Wish::Query, Request::Query(vm_name(vm)));
            }
            _ => {}
        }
    }

    fn start(&mut self, host: usize, vm: usize) {
        let it = &self.hosts[host];
        // As the control plane does: a VM that is being started, or that moves in, is not started.
        let pending = it.wishes.values().any(|(_, wish)| match wish {
            Wish::Start(other)
            | Wish::Prepare(other, _)
            | Wish::Commit(other, _)
            | Wish::ResolveDestination(other, _) => *other == vm,
            _ => false,
        });
        if it.up && it.frozen.is_none() && !pending && !it.instances.contains_key(&vm) {
            self.ask(host, Wish::Start(vm), Request::Acquire(vm_name(vm), Take::IfFree));
        }
    }

    fn stop(&mut self, host: usize, vm: usize) {
        if self.hosts[host].instances.get(&vm).is_some_and(|i| i.stage == Stage::Running) {
            self.note(|| format!("host-{host} stops vm-{vm}"));
            self.drained.extend(self.hosts[host].instances.get(&vm).map(|i| (i.id, i.stops)));
            self.destroy(host, vm);
            self.ask(host, Wish::GiveUp(vm), Request::GiveUp(vm_name(vm)));
        }
    }

    /// A host is in trouble: from shortly before its lease can expire, another asks for its VMs again and again.
    pub(super) fn call_for_rescue(&mut self, from: usize) {
        let vms: Vec<usize> = self.hosts[from].instances.keys().copied().collect();
        for vm in vms {
            let begins = self.rng.span(Duration::from_secs(9), Duration::from_secs(13));
            let until = self.queue.now() + Duration::from_secs(25);
            self.queue.after(begins, Event::Rescue { vm, from, until });
        }
    }

    pub(super) fn rescue(&mut self, vm: usize, from: usize, until: Instant) {
        let elsewhere = self.hosts.iter().any(|h| h.index != from && h.instances.contains_key(&vm));
        if elsewhere || self.queue.now() > until {
            return;
        }
        let step = self.rng.below(self.hosts.len() as u64 - 1) as usize + 1;
        self.start((from + step) % self.hosts.len(), vm);
        let again = self.rng.span(Duration::from_millis(50), Duration::from_millis(400));
        self.queue.after(again, Event::Rescue { vm, from, until });
    }
}
