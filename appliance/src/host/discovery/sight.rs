//! Where this host sees nothing of the others: that they say nothing is then no sign of them.

use std::collections::BTreeMap;
use std::time::Duration;

use model::diagnosis::Reason;
use model::names::{DatastoreName, HostName};

use super::hosts::Hosts;
use super::life::SIGN_OF_LIFE;
use crate::api::lease::DatastoreLease;
use crate::datastore::Datastore;
use crate::host::control_plane::ControlPlane;
use crate::host::located::away;

/// The datastores on which this host sees nothing of the others now, and why.
#[derive(Debug, Default)]
pub struct Blind {
    datastores: BTreeMap<DatastoreName, Reason>,
}

impl Blind {
    /// Looks where that is so.
    pub fn look(plane: &ControlPlane) -> Self {
        let leases = plane.leases.status().unwrap_or_default();
        let blind = |datastore: &Datastore| {
            let lease = leases.iter().find(|lease| lease.datastore == *datastore.name());
            away(datastore).or_else(|| late(lease?))
        };
        let all = plane.datastores.all();
        let datastores = all.iter().filter_map(|datastore| Some((datastore.name().clone(), blind(datastore)?)));
        Self { datastores: datastores.collect() }
    }

    /// Whether all that this host has of another lies where it sees nothing.
    pub(super) fn hides(&self, hosts: &Hosts, host: &HostName) -> bool {
        hosts.datastores_of(host).iter().all(|datastore| self.datastores.contains_key(datastore))
    }

    /// That it is this host that sees nothing, if it is so anywhere.
    pub fn reason(&self) -> Option<Reason> {
        let causes: Vec<&str> = self.datastores.values().map(|reason| reason.cause.as_str()).collect();
        let hint = self.datastores.values().next()?.hint.clone();
        let names: Vec<&str> = self.datastores.keys().map(DatastoreName::as_str).collect();
        let what = format!("it is this host that sees no other on datastore {}", names.join(", "));
        Some(Reason::new(format!("{what}: {}", causes.join("; ")), hint))
    }
}

/// A host that holds its lease and cannot renew it reads nothing either, for all that is known: a datastore is called lost only
/// after the bound of a request.
fn late(lease: &DatastoreLease) -> Option<Reason> {
    let renewed = Duration::from_millis(lease.renewed_ms);
    (lease.held && renewed >= SIGN_OF_LIFE).then(|| {
        let (name, seconds) = (&lease.datastore, renewed.as_secs());
        let cause = format!("datastore {name} has not taken a renewal of this host's lease for {seconds} s");
        Reason::new(cause, format!("datastore show {name}"))
    })
}
