//! What there is when no VM runs: processes, descriptors, taps and files of each host, files of the datastore, and leases.

use std::collections::BTreeMap;

use godwit::api::host::{HostAnswer, VmState};

use crate::fleet::{Fleet, VMS};
use crate::world::leftovers::Held;
use crate::world::{Host, wait};

pub(crate) struct Accounts {
    held: [Held; 2],
    files: BTreeMap<String, u64>,
}

impl Accounts {
    /// What there is before the first chapter. A VM was started and is gone again, so everything is there that is made once.
    pub(crate) fn before(fleet: &mut Fleet) -> Self {
        let Fleet { hosts: [a, b], .. } = &*fleet;
        for (vm, [from, other]) in [(0, [a, b]), (1, [b, a])] {
            let name = VMS[vm].name;
            from.done(&format!("vm start {name}"));
            let check = format!("vm migrate {name} {} --check", crate::fleet::NAMES[1 - vm]);
            wait("nothing stands in the way", || from.ask(&check).0 == 0);
            from.done(&format!("vm kill {name}"));
            wait("it is gone", || [from, other].iter().all(|host| host.state(name) == VmState::Stopped));
        }
        let (held, mut found) = (fleet.hosts.each_ref().map(Host::held_at_rest), BTreeMap::new());
        // Hosts write their records all the time.
        wait("nothing is being written", || {
            found = files(fleet).0;
            !found.keys().any(|path| path.contains("/new-"))
        });
        Self { held, files: found }
    }

    /// No VM runs, and there is nothing that was not there before, but the receipts of moves.
    pub(crate) fn hold_for(&self, fleet: &Fleet) {
        for (host, before) in fleet.hosts.iter().zip(&self.held) {
            host.lets_go_of_all_since(before);
            let leases = host.ask("lease list").1;
            assert!(matches!(&leases, HostAnswer::Leases(rows) if rows.is_empty()), "{leases:?}");
        }
        let mut told = String::new();
        wait("the datastore's files are those of before, and a receipt of each move", || {
            let (files, receipts) = files(fleet);
            let expected = fleet.moved..=fleet.moves();
            let new: Vec<_> = files.iter().filter(|(path, _)| !self.files.contains_key(*path)).collect();
            let gone: Vec<_> = self.files.keys().filter(|path| !files.contains_key(*path)).collect();
            let now = format!("new {new:?}, gone {gone:?}, {receipts} receipts of {expected:?}");
            if now != told {
                println!("{now}");
                told = now;
            }
            files == self.files && expected.contains(&receipts)
        });
    }
}

/// The files of the datastore with their sizes, but for receipts, which are counted.
fn files(fleet: &Fleet) -> (BTreeMap<String, u64>, u64) {
    let mut files = fleet.datastore.files();
    let all = files.len();
    files.retain(|path, _| !path.contains("/receipts/") || !path.ends_with(".toml"));
    let receipts = (all - files.len()) as u64;
    // The record of a host tells of its load.
    files.iter_mut().for_each(|(path, bytes)| {
        if path.starts_with("hosts/") {
            *bytes = 0
        }
    });
    (files, receipts)
}
