//! `cargo lab losses`: moves that are broken in each of their phases.

use std::process::ExitCode;

use crate::error::Result;
use crate::fleet::Fleet;
use crate::home::Home;
use crate::servers::Make;
use crate::setup::{self, Purpose};
use crate::tests::{Tally, break_every_phase};

/// Breaks them by each fault whose name holds `only`; the last line sums up what came of it.
pub(super) fn run(home: &Home, server: Make, only: &str) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build, Purpose::Image, Purpose::Fleet, Purpose::Guests])?;
    let mut tally = Tally::default();
    let broken = break_every_phase(home, server, only, &mut tally);
    Fleet::down(home)?;
    broken?;
    Ok(tally.conclude())
}
