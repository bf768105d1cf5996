//! `cargo lab fuzz`: what comes from other hosts, datastores and roles, changed by a seed's choice and read, for as long as one wants.

use std::process::ExitCode;

use crate::child::Child;
use crate::error::Result;
use crate::home::Home;
use crate::setup::{self, Purpose};

/// Gives each target, or this one, changed inputs for so many seconds, and shows what comes of it.
pub(super) fn run(home: &Home, seconds: u64, seed: u64, target: Option<&str>) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build])?;
    let test = ["test", "--quiet", "--profile", "fuzz", "--package", "godwit", "--test", "fuzz", "--", "--nocapture"];
    let run = Child::new("cargo", test).in_folder(&home.source).env("CARGO_TARGET_DIR", &home.target);
    let run = run.env("GODWIT_FUZZ_SECONDS", seconds.to_string()).env("GODWIT_FUZZ_SEED", seed.to_string());
    let run = match target {
        Some(target) => run.env("GODWIT_FUZZ_TARGET", target),
        None => run,
    };
    Ok(if run.succeeds_in_sight()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
