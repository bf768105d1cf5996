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
/// Pause after a connection that could not be taken: what the machine lacks does not come back at once.
const PAUSE: Duration = Duration::from_secs(1);

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
        // VMs run under this process: that the machine lacks descriptors or threads for a while must not end it.
        if let Err(error) = take_connection(&listener, &leases) {
            log::error!("a connection is not served: {error}");
            std::thread::sleep(PAUSE);
        }
    }
    leases.leave_all();
    Ok(())
}

/// Serves the next connection, if one comes soon, on a thread of its own.
fn take_connection(listener: &Listener, leases: &Arc<Leases>) -> io::Result<()> {
    if wait_readable(listener.as_fd(), LOOK)? {
        let connection = Arc::new(listener.accept()?);
        let leases = Arc::clone(leases);
        std::thread::Builder::new().name("connection".to_owned()).spawn(move || leases.serve(&connection))?;
    }
    Ok(())
}
