//! The migrations that this host takes or took part in, and how one is given up. Those from here are in
//! [`super::departures`], those to here in [`super::arrivals`].

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use model::diagnosis::Diagnosis;
use model::limits;
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
    began: Instant,
    /// Counts up with each move that begins.
    number: u64,
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
            began_s: 0,
        };
        self.with(|known| {
            let number = known.values().map(|known| known.number + 1).max().unwrap_or(0);
            known.insert(id, Known { row, receipt: None, under_way: true, began: Instant::now(), number });
            forget_oldest(known);
        });
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

    /// All of them, the oldest first, with how far those under way are.
    pub fn rows(&self, plane: &ControlPlane) -> Vec<MigrationRow> {
        let mut rows = self.with(|known| known.clone());
        for progress in plane.engine.progress() {
            if let Some(known) = rows.get_mut(&progress.id) {
                known.row.state = progress.doing;
                known.row.thousandths = progress.thousandths;
            }
        }
        let mut rows: Vec<Known> = rows.into_values().collect();
        rows.sort_by_key(|known| known.number);
        rows.into_iter()
            .map(|Known { row, began, .. }| MigrationRow { began_s: began.elapsed().as_secs(), ..row })
            .collect()
    }

    /// The receipt of one that ended.
    pub fn receipt(&self, id: MigrationId) -> Option<Receipt> {
        self.with(|known| known.get(&id)?.receipt.clone())
    }
}

/// Forgets the oldest of more moves than are listed; one that is under way is never forgotten.
fn forget_oldest(known: &mut BTreeMap<MigrationId, Known>) {
    while known.len() as u64 > limits::HOST_MOVES_MAX {
        let over = known.iter().filter(|(_, known)| !known.under_way);
        let Some(oldest) = over.min_by_key(|(_, known)| known.number).map(|(id, _)| *id) else { return };
        known.remove(&oldest);
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
    // The engine may know one that an earlier control plane began, and not know yet one that begins.
    let known = plane.engine.progress().into_iter().map(|progress| progress.id);
    let mut under_way = known.chain(plane.moves.under_way().into_iter().map(|moving| moving.id));
    let wanted = MigrationId::from_str_radix(id, 16).ok();
    let Some(wanted) = wanted.filter(|wanted| under_way.any(|id| id == *wanted)) else {
        return Err(Diagnosis::new(what, format!("no migration {id} is under way on this host"), "migration list"));
    };
    let told = plane.engine.tell(&ToMigrate::Cancel(wanted), &[]);
    told.map_err(|error| Diagnosis::new(what, error.to_string(), "log show migrate"))?;
    Ok(format!("migration {id} is being given up: migration list"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::host::HostAnswer;

    #[test]
    fn the_list_of_moves_keeps_the_last_ones_and_those_under_way_and_fits_its_answer() {
        let (vm, host) = ("x".repeat(48).parse().expect("valid"), "x".repeat(48).parse().expect("valid"));
        let (moves, under_way) = (Moves::default(), u64::MAX);
        moves.begin(under_way, &vm, &host, &host);
        for n in 0..limits::HOST_MOVES_MAX * 3 {
            // As random as they are, their order is not that in which they began.
            let id = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            moves.begin(id, &vm, &host, &host);
            moves.end(id, "cancelled", None);
        }
        let kept = moves.with(|known| known.clone());
        assert_eq!(kept.len() as u64, limits::HOST_MOVES_MAX);
        assert!(kept.contains_key(&under_way), "it is still under way");
        let last =
            (limits::HOST_MOVES_MAX * 2 + 1..limits::HOST_MOVES_MAX * 3).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        assert!(last.into_iter().all(|id| kept.contains_key(&id)), "the last ones are kept");
        let answer = HostAnswer::Migrations(kept.into_values().map(|known| known.row).collect());
        let bytes = postcard::to_stdvec(&answer).expect("written").len() as u64;
        assert!(bytes < limits::API_MESSAGE_BYTES_MAX, "{bytes} bytes");
    }
}
