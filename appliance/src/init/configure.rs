//! The `configure` role: finds `godwit/host.toml` on boot media, leaves its text for the host role, and tells `init` the
//! few things that it needs. It runs once, in a process of its own, because what it reads comes from outside the image.

mod media;

use std::fs;
use std::io::Write;
use std::process::ExitCode;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use serde::{Deserialize, Serialize};

/// Where the text of host.toml is left for the host role.
pub const TEXT_FILE: &str = "/run/godwit/config/host.toml";
/// Where the place it was found is left, for error messages: `GODWIT (vda1): godwit/host.toml`.
pub const ORIGIN_FILE: &str = "/run/godwit/config/origin";

/// What `init` learns. Bounded by [`ANSWER_BYTES_MAX`].
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Answer {
    /// The host's name, if configured.
    pub(super) hostname: Option<String>,
    /// Where host.toml was found.
    pub(super) origin: Option<String>,
    /// The identity that a GODWIT volume keeps.
    pub(super) identity: Option<[u8; 16]>,
    /// Everything wrong with the configuration, ready to print.
    pub(super) problems: Vec<String>,
}

/// Most bytes of an [`Answer`].
pub(super) const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Runs the role. The answer goes to standard output.
pub fn run() -> ExitCode {
    let found = media::find();
    if let Some(found) = &found {
        let left = fs::write(TEXT_FILE, &found.text).and_then(|()| fs::write(ORIGIN_FILE, &found.origin));
        if let Err(error) = left {
            log::error!("the configuration could not be left for the host role: {error}");
        }
    }
    let nothing = CapabilitySet::empty();
    let sets = CapabilitySets { effective: nothing, permitted: nothing, inheritable: nothing };
    if let Err(error) = set_capabilities(None, sets) {
        log::error!("configure could not give up its privileges: {error}");
        return ExitCode::FAILURE;
    }
    let answer = evaluate(found);
    let sent = postcard::to_allocvec(&answer)
        .map_err(std::io::Error::other)
        .and_then(|bytes| std::io::stdout().write_all(&bytes));
    match sent {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("configure could not answer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn evaluate(found: Option<media::Found>) -> Answer {
    let words = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let hostname = words.split_whitespace().find_map(|word| word.strip_prefix("godwit.hostname=")).map(str::to_owned);
    let (origin, identity) = found.map_or((None, None), |found| (Some(found.origin), found.identity));
    Answer { hostname, origin, identity, problems: Vec::new() }
}
