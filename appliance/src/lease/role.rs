//! The process: a thread for each connection.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::setpriority_process;

use crate::api::channel::{Listener, wait_readable};
use crate::api::paths::RunDir;
use crate::lease::serve::Leases;
use crate::sigterm;

/// The highest precedence of setpriority(2).
const PRIORITY: i32 = -20;
/// Time between two looks whether the role is to end.
const LOOK: Duration = Duration::from_millis(200);

/// Runs the role until it is asked to end.
///
/// # Errors
/// It cannot listen.
pub fn run(run_dir: &RunDir) -> io::Result<()> {
    sigterm::begin();
    // Memory that was paged out, or a processor that others have, must not delay a renewal. On a machine that does not
    // permit it (a test), the role does without.
    let locked = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
    let first = setpriority_process(None, PRIORITY);
    for refused in [locked.err(), first.err()].into_iter().flatten() {
        log::warn!("this role has no precedence over others: {refused}");
    }
    let leases = Arc::new(Leases::new(run_dir.clone()));
    // VMs may run under the lease of an earlier process: before anybody is listened to.
    leases.recall();
    let listener = Listener::bind(&run_dir.socket("lease"))?;
    while !sigterm::arrived() {
        if !wait_readable(listener.as_fd(), LOOK)? {
            continue;
        }
        let connection = Arc::new(listener.accept()?);
        let leases = Arc::clone(&leases);
        std::thread::Builder::new().name("connection".to_owned()).spawn(move || leases.serve(&connection))?;
    }
    leases.leave_all();
    Ok(())
}
