//! `cargo lab fault HOST ...`, `cargo lab fault server ...`.

use std::process::ExitCode;

use clap::Subcommand;

use crate::error::{LabError, Result};
use crate::fleet::{self, Fleet};
use crate::home::Home;
use crate::wire::Wire;

/// What to do to a host or to the server.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum Fault {
    /// Pull its power cord
    Kill,
    /// Stop it together with its clock: afterwards it does not know that time has passed
    Freeze,
    /// Let a frozen host go on
    Thaw,
    /// Start it again after a kill
    Boot,
    /// Cut one of its cables: management, migration, datastore or guests
    Cut {
        /// Which cable
        wire: Wire,
    },
    /// Mend a cable that was cut
    Mend {
        /// Which cable
        wire: Wire,
    },
    /// Of the server: end its service and begin it again
    Restart,
}

/// What the server is called here.
const SERVER: &str = "server";

/// Does it.
pub(super) fn run(home: &Home, host: &str, fault: &Fault) -> Result<ExitCode> {
    let _held = fleet::hold(home)?;
    let mut fleet = fleet::running(home)?;
    if host == SERVER {
        return befall_server(&mut fleet, fault);
    }
    let machine = fleet.machine(host)?;
    let runs = machine.process().runs();
    if !runs && matches!(fault, Fault::Freeze | Fault::Thaw) {
        return Err(LabError::Missing { what: format!("{host} is off"), hint: format!("cargo lab fault {host} boot") });
    }
    match fault {
        Fault::Kill => machine.process().kill()?,
        Fault::Freeze => machine.freeze()?,
        Fault::Thaw => machine.thaw()?,
        Fault::Boot if runs => return Err(LabError::Input(format!("{host} runs already"))),
        Fault::Boot => fleet.boot(&[machine])?,
        Fault::Cut { wire } => fleet.wires().cut(host, *wire)?,
        Fault::Mend { wire } => fleet.wires().mend(host, *wire)?,
        Fault::Restart => {
            let what = "a host is not restarted in one step".into();
            return Err(LabError::Missing { what, hint: format!("cargo lab fault {host} kill, then boot") });
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Does it to the NFS server.
fn befall_server(fleet: &mut Fleet, fault: &Fault) -> Result<ExitCode> {
    let server = fleet.server();
    let runs = server.runs();
    if !runs && matches!(fault, Fault::Freeze | Fault::Thaw | Fault::Restart) {
        let hint = format!("cargo lab fault {SERVER} boot");
        return Err(LabError::Missing { what: "the server does not run".into(), hint });
    }
    match fault {
        Fault::Kill => server.kill()?,
        Fault::Freeze => server.freeze()?,
        Fault::Thaw => server.thaw()?,
        Fault::Boot if runs => return Err(LabError::Input("the server runs already".into())),
        Fault::Boot => fleet.start_server()?,
        Fault::Restart => server.restart()?,
        Fault::Cut { .. } | Fault::Mend { .. } => {
            let what = "the lab cuts the cables of hosts only".into();
            return Err(LabError::Missing { what, hint: "cargo lab fault host-a cut datastore".into() });
        }
    }
    Ok(ExitCode::SUCCESS)
}
