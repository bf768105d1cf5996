//! The migrations that this host takes or took part in, and how one is given up. Those from here are in
//! [`super::departures`], those to here in [`super::arrivals`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use model::diagnosis::Diagnosis;
use model::names::{HostName, VmName};
use model::receipt::{Receipt, Verdict};

use crate::api::host::MigrationRow;
use crate::api::migrate::{MigrationId, ToMigrate};
use crate::host::control_plane::ControlPlane;

/// A migration that this host takes or took part in.
#[derive(Clone, Debug)]
struct Known {
    row: MigrationRow,
    receipt: Option<Receipt>,
    under_way: bool,
}

/// The migrations of this host since it booted, or since its control plane was restarted.
#[derive(Debug, Default)]
pub struct Moves {
    known: Mutex<BTreeMap<MigrationId, Known>>,
}

/// A migration's identity as people see it.
pub fn shown(id: MigrationId) -> String {
    format!("{id:016x}")
}

/// A migration that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderWay {
    /// Which.
    pub id: MigrationId,
    /// The VM.
    pub vm: VmName,
    /// Where to.
    pub destination: HostName,
}

impl Moves {
    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<MigrationId, Known>) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn begin(&self, id: MigrationId, vm: &VmName, source: &HostName, destination: &HostName) {
        let row = MigrationRow {
            id: shown(id),
            vm: vm.clone(),
            source: source.clone(),
            destination: destination.clone(),
            state: "starting".to_owned(),
            thousandths: None,
        };
        self.with(|known| known.insert(id, Known { row, receipt: None, under_way: true }));
    }

    pub(super) fn end(&self, id: MigrationId, state: &str, receipt: Option<Receipt>) {
        self.with(|known| {
            if let Some(known) = known.get_mut(&id) {
                known.row.state = state.to_owned();
                known.receipt = receipt;
                known.under_way = false;
            }
        });
    }

    /// Whether this host still takes part in a move of this VM to here: what arrived is being audited after the resume.
    pub(super) fn is_coming(&self, vm: &VmName, here: &HostName) -> bool {
        self.under_way().iter().any(|moving| moving.vm == *vm && moving.destination == *here)
    }

    /// Those under way.
    pub fn under_way(&self) -> Vec<UnderWay> {
        self.with(|known| {
            let moving = known.iter().filter(|(_, known)| known.under_way);
            let moving = moving.map(|(id, Known { row, .. })| UnderWay {
                id: *id,
                vm: row.vm.clone(),
                destination: row.destination.clone(),
            });
            moving.collect()
        })
    }

    /// All of them, with how far those under way are.
    pub fn rows(&self, plane: &ControlPlane) -> Vec<MigrationRow> {
        let mut rows = self.with(|known| known.clone());
        for progress in plane.engine.progress() {
            if let Some(known) = rows.get_mut(&progress.id) {
                known.row.state = progress.phase;
                known.row.thousandths = progress.thousandths;
            }
        }
        rows.into_values().map(|known| known.row).collect()
    }

    /// The receipt of one that ended.
    pub fn receipt(&self, id: MigrationId) -> Option<Receipt> {
        self.with(|known| known.get(&id)?.receipt.clone())
    }
}

/// How a migration ended, in a word for the list.
pub(super) fn state_of(receipt: &Receipt) -> &'static str {
    match receipt.verdict {
        Verdict::Moved => "moved",
        Verdict::Failed => "failed",
        Verdict::Cancelled => "cancelled",
    }
}

/// Gives a migration up.
///
/// # Errors
/// None of this name is under way.
pub fn cancel(plane: &ControlPlane, id: &str) -> Result<String, Diagnosis> {
    let what = "no migration was cancelled";
    let under_way = plane.engine.progress();
    let wanted = MigrationId::from_str_radix(id, 16).ok();
    let Some(progress) = under_way.iter().find(|progress| Some(progress.id) == wanted) else {
        return Err(Diagnosis::new(what, format!("no migration {id} is under way on this host"), "migration list"));
    };
    let told = plane.engine.tell(&ToMigrate::Cancel(progress.id), &[]);
    told.map_err(|error| Diagnosis::new(what, error.to_string(), "log show migrate"))?;
    Ok(format!("migration {id} is being given up: migration list"))
}
