//! `cargo lab down`.

use std::process::ExitCode;

use crate::error::Result;
use crate::fleet::{self, Fleet};
use crate::home::Home;

/// Ends the fleet.
pub(super) fn run(home: &Home) -> Result<ExitCode> {
    let _held = fleet::hold(home)?;
    println!("lab: {}", if Fleet::down(home)? { "down" } else { "nothing was up" });
    for other in Fleet::others(home) {
        println!("lab: the fleet `{other}` is still up: cargo lab down --fleet {other}");
    }
    Ok(ExitCode::SUCCESS)
}
