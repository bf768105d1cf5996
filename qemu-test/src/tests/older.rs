//! An older build of the product, out of the history of this source tree, and its moves with the build of now.

use std::fs;
use std::path::PathBuf;

use crate::child::Child;
use crate::error::{Doing, LabError, Result};
use crate::home::Home;
use crate::tests::tally::Verdict;

/// The build that hosts may still run: it knows neither what a destination rehearsed nor what a move was predicted to take.
pub const OLDER: &str = "5ea6a1432ee4a952fa073d2f0b24eb49410a3888";

/// Builds the product as it was in `commit`, and lets a VM move between that build and this one.
///
/// # Errors
/// It does not build, or the test of the moves failed.
pub fn check(home: &Home, commit: &str) -> Result<Verdict> {
    let Some(older) = build(home, commit)? else {
        return Ok(Verdict::Skipped(format!(
            "the history of this clone does not hold {commit}: git fetch --unshallow"
        )));
    };
    let test = ["test", "--quiet", "--package", "godwit", "--test", "older_build", "--", "--nocapture"];
    let test = Child::new("cargo", test).in_folder(&home.source).env("CARGO_TARGET_DIR", &home.target);
    let held = test.env("GODWIT_OLDER_BUILD", older).succeeds_in_sight()?;
    if held { Ok(Verdict::Passed) } else { Err(LabError::Input("see above".into())) }
}

/// The older binary; none where the history does not hold the commit.
fn build(home: &Home, commit: &str) -> Result<Option<PathBuf>> {
    let folder = home.root.join("older");
    let (source, packed) = (folder.join(commit), folder.join("source.tar"));
    if !source.join("Cargo.toml").exists() {
        fs::create_dir_all(&source).at("creating", &source)?;
        let archive = Child::new("git", ["archive", "--output"]).arg(&packed).arg(commit).in_folder(&home.source);
        if archive.run().is_err() {
            return Ok(None);
        }
        Child::new("tar", ["--extract", "--file"]).arg(&packed).arg("--directory").arg(&source).run()?;
    }
    // A target folder of its own: cargo takes the crates of two trees that are called alike for the same.
    let target = folder.join("target");
    let cargo = ["build", "--quiet", "--locked", "--package", "godwit"];
    let cargo = Child::new("cargo", cargo).in_folder(&source).env("CARGO_TARGET_DIR", &target);
    if !cargo.succeeds_in_sight()? {
        return Err(LabError::Input(format!("the build of {commit} failed (see above)")));
    }
    Ok(Some(target.join("debug/godwit")))
}
