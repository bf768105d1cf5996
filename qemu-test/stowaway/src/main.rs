//! Rides in the lab's hosts beside the product and does what no console may: kills, stops and continues the processes of
//! roles, and shows files of the host's `/run` and `/proc`. The product's image knows nothing of it: the lab boots its
//! hosts with one more archive behind the initramfs and `rdinit=/stowaway`.
//!
//! As the first process it starts a copy of itself and becomes the product's `/init`; the copy listens on the second
//! serial port, in the language of the console's `@exec` lines.

#![forbid(unsafe_code)]

mod orders;
mod port;

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    if rustix::process::getpid().is_init() {
        // Nothing is mounted yet: there is no /dev/null to give it.
        let copy = Command::new("/stowaway").spawn();
        let error = Command::new("/init").arg0("/init").exec();
        println!("stowaway: /init was not started: {error} (copy: {copy:?})");
        return ExitCode::FAILURE;
    }
    // What it does to a phase of a move has to happen in that phase. Where it may not be ahead of others, it is as they are.
    let _ = rustix::process::nice(-20);
    match port::serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
