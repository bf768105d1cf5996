//! What is done to VMs while they move.

use std::time::Duration;

use sim::rng::Rng;

use crate::fleet::Fleet;
use crate::power_off::PowerOff;
use crate::world::command::Command;
use crate::world::kill;

/// Of so many rounds, one goes undisturbed.
const CALM: u64 = 3;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Disturbance {
    Nothing,
    /// The first of the moves is given up.
    Cancel,
    /// The migration engine of this host is killed.
    Engine(usize),
    /// A monitor of this host is killed, if it has one: of a VM that leaves, comes or stays.
    Monitor(usize),
    /// The cable is pulled for so many ms.
    Cut(u64),
    /// The control plane of this host is killed.
    ControlPlane(usize),
    /// The lease role of this host is killed.
    LeaseRole(usize),
    /// The power fails.
    PowerOff(PowerOff),
}

impl Disturbance {
    /// One of the seed's choice; where the power may not fail, moves are given up instead.
    pub(crate) fn chosen(rng: &mut Rng, power_may_fail: bool) -> Self {
        if rng.below(CALM) == 0 {
            return Self::Nothing;
        }
        let end = rng.index(2);
        match rng.below(7) {
            0 => Self::Engine(end),
            1 => Self::Monitor(end),
            2 => Self::Cut(rng.between(100, 12_000)),
            3 => Self::ControlPlane(end),
            4 => Self::LeaseRole(end),
            5 if power_may_fail => Self::PowerOff(PowerOff::chosen(rng, end)),
            _ => Self::Cancel,
        }
    }
}

impl Fleet {
    pub(crate) fn disturb(&mut self, disturbance: Disturbance, commands: &[Command]) {
        match disturbance {
            Disturbance::Nothing => {}
            Disturbance::Cancel => commands[0].press_ctrl_c(),
            Disturbance::Engine(end) => kill(self.hosts[end].migrate_pid()),
            Disturbance::Monitor(end) => {
                let monitors = self.hosts[end].monitor_processes();
                if !monitors.is_empty() {
                    kill(monitors[self.rng.index(monitors.len())]);
                }
            }
            Disturbance::Cut(ms) => {
                self.cable.plugged(false);
                std::thread::sleep(Duration::from_millis(ms));
                self.cable.plugged(true);
            }
            Disturbance::ControlPlane(end) => self.hosts[end].restart_control_plane(),
            Disturbance::LeaseRole(end) => self.hosts[end].restart_lease_role(),
            Disturbance::PowerOff(power_off) => self.lose_power(power_off),
        }
    }

    /// Does what `init` would, when it is known what came of the moves.
    pub(crate) fn mend(&mut self, disturbance: Disturbance, moving: &[usize]) {
        match disturbance {
            Disturbance::Engine(end) => self.hosts[end].restart_migrate(),
            Disturbance::PowerOff(power_off) => self.come_back(power_off, moving),
            _ => {}
        }
    }
}
