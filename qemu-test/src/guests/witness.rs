//! The witness, built from `guest-kernel/`.

use std::path::PathBuf;

use crate::child::Child;
use crate::error::{LabError, Result};
use crate::home::Home;

const TARGET: &str = "x86_64-unknown-none";

/// Builds the witness and gives its ELF file.
pub fn build(home: &Home) -> Result<PathBuf> {
    let target = home.target.join("guest-kernel");
    let built = Child::new("cargo", ["build", "--quiet", "--release", "--target", TARGET, "--target-dir"])
        .arg(&target)
        .in_folder(&home.source.join("guest-kernel"))
        .succeeds_in_sight()?;
    if !built {
        return Err(LabError::Input("the guest kernel does not build (see above)".into()));
    }
    Ok(target.join(TARGET).join("release/witness"))
}
