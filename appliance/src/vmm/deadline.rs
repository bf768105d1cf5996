//! The monitor's own part in the fence: it ends itself when the time has passed in which its host's lease is good, although
//! nobody killed it. The lease role, which does that, may stand still.

use std::fs::File;
use std::io;
use std::time::Duration as Wait;

use model::limits;
use protocol::time::Duration;

use crate::api::deadline::{Deadline, now};
use crate::api::vmm::EXIT_FENCED;

/// What the lease role gets to end this process itself, and to tell why.
const GRACE: Duration = Duration::from_millis(limits::LEASE_SELF_END_MS);
/// Time in which the reason gets into the log. Nobody may read it: that is not waited for any longer.
const TOLD: Wait = Wait::from_millis(50);

/// Watches the deadline in `file` from now on.
///
/// # Errors
/// It cannot be mapped, or no thread is to be had.
pub fn obey(file: File) -> io::Result<()> {
    let deadline = Deadline::over(file)?;
    std::thread::Builder::new().name("deadline".to_owned()).spawn(move || {
        loop {
            let left = (deadline.get() + GRACE).since(now());
            if left == Duration::ZERO {
                end();
            }
            // Woken early for no reason, it only looks once more.
            std::thread::park_timeout(Wait::from_nanos(left.nanos()));
        }
    })?;
    Ok(())
}

fn end() -> ! {
    let tells =
        || log::error!("the lease role did not renew the host lease and did not kill this monitor: it ends itself");
    if std::thread::Builder::new().spawn(tells).is_ok() {
        std::thread::park_timeout(TOLD);
    }
    // SAFETY: it ends every thread at once and runs nothing of this process, which may hang.
    unsafe { libc::_exit(EXIT_FENCED) }
}
