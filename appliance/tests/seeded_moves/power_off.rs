//! The power of one host or of both fails in the middle of moves: what ran there is started wherever a person likes, and what ran elsewhere goes on.

use sim::rng::Rng;

use crate::fleet::{Fleet, VMS};
use crate::world::{line, wait};

#[derive(Clone, Copy, Debug)]
pub(crate) struct PowerOff {
    /// The host that loses its power, or the one that is back first.
    end: usize,
    /// The other does too.
    both: bool,
    /// VMs are started before all hosts are back.
    at_once: bool,
}

impl PowerOff {
    pub(crate) fn chosen(rng: &mut Rng, end: usize) -> Self {
        Self { end, both: rng.below(3) == 0, at_once: rng.below(2) == 0 }
    }

    fn hits(&self, end: usize) -> bool {
        self.both || self.end == end
    }
}

impl Fleet {
    pub(crate) fn lose_power(&mut self, power_off: PowerOff) {
        for end in (0..2).filter(|end| power_off.hits(*end)) {
            self.hosts[end].lose_power();
            self.is_up[end] = false;
        }
    }

    /// Brings back what lost its power, and starts each VM that runs nowhere, on any host that is there.
    pub(crate) fn come_back(&mut self, power_off: PowerOff, moving: &[usize]) {
        let PowerOff { end, both, at_once, .. } = power_off;
        if both || !at_once {
            self.boot(end);
        }
        if both && !at_once {
            self.boot(1 - end);
        }
        for (vm, place) in self.place.into_iter().enumerate() {
            let up: Vec<usize> = (0..2).filter(|end| self.is_up[*end]).collect();
            let wanted = up[self.rng.index(up.len())];
            if self.runs_or_starts(vm, wanted) {
                let concerned = power_off.hits(place) || moving.contains(&vm);
                assert!(concerned, "{} had nothing to do with it and ended", VMS[vm].name);
            }
        }
        for end in 0..2 {
            if !self.is_up[end] {
                self.boot(end);
            }
        }
    }

    fn boot(&mut self, end: usize) {
        self.boots += 1;
        self.hosts[end].boot_again(self.boots);
        self.is_up[end] = true;
    }

    /// Waits until a VM runs on a host, or can be started on this one; whether it was.
    fn runs_or_starts(&mut self, vm: usize, wanted: usize) -> bool {
        let start = format!("vm start {}", VMS[vm].name);
        let (mut told, mut place, mut was_started) = (String::new(), None, false);
        wait(&format!("{} runs or can be started", VMS[vm].name), || {
            place = self.runner(vm);
            if place.is_some() {
                return true;
            }
            self.judge_disk(vm);
            let (status, answer) = self.hosts[wanted].ask(&start);
            was_started = status == 0;
            if line(&answer) != told {
                told = line(&answer);
                println!("{told}");
            }
            was_started
        });
        match place {
            Some(place) => self.place[vm] = place,
            None => self.started(vm, wanted),
        }
        was_started
    }
}
