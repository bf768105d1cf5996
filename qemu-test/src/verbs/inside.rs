//! `cargo lab inside HOST -- ORDER...`.

use std::io::Write;
use std::process::ExitCode;

use crate::error::{Doing, Result};
use crate::fleet;
use crate::home::Home;

/// Gives the stowaway an order and prints what it says.
pub(super) fn run(home: &Home, host: &str, order: &[String]) -> Result<ExitCode> {
    let answer = fleet::running(home)?.order(host, &order.join(" "))?;
    std::io::stdout().write_all(answer.output.as_bytes()).doing("writing the answer")?;
    Ok(ExitCode::from(answer.status))
}
