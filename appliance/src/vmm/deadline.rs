//! The monitor's own part in the fence: it ends itself when the time has passed in which its host's lease is good, although
//! nobody killed it. The lease role, which does that, may stand still.

use std::fs::File;
use std::io;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::Duration as Wait;

use protocol::time::Duration;

use crate::api::deadline::Deadline;
use crate::api::vmm::EXIT_FENCED;

/// Longest time between two looks: the moment may be moved back, too.
const LOOK: Wait = Wait::from_secs(1);
/// Time in which the reason gets into the log. Nobody may read it: that is not waited for any longer.
const TOLD: Wait = Wait::from_millis(50);

/// Watches the deadline in `file` from now on.
///
/// # Errors
/// It cannot be mapped, no thread is to be had, or the moment has passed already.
pub fn obey(file: File) -> io::Result<()> {
    let deadline = Deadline::over(file)?;
    if deadline.left() == Duration::ZERO {
        return Err(io::Error::other("this host does not hold its lease on the datastore"));
    }
    // Made before it is needed: a process that hangs may not get a thread any more.
    let (tells, told) = sync_channel(1);
    thread::Builder::new().name("last words".to_owned()).spawn(move || {
        if let Ok(()) = told.recv() {
            log::error!("the lease role did not renew the host lease and did not kill this monitor: it ends itself");
        }
    })?;
    thread::Builder::new().name("deadline".to_owned()).spawn(move || {
        loop {
            match deadline.left() {
                Duration::ZERO => end(&tells),
                left => thread::park_timeout(Wait::from_nanos(left.nanos()).min(LOOK)),
            }
        }
    })?;
    Ok(())
}

fn end(tells: &SyncSender<()>) -> ! {
    // There is room for the one message.
    let _ = tells.try_send(());
    thread::park_timeout(TOLD);
    // SAFETY: it ends every thread at once and runs nothing of this process, which may hang.
    unsafe { libc::_exit(EXIT_FENCED) }
}
