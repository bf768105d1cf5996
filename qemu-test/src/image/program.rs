//! Static programs, built for a machine without a C library.

use std::path::PathBuf;

use crate::child::Child;
use crate::error::{LabError, Result};
use crate::home::Home;

const TARGET: &str = "x86_64-unknown-linux-musl";

/// Builds the program of a package of this workspace for release and gives its file.
pub fn static_program(home: &Home, package: &str) -> Result<PathBuf> {
    let built = Child::new("cargo", ["build", "--quiet", "--release", "--target", TARGET, "--package", package])
        .in_folder(&home.source)
        .env("CARGO_TARGET_DIR", &home.target)
        .succeeds_in_sight()?;
    if !built {
        return Err(LabError::Input(format!("{package} does not build (see above)")));
    }
    Ok(home.target.join(TARGET).join("release").join(package))
}
