//! `cargo lab moves`: moves between two hosts of this machine, disturbed by a seed's choice, as many as one wants.

use std::process::ExitCode;

use crate::child::Child;
use crate::error::Result;
use crate::home::Home;
use crate::setup::{self, Purpose};

/// Runs the test of a seed's moves with so many of them, and shows what it tells.
pub(super) fn run(home: &Home, moves: u64, seed: u64) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build])?;
    let test = ["test", "--quiet", "--package", "godwit", "--test", "seeded_moves", "--", "--nocapture"];
    let run = Child::new("cargo", test).in_folder(&home.source).env("CARGO_TARGET_DIR", &home.target);
    let run = run.env("GODWIT_MOVES", moves.to_string()).env("GODWIT_SEED", seed.to_string());
    Ok(if run.succeeds_in_sight()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
