//! The `configure` role: finds `godwit/host.toml` on boot media, leaves its text for the host role, and tells `init` the
//! few things that it needs. It runs once, in a process of its own, because what it reads comes from outside the image.

mod media;

use std::fs;
use std::io::Write;
use std::process::ExitCode;

use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
use serde::{Deserialize, Serialize};

use crate::api::paths::RunDir;
use crate::configuration;

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
    let run_dir = RunDir::from_environment();
    let found = media::find();
    if let Some(found) = &found {
        let left = fs::write(configuration::text_file(&run_dir), &found.text)
            .and_then(|()| fs::write(configuration::origin_file(&run_dir), &found.origin));
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
    let answer = evaluate(&run_dir, found);
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

fn evaluate(run_dir: &RunDir, found: Option<media::Found>) -> Answer {
    let read = configuration::of_this_host(run_dir, None);
    let problems = read.errors.iter().map(ToString::to_string).collect();
    let (origin, identity) = found.map_or((None, None), |found| (Some(found.origin), found.identity));
    Answer { hostname: Some(read.hostname.to_string()), origin, identity, problems }
}
