//! `cargo lab sim`: the lease in simulated worlds, one a seed.

use std::process::ExitCode;

use crate::child::Child;
use crate::error::Result;
use crate::home::Home;
use crate::setup::{self, Purpose};

/// Runs the worlds of `seeds` seeds from `first` on, or one of them with its diary.
pub(super) fn run(home: &Home, seeds: u64, first: u64, trace: Option<u64>) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build])?;
    let words = match trace {
        Some(seed) => ["trace".to_owned(), seed.to_string()],
        None => [first.to_string(), seeds.to_string()],
    };
    let cargo = ["run", "--quiet", "--release", "--package", "sim", "--example", "lease", "--"];
    let run = Child::new("cargo", cargo).args(words).in_folder(&home.source).env("CARGO_TARGET_DIR", &home.target);
    Ok(if run.succeeds_in_sight()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
