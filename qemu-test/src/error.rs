//! What can go wrong in the lab, said so that the person at the keyboard can act on it.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::time::Duration;

/// A failure of the lab itself or of something that it waits for. `Display` says what failed; the cause, where there is
/// one, is the error's source and is printed once, by [`LabError::print`].
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A system call or file operation failed.
    #[error("{doing} failed")]
    Io {
        /// What was being done, as "reading config/modules.toml".
        doing: String,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// A child program ended badly.
    #[error("`{command}` {ended}\n{said}")]
    Child {
        /// The command as one would type it.
        command: String,
        /// How it ended, as "exited with status 2".
        ended: String,
        /// The last lines of what it printed.
        said: String,
    },
    /// Something that the lab needs is not on this machine and cannot be put there by the lab.
    #[error("{what}\nhint: {hint}")]
    Missing {
        /// What is missing.
        what: String,
        /// What to type to get it.
        hint: String,
    },
    /// An input (a configuration, a list, a command) is wrong.
    #[error("{0}")]
    Input(String),
    /// What was made is larger than its budget.
    #[error("{what} is {actual} bytes; the budget in config/image.toml is {budget}")]
    OverBudget {
        /// The thing that was measured.
        what: String,
        /// Its size in bytes.
        actual: u64,
        /// Its budget in bytes.
        budget: u64,
    },
    /// Something did not happen in time.
    #[error("waited {} s for {waiting_for}; {instead}", after.as_secs())]
    TimedOut {
        /// What was waited for.
        waiting_for: String,
        /// How long.
        after: Duration,
        /// What was seen instead.
        instead: String,
    },
    /// A host did something that a healthy host does not do.
    #[error("host {host}: {what}")]
    Host {
        /// The host's name.
        host: String,
        /// What was seen.
        what: String,
    },
}

/// The lab's results.
pub type Result<T> = std::result::Result<T, LabError>;

impl LabError {
    /// Prints the error and its chain of causes on standard error.
    pub fn print(&self) {
        eprintln!("error: {self}");
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            eprintln!("cause: {error}");
            cause = error.source();
        }
    }
}

/// Says what was being done when a system call failed.
pub trait Doing<T> {
    /// Turns the error into a [`LabError::Io`] that says `what` was being done.
    fn doing(self, what: impl Display) -> Result<T>;
    /// The same, for an operation (`verb`) on a path.
    fn at(self, verb: &str, path: &Path) -> Result<T>;
}

impl<T, E: Into<io::Error>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl Display) -> Result<T> {
        self.map_err(|error| LabError::Io { doing: what.to_string(), source: error.into() })
    }

    fn at(self, verb: &str, path: &Path) -> Result<T> {
        self.map_err(|error| LabError::Io { doing: format!("{verb} {}", path.display()), source: error.into() })
    }
}
