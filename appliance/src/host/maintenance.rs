//! Maintenance: somebody is to work on this host, and no VM starts here or moves to here. Those that run here go on until they
//! are moved or stopped. It lasts over a restart of the control plane and, by what this host left on its datastores, over a reboot.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::diagnosis::{Diagnosis, Reason};
use protocol::checks::maintenance;

use crate::api::host::Check;
use crate::api::paths::RunDir;
use crate::host::control_plane::ControlPlane;

/// What stands in the file while this host is in maintenance, and after somebody ended it.
const WORDS: (&str, &str) = ("in", "out");

/// What the checks call it.
const SUBJECT: &str = "maintenance";

/// Whether this host is in maintenance.
#[derive(Debug)]
pub struct Maintenance {
    /// What a person decided in this boot.
    file: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    on: bool,
    /// A person said so in this boot: what an earlier one left counts no more.
    decided: bool,
    /// It changed since it was last waited for.
    news: bool,
}

impl Maintenance {
    /// As an earlier control plane of this boot left it; off where there was none.
    pub fn of_this_boot(run_dir: &RunDir) -> Self {
        let file = run_dir.path().join("maintenance");
        let decided = fs::read_to_string(&file).ok();
        let state = State { on: decided.as_deref() == Some(WORDS.0), decided: decided.is_some(), news: false };
        Self { file, state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is.
    pub fn is_on(&self) -> bool {
        self.lock().on
    }

    /// Somebody decides.
    ///
    /// # Errors
    /// It cannot be noted, and stays as it was.
    fn decide(&self, on: bool) -> io::Result<()> {
        let mut state = self.lock();
        fs::write(&self.file, if on { WORDS.0 } else { WORDS.1 })?;
        *state = State { on, decided: true, news: state.news || state.on != on };
        self.changed.notify_all();
        Ok(())
    }

    /// An earlier boot of this host was in maintenance when it spoke last, or was not; whether this one is for that reason, and was not.
    /// What was decided in this boot stands.
    pub fn was_left(&self, on: bool) -> bool {
        let mut state = self.lock();
        if state.decided || state.on == on {
            return false;
        }
        state.on = on;
        on
    }

    /// Waits until it changes, `pause` at most.
    pub fn wait(&self, pause: Duration) {
        let state = self.lock();
        let waited = self.changed.wait_timeout_while(state, pause, |state| !state.news);
        waited.unwrap_or_else(PoisonError::into_inner).0.news = false;
    }
}

/// Why no VM comes to run here now, if for this.
pub fn reason(plane: &ControlPlane) -> Option<Reason> {
    plane.maintenance.is_on().then(|| maintenance::reason(plane.name()))
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
    let mut here: Vec<String> = plane.vms.all_running().iter().map(|(running, _)| running.vm.vm.to_string()).collect();
    here.sort();
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
    })
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
    fn what_an_earlier_boot_left_holds_until_somebody_decides_in_this_one() {
        let run_dir = run_dir("maintenance-left");
        let maintenance = Maintenance::of_this_boot(&run_dir);
        assert!(maintenance.was_left(true), "it is news");
        assert!(maintenance.is_on() && !maintenance.was_left(true), "it is none any more");
        // A later word of that boot, read on another datastore.
        assert!(!maintenance.was_left(false) && !maintenance.is_on());
        maintenance.was_left(true);
        maintenance.decide(false).expect("noted");
        assert!(!maintenance.was_left(true) && !maintenance.is_on());
        assert!(!Maintenance::of_this_boot(&run_dir).was_left(true));
        fs::remove_dir_all(run_dir.path()).expect("removed");
    }

    #[test]
    fn whoever_waits_for_a_change_hears_of_it_at_once_and_of_no_change_never() {
        let run_dir = run_dir("maintenance-news");
        let maintenance = Maintenance::of_this_boot(&run_dir);
        maintenance.decide(false).expect("noted");
        maintenance.wait(Duration::from_millis(1));
        maintenance.decide(true).expect("noted");
        // It would last for ever.
        maintenance.wait(Duration::MAX);
        fs::remove_dir_all(run_dir.path()).expect("removed");
    }
}
