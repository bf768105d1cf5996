//! `cargo lab console HOST`.

use std::process::ExitCode;

use crate::error::Result;
use crate::fleet;
use crate::home::Home;
use crate::terminal;

/// Joins the terminal to a host's serial line.
pub(super) fn run(home: &Home, host: &str) -> Result<ExitCode> {
    terminal::attach(&fleet::running(home)?.machine(host)?)?;
    Ok(ExitCode::SUCCESS)
}
