//! `network ping`: the path to another host over the migration NIC is measured by the migration engine.

use std::sync::mpsc::{Receiver, RecvTimeoutError};

use model::diagnosis::{Diagnosis, Reason};
use model::names::HostName;

use crate::api::host::PingDetail;
use crate::api::migrate::{FromMigrate, MigrationId, ToMigrate};
use crate::host::caller::{Caller, LOOK};
use crate::host::control_plane::ControlPlane;
use crate::host::departures::random_id;
use crate::host::peer;

/// Measures it.
///
/// # Errors
/// Why nothing was measured.
pub fn ping(plane: &ControlPlane, host: &HostName, caller: &Caller<'_>) -> Result<PingDetail, Diagnosis> {
    let refused = |reason: Reason| {
        let what = format!("the migration link from {} to {host} was not measured", plane.name());
        Diagnosis::of(what, vec![reason])
    };
    peer::check(plane, host).map_err(refused)?;
    let id = random_id()
        .map_err(|error| refused(Reason::new(format!("no random number is to be had: {error}"), "host check")))?;
    let listening = plane.engine.listen(id);
    caller.progress("connect", None);
    let told = plane.engine.tell(&ToMigrate::Ping(id, host.clone()), &[]);
    let measured = match told {
        Ok(()) => wait_for_end(plane, id, &listening.said, caller),
        Err(error) => Err(Reason::new(format!("the migrate role does not answer: {error}"), "log show migrate")),
    };
    plane.engine.forget(&listening);
    measured.map_err(refused)
}

fn wait_for_end(
    plane: &ControlPlane,
    id: MigrationId,
    said: &Receiver<FromMigrate>,
    caller: &Caller<'_>,
) -> Result<PingDetail, Reason> {
    loop {
        match said.recv_timeout(LOOK) {
            Ok(FromMigrate::Progress(progress)) => caller.progress(&progress.doing, progress.thousandths),
            Ok(FromMigrate::Pinged(_, measured)) => return measured.map(|measured| *measured),
            Ok(_) => {}
            Err(RecvTimeoutError::Timeout) => {
                if caller.cancelled() {
                    // If the engine is away, its end is noticed next.
                    let _ = plane.engine.tell(&ToMigrate::Cancel(id), &[]);
                }
            }
            Err(RecvTimeoutError::Disconnected) => {
                let hint = "init restarts it within seconds; try again, then: log show migrate";
                return Err(Reason::new("the migrate role ended in the middle of it", hint));
            }
        }
    }
}
