//! The end of the host where the control plane does not answer: `init` can be asked for it as well, which stops what stands still by force.

use std::io::{self, Read as _, Write as _};

use model::diagnosis::Diagnosis;

use crate::api::host::{HostAnswer, HostRequest};
use crate::api::init::{self, InitRequest};
use crate::api::paths::RunDir;
use crate::console::terminal::RawInput;

/// What `init` does of a request by itself.
pub(super) fn order(request: &HostRequest) -> Option<InitRequest> {
    match request {
        HostRequest::HostReboot => Some(InitRequest::Reboot),
        HostRequest::HostShutdown => Some(InitRequest::Shutdown),
        _ => None,
    }
}

/// Says why the control plane cannot do it, and asks back: its guests may be lost what they have not written.
pub(super) fn is_wanted(refusal: &Diagnosis) -> bool {
    println!("{refusal}");
    print!(
        "Should init end this host all the same? Guests that the control plane does not shut down are killed. [y/N] "
    );
    // A terminal that cannot be written to, or read, wants nothing.
    let _ = io::stdout().flush();
    let Ok(_raw) = RawInput::begin() else { return false };
    let mut key = [0];
    let wanted = io::stdin().read(&mut key).is_ok_and(|count| count == 1) && matches!(key[0], b'y' | b'Y');
    println!("{}", if wanted { "yes" } else { "no" });
    wanted
}

/// Has `init` end the host.
///
/// # Errors
/// `init` does not answer either.
pub(super) fn give(run_dir: &RunDir, order: InitRequest) -> Result<HostAnswer, Diagnosis> {
    init::ask(run_dir, order).map_err(|error| {
        let cause = format!("neither the control plane nor init answers: {error}");
        Diagnosis::new("the host goes on", cause, "reset the machine by hand")
    })?;
    let done = "init stops this host; a control plane that still stands still when its time is over (3 minutes) is killed, and its VMs with it";
    Ok(HostAnswer::Done(done.to_owned()))
}
