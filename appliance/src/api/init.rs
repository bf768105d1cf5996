//! What a role may ask of `init`, on `init.sock`: one request and one answer a connection.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::channel::{Channel, ChannelError};
use super::paths::RunDir;

/// How long `init` waits for a slow client, and a client for `init`.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// What `init` is asked to do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum InitRequest {
    /// Only report the roles.
    Report,
    /// Stop everything in order, then reboot.
    Reboot,
    /// Stop everything in order, then power off.
    Shutdown,
}

/// One supervised role, as `init` sees it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct RoleReport {
    /// Name, with the terminal behind a dash for a console.
    pub title: String,
    /// Process, if it runs.
    pub pid: Option<u32>,
    /// How often it was started again since boot.
    pub restarts: u32,
    /// How often it ended since boot although it was to run; a console that somebody leaves is none of these.
    pub falls: u32,
    /// How it did so last: `was killed by signal 9`, `ended with status 1`.
    pub last_fall: Option<String>,
}

/// Asks `init` and returns the roles as they are now. An order is carried out after the answer.
///
/// # Errors
/// `init` does not listen (this machine was not booted by Godwit) or is stuck.
pub fn ask(run: &RunDir, request: InitRequest) -> Result<Vec<RoleReport>, ChannelError> {
    let channel = Channel::connect(&run.socket("init"))?;
    channel.ask(&request, &[], PATIENCE).map(|(report, _)| report)
}
