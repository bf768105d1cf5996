//! The receipts of migrations on the datastore: `vms/<name>/receipts/<id>.toml`. The source writes them; the destination
//! where the source did not live to do it.

use std::sync::Arc;
use std::time::Duration;

use log::Level;
use model::diagnosis::{Diagnosis, Reason};
use model::limits;
use model::names::VmName;
use model::receipt::Receipt;

use crate::api::migrate::{Ended, MigrationId, VmHere};
use crate::datastore::{Datastore, DatastoreError};
use crate::host::control_plane::ControlPlane;
use crate::host::located::{away, locate};
use crate::host::moves::{self, shown};
use crate::host::owed;

/// The receipt of a migration: as this control plane remembers it, or as it lies on a datastore.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn find(plane: &ControlPlane, id: &str) -> Result<Receipt, Diagnosis> {
    let what = format!("migration {id} is not shown");
    let number = MigrationId::from_str_radix(id, 16).ok().filter(|number| shown(*number) == id);
    let Some(number) = number else {
        return Err(Diagnosis::new(what, "a migration's identity has 16 hex digits", "migration list"));
    };
    if let Some(receipt) = plane.moves.receipt(number) {
        return Ok(receipt);
    }
    let mut silent = Vec::new();
    for datastore in plane.datastores.all() {
        match read(&datastore, id) {
            Ok(Some(text)) => {
                return toml::from_str(&text).map_err(|error| Diagnosis::new(what, error.to_string(), ""));
            }
            Ok(None) => {}
            Err(why) => silent.push(why),
        }
    }
    if silent.is_empty() {
        return Err(Diagnosis::new(what, "no datastore of this host has its receipt", "migration list"));
    }
    let nowhere = Reason::new("no datastore that answers has its receipt", "migration list");
    Err(Diagnosis::of(what, [nowhere].into_iter().chain(silent).collect()))
}

/// The text of a receipt, if the datastore has it.
///
/// # Errors
/// The datastore does not tell.
fn read(datastore: &Datastore, id: &str) -> Result<Option<String>, Reason> {
    if let Some(away) = away(datastore) {
        return Err(away);
    }
    let untold = |error: DatastoreError| {
        let name = datastore.name();
        Reason::new(format!("datastore {name}: {error}"), format!("datastore show {name}"))
    };
    for folder in datastore.folders("vms").map_err(untold)? {
        let Ok(vm) = folder.parse::<VmName>() else { continue };
        match datastore.read_text(&format!("vms/{vm}/receipts/{id}.toml"), limits::VM_CONFIG_BYTES_MAX) {
            Ok(text) => return Ok(Some(text)),
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(untold(error)),
        }
    }
    Ok(None)
}

/// Pause between two attempts to write a receipt.
const RETRY: Duration = Duration::from_secs(5);
/// Attempts to write a receipt; after them its datastore was away for minutes.
const TRIES: u32 = 60;

/// Writes a receipt, again and again if the datastore does not take it at once; the caller is not held up by that.
pub(super) fn keep(plane: &Arc<ControlPlane>, receipt: &Receipt) {
    let (plane, receipt) = (Arc::clone(plane), receipt.clone());
    let name = format!("receipt {} of VM {}", receipt.id, receipt.vm);
    let writing = move || {
        for left in (0..TRIES).rev() {
            match write(&plane, &receipt) {
                Ok(()) => return,
                Err(why) if left == 0 => log::error!("{name} is not written: {why}"),
                Err(why) if left == TRIES - 1 => log::warn!("{name} is not written yet: {why}"),
                Err(_) => {}
            }
            std::thread::sleep(RETRY);
        }
    };
    if let Err(error) = std::thread::Builder::new().name("receipt".to_owned()).spawn(writing) {
        log::error!("a receipt is not written: {error}");
    }
}

fn write(plane: &ControlPlane, receipt: &Receipt) -> Result<(), String> {
    let located = locate(plane, &receipt.vm, "the receipt was not written").map_err(|refusal| refusal.to_string())?;
    let text = toml::to_string(receipt).map_err(|error| error.to_string())?;
    located.write_receipt(&receipt.id, &text).map_err(|error| error.to_string())
}

/// Whether the failure of a migration that nobody waits for is to alarm anybody: not where no page was to move, as of a check, nor at its
/// destination.
fn weight(ended: &Ended) -> Level {
    if ended.receipt.is_some() { Level::Error } else { Level::Info }
}

/// A failure in one line.
fn told_of(Diagnosis { what, vm_now, reasons }: &Diagnosis) -> String {
    let place = vm_now.iter().map(|place| format!("; {place}"));
    let reasons = reasons.iter().map(|Reason { cause, hint }| match hint.as_str() {
        "" => format!(": {cause}"),
        hint => format!(": {cause} ({hint})"),
    });
    std::iter::once(what.clone()).chain(place).chain(reasons).collect()
}

/// A migration ended that nobody here waits for: the control plane that began it is dead. Its receipt is kept all the
/// same; where the VM runs is what the lease says, which is watched ([`super::taken_away`]).
pub(super) fn take_over(plane: &Arc<ControlPlane>, ended: Ended) {
    let id = ended.id;
    if let Some(failure) = &ended.failure {
        let told = format!("migration {}, which an earlier control plane began: {}", shown(id), told_of(failure));
        log::log!(weight(&ended), "{told}");
    }
    let Some(receipt) = ended.receipt else { return };
    // Who followed it had settled what there was before the engine won the lease.
    if matches!(ended.vm, VmHere::Stopped | VmHere::Unknown) {
        owed::owe_what_does_not_run(plane, &receipt.vm);
    }
    plane.moves.begin(id, &receipt.vm, &receipt.source, &receipt.destination);
    keep(plane, &receipt);
    plane.moves.end(id, moves::state_of(&receipt), Some(receipt));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::example::receipt;
    use crate::api::lease::LeaseAnswer;
    use crate::host::control_plane::stand_in::Place;

    #[test]
    fn a_check_that_lost_its_control_plane_alarms_nobody_and_a_failure_takes_one_line() {
        let failure = Diagnosis::new("VM web was not migrated", "it was given up", "vm migrate web host-b");
        let ended = Ended { failure: Some(failure.clone()), ..Ended::nothing_moved(7, 1) };
        assert_eq!(weight(&ended), Level::Info);
        let told = told_of(&failure.vm_now("it is still running on host-a"));
        let expected =
            "VM web was not migrated; it is still running on host-a: it was given up (vm migrate web host-b)";
        assert_eq!(told, expected);
    }

    #[test]
    fn a_lease_that_an_engine_won_for_a_vm_that_was_given_up_meanwhile_is_owed() {
        for (vm, owed) in [(VmHere::Stopped, true), (VmHere::Unknown, true), (VmHere::Nothing, false)] {
            let place =
                Place::without_datastore(&format!("won-late-{vm:?}"), |_| LeaseAnswer::Failed("away".to_owned()));
            place.write("vms/web/vm.toml", "");
            let plane = &place.plane;
            place.wait("the datastore is there", || plane.datastores.all()[0].available());
            take_over(plane, Ended { vm, receipt: Some(receipt()), ..Ended::nothing_moved(7, 1) });
            if owed {
                place.wait("its lease is owed", || !plane.owed.all().is_empty());
            }
            assert_eq!(!plane.owed.all().is_empty(), owed);
        }
    }
}
