//! The process.

use std::io;

use super::engine::Engine;
use crate::api::paths::RunDir;

/// Runs the role until the process is ended.
///
/// # Errors
/// It cannot listen, or the kernel refuses to wait.
pub fn run(run_dir: &RunDir) -> io::Result<()> {
    let mut engine = Engine::new(run_dir.clone())?;
    loop {
        engine.turn()?;
    }
}
