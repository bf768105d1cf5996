//! `cargo lab database`: a database under load moves between two nested hosts.

use std::process::ExitCode;

use crate::error::Result;
use crate::fleet::Fleet;
use crate::home::Home;
use crate::servers::Make;
use crate::setup::{self, Purpose};
use crate::tests::move_a_database;

/// Moves it so often, and judges what it has kept.
pub(super) fn run(home: &Home, server: Make, cpus: u32, moves: usize) -> Result<ExitCode> {
    setup::ensure(&[Purpose::Build, Purpose::Image, Purpose::Fleet, Purpose::Guests])?;
    let moved = move_a_database(home, server, cpus, moves);
    Fleet::down(home)?;
    moved.map(|()| {
        println!("each committed transaction is there once; every page and every index is whole");
        ExitCode::SUCCESS
    })
}
