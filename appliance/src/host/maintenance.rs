//! Maintenance: somebody is to work on this host, and no VM starts here or moves to here. Those that run here go on until they
//! are moved or stopped. It lasts over a restart of the control plane and, by what this host left on its datastores, over a reboot.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use model::diagnosis::{Diagnosis, Reason};
use model::names::{DatastoreName, VmName};
use protocol::checks::maintenance;
use serde::{Deserialize, Serialize};

use crate::api::host::{Check, VmState};
use crate::api::paths::RunDir;
use crate::host::control_plane::ControlPlane;
use crate::host::discovery::LAST_BOOT_PATIENCE;

/// What the checks call it.
const SUBJECT: &str = "maintenance";

/// What a person decided. Of two decisions the one with the greater number is the later one, wherever and in whatever boot it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Decision {
    /// Counts this host's decisions.
    pub number: u64,
    /// It is in maintenance.
    pub on: bool,
}

/// Whether this host is in maintenance.
#[derive(Debug)]
pub struct Maintenance {
    /// The last decision that is known, for the next control plane of this boot.
    file: PathBuf,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Decision,
    /// Datastores on which it was looked what this host left.
    looked_at: BTreeSet<DatastoreName>,
}

impl Maintenance {
    /// As an earlier control plane of this boot left it; off where there was none.
    pub fn of_this_boot(run_dir: &RunDir) -> Self {
        let file = run_dir.path().join("maintenance");
        let left = fs::read(&file).ok().and_then(|bytes| postcard::from_bytes(&bytes).ok());
        let state = State { last: left.unwrap_or_default(), ..State::default() };
        Self { file, began: Instant::now(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is.
    pub fn is_on(&self) -> bool {
        self.last().on
    }

    /// The last decision, for this host's record.
    pub fn last(&self) -> Decision {
        self.lock().last
    }

    /// Somebody decides.
    ///
    /// # Errors
    /// It cannot be noted, and stays as it was.
    fn decide(&self, on: bool) -> io::Result<()> {
        let mut state = self.lock();
        let decision = Decision { number: state.last.number + 1, on };
        self.note(decision)?;
        state.last = decision;
        Ok(())
    }

    fn note(&self, decision: Decision) -> io::Result<()> {
        let new = self.file.with_extension("new");
        fs::write(&new, postcard::to_stdvec(&decision).map_err(io::Error::other)?)?;
        fs::rename(&new, &self.file)
    }

    /// It was looked on a datastore what this host left there; whether it is in maintenance for that reason, and was not.
    pub fn looked_at(&self, datastore: &DatastoreName, left: Option<Decision>) -> bool {
        let mut state = self.lock();
        state.looked_at.insert(datastore.clone());
        let Some(left) = left.filter(|left| *left > state.last) else { return false };
        if let Err(error) = self.note(left) {
            log::warn!("a restart of the control plane would not know whether this host is in maintenance: {error}");
        }
        let was_on = std::mem::replace(&mut state.last, left).on;
        left.on && !was_on
    }

    /// Whether all `datastores` were looked at, or waited for: no earlier decision will come up.
    pub fn is_known<'a>(&self, mut datastores: impl Iterator<Item = &'a DatastoreName>) -> bool {
        let state = self.lock();
        self.began.elapsed() >= LAST_BOOT_PATIENCE || datastores.all(|name| state.looked_at.contains(name))
    }
}

/// Why no VM comes to run here now, if for this.
pub fn reason(plane: &ControlPlane) -> Option<Reason> {
    plane.maintenance.is_on().then(|| maintenance::reason(plane.name()))
}

/// Refuses `what` while this host is in maintenance.
///
/// # Errors
/// It is.
pub fn refuse(plane: &ControlPlane, what: &str) -> Result<(), Diagnosis> {
    reason(plane).map_or(Ok(()), |reason| Err(Diagnosis::of(what, vec![reason])))
}

/// What `host check` says of it: nothing is wrong with a host that is in maintenance.
pub fn check(plane: &ControlPlane) -> Check {
    let found = if plane.maintenance.is_on() { "no VM starts here or moves to here" } else { "VMs can come" };
    Check { warnings: reason(plane).into_iter().collect(), ..Check::well(SUBJECT, found) }
}

/// What `vm check` says of it, as of the other conditions of a start.
pub fn condition(plane: &ControlPlane) -> Check {
    Check { problems: reason(plane).into_iter().collect(), warnings: Vec::new(), ..check(plane) }
}

/// `host maintenance enter`: nothing comes any more. Tells what is still here.
///
/// # Errors
/// It cannot be noted.
pub fn enter(plane: &ControlPlane) -> Result<String, Diagnosis> {
    decide(plane, true)?;
    let mut told = format!(
        "{} is in maintenance: no VM starts here or moves to here; host maintenance exit ends it",
        plane.name()
    );
    // Those among them that are only coming were let in before.
    let coming = plane.vms.all_in(&[VmState::Starting, VmState::MovingIn]);
    let running = plane.vms.all_running().into_iter().map(|(running, _)| running.vm.vm.clone());
    let here: BTreeSet<VmName> = running.chain(coming).collect();
    let here: Vec<&str> = here.iter().map(VmName::as_str).collect();
    if !here.is_empty() {
        told += &format!("\nstill here: {}; vm migrate VM HOST moves one away, vm stop VM ends it", here.join(", "));
    }
    Ok(told)
}

/// `host maintenance exit`
///
/// # Errors
/// It cannot be noted.
pub fn exit(plane: &ControlPlane) -> Result<String, Diagnosis> {
    decide(plane, false)?;
    Ok(format!("{} is not in maintenance: VMs start here and move to here", plane.name()))
}

fn decide(plane: &ControlPlane, on: bool) -> Result<(), Diagnosis> {
    plane.maintenance.decide(on).map_err(|error| {
        let now = if plane.maintenance.is_on() { "in maintenance" } else { "not in maintenance" };
        Diagnosis::new(
            format!("{} is {now} as before", plane.name()),
            format!("it cannot be noted: {error}"),
            "host check",
        )
    })?;
    // Whoever is told of it here may look at another host next.
    plane.rounds.now();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_dir(name: &str) -> RunDir {
        let folder = std::env::temp_dir().join(format!("godwit-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("made");
        RunDir::at(&folder)
    }

    #[test]
    fn maintenance_lasts_over_a_restart_of_the_control_plane_until_it_is_ended() {
        let run_dir = run_dir("maintenance");
        let first = Maintenance::of_this_boot(&run_dir);
        assert!(!first.is_on());
        first.decide(true).expect("noted");
        let second = Maintenance::of_this_boot(&run_dir);
        assert!(second.is_on());
        second.decide(false).expect("noted");
        assert!(!Maintenance::of_this_boot(&run_dir).is_on());
        fs::remove_dir_all(run_dir.path()).expect("removed");
    }

    #[test]
    fn the_last_decision_holds_in_whatever_order_what_an_earlier_boot_left_is_found() {
        let [lab, spare] = ["lab", "spare"].map(|name| name.parse().expect("valid"));
        for (earlier, later) in [(true, false), (false, true)] {
            let run_dir = run_dir(&format!("maintenance-left-{later}"));
            let left = [Decision { number: 1, on: earlier }, Decision { number: 2, on: later }];
            for [first, second] in [left, [left[1], left[0]]] {
                let _ = fs::remove_file(run_dir.path().join("maintenance"));
                let maintenance = Maintenance::of_this_boot(&run_dir);
                assert_eq!(maintenance.looked_at(&lab, Some(first)), first.on);
                assert!(!maintenance.is_known([&lab, &spare].into_iter()));
                maintenance.looked_at(&spare, Some(second));
                assert!(maintenance.is_known([&lab, &spare].into_iter()));
                assert_eq!(maintenance.is_on(), later);
                assert_eq!(Maintenance::of_this_boot(&run_dir).is_on(), later, "the next control plane");
                // What was found once more, or what is not there, is no news.
                assert!(!maintenance.looked_at(&lab, Some(first)) && !maintenance.looked_at(&lab, None));
                maintenance.decide(!later).expect("noted");
                maintenance.looked_at(&spare, Some(left[1]));
                assert_eq!(maintenance.is_on(), !later, "what was decided since");
            }
            fs::remove_dir_all(run_dir.path()).expect("removed");
        }
    }
}
