//! Networks, taps and packages want root: who runs the lab as another user is asked by sudo, once.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::error::{LabError, Result};

/// Set for the process that sudo starts.
const MARK: &str = "GODWIT_LAB_BY_SUDO";
/// What cargo and rustup need to be the same for root.
const KEPT: &str = "PATH,HOME,CARGO_HOME,RUSTUP_HOME,CARGO_TARGET_DIR,RUSTUP_TOOLCHAIN,TERM";

/// Whether this process was started by [`become_root`]: what it builds then must not lie among its caller's files.
pub fn came_by_sudo() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts this program again as root in this process's place, if it is not root already.
pub fn become_root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let by_hand = "run it as root";
    let program = std::env::current_exe().map_err(|error| failed(&error.to_string(), by_hand))?;
    println!("lab: networks and packages want root: sudo");
    // `exec` comes back only when it failed.
    let error = Command::new("sudo")
        .arg(format!("--preserve-env={KEPT}"))
        .arg(format!("{MARK}=1"))
        .arg(program)
        .args(std::env::args_os().skip(1))
        .exec();
    Err(failed(&format!("sudo: {error}"), by_hand))
}

fn failed(why: &str, hint: &str) -> LabError {
    LabError::Missing { what: format!("the lab is not root and cannot become it ({why})"), hint: hint.into() }
}
