//! `cargo lab image`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::error::{Doing, Result};
use crate::home::{self, Home};
use crate::image::{self, KernelPackage, Parts};
use crate::setup::{self, Purpose};

/// Parts that another builder made, to be packed instead of Debian's kernel and cargo's binary: all of them or none.
#[derive(Debug, Args)]
#[group(requires_all = ["kernel", "modules", "binary", "to"])]
pub(super) struct MadeElsewhere {
    /// Pack this kernel (bzImage) instead of Debian's; goes with --modules, --binary and --to
    #[arg(long, value_name = "FILE", required = false)]
    kernel: PathBuf,
    /// The folder of its modules, named after its release, with depmod's index
    #[arg(long, value_name = "FOLDER", required = false)]
    modules: PathBuf,
    /// The one binary, static
    #[arg(long, value_name = "FILE", required = false)]
    binary: PathBuf,
    /// Where the image goes; what lies there is taken for up to date if its inputs look the same
    #[arg(long, value_name = "FOLDER", required = false)]
    to: PathBuf,
}

/// Makes the image by the fast path.
pub(super) fn run(home: &Home) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build, Purpose::Image])?;
    image::build(home)?;
    Ok(ExitCode::SUCCESS)
}

/// Packs the image from parts that another builder made. Needs neither root nor anything of the lab's own; the programs
/// that pack (depmod, zstd, grub-mkrescue and what that runs) are the caller's.
pub(super) fn pack(from: MadeElsewhere) -> Result<ExitCode> {
    let kernel = KernelPackage::made_elsewhere(from.kernel, from.modules)?;
    fs::create_dir_all(&from.to).at("creating", &from.to)?;
    image::pack(&home::source_tree(), &Parts { binary: from.binary, kernel }, &from.to)?;
    Ok(ExitCode::SUCCESS)
}
