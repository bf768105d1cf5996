//! `cargo lab fault HOST ...`.

use std::process::ExitCode;

use clap::Subcommand;

use crate::error::{LabError, Result};
use crate::fleet;
use crate::home::Home;
use crate::wire::Wire;

/// What to do to a host.
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
}

/// Does it.
pub(super) fn run(home: &Home, host: &str, fault: &Fault) -> Result<ExitCode> {
    let _held = fleet::hold(home)?;
    let mut fleet = fleet::running(home)?;
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
    }
    Ok(ExitCode::SUCCESS)
}
