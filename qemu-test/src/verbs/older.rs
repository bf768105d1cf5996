//! `cargo lab older`: moves between an older build and this one.

use std::process::ExitCode;

use crate::error::{LabError, Result};
use crate::home::Home;
use crate::setup::{self, Purpose};
use crate::tests::{Verdict, check_older};

/// Builds what the product was in `commit`, and lets a VM move between it and the build of now.
pub(super) fn run(home: &Home, commit: &str) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build])?;
    match check_older(home, commit)? {
        Verdict::Passed => Ok(ExitCode::SUCCESS),
        Verdict::Skipped(why) => Err(LabError::Input(why)),
    }
}
