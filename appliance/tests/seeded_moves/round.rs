//! Moves of some VMs at once, each from where it runs.

use std::time::Duration;

use godwit::api::host::HostAnswer;
use model::receipt::Verdict;

use crate::disturbance::Disturbance;
use crate::fleet::{Fleet, NAMES, VMS};
use crate::world::command::Command;
use crate::world::line;

/// A disturbance comes within this time after the moves began, ms.
const WITHIN_MS: u64 = 1_500;
/// Keeps a move under way for a second or so, however fast the machine is.
const SLOWLY: &str = "--bandwidth-max 250";

impl Fleet {
    /// Some VMs, at least one, in an order of the seed's.
    fn some(&mut self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..VMS.len()).collect();
        self.rng.shuffle(&mut all);
        all.truncate(1 + self.rng.index(VMS.len()));
        all
    }

    /// Moves some VMs, disturbs them, and waits until each runs on one host again.
    pub(crate) fn round(&mut self) {
        let moving = self.some();
        let disturbance = self.next_disturbance();
        let is_calm = matches!(disturbance, Disturbance::Nothing);
        let how = if is_calm { "" } else { SLOWLY };
        let after = Duration::from_millis(self.rng.below(WITHIN_MS));
        println!("{moving:?} from {:?}, {disturbance:?} after {after:?}", self.place);
        let typed = |vm: &usize| {
            let (from, to) = (self.place[*vm], NAMES[1 - self.place[*vm]]);
            Command::typed(&self.hosts[from], &format!("vm migrate {} {to} {how}", VMS[*vm].name))
        };
        let commands: Vec<Command> = moving.iter().map(typed).collect();
        if !is_calm {
            std::thread::sleep(after);
            self.disturb(disturbance, &commands);
        }
        for (command, vm) in commands.into_iter().zip(&moving) {
            match command.outcome() {
                Some(HostAnswer::Migrated(receipt)) if receipt.verdict == Verdict::Moved => {
                    assert_eq!(receipt.audit.different_pages, 0, "{receipt:?}");
                    self.moved += 1;
                }
                Some(other) => {
                    println!("{}: {}", VMS[*vm].name, line(&other));
                    assert!(!is_calm, "nothing was in its way");
                    self.not_moved += 1;
                }
                None => {
                    let may_die = matches!(disturbance, Disturbance::ControlPlane(_) | Disturbance::PowerOff(_));
                    assert!(may_die, "{}: the control plane died", VMS[*vm].name);
                    self.untold += 1;
                }
            }
        }
        self.mend(disturbance, &moving);
        self.settle(matches!(disturbance, Disturbance::Monitor(_)));
    }
}
