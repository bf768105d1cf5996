//! `cargo lab VERB`.

use std::process::ExitCode;

use clap::Parser;
use lab::verbs::CommandLine;

fn main() -> ExitCode {
    match CommandLine::parse().run() {
        Ok(status) => status,
        Err(error) => {
            error.print();
            ExitCode::FAILURE
        }
    }
}
