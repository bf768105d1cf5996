//! The verbs and their words.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Result;
use crate::home::Home;
use crate::verbs::image;

/// Boots real Godwit images in QEMU, drives their consoles and injects faults.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", disable_help_subcommand = true)]
pub struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make the bootable image (target/lab/image/godwit.iso) and check its sizes
    Image,
}

impl CommandLine {
    /// Does what was asked; gives the status that the process ends with.
    pub fn run(self) -> Result<ExitCode> {
        let home = Home::open()?;
        match self.verb {
            Verb::Image => image::run(&home),
        }
    }
}
