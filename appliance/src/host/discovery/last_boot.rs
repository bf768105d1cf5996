//! How the last boot of this host ended, by what it left on its datastores: told to a person at the next one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use model::names::{DatastoreName, VmName};

use super::record::HostRecord;

/// How long it is waited for the datastores that are not there yet.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What was found of the last boot until it is told.
#[derive(Debug, Default)]
pub(super) struct LastBoot {
    looked: BTreeSet<DatastoreName>,
    /// Its newest record.
    newest: Option<HostRecord>,
    /// On some datastore it said that it was shut down.
    left: bool,
    since: Option<Instant>,
    told: bool,
}

impl LastBoot {
    /// Takes note of what stood in the place of this host's record on a datastore before this boot, `boot`, wrote there.
    pub(super) fn look(&mut self, datastore: &DatastoreName, found: Option<&HostRecord>, boot: Option<&str>) {
        self.looked.insert(datastore.clone());
        // An older build does not tell its boot, and an earlier control plane of this boot is no boot.
        let Some(found) = found.filter(|found| found.boot.is_some() && found.boot.as_deref() != boot) else { return };
        self.since = self.since.or_else(|| Some(Instant::now()));
        match &self.newest {
            Some(known) if known.boot == found.boot => {
                self.left |= found.left;
                if found.beat > known.beat {
                    self.newest = Some(found.clone());
                }
            }
            // Of two boots the one that is shut down is done with, whichever was the last.
            Some(_) if found.left => {}
            _ => (self.newest, self.left) = (Some(found.clone()), found.left),
        }
    }

    /// What a person is to be told, once, when all `datastores` were looked at or were waited for.
    pub(super) fn news<'a>(&mut self, mut datastores: impl Iterator<Item = &'a DatastoreName>) -> Option<String> {
        let waited = self.since?.elapsed() >= PATIENCE;
        if self.told || !(waited || datastores.all(|name| self.looked.contains(name))) {
            return None;
        }
        self.told = true;
        let last = self.newest.as_ref().filter(|_| !self.left)?;
        let names: Vec<&str> = last.running.iter().map(VmName::as_str).collect();
        let ran = match names.as_slice() {
            [] => "it had said last that it ran no VM".to_owned(),
            _ => format!("it had said last that it ran {}: vm list tells where they are now", names.join(", ")),
        };
        Some(format!("this host went down, and no datastore saw it shut down (power, a reset, its watchdog?); {ran}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::example;
    use super::*;

    fn record(boot: Option<&str>, beat: u64, left: bool, running: &[&str]) -> HostRecord {
        let running = running.iter().map(|vm| vm.parse().expect("valid")).collect();
        HostRecord { boot: boot.map(str::to_owned), left, running, ..example("host-a", beat) }
    }

    /// What is told after each look, on two datastores.
    fn told(found: [Option<HostRecord>; 2]) -> [Option<String>; 3] {
        let names = ["lab", "spare"].map(|name| name.parse().expect("valid"));
        let mut last = LastBoot::default();
        let mut told = Vec::new();
        for (name, found) in names.iter().zip(&found) {
            last.look(name, found.as_ref(), Some("now"));
            told.push(last.news(names.iter()));
        }
        told.push(last.news(names.iter()));
        told.try_into().expect("three")
    }

    #[test]
    fn a_boot_that_was_not_shut_down_is_told_of_once_with_the_vms_that_it_named_last() {
        let [early, told, again] =
            told([Some(record(Some("old"), 7, false, &["web"])), Some(record(Some("old"), 6, false, &[]))]);
        let told = told.expect("it fell");
        assert!(told.contains("went down") && told.contains("it ran web: vm list"), "{told}");
        assert_eq!((early, again), (None, None));
    }

    #[test]
    fn a_boot_that_was_shut_down_by_what_any_datastore_says_is_not_told_of() {
        let left = || Some(record(Some("old"), 9, true, &[]));
        let fell = || Some(record(Some("old"), 8, false, &["web"]));
        for found in [[left(), fell()], [fell(), left()], [left(), None]] {
            assert_eq!(told(found), [None, None, None]);
        }
    }

    #[test]
    fn an_earlier_control_plane_of_this_boot_and_an_older_build_tell_nothing() {
        for boot in [Some("now"), None] {
            assert_eq!(told([Some(record(boot, 8, false, &["web"])), None]), [None, None, None]);
        }
    }
}
