//! `cargo lab image`.

use std::process::ExitCode;

use crate::error::Result;
use crate::home::Home;
use crate::image;
use crate::setup::{self, Purpose};

/// Makes the image.
pub(super) fn run(home: &Home) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build, Purpose::Image])?;
    image::build(home)?;
    Ok(ExitCode::SUCCESS)
}
